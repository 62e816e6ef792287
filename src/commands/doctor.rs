//! `qus doctor`: the whole situation, what is wrong with it first, each with the command that mends it.

mod checks;
mod facts;
mod processes;

use anyhow::Result;
use nix::unistd::geteuid;
use serde::Serialize;
use std::io::{self, Write};

use self::checks::CHECKS;
use self::facts::Facts;
use crate::base::error::Advice;
use crate::base::output::{Output, Status, escape, format_table};
use crate::commands::args::Common;
use crate::commands::report::Report;
use clap::Args;

/// `qus doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Do not execute probes
    #[arg(long)]
    pub no_verify: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Severity {
    /// Something does not work.
    Problem,
    /// It works, and somebody should know.
    Note,
    /// As it should be.
    Ok,
}

/// What a check found.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    level: Severity,
    /// Name of the check.
    id: &'static str,
    /// What is so.
    text: String,
    /// Why it matters.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'static str>,
    #[serde(flatten)]
    advice: Advice,
}

/// What `qus doctor` found.
#[derive(Serialize)]
pub(crate) struct DoctorReport {
    findings: Vec<Finding>,
}

/// Ids of the checks, in their order.
pub(super) fn ids() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.id)
}

/// Runs every check.
pub(crate) fn execute(args: &Doctor, common: &Common) -> Result<DoctorReport> {
    let facts = Facts::gather(&common.instance, !args.no_verify)?;
    let is_root = geteuid().is_root();
    let mut findings = Vec::new();
    for check in CHECKS {
        findings.extend((check.run)(&facts).into_iter().map(|observations| Finding {
            level: observations.level,
            id: check.id,
            text: observations.text,
            why: (observations.level != Severity::Ok && !check.why.is_empty()).then_some(check.why),
            advice: if is_root {
                observations.advice.map_command(|command| without_sudo(&command))
            } else {
                observations.advice
            },
        }));
    }
    findings.sort_by_key(|finding| finding.level);
    Ok(DoctorReport { findings })
}

/// What root types: containers have no sudo, and in a user namespace it does not work.
fn without_sudo(command: &str) -> String {
    command.strip_prefix("sudo ").unwrap_or(command).replace(" | sudo ", " | ")
}

impl Report for DoctorReport {
    fn write_text(&self, text: &mut dyn Write) -> io::Result<()> {
        let mut rows = Vec::new();
        for finding in &self.findings {
            let level = match finding.level {
                Severity::Problem => "problem",
                Severity::Note => "note",
                Severity::Ok => "ok",
            };
            rows.push(vec![level.to_owned(), finding.id.to_owned(), escape(&finding.text)]);
            let more = finding.why.map(str::to_owned).into_iter();
            let advice = finding.advice.lines().map(|line| escape(&line));
            rows.extend(more.chain(advice).map(|line| vec![String::new(), String::new(), line]));
        }
        text.write_all(format_table(&rows).as_bytes())
    }

    fn conclude(&self, _: &mut Output<'_>) -> Result<Status> {
        let has_problem = self.findings.iter().any(|finding| finding.level == Severity::Problem);
        Ok(if has_problem { Status::No } else { Status::Done })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_types_no_sudo() {
        assert_eq!(without_sudo("sudo qus reset arm"), "qus reset arm");
        assert_eq!(without_sudo("echo -1 | sudo tee '/a/sudo b'"), "echo -1 | tee '/a/sudo b'");
        assert_eq!(without_sudo("qus run sh"), "qus run sh");
    }
}
