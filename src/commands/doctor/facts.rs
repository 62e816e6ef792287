//! Facts about the system that the checks of `qus doctor` use. They are gathered once, before the first check.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::sys::statvfs::{FsFlags, statvfs};

use super::processes::{BuildkitDaemon, MountHolder, buildkit_daemons};
use crate::arch::Arch;
use crate::base::error::Advise as _;
use crate::base::error::Diagnostic;
use crate::base::order::{self, ByArch};
use crate::binfmt::instance::{Instance, OpenError};
use crate::binfmt::{Handler, HandlerName};
use crate::boot::configuration::Configuration;
use crate::boot::persist::is_systemd_running;
use crate::commands::verify::{Health, health};
use crate::handler::classify;
use crate::handler::condition::BrokenInterpreter;
use crate::handler::owner::Owner;
use crate::handler::table;
use crate::interpreter::self_exe_header;
use crate::interpreter::store;
use crate::interpreter::{CheckError, Interpreter, default_search_dirs, search, usable};
use crate::probe::{Nativeness, same_family};
use crate::system::kernel_version::{KernelVersion, is_wsl};
use crate::system::namespace::blocking_sysctl;
use crate::system::namespace::{Scope, UserNamespace, is_hosts_mount_namespace};

/// Facts about the system that the checks of `qus doctor` use.
#[allow(clippy::struct_excessive_bools, reason = "answers to independent questions")]
pub(super) struct Facts {
    pub(super) kernel: KernelVersion,
    pub(super) path: PathBuf,
    /// State of the mounted binfmt_misc instance, or the reason why it cannot be opened.
    pub(super) instance: Result<State, OpenError>,
    /// The user namespace of this process.
    pub(super) process: UserNamespace,
    /// Scope of the mounted instance. If none is mounted: the scope of the instance that this process would mount.
    pub(super) scope: Scope,
    /// Name of the container engine, if this process runs in a container.
    pub(super) container: Option<String>,
    /// True if the mount namespace of this process is not the host's.
    pub(super) is_container: bool,
    /// True if this process may mount binfmt_misc, or if that was not tested. It is tested only on Linux 6.7 or later,
    /// and only if no instance is mounted.
    pub(super) may_mount: bool,
    pub(super) is_wsl: bool,
    /// True if systemd is the init system.
    pub(super) systemd: bool,
    pub(super) configuration: Configuration,
    /// Installed programs that run or build containers, such as `podman`.
    pub(super) engines: Vec<&'static str>,
    /// Running BuildKit daemons in the user namespace of this process.
    pub(super) buildkit_daemons: Vec<BuildkitDaemon>,
    pub(super) page_size: u64,
    pub(super) security: Vec<String>,
    /// Command that permits user namespaces to ordinary users, if a setting of the kernel forbids them.
    pub(super) no_user_namespaces: Option<String>,
}

/// State of a mounted binfmt_misc instance, and facts about its handlers.
pub(super) struct State {
    pub(super) enabled: bool,
    pub(super) read_only: bool,
    pub(super) handlers: Vec<Handler>,
    /// Times at which the handlers of QEMU's emulators were registered. They are the modification times of the
    /// handlers' files in binfmt_misc.
    pub(super) registered: Vec<SystemTime>,
    /// Mounts that keep the instance and its handlers alive.
    pub(super) holder: MountHolder,
    pub(super) owners: BTreeMap<HandlerName, Owner>,
    /// Results of the probes by the name of the handler, or the reason why no probe was executed.
    pub(super) health: Result<BTreeMap<HandlerName, Health>, String>,
    /// Faults of interpreter files, by the name of the handler. Handlers with a usable interpreter file are left out.
    pub(super) faults: BTreeMap<HandlerName, CheckError>,
    /// Faults of interpreters that are no emulators, by the name of the handler.
    pub(super) broken: BTreeMap<HandlerName, BrokenInterpreter>,
    /// Path of an available interpreter, for each architecture that a handler emulates.
    pub(super) available: ByArch<PathBuf>,
    /// Answers whether the host runs an architecture natively, for each architecture of the host's own family that has a
    /// handler. Empty if no probe was executed.
    pub(super) natives: ByArch<Nativeness>,
}

impl Facts {
    /// Gathers the facts about the system and about the instance on `path`. Changes nothing, and executes only probes.
    pub(super) fn gather(path: &Path, verify: bool) -> Result<Self, Diagnostic> {
        let configuration = Configuration::read(Path::new("/"));
        let instance = match Instance::open(path) {
            Ok(instance) => Ok(State::gather(&instance, &configuration, verify)?),
            Err(error) => Err(error),
        };
        let kernel = KernelVersion::running();
        // Only Linux 6.7 and later show without mounting whether a mount is permitted (`Instance::may_mount`).
        let unmounted =
            kernel.has_per_userns_instances() && matches!(instance, Err(OpenError::NotMounted(_)));
        Ok(Self {
            kernel,
            path: path.to_owned(),
            process: UserNamespace::own(),
            scope: if instance.is_ok() { Scope::of(path) } else { Scope::of_own_mount() },
            instance,
            container: container(),
            is_container: !is_hosts_mount_namespace(),
            may_mount: !unmounted || Instance::may_mount(path),
            is_wsl: is_wsl(),
            systemd: is_systemd_running(),
            configuration,
            engines: engines(),
            buildkit_daemons: buildkit_daemons(),
            page_size: nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
                .ok()
                .flatten()
                .and_then(|size| u64::try_from(size).ok())
                .unwrap_or(0),
            security: security(),
            no_user_namespaces: blocking_sysctl().and_then(|error| error.advice().command),
        })
    }

    /// Returns the state of the instance, if it is mounted.
    pub(super) fn state(&self) -> Option<&State> {
        self.instance.as_ref().ok()
    }
}

impl State {
    fn gather(instance: &Instance, configuration: &Configuration, verify: bool) -> Result<Self, Diagnostic> {
        let handlers = table::handlers(instance)?;
        let enabled = instance.is_enabled()?;
        let host = self_exe_header()?;
        let (faults, broken) = faults(&handlers, &host);
        let owner = |handler: &Handler| (handler.name.clone(), Owner::of(handler, configuration));
        let owners = order::map(handlers.iter().map(owner));
        let path = instance.path();
        let registered = handlers
            .iter()
            .filter(|handler| classify::emulated_arch(handler).is_some())
            .filter_map(|handler| fs::metadata(path.join(handler.name.as_os_str())).ok()?.modified().ok())
            .collect();
        let holder = MountHolder::of(path);
        let health = if verify {
            health(&handlers, &handlers.iter().collect::<Vec<_>>(), enabled)
                .map_err(|problem| problem.into_content().message)
        } else {
            Err("--no-verify".to_owned())
        };
        let read_only =
            statvfs(instance.path()).is_ok_and(|filesystem| filesystem.flags().contains(FsFlags::ST_RDONLY));
        let emulated = order::set(handlers.iter().filter_map(classify::main_arch).map(|arch| arch.name));
        let search_dirs = default_search_dirs(&store::all_fetched());
        let found = search(&search_dirs, &host, |arch, _| emulated.contains(arch.name));
        let available = usable(found);
        let natives = if verify { natives(&host, &handlers) } else { ByArch::new() };
        Ok(Self {
            enabled,
            read_only,
            handlers,
            registered,
            holder,
            owners,
            health,
            faults,
            broken,
            available,
            natives,
        })
    }
}

/// Checks the interpreter of each handler. Returns the faults of all interpreters by the rules for emulators, and those of
/// other interpreters by the rules of the kernel.
fn faults(
    handlers: &[Handler],
    host: &[u8],
) -> (BTreeMap<HandlerName, CheckError>, BTreeMap<HandlerName, BrokenInterpreter>) {
    let (mut faults, mut broken) = (BTreeMap::new(), BTreeMap::new());
    for handler in handlers {
        let Some(path) = handler.entry.interpreter.as_deref() else { continue };
        if let Err(reason) = Interpreter::check(path, host) {
            faults.insert(handler.name.clone(), reason);
        }
        if classify::emulated_arch(handler).is_none() {
            broken.extend(
                BrokenInterpreter::find(handler, handlers, host).map(|fault| (handler.name.clone(), fault)),
            );
        }
    }
    (faults, broken)
}

/// Executes probes to determine which architectures the host runs natively. Includes only architectures of the host's
/// own family with a handler. A disabled handler counts, because a hint may enable it.
fn natives(host: &[u8], handlers: &[Handler]) -> ByArch<Nativeness> {
    let emulated = order::set(handlers.iter().filter_map(classify::main_arch).map(|arch| arch.name));
    let same_family = Arch::from_header(host).into_iter().flat_map(same_family);
    let asked_for = same_family.filter(|arch| emulated.contains(arch.name));
    order::by_arch(asked_for.map(|arch| (arch.name, Nativeness::of(arch, handlers))))
}

/// Returns the name of the container engine in whose container this process runs. Engines create files that show this.
fn container() -> Option<String> {
    for (file, engine) in [("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")] {
        if Path::new(file).exists() {
            return Some(engine.to_owned());
        }
    }
    let systemd = fs::read_to_string("/run/systemd/container").ok()?;
    Some(systemd.trim().to_owned())
}

fn engines() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let is_there = |name: &&str| directories.iter().any(|directory| directory.join(name).is_file());
    ["docker", "buildkitd", "podman", "buildah", "nerdctl"].into_iter().filter(is_there).collect()
}

/// Lists the active security modules of Linux that can forbid operations of qus or of an emulator.
fn security() -> Vec<String> {
    let mut active = Vec::new();
    if fs::read_to_string("/sys/fs/selinux/enforce").is_ok_and(|text| text.trim() == "1") {
        active.push("SELinux (enforcing)".to_owned());
    }
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y") {
        active.push("AppArmor".to_owned());
    }
    active
}
