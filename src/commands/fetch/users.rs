//! Users of fetched interpreters: handlers, rules, processes, and `qus run`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::order::ByArch;
use crate::binfmt::Handler;
use crate::binfmt::instance::{Instance, OpenError};
use crate::boot::configuration::Configuration;
use crate::commands::args::Common;
use crate::handler::table;
use crate::interpreter::store::all_fetched;
use crate::interpreter::{search, self_exe_header, usable};
use crate::system::file_id::FileId;

/// Registered handlers, configured rules and processes that may use fetched interpreters.
pub(super) struct Users {
    handlers: Vec<Handler>,
    configuration: Configuration,
    /// Ids of the processes that execute each file.
    processes: HashMap<FileId, Vec<u32>>,
    /// The interpreter that `qus run` chooses for each architecture, by the name of the architecture.
    chosen: ByArch<PathBuf>,
}

/// Users of one interpreter.
pub(super) struct Uses {
    /// Names of handlers, and configuration files with a rule.
    pub(super) used_by: Vec<String>,
    /// Ids of processes.
    pub(super) processes: Vec<u32>,
    /// True if `qus run` chooses the interpreter for its architecture.
    pub(super) by_run: bool,
}

impl Users {
    /// Gathers the handlers of the instance, the rules that the system registers at boot, and the processes.
    pub(super) fn gather(common: &Common) -> Result<Self, Diagnostic> {
        let handlers = match Instance::open(&common.instance) {
            Ok(instance) => table::handlers(&instance)?,
            // Without an instance there are no handlers.
            Err(OpenError::NotMounted(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        // Variables of the environment name other directories, but perhaps not in the next session.
        let found = search(&all_fetched(), &self_exe_header()?, |_, _| true);
        Ok(Self {
            handlers,
            configuration: Configuration::read(Path::new("/")),
            processes: executed(),
            chosen: usable(found),
        })
    }

    /// Returns the users of the interpreter of `arch` at `path`.
    pub(super) fn of(&self, arch: &Arch, path: &Path) -> Uses {
        let this = id(path);
        let is_this = |other: &Path| other == path || other.is_absolute() && id(other) == this;
        let handlers =
            self.handlers.iter().filter(|handler| handler.entry.interpreter.as_deref().is_some_and(is_this));
        let rules =
            self.configuration.rules.iter().filter(|configured| is_this(configured.rule.interpreter()));
        let files = rules.map(|configured| configured.file.to_string_lossy().into_owned());
        Uses {
            used_by: handlers.map(|handler| handler.name.to_string()).chain(files).collect(),
            processes: this.and_then(|this| self.processes.get(&this).cloned()).unwrap_or_default(),
            by_run: self.chosen.get(arch.name).is_some_and(|chosen| is_this(chosen)),
        }
    }
}

fn id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|metadata| FileId::of(&metadata))
}

/// Returns the ids of the processes that execute each file. For a program that a handler started, the file is the
/// interpreter (`proc_pid_exe(5)`). Leaves out processes of other users, which an ordinary user may not see.
fn executed() -> HashMap<FileId, Vec<u32>> {
    let mut executed = HashMap::<FileId, Vec<u32>>::new();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    for process in names.filter_map(|name| name.to_str()?.parse::<u32>().ok()) {
        if let Some(file) = id(Path::new(&format!("/proc/{process}/exe"))) {
            executed.entry(file).or_default().push(process);
        }
    }
    executed
}
