//! Opens the binfmt_misc instance for a command, and prints in which namespaces its handlers apply.

use std::io;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;

use super::args::Common;
use crate::base::error::Diagnostic;
use crate::base::output::Output;
use crate::base::reader::set_instance;
use crate::base::shell::shell_word;
use crate::binfmt::instance::{DEFAULT_PATH, Instance, MountError, ON_THE_HOST, OpenError, mount_command};
use crate::system::namespace::{Lifetime, Scope, UserNamespace};

/// Opens the instance on the mount point of `--instance`. Fails if no instance is mounted there.
pub(crate) fn open_instance(common: &Common) -> Result<Instance, Diagnostic> {
    Ok(Instance::open(&common.instance)?)
}

/// Opens the instance on the mount point of `--instance` for a command that registers nothing. Returns `None` if no
/// instance is mounted there and this process is not root of the host.
///
/// A process that is root of the host mounts the instance first. The instance may have handlers although it is not
/// mounted here, because a container can keep it alive (K67). In a user namespace nothing is mounted: a mount would
/// create a new instance that hides the host's instance (K66).
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

/// Makes each command that qus suggests from now on name the instance on `path`, unless that is the usual mount point.
pub(crate) fn name_in_advice(path: &Path) {
    if path != Path::new(DEFAULT_PATH) {
        set_instance(path);
    }
}

/// The instance in which a command registers handlers, its scope, and the lifetime of its handlers.
pub(crate) struct Opened {
    /// The open instance. `None` in a dry run if a run without `--dry-run` would mount a new instance.
    pub(crate) instance: Option<Instance>,
    pub(crate) scope: Scope,
    pub(crate) lifetime: Lifetime,
}

impl Opened {
    /// Describes the instance on `path`, which was mounted before this process started.
    pub(crate) fn existing(instance: Instance, path: &Path) -> Self {
        let scope = Scope::of(path);
        Self { instance: Some(instance), scope, lifetime: Lifetime::of_existing_mount(scope) }
    }

    /// Describes the instance that belongs to the user namespace of this process. `None` stands for an instance that a
    /// run without `--dry-run` would mount.
    pub(crate) fn own(instance: Option<Instance>) -> Self {
        let scope = Scope::of_own_mount();
        Self { instance, scope, lifetime: Lifetime::of_existing_mount(scope) }
    }
}

/// Opens the instance for a command that registers handlers. A dry run mounts nothing. Any other run mounts the
/// instance if necessary, and fails if the instance is read-only or disabled.
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

/// Opens the instance of the user namespace of this process. If it is not mounted, mounts it and prints a message.
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
        // An inherited mount may be the instance of an outer user namespace, where a registration affects others (K71).
        // So this namespace's own instance is mounted. If it is mounted already, `mount(2)` fails with EBUSY. If
        // mounting is not permitted, the inherited mount is used; the kernel then refuses writes to an outer instance
        // (K70).
        (Some(instance), _) => match Instance::mount(path) {
            Err(MountError::Io { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
                return Ok(Opened::own(Some(instance)));
            }
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

/// Opens, for a dry run, the instance that a run without `--dry-run` would use, if it is mounted.
fn open_if_mounted(common: &Common) -> Result<Opened> {
    let path = &common.instance;
    match Instance::open(path) {
        Err(OpenError::NotMounted(_)) => Ok(Opened::own(None)),
        other => {
            let opened = Opened::existing(other.map_err(Diagnostic::from)?, path);
            // A real run would mount its own instance over this one.
            let is_hidden = opened.scope == Scope::Outer && Instance::may_mount(path);
            Ok(if is_hidden { Opened::own(None) } else { opened })
        }
    }
}

/// Returns an error if the new handlers disappear as soon as the process or container that registered them ends (K67).
/// Such a registration does not count as a success.
pub(crate) fn lifetime_warning(lifetime: Lifetime, scope: Scope) -> Option<Diagnostic> {
    let message = match lifetime {
        Lifetime::Process => "the handlers end with this command: only its own mount holds the instance",
        // Users who enter a namespace know that it ends.
        Lifetime::MountNamespace if scope == Scope::Host => {
            "the handlers end with this container: the host has not mounted binfmt_misc"
        }
        _ => return None,
    };
    let problem = Diagnostic::new(message).with_command(mount_command(Path::new(DEFAULT_PATH)));
    Some(problem.with_hint(format!("{ON_THE_HOST}; or keep qus running here: qus register --hold …")))
}

/// Returns the error that the whole instance is disabled (K27), with the command that enables it.
pub(crate) fn switched_off(instance: &Instance) -> Diagnostic {
    let status = instance.path().join("status");
    let problem = Diagnostic::new("the whole instance is disabled: no handler is active");
    problem.with_command(format!("echo 1 | sudo tee {}", shell_word(status)))
}

/// Prints in which namespace the handlers apply, unless they apply to the host (rule 7 of docs/design.md).
pub(crate) fn print_scope(scope: Scope, output: &mut Output<'_>) -> io::Result<()> {
    if scope == Scope::Host { Ok(()) } else { output.info(&format!("these are the handlers of {scope}")) }
}
