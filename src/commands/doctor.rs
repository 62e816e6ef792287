//! `qus doctor`: prints findings about the system. Problems come first, each with the command that fixes it, then
//! notes.

mod checks;
mod facts;
mod processes;

use anyhow::Result;
use serde::Serialize;
use std::io;

use self::checks::{CHECKS, Check, Observation, settle};
use self::facts::Facts;
use crate::base::count::count;
use crate::base::error::Advice;
use crate::base::escape::escape;
use crate::base::order;
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, NOTABLE, TextWriter};
use crate::commands::args::{Common, VERIFICATION};
use crate::commands::report::Report;
use clap::Args;

/// Arguments of `qus doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Execute no probes
    ///
    /// Executes no probes. The report then does not show whether handlers work.
    #[arg(help_heading = VERIFICATION, long)]
    pub no_verify: bool,
}

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Severity {
    /// Something does not work.
    Problem,
    /// Nothing fails, but the user should know about the finding.
    Note,
    /// The check found nothing wrong.
    Ok,
}

impl Severity {
    fn cell(self) -> Cell {
        let (word, style) = match self {
            Self::Problem => ("problem", BAD),
            Self::Note => ("note", NOTABLE),
            Self::Ok => ("ok", GOOD),
        };
        Cell::styled(word, style)
    }
}

/// A finding of a check, as the report contains it.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    level: Severity,
    /// Name of the check that made the finding.
    id: &'static str,
    /// Description of the finding.
    text: String,
    /// Reason why the finding matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    #[serde(flatten)]
    advice: Advice,
}

/// Results of `qus doctor`.
#[derive(Serialize)]
pub(crate) struct DoctorReport {
    findings: Vec<Finding>,
    /// True if each finding of severity `Ok` has a line of its own (`--verbose`). Otherwise one line names the checks.
    #[serde(skip)]
    verbose: bool,
}

/// Returns the ids of the checks, in the order of `CHECKS`.
pub(super) fn ids() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.id)
}

/// Gathers facts about the system, and runs every check on them.
pub(crate) fn execute(args: &Doctor, common: &Common) -> Result<DoctorReport> {
    let facts = Facts::gather(&common.instance, !args.no_verify)?;
    let mut observations: Vec<(&'static Check, Observation)> = Vec::new();
    for check in CHECKS {
        observations.extend((check.run)(&facts).into_iter().map(|observation| (check, observation)));
    }
    order::sort_by_key(&mut observations, |(_, observation)| observation.level);
    settle(&mut observations);
    let findings = observations.into_iter().map(|(check, observation)| Finding {
        level: observation.level,
        id: check.id,
        text: observation.text,
        why: (observation.level != Severity::Ok && !check.why.is_empty()).then_some(check.why),
        advice: observation.fix.advice,
    });
    let findings = findings.collect();
    Ok(DoctorReport { findings, verbose: common.verbose > 0 })
}

impl Report for DoctorReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let mut table = Table::new();
        let is_shown = |finding: &&Finding| self.verbose || finding.level != Severity::Ok;
        for finding in self.findings.iter().filter(is_shown) {
            let mut text = Cell::from(escape(&finding.text));
            if let Some(why) = finding.why {
                text = text.with_line(why);
            }
            for line in finding.advice.lines() {
                let escaped = escape(&line.text);
                text = if line.is_command { text.with_command(escaped) } else { text.with_line(escaped) };
            }
            table.push([finding.level.cell(), finding.id.into(), text]);
        }
        let passed = self.findings.iter().filter(|finding| finding.level == Severity::Ok);
        if !self.verbose {
            let mut ids: Vec<&str> = passed.map(|finding| finding.id).collect();
            ids.dedup();
            let text = format!("{} passed: {}", count(ids.len(), "check"), ids.join(", "));
            table.push([Severity::Ok.cell(), Cell::default(), text.into()]);
        }
        table.write(text)
    }

    fn conclude(&self, _: &mut Output<'_>) -> Result<Status> {
        let has_problem = self.findings.iter().any(|finding| finding.level == Severity::Problem);
        Ok(if has_problem { Status::No } else { Status::Done })
    }
}
