//! `qus show`: prints the tables of all architectures and presets, or the details of the architectures that the command line names.

use std::io::{self, Write as _};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::arch::{ARCHES, Arch};
use crate::base::error::Diagnostic;
use crate::base::hex::Hex;
use crate::base::order;
use crate::base::table::{Cell, Table};
use crate::base::terminal::TextWriter;
use crate::commands::args::{Words, flat, parse_kernel, parse_named_arches};
use crate::commands::report::Report;
use crate::handler::classify;
use crate::handler::preset::{PRESETS, Preset};
use crate::interpreter::bundle::Member;
use crate::interpreter::bundle::own_bundle;
use crate::system::kernel_version::KernelVersion;
use clap::Args;

/// Arguments of `qus show`.
#[derive(Debug, Args)]
pub struct Show {
    /// Architectures to explain
    #[arg(value_name = "ARCH", value_parser = parse_named_arches)]
    pub arches: Vec<Words<&'static Arch>>,
    /// Print the line for another kernel
    ///
    /// Prints the line that `qus register` writes on this version of Linux. The default is the running kernel.
    #[arg(long, value_name = "VERSION", value_parser = parse_kernel, requires = "arches")]
    pub for_kernel: Option<KernelVersion>,
    /// List the interpreters of this bundle
    ///
    /// Lists the interpreters that this executable contains.
    #[arg(long, conflicts_with = "arches")]
    pub bundled: bool,
}

/// Results of `qus show`.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum ShowReport {
    /// A row for every architecture and for every preset.
    Table { arches: Vec<ArchRow>, presets: Vec<PresetRow> },
    /// Details of one architecture.
    Arch(ArchDetails),
    /// Details of several architectures.
    Arches { arches: Vec<ArchDetails> },
    /// Members of this executable. Empty if it is not a bundle.
    Bundle { bundled: Vec<Member> },
}

#[derive(Serialize)]
pub(crate) struct ArchRow {
    name: &'static str,
    description: &'static str,
    names: Vec<&'static str>,
}

#[derive(Serialize)]
pub(crate) struct PresetRow {
    name: &'static str,
    description: &'static str,
    /// File names of suitable interpreters, the preferred one first.
    interpreters: &'static [&'static str],
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
    /// Line that registers the architecture when it is written to the file `register` of binfmt_misc. It has the flags
    /// that qus uses on the selected kernel, and the path at which Debian installs the interpreter.
    line: String,
}

/// Collects the architectures that `args` selects. With `--bundled`, collects the members of this executable.
pub(super) fn execute(args: &Show) -> Result<ShowReport> {
    if args.bundled {
        let bundled = own_bundle()?.map(|bundle| bundle.members().to_vec()).unwrap_or_default();
        return Ok(ShowReport::Bundle { bundled });
    }
    let kernel = args.for_kernel.unwrap_or_else(KernelVersion::running);
    Ok(match flat(&args.arches).as_slice() {
        [] => ShowReport::Table {
            arches: ARCHES.iter().map(row).collect(),
            presets: PRESETS.iter().map(preset_row).collect(),
        },
        [arch] => ShowReport::Arch(details(arch, kernel)?),
        arches => {
            let arches = arches.iter().map(|arch| details(arch, kernel)).collect::<Result<_, _>>()?;
            ShowReport::Arches { arches }
        }
    })
}

impl Report for ShowReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        match self {
            Self::Table { arches, presets } => {
                arch_table(arches).write(text)?;
                writeln!(text)?;
                preset_table(presets).write(text)
            }
            Self::Arch(details) => write_details(details, text),
            Self::Arches { arches } => {
                for (index, details) in arches.iter().enumerate() {
                    if index > 0 {
                        writeln!(text)?;
                    }
                    write_details(details, text)?;
                }
                Ok(())
            }
            Self::Bundle { bundled } => bundle_table(bundled).write(text),
        }
    }
}

fn bundle_table(bundled: &[Member]) -> Table {
    let mut table = Table::with_header(["NAME", "VERSION", "SIZE", "SHA-256"]);
    for member in bundled {
        let version = member.version.as_ref().map(|version| format!("QEMU {version}")).unwrap_or_default();
        let (size, sha256) = (member.size.to_string(), member.sha256.to_string());
        table.push([member.name.as_str(), &version, &size, &sha256].map(Cell::from));
    }
    table
}

fn row(arch: &Arch) -> ArchRow {
    let mut names: Vec<&str> = arch.names.iter().filter(|name| *name != arch.name).collect();
    order::sort(&mut names);
    names.dedup();
    ArchRow { name: arch.name, description: arch.description, names }
}

fn arch_table(arches: &[ArchRow]) -> Table {
    let mut table = Table::with_header(["ARCH", "DESCRIPTION", "OTHER NAMES"]);
    for arch in arches {
        table.push([arch.name, arch.description, &arch.names.join(" ")].map(Cell::from));
    }
    table
}

fn preset_row(preset: &Preset) -> PresetRow {
    PresetRow { name: preset.name, description: preset.description, interpreters: preset.interpreters }
}

fn preset_table(presets: &[PresetRow]) -> Table {
    let mut table = Table::with_header(["PRESET", "DESCRIPTION", "INTERPRETERS"]);
    for preset in presets {
        table.push([preset.name, preset.description, &preset.interpreters.join(" ")].map(Cell::from));
    }
    table
}

fn details(arch: &'static Arch, kernel: KernelVersion) -> Result<ArchDetails, Diagnostic> {
    let interpreter = format!("/usr/bin/qemu-{}-static", arch.name);
    let flags = classify::default_flags(kernel);
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

fn write_details(details: &ArchDetails, text: &mut TextWriter<'_>) -> io::Result<()> {
    let arch = details.arch;
    text.write_wrapped(&format!("{}: {}", details.name, details.description), 4)?;
    let mut names = Table::new().indent(2);
    for (kind, kind_names) in &details.names {
        names.push([(*kind).into(), kind_names.join(" ").into()]);
    }
    names.write(text)?;
    for (handler, pattern) in details.handlers.iter().zip(arch.identity.patterns()) {
        writeln!(text, "\nhandler {}", handler.name)?;
        let mut table = Table::with_header(["bytes", "magic", "mask", "meaning"]).indent(2);
        for (from, to, meaning) in fields(arch, handler.machine) {
            let Some(magic) = pattern.magic().get(from..to) else { continue };
            let mask = pattern.mask().and_then(|mask| mask.get(from..to)).unwrap_or_default();
            table.push(
                [format!("{from}..{to}"), Hex(magic).to_string(), Hex(mask).to_string(), meaning]
                    .map(Cell::from),
            );
        }
        table.write(text)?;
        writeln!(text, "  {}", handler.line)?;
    }
    Ok(())
}

/// Returns the fields of the ELF header that the pattern of `arch` covers. Each has the offset of its first byte, the
/// offset after its last byte, and its meaning in the ELF specification.
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
