//! `qus show`: the table of architectures, or one of them with its header explained.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::arch::{ARCHES, Arch};
use crate::base::error::Diagnostic;
use crate::base::hex::Hex;
use crate::base::output::format_table;
use crate::commands::args::parse_one_arch;
use crate::commands::report::Report;
use crate::handler::classify;
use crate::interpreter::bundle::Member;
use crate::interpreter::bundle::own_bundle;
use clap::Args;

/// `qus show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The architecture to be explained
    #[arg(value_name = "ARCH", value_parser = parse_one_arch)]
    pub arch: Option<&'static Arch>,
    /// Show what this qus carries inside itself
    #[arg(long, conflicts_with = "arch")]
    pub bundled: bool,
}

/// What there is to show.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum ShowReport {
    /// Every architecture.
    Table { arches: Vec<ArchRow> },
    /// One architecture.
    Arch(ArchDetails),
    /// The contents of the bundle that this executable is.
    Bundle { bundled: Vec<Member> },
}

#[derive(Serialize)]
pub(crate) struct ArchRow {
    name: &'static str,
    description: &'static str,
    names: Vec<&'static str>,
}

#[derive(Serialize)]
pub(crate) struct ArchDetails {
    #[serde(skip)]
    arch: &'static Arch,
    name: &'static str,
    description: &'static str,
    names: Vec<(&'static str, &'static [&'static str])>,
    handlers: Vec<HandlerRule>,
}

#[derive(Serialize)]
struct HandlerRule {
    name: String,
    machine: u16,
    magic: String,
    mask: String,
    /// What is written to `register`, for the interpreter in Debian's place.
    line: String,
}

/// Collects what `qus show` shows.
pub(super) fn execute(args: &Show) -> Result<ShowReport> {
    if args.bundled {
        let bundled = own_bundle()?.map(|bundle| bundle.members().to_vec()).unwrap_or_default();
        return Ok(ShowReport::Bundle { bundled });
    }
    Ok(match args.arch {
        Some(arch) => ShowReport::Arch(details(arch)?),
        None => ShowReport::Table { arches: ARCHES.iter().map(row).collect() },
    })
}

impl Report for ShowReport {
    fn write_text(&self, text: &mut dyn Write) -> io::Result<()> {
        let content = match self {
            Self::Table { arches } => table_text(arches),
            Self::Arch(details) => details_text(details),
            Self::Bundle { bundled } => bundle_text(bundled),
        };
        text.write_all(content.as_bytes())
    }
}

fn bundle_text(bundled: &[Member]) -> String {
    let row = |member: &Member| {
        let version = member.version.as_ref().map(|version| format!("QEMU {version}")).unwrap_or_default();
        vec![member.name.clone(), version, member.size.to_string(), member.sha256.to_string()]
    };
    format_table(&bundled.iter().map(row).collect::<Vec<_>>())
}

fn row(arch: &Arch) -> ArchRow {
    let mut names: Vec<&str> = arch.names.iter().filter(|name| *name != arch.name).collect();
    names.sort_unstable();
    names.dedup();
    ArchRow { name: arch.name, description: arch.description, names }
}

fn table_text(arches: &[ArchRow]) -> String {
    let mut rows = vec![["ARCH", "WHAT IT IS", "ALSO CALLED"].map(str::to_owned).to_vec()];
    rows.extend(
        arches
            .iter()
            .map(|arch| vec![arch.name.to_owned(), arch.description.to_owned(), arch.names.join(" ")]),
    );
    format_table(&rows)
}

fn details(arch: &'static Arch) -> Result<ArchDetails, Diagnostic> {
    let interpreter = format!("/usr/bin/qemu-{}-static", arch.name);
    let flags = classify::EXPORTED_FLAGS;
    let rules = classify::rules(arch, Path::new(&interpreter), flags).map_err(Diagnostic::from)?;
    let machines = arch.identity.machines.iter();
    let handlers = rules.iter().zip(machines).filter_map(|(rule, &machine)| {
        let pattern = rule.matcher().pattern()?;
        Some(HandlerRule {
            name: rule.name().to_string(),
            machine,
            magic: Hex(pattern.magic()).to_string(),
            mask: Hex(pattern.mask().unwrap_or_default()).to_string(),
            line: String::from_utf8_lossy(&rule.to_line()).into(),
        })
    });
    Ok(ArchDetails {
        arch,
        name: arch.name,
        description: arch.description,
        names: arch.names.kinds().into_iter().filter(|(_, names)| !names.is_empty()).collect(),
        handlers: handlers.collect(),
    })
}

fn details_text(details: &ArchDetails) -> String {
    let arch = details.arch;
    let mut text = format!("{}: {}\n", details.name, details.description);
    let names = details.names.iter().map(|(kind, names)| vec![format!("  {kind}"), names.join(" ")]);
    text.push_str(&format_table(&names.collect::<Vec<_>>()));
    for (handler, pattern) in details.handlers.iter().zip(arch.identity.patterns()) {
        text.push_str(&format!("\nhandler {}\n", handler.name));
        let mut rows = vec![["  bytes", "magic", "mask", "meaning"].map(str::to_owned).to_vec()];
        for (from, to, meaning) in fields(arch, handler.machine) {
            let Some(magic) = pattern.magic().get(from..to) else { continue };
            let mask = pattern.mask().and_then(|mask| mask.get(from..to)).unwrap_or_default();
            rows.push(vec![
                format!("  {from}..{to}"),
                Hex(magic).to_string(),
                Hex(mask).to_string(),
                meaning,
            ]);
        }
        text.push_str(&format_table(&rows));
        text.push_str(&format!("  {}\n", handler.line));
    }
    text
}

/// The fields of an ELF header that a pattern spans: first byte, byte behind the last, meaning (ELF specification).
fn fields(arch: &Arch, machine: u16) -> Vec<(usize, usize, String)> {
    let flags = arch.identity.class.flags_offset();
    let mut fields = vec![
        (0, 4, "ELF".to_owned()),
        (4, 5, format!("EI_CLASS: {:?}", arch.identity.class)),
        (5, 6, format!("EI_DATA: {:?}-endian", arch.identity.order)),
        (6, 7, "EI_VERSION: 1".to_owned()),
        (7, 16, "EI_OSABI, EI_ABIVERSION and padding: anything".to_owned()),
        (16, 18, "e_type: ET_EXEC or ET_DYN".to_owned()),
        (18, 20, format!("e_machine: {machine}")),
    ];
    if let Some(abi) = arch.identity.abi {
        let word = arch.identity.order.word(abi.mask);
        let last = word.iter().rposition(|byte| *byte != 0).map_or(4, |last| last + 1);
        fields.push((20, flags, "anything".to_owned()));
        fields.push((flags, flags + last, format!("e_flags: {:#x} of {:#x}", abi.value, abi.mask)));
    }
    fields
}
