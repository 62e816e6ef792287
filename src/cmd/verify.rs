//! `qus verify`: execute probes through the kernel, and say of each handler what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::open_instance;
use crate::arch::Arch;
use crate::binfmt::{Flags, Handler, HandlerName};
use crate::cli::{Common, Verify, named};
use crate::interpreter::FileId;
use crate::namespace::Scope;
use crate::output::{Output, Status, columns, path_text};
use crate::plan;
use crate::probe::{self, End, Expected, Proof, STATUS_ARGV0, judge};
use crate::problem::Problem;

/// What the probe of a handler showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Health {
    /// `working`, `broken`, or `native` where the host runs the architecture itself, with no handler in the way.
    pub(super) state: &'static str,
    /// Why it is broken.
    pub(super) reason: Option<String>,
    /// Version of the interpreter at the handler's path, if it says one.
    pub(super) version: Option<String>,
    /// What was seen of it working.
    pub(super) proof: Option<Proof>,
}

impl fmt::Display for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.state)?;
        if let Some(reason) = &self.reason {
            write!(formatter, ": {reason}")?;
        }
        if let Some(version) = &self.version {
            write!(formatter, " (QEMU {version})")?;
        }
        match &self.proof {
            Some(proof) if !proof.empty_root => {
                formatter.write_str(", on this host only: an empty root could not be tried")
            }
            _ => Ok(()),
        }
    }
}

/// Executes the probe of every architecture that one of `handlers` takes for itself, and judges each handler by it.
/// Handlers of anything but programs of the table are left out.
pub(super) fn health(handlers: &[Handler], enabled: bool) -> Result<BTreeMap<HandlerName, Health>, Problem> {
    let judged: Vec<(&Handler, &'static Arch)> =
        handlers.iter().filter_map(|handler| main_arch(handler).map(|arch| (handler, arch))).collect();
    let mut arches: Vec<&'static Arch> = judged.iter().map(|(_, arch)| *arch).collect();
    arches.sort_by_key(|arch| arch.name);
    arches.dedup();
    // Only of QEMU's emulators is it known that they have a version to tell and do nothing else.
    let interpreters: Vec<&Path> = judged
        .iter()
        .filter(|(handler, _)| plan::emulates(handler).is_some())
        .filter_map(|(handler, _)| handler.entry.interpreter.as_deref())
        .filter(|path| path.is_absolute())
        .collect();
    let (trials, versions) =
        probe::run(&arches, &interpreters).map_err(|error| Problem::new(error.to_string()))?;
    let mut health = BTreeMap::new();
    for (handler, arch) in &judged {
        let Some(trial) = arches.iter().position(|other| other == arch).and_then(|index| trials.get(index))
        else {
            continue;
        };
        let version = interpreters
            .iter()
            .position(|path| Some(*path) == handler.entry.interpreter.as_deref())
            .and_then(|index| versions.get(index).cloned().flatten());
        let serving = plan::serving(arch, handlers).filter(|_| enabled);
        let broken = |reason: String| Health {
            state: "broken",
            reason: Some(reason),
            version: version.clone(),
            proof: None,
        };
        let state = if !handler.entry.enabled {
            broken("it is disabled".to_owned())
        } else if !enabled {
            broken("the whole instance is switched off".to_owned())
        } else {
            let in_front = serving
                .filter(|serving| serving.name != handler.name)
                .map(|serving| serving.name.to_string());
            let expected = Expected {
                preserve_argv0: handler.entry.flags.contains(Flags::PRESERVE_ARGV0),
                interpreter: pinned(handler),
                in_front: in_front.as_deref(),
            };
            match judge(trial, &expected) {
                Ok(_) if in_front.is_some() => broken(probe::Failure::Shadowed(in_front.clone()).to_string()),
                Ok(proof) => Health { state: "working", reason: None, version, proof: Some(proof) },
                Err(failure) => broken(failure.to_string()),
            }
        };
        health.insert(handler.name.clone(), state);
    }
    Ok(health)
}

/// The file that a handler must have opened, where that can be known: without `F` it is the one at its path. With `F` it
/// may be one that is long gone from there (K49), and running is all that can be asked of it.
fn pinned(handler: &Handler) -> Option<FileId> {
    if handler.entry.flags.contains(Flags::FIX_BINARY) {
        return None;
    }
    let path = handler.entry.interpreter.as_deref()?;
    fs::metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

/// The architecture that a handler is there for: the one it emulates, else the only one it takes.
fn main_arch(handler: &Handler) -> Option<&'static Arch> {
    plan::emulates(handler).or_else(|| match Arch::of_pattern(handler.entry.pattern()?).as_slice() {
        [arch] => Some(*arch),
        _ => None,
    })
}

#[derive(Serialize)]
struct View {
    scope: Scope,
    items: Vec<Item>,
}

#[derive(Serialize)]
struct Item {
    arch: &'static str,
    name: Option<String>,
    interpreter: Option<String>,
    #[serde(flatten)]
    health: Health,
}

pub(super) fn run(args: &Verify, common: &Common, output: &mut Output<'_>) -> Result<Status> {
    let instance = open_instance(common)?;
    let handlers = instance.handlers().map_err(Problem::from)?;
    let enabled = instance.is_enabled().map_err(Problem::from)?;
    let named = named(&args.arches);
    let mut health = health(&handlers, enabled)?;
    let mut items = Vec::new();
    let wanted = |arch: &Arch| named.as_ref().is_none_or(|named| named.iter().any(|named| **named == *arch));
    for handler in &handlers {
        let Some(arch) = main_arch(handler).filter(|arch| wanted(arch)) else { continue };
        if let Some(health) = health.remove(&handler.name) {
            let interpreter = handler.entry.interpreter.as_deref().map(Path::to_string_lossy).map(Into::into);
            items.push(Item { arch: arch.name, name: Some(handler.name.to_string()), interpreter, health });
        }
    }
    let mut unserved: Vec<&'static Arch> = named.into_iter().flatten().collect();
    unserved.retain(|arch| !items.iter().any(|item| item.arch == arch.name));
    items.extend(without_handler(&unserved)?);
    items.sort_by_key(|item| item.arch);
    let status =
        if items.iter().any(|item| item.health.state == "broken") { Status::No } else { Status::Done };
    let view = View { scope: Scope::here(), items };
    output.data(&view, || text(&view))?;
    if view.items.is_empty() {
        output.note("no handler of an architecture is there")?;
    }
    Ok(status)
}

/// Architectures that were asked for and have no handler: the host itself runs them, or nothing does.
fn without_handler(arches: &[&'static Arch]) -> Result<Vec<Item>, Problem> {
    if arches.is_empty() {
        return Ok(Vec::new());
    }
    let (trials, _) = probe::run(arches, &[]).map_err(|error| Problem::new(error.to_string()))?;
    let items = arches.iter().zip(trials).map(|(arch, trial)| {
        let native = trial.host.end == End::Exited(STATUS_ARGV0);
        let reason = format!("no handler takes its programs; cure: sudo qus register {}", arch.name);
        let health = Health {
            state: if native { "native" } else { "broken" },
            reason: (!native).then_some(reason),
            version: None,
            proof: None,
        };
        Item { arch: arch.name, name: None, interpreter: None, health }
    });
    Ok(items.collect())
}

fn text(view: &View) -> String {
    let row = |item: &Item| {
        let interpreter = item.interpreter.as_deref().map(|path| path_text(Path::new(path)));
        vec![item.arch.to_owned(), item.health.to_string(), interpreter.unwrap_or_default()]
    };
    columns(&view.items.iter().map(row).collect::<Vec<_>>())
}
