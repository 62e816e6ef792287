//! Opening the instance that a command is about, and telling where its handlers apply.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use nix::errno::Errno;

use super::args::Common;
use crate::base::error::Diagnostic;
use crate::base::output::Output;
use crate::base::shell::shell_word;
use crate::binfmt::instance::{DEFAULT_PATH, Instance, MountError, ON_THE_HOST, OpenError, mount_command};
use crate::system::namespace::{Lifetime, Scope, UserNamespace};

/// The instance, which has to be there.
pub(crate) fn open_instance(common: &Common) -> Result<Instance, Diagnostic> {
    Ok(Instance::open(&common.instance)?)
}

/// The instance, or nothing where there cannot be a handler to see.
///
/// On the host an instance that is mounted nowhere may still live in some container (K67), so root mounts it to look.
/// In a user namespace mounting would make a new one, and hide the host's (K66).
pub(crate) fn open_read_only(common: &Common) -> Result<Option<Instance>> {
    let path = &common.instance;
    match Instance::open(path) {
        Err(OpenError::NotMounted(_)) if UserNamespace::is_host_root() => {
            Instance::mount(path).map_err(Diagnostic::from)?;
            Ok(Some(Instance::open(path).map_err(Diagnostic::from)?))
        }
        Err(OpenError::NotMounted(_)) => Ok(None),
        other => Ok(Some(other.map_err(Diagnostic::from)?)),
    }
}

/// An instance to register in, its scope, and how long handlers last there.
pub(crate) struct Opened {
    /// Nothing where a dry run would have to mount one.
    pub(crate) instance: Option<Instance>,
    pub(crate) scope: Scope,
    pub(crate) lifetime: Lifetime,
}

impl Opened {
    /// The instance on `path`, which this process has not mounted.
    pub(crate) fn existing(instance: Instance, path: &Path) -> Self {
        let scope = Scope::of(path);
        Self { instance: Some(instance), scope, lifetime: Lifetime::of_existing_mount(scope) }
    }

    /// The instance of this process's user namespace, which is mounted already, or would be.
    pub(crate) fn own(instance: Option<Instance>) -> Self {
        let scope = Scope::of_own_mount();
        Self { instance, scope, lifetime: Lifetime::of_existing_mount(scope) }
    }
}

/// Opens the instance to register in. A dry run mounts none; any other run needs one that is writable and switched on.
pub(crate) fn open_to_register(dry_run: bool, common: &Common, output: &mut Output<'_>) -> Result<Opened> {
    if dry_run {
        return open_if_mounted(common);
    }
    let opened = open_or_mount(common, output)?;
    if let Some(instance) = &opened.instance {
        instance.check_writable().map_err(Diagnostic::from)?;
        if !instance.is_enabled().map_err(Diagnostic::from)? {
            return Err(switched_off(instance).into());
        }
    }
    Ok(opened)
}

/// The instance of this user namespace, mounted first where it is missing; that is said.
fn open_or_mount(common: &Common, output: &mut Output<'_>) -> Result<Opened> {
    let path = &common.instance;
    let there = match Instance::open(path) {
        Err(OpenError::NotMounted(_)) => None,
        other => Some(other.map_err(Diagnostic::from)?),
    };
    let since = SystemTime::now();
    match (there, UserNamespace::own()) {
        (Some(instance), UserNamespace::Initial) => return Ok(Opened::existing(instance, path)),
        (None, _) => Instance::mount(path).map_err(Diagnostic::from)?,
        // It may be that of an outer user namespace, by a mount that was inherited, and belong to the same user: who
        // registers there registers for others (K71). An instance is not mounted twice in one place: EBUSY shows that it is
        // this namespace's. A container that is given its own need not be allowed to mount; who may not write to another's
        // hears of it (K70).
        (Some(instance), _) => match Instance::mount(path) {
            Err(MountError::Io { source: Errno::EBUSY, .. }) => return Ok(Opened::own(Some(instance))),
            Err(MountError::AccessError(_)) => return Ok(Opened::existing(instance, path)),
            mounted => mounted.map_err(Diagnostic::from)?,
        },
    }
    let (scope, lifetime) = (Scope::of_own_mount(), Lifetime::of_new_mount(path, since));
    let hides = if scope == Scope::Host {
        ""
    } else {
        ": an instance of this user namespace, which hides the host's handlers"
    };
    output.info(&format!("mounted binfmt_misc on {}{hides}", path.display()))?;
    Ok(Opened { instance: Some(Instance::open(path).map_err(Diagnostic::from)?), scope, lifetime })
}

/// For a dry run: the instance that a run would register in, where it is mounted already.
fn open_if_mounted(common: &Common) -> Result<Opened> {
    let path = &common.instance;
    match Instance::open(path) {
        Err(OpenError::NotMounted(_)) => Ok(Opened::own(None)),
        other => {
            let opened = Opened::existing(other.map_err(Diagnostic::from)?, path);
            // A run would mount one of its own over this one.
            let is_hidden = opened.scope == Scope::Outer && Instance::may_mount(path);
            Ok(if is_hidden { Opened::own(None) } else { opened })
        }
    }
}

/// What is to be told where what was registered ends with what registered it: never told as a success (K67).
pub(crate) fn lifetime_warning(lifetime: Lifetime, scope: Scope) -> Option<Diagnostic> {
    let message = match lifetime {
        Lifetime::Process => {
            "what was registered ends with this very command: nothing but its own mount holds the instance"
        }
        // The user who enters a namespace knows that it ends.
        Lifetime::MountNamespace if scope == Scope::Host => {
            "what was registered ends with this container: the host itself has not mounted binfmt_misc"
        }
        _ => return None,
    };
    let problem = Diagnostic::new(message).with_command(mount_command(Path::new(DEFAULT_PATH)));
    Some(problem.with_hint(format!("{ON_THE_HOST}; or keep qus running here: qus register --hold …")))
}

/// What is to be told of an instance that is switched off as a whole (K27).
pub(crate) fn switched_off(instance: &Instance) -> Diagnostic {
    let status = instance.path().join("status");
    let problem = Diagnostic::new("the whole instance is switched off: no handler is in force");
    problem.with_command(format!("echo 1 | sudo tee {}", shell_word(status)))
}

/// Says where the handlers are that this is about, when that is not the host (rule 7 of docs/design.md).
pub(crate) fn print_scope(scope: Scope, output: &mut Output<'_>) -> io::Result<()> {
    if scope == Scope::Host { Ok(()) } else { output.info(&format!("this is about {scope}")) }
}
