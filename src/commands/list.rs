//! `qus list`: lists every handler of the binfmt_misc instance, newest first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::report::Report;
use super::verify::{Health, State, health};
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::escape::{display_path, escape};
use crate::base::hex::Hex;
use crate::base::output::{Output, Status};
use crate::base::table::{Cell, Table};
use crate::base::terminal::{BAD, GOOD, HEADER, NOTABLE, TextWriter};
use crate::binfmt::{Handler, HandlerName, Matcher};
use crate::boot::configuration::{Configuration, ConfiguredRule, Drift};
use crate::commands::args::{Common, HandlerArg, VERIFICATION, Words, flat, parse_handlers};
use crate::commands::instance::{open_instance, print_scope, switched_off};
use crate::commands::selection::{Selection, is_meant, select};
use crate::handler::classify;
use crate::handler::classify::name_lossy;
use crate::handler::owner::{Owner, packages};
use crate::handler::table;
use crate::interpreter::memfd::{self, MemfdInfo};
use crate::interpreter::provenance::Provenance;
use crate::system::namespace::Scope;
use crate::system::ownership::changeable_by_others;
use clap::Args;

/// Arguments of `qus list`.
#[derive(Debug, Args)]
pub struct List {
    /// Architectures, or names of handlers [default: all]
    ///
    /// Lists only the handlers of these architectures, and those with these names. A pattern such as 'python*' is a name
    /// too.
    #[arg(value_name = "HANDLER", value_parser = parse_handlers)]
    pub handlers: Vec<Words<HandlerArg>>,
    /// Execute a probe through each handler
    ///
    /// Executes a probe through each handler, as `qus verify` does. The exit status is 1 if one fails.
    #[arg(help_heading = VERIFICATION, long)]
    pub probe: bool,
}

/// Results of `qus list`.
#[derive(Serialize)]
pub(crate) struct ListReport {
    instance: PathBuf,
    enabled: bool,
    scope: Scope,
    handlers: Vec<HandlerView>,
    /// Configured rules that are not registered, or whose registered handler differs from the rule.
    unregistered: Vec<UnregisteredRule>,
    /// True if probes were executed (`--probe`).
    #[serde(skip)]
    probed: bool,
    /// True if every column of the table is printed (`--verbose`).
    #[serde(skip)]
    verbose: bool,
    /// Error that the whole instance is disabled, if it is.
    #[serde(skip)]
    switched_off: Option<Diagnostic>,
}

#[derive(Serialize)]
struct UnregisteredRule {
    name: String,
    file: PathBuf,
    state: Drift,
    /// Path of the interpreter in the rule.
    interpreter: String,
    flags: String,
}

impl UnregisteredRule {
    fn of((configured, state): (&ConfiguredRule, Drift)) -> Self {
        Self {
            name: configured.rule.name().to_string(),
            file: configured.file.clone(),
            state,
            interpreter: configured.rule.interpreter().to_string_lossy().into(),
            flags: configured.rule.flags().to_string(),
        }
    }
}

#[derive(Serialize)]
struct HandlerView {
    name: String,
    /// Architectures whose programs the handler matches. Empty if it matches programs of no known architecture.
    arches: Vec<&'static str>,
    /// True if the interpreter is a QEMU emulator.
    emulator: bool,
    state: &'static str,
    flags: String,
    interpreter: Option<String>,
    /// Version and size of the interpreter, if it exists only in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_memory: Option<MemfdInfo>,
    /// Origin of the interpreter, if qus fetched it.
    #[serde(skip_serializing_if = "Option::is_none")]
    provenance: Option<Provenance>,
    /// File or directory through which other users can change the interpreter: the interpreter itself, or a directory
    /// of its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    changeable_by_others: Option<PathBuf>,
    /// Tool that registered the handler, or `unknown`.
    by: String,
    #[serde(flatten)]
    takes: Takes,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown_lines: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<Health>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Takes {
    Magic { offset: usize, magic: String, mask: Option<String> },
    Extension { extension: String },
    Unknown {},
}

/// Lists the handlers of the instance, and the configured rules that are not registered. Lists only those that `args`
/// selects.
pub(crate) fn execute(args: &List, common: &Common) -> Result<ListReport> {
    let instance = open_instance(common)?;
    let handlers = table::handlers(&instance).map_err(Diagnostic::from)?;
    let enabled = instance.is_enabled().map_err(Diagnostic::from)?;
    let configuration = Configuration::read(Path::new("/"));
    let words = &flat(&args.handlers);
    let names: Vec<HandlerName> =
        configuration.rules.iter().map(|configured| configured.rule.name().clone()).collect();
    let arches = |handler: &Handler| handler.entry.pattern().map(Arch::matching_pattern).unwrap_or_default();
    let is_of = |handler: &Handler, arch| arches(handler).contains(&arch);
    let Selection { handlers: selected, .. } = select(&handlers, words, &names, |_| true, is_of)?;
    let mut drifts = configuration.drifts(&handlers);
    drifts.retain(|(configured, _)| {
        let rule = &configured.rule;
        let arches = rule.matcher().pattern().map(Arch::matching_pattern).unwrap_or_default();
        is_meant(words, rule.name(), &arches)
    });
    let mut probes = if args.probe { health(&handlers, &selected, enabled)? } else { BTreeMap::new() };
    let owners = owners(&selected, &configuration);
    let views = selected.iter().zip(owners);
    Ok(ListReport {
        instance: instance.path().to_owned(),
        enabled,
        scope: Scope::of(instance.path()),
        handlers: views
            .map(|(handler, owner)| handler_view(handler, &owner, probes.remove(&handler.name)))
            .collect(),
        unregistered: drifts.into_iter().map(UnregisteredRule::of).collect(),
        probed: args.probe,
        verbose: common.verbose > 0,
        switched_off: (!enabled).then(|| switched_off(&instance)),
    })
}

impl Report for ListReport {
    fn write_text(&self, text: &mut TextWriter<'_>) -> io::Result<()> {
        let columns = Columns { verbose: self.verbose, probe: self.probed };
        // With `-v` every cell is whole.
        let mut table = if self.verbose { Table::new() } else { Table::new().shorten(3) };
        table.push(columns.header());
        for handler in &self.handlers {
            table.push(columns.chosen(handler.cells()));
        }
        for rule in &self.unregistered {
            table.push(columns.chosen(rule.cells()));
        }
        table.write(text)
    }

    fn conclude(&self, output: &mut Output<'_>) -> Result<Status> {
        print_scope(self.scope, output)?;
        for handler in &self.handlers {
            if let (Some(location), Some(path)) = (&handler.changeable_by_others, &handler.interpreter) {
                let (name, path) = (escape(&handler.name), display_path(Path::new(path)));
                output.info(&format!(
                    "{name} runs {path}: other users can change {}",
                    display_path(location)
                ))?;
            }
        }
        if let Some(problem) = &self.switched_off {
            output.problem(problem)?;
        }
        let probes = self.handlers.iter().filter_map(|handler| handler.probe.as_ref());
        let is_broken = probes.into_iter().any(|health| health.state == State::Broken);
        Ok(if is_broken { Status::No } else { Status::Done })
    }
}

/// Determines which tool registered each handler. Asks the package manager for the owner of an interpreter only if
/// neither the handler nor `configuration` shows the tool.
fn owners(handlers: &[&Handler], configuration: &Configuration) -> Vec<Owner> {
    let mut owners: Vec<Owner> = handlers.iter().map(|handler| Owner::of(handler, configuration)).collect();
    let path = |handler: &Handler| {
        handler.entry.interpreter.clone().filter(|path| path.is_absolute() && path.exists())
    };
    let unknown = handlers.iter().zip(&owners).filter(|(_, owner)| **owner == Owner::Unknown);
    let paths: Vec<PathBuf> = unknown.filter_map(|(handler, _)| path(handler)).collect();
    let packages = packages(&paths.iter().map(PathBuf::as_path).collect::<Vec<_>>());
    for (handler, owner) in handlers.iter().zip(&mut owners) {
        let package = path(handler).and_then(|path| packages.get(&path).cloned());
        if let (Owner::Unknown, Some(package)) = (&owner, package) {
            *owner = Owner::Package(package);
        }
    }
    owners
}

fn handler_view(handler: &Handler, owner: &Owner, probe: Option<Health>) -> HandlerView {
    let entry = &handler.entry;
    let arches = entry.pattern().map(Arch::matching_pattern).unwrap_or_default();
    let takes = match &entry.matcher {
        Some(Matcher::Magic(pattern)) => Takes::Magic {
            offset: pattern.offset(),
            magic: Hex(pattern.magic()).to_string(),
            mask: pattern.mask().map(|mask| Hex(mask).to_string()),
        },
        Some(Matcher::Extension(extension)) => {
            Takes::Extension { extension: String::from_utf8_lossy(extension.as_bytes()).into() }
        }
        None => Takes::Unknown {},
    };
    HandlerView {
        name: name_lossy(&handler.name),
        arches: arches.iter().map(|arch| arch.name).collect(),
        emulator: classify::emulated_arch(handler).is_some(),
        state: if entry.enabled { "enabled" } else { "disabled" },
        flags: entry.flag_letters(),
        interpreter: entry.interpreter.as_deref().map(Path::to_string_lossy).map(Into::into),
        in_memory: entry.interpreter.as_deref().and_then(memfd::parse_description),
        provenance: entry.interpreter.as_deref().and_then(fetched),
        changeable_by_others: entry
            .interpreter
            .as_deref()
            .filter(|path| path.is_absolute())
            .and_then(|path| changeable_by_others(path).ok().flatten()),
        by: owner.to_string(),
        takes,
        unknown_lines: entry.unknown_lines.iter().map(|line| String::from_utf8_lossy(line).into()).collect(),
        probe,
    }
}

/// Returns the origin of the interpreter at `path`, if the path is absolute and qus has fetched the file.
fn fetched(path: &Path) -> Option<Provenance> {
    if path.is_absolute() { Provenance::of(path) } else { None }
}

/// Cells of one row of the table, one for each column that the table can have.
struct Cells {
    arch: Cell,
    state: Cell,
    flags: Cell,
    interpreter: Cell,
    from: Cell,
    by: Cell,
    name: Cell,
    probe: Cell,
}

/// Options that select the columns of the table.
struct Columns {
    verbose: bool,
    probe: bool,
}

impl Columns {
    fn header(&self) -> Vec<Cell> {
        let header = |name: &str| Cell::styled(name, HEADER);
        self.chosen(Cells {
            arch: header("ARCH"),
            state: header("STATE"),
            flags: header("FLAGS"),
            interpreter: header("INTERPRETER"),
            from: header("FROM"),
            by: header("BY"),
            name: header("NAME"),
            probe: header("PROBE"),
        })
    }

    fn chosen(&self, cells: Cells) -> Vec<Cell> {
        let mut chosen = vec![cells.arch, cells.state, cells.flags, cells.interpreter];
        if self.verbose {
            chosen.extend([cells.from, cells.by]);
        }
        chosen.push(cells.name);
        if self.probe {
            chosen.push(cells.probe);
        }
        chosen
    }
}

impl HandlerView {
    fn cells(&self) -> Cells {
        let interpreter = self.interpreter.as_deref().map(|path| display_path(Path::new(path)));
        let recorded = self.provenance.as_ref().and_then(|record| record.qemu_version.as_ref());
        let version = recorded.map(|version| format!(" (QEMU {})", escape(version))).unwrap_or_default();
        let provenance = self.provenance.as_ref().map(|record| escape(&record.short()));
        Cells {
            arch: or_dash(self.arches.join(",")).into(),
            state: Cell::styled(self.state, if self.state == "enabled" { GOOD } else { NOTABLE }),
            flags: or_dash(escape(&self.flags)).into(),
            interpreter: Cell::from(interpreter.unwrap_or_else(|| "-".to_owned())).with_detail(version),
            from: provenance.unwrap_or_else(|| "-".to_owned()).into(),
            by: escape(&self.by).into(),
            name: escape(&self.name).into(),
            probe: self.probe.as_ref().map_or_else(|| Cell::from("-"), Health::cell),
        }
    }
}

impl UnregisteredRule {
    /// Returns the row of a configured rule. A registered handler that differs from the rule has a row of its own.
    fn cells(&self) -> Cells {
        let state = match self.state {
            Drift::Missing => "missing",
            Drift::Differs => "differs",
        };
        Cells {
            arch: "-".into(),
            state: Cell::styled(state, BAD),
            flags: or_dash(self.flags.clone()).into(),
            interpreter: display_path(Path::new(&self.interpreter)).into(),
            from: "-".into(),
            by: display_path(&self.file).into(),
            name: escape(&self.name).into(),
            probe: Cell::default(),
        }
    }
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
