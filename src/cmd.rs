//! The commands, one file each: gather, decide, act, prove, report.

mod apply;
mod bundle;
mod completions;
mod doctor;
mod export;
mod fetch;
mod list;
mod man;
pub mod peers;
mod register;
mod reset;
mod run;
mod show;
mod switch;
mod verify;
mod which;

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Result;
use nix::errno::Errno;

use crate::arch::Arch;
use crate::base::error::Problem;
use crate::base::output::{NotRun, Output, Status};
use crate::base::shell::shell_word;
use crate::binfmt::instance::{Instance, MountError, OpenError};
use crate::binfmt::{HEAD, Handler, HandlerName};
use crate::cli::{Cli, Command, Common};
use crate::folders;
use crate::handler::plan;
use crate::interpreter::bundle::Bundle;
use crate::interpreter::{WantedVersion, default_places, emulated_by, version_in};
use crate::system::namespace::{Lifetime, Scope, UserNamespace};
use crate::system::temp_dir::TempDir;

/// Ids of the checks of `qus doctor`, as they stand in what it says.
pub fn doctor_checks() -> impl Iterator<Item = &'static str> {
    doctor::ids()
}

/// Runs the command that was typed.
pub fn run(cli: &Cli, output: &mut Output<'_>) -> Result<Status> {
    let common = &cli.common;
    // A damaged bundle does nothing at all.
    if let Err(problem) = own_bundle() {
        output.failure(&problem)?;
        let is_run = matches!(cli.command, Command::Run(_));
        return Ok(if is_run { Status::NotRun(NotRun::Qus) } else { Status::Failed });
    }
    match &cli.command {
        Command::Register(args) => register::run(args, common, output),
        Command::List(args) => list::run(args, common, output),
        Command::Reset(args) => reset::run(args, common, output),
        Command::Verify(args) => verify::run(args, common, output),
        Command::Which(args) => which::run(args, common, output),
        Command::Run(args) => run::run(args, common, output),
        Command::Doctor(args) => doctor::run(args, common, output),
        Command::Fetch(args) => fetch::run(args, common, output),
        Command::Bundle(args) => bundle::run(args, common, output),
        Command::Enable(args) => switch::run(args, true, common, output),
        Command::Disable(args) => switch::run(args, false, common, output),
        Command::Show(args) => show::run(args, output),
        Command::Completions(args) => completions::run(args, output),
        Command::Man(args) => man::run(args, output),
        Command::Export(args) => export::run(args, output),
        Command::Apply(args) => apply::run(args, common, output),
    }
}

/// The instance, which has to be there.
fn open_instance(common: &Common) -> Result<Instance, Problem> {
    Ok(Instance::open(&common.instance)?)
}

/// The instance, or nothing where there cannot be a handler to see.
///
/// On the host an instance that is mounted nowhere may still live in some container (K67), so root mounts it to look.
/// In a user namespace mounting would make a new one, and hide the host's (K66).
fn open_to_look(common: &Common) -> Result<Option<Instance>> {
    let path = &common.instance;
    match Instance::open(path) {
        Err(OpenError::NotMounted(_)) if UserNamespace::is_host_root() => {
            Instance::mount(path).map_err(Problem::from)?;
            Ok(Some(Instance::open(path).map_err(Problem::from)?))
        }
        Err(OpenError::NotMounted(_)) => Ok(None),
        other => Ok(Some(other.map_err(Problem::from)?)),
    }
}

/// An instance to register in, its scope, and how long handlers last there.
struct Opened {
    /// Nothing where a dry run would have to mount one.
    instance: Option<Instance>,
    scope: Scope,
    lifetime: Lifetime,
}

impl Opened {
    /// The instance on `path`, which this process has not mounted.
    fn existing(instance: Instance, path: &Path) -> Self {
        let scope = Scope::of(path);
        Self { instance: Some(instance), scope, lifetime: Lifetime::of_existing_mount(scope) }
    }

    /// The instance of this process's user namespace, which is mounted already, or would be.
    fn own(instance: Option<Instance>) -> Self {
        let scope = Scope::of_own_mount();
        Self { instance, scope, lifetime: Lifetime::of_existing_mount(scope) }
    }
}

/// The instance of this user namespace, mounted first where it is missing; that is said.
fn open_or_mount(common: &Common, output: &mut Output<'_>) -> Result<Opened> {
    let path = &common.instance;
    let there = match Instance::open(path) {
        Err(OpenError::NotMounted(_)) => None,
        other => Some(other.map_err(Problem::from)?),
    };
    let since = SystemTime::now();
    match (there, UserNamespace::own()) {
        (Some(instance), UserNamespace::Initial) => return Ok(Opened::existing(instance, path)),
        (None, _) => Instance::mount(path).map_err(Problem::from)?,
        // It may be that of an outer user namespace, by a mount that was inherited, and belong to the same user: who
        // registers there registers for others (K71). An instance is not mounted twice in one place: EBUSY shows that it is
        // this namespace's. A container that is given its own need not be allowed to mount; who may not write to another's
        // hears of it (K70).
        (Some(instance), _) => match Instance::mount(path) {
            Err(MountError::Io { source: Errno::EBUSY, .. }) => return Ok(Opened::own(Some(instance))),
            Err(MountError::Denied(_)) => return Ok(Opened::existing(instance, path)),
            mounted => mounted.map_err(Problem::from)?,
        },
    }
    let (scope, lifetime) = (Scope::of_own_mount(), Lifetime::of_new_mount(path, since));
    let hides = if scope == Scope::Host {
        ""
    } else {
        ": an instance of this user namespace, which hides the host's handlers"
    };
    output.note(&format!("mounted binfmt_misc on {}{hides}", path.display()))?;
    Ok(Opened { instance: Some(Instance::open(path).map_err(Problem::from)?), scope, lifetime })
}

/// Whether this is the interim name of a handler whose process was killed before it could give it the final one.
fn is_left_behind(name: &HandlerName) -> bool {
    let process = plan::interim_process(name);
    process.is_some_and(|process| !Path::new("/proc").join(process.to_string()).exists())
}

/// For a dry run: the instance that a run would register in, where it is mounted already.
fn open_if_mounted(common: &Common) -> Result<Opened> {
    let path = &common.instance;
    match Instance::open(path) {
        Err(OpenError::NotMounted(_)) => Ok(Opened::own(None)),
        other => {
            let opened = Opened::existing(other.map_err(Problem::from)?, path);
            // A run would mount one of its own over this one.
            let is_hidden = opened.scope == Scope::Outer && Instance::may_mount(path);
            Ok(if is_hidden { Opened::own(None) } else { opened })
        }
    }
}

/// What is to be told where what was registered ends with what registered it: never told as a success (K67).
fn ends_too_soon(lifetime: Lifetime, scope: Scope) -> Option<Problem> {
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
    let cure = "on the host: sudo mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc; or here: qus register --hold …";
    Some(Problem::new(message).cure(cure))
}

/// What is to be told of an instance that is switched off as a whole (K27).
fn switched_off(instance: &Instance) -> Problem {
    let status = instance.path().join("status");
    let problem = Problem::new("the whole instance is switched off: no handler is in force");
    problem.cure(format!("echo 1 | sudo tee {}", shell_word(status)))
}

/// Says where the handlers are that this is about, when that is not the host (DESIGN §3.7).
fn tell_scope(scope: Scope, output: &mut Output<'_>) -> io::Result<()> {
    if scope == Scope::Host { Ok(()) } else { output.note(&format!("this is about {scope}")) }
}

/// Whether the file at `path` has the wanted version of QEMU; any will do where none is named.
fn is_of(wanted: Option<&WantedVersion>, arch: &Arch, path: &Path) -> bool {
    wanted.is_none_or(|wanted| version_in(path, arch.name).is_some_and(|version| wanted.is(&version)))
}

/// What this executable carries, if anything.
fn own_bundle() -> Result<Option<Bundle>, Problem> {
    Bundle::own().map_err(|error| Problem::new(error.to_string()))
}

/// Unpacks the interpreters that this executable carries, of the wanted architectures, into a temporary directory; `None`
/// for a qus that carries nothing.
fn unpack_bundle(wanted: impl Fn(&'static Arch) -> bool) -> Result<Option<TempDir>, Problem> {
    let Some(bundle) = own_bundle()? else { return Ok(None) };
    let directory = TempDir::create(true).map_err(|reasons| {
        Problem::new(format!("cannot unpack the bundle: no directory serves ({reasons})"))
    })?;
    for member in bundle.members() {
        if !emulated_by(member.name.as_bytes()).is_some_and(&wanted) {
            continue;
        }
        let path = directory.path().join(&member.name);
        let failed = |error| Problem::new(format!("cannot write {}: {error}", path.display()));
        std::fs::write(&path, bundle.unpack(member)?).map_err(failed)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(failed)?;
    }
    Ok(Some(directory))
}

/// Directories that are searched without `--interpreter-dir`, with the unpacked interpreters of this bundle among them.
fn search_places(unpacked: Option<&TempDir>) -> Vec<PathBuf> {
    let unpacked = unpacked.map(|directory| directory.path().to_owned());
    default_places(&unpacked.into_iter().chain(folders::all_fetched()).collect::<Vec<_>>())
}

/// The beginning of qus itself: a program that this host runs.
fn own_head() -> Result<Vec<u8>, Problem> {
    let failed = |error: io::Error| Problem::new(format!("cannot read /proc/self/exe: {error}"));
    let file = File::open("/proc/self/exe").map_err(failed)?;
    let mut head = vec![0; HEAD];
    let length = std::os::unix::fs::FileExt::read_at(&file, &mut head, 0).map_err(failed)?;
    head.truncate(length);
    Ok(head)
}

/// Handlers that give programs to QEMU's emulators, of the named architectures or of all.
fn emulators<'a>(
    handlers: &'a [Handler],
    named: Option<&[&'static Arch]>,
) -> Vec<(&'a Handler, &'static Arch)> {
    handlers
        .iter()
        .filter_map(|handler| plan::emulates(handler).map(|arch| (handler, arch)))
        .filter(|(handler, arch)| {
            named
                .is_none_or(|named| named.contains(arch) || named.iter().any(|arch| is_mainly(handler, arch)))
        })
        .collect()
}

/// The name of a handler for JSON, as it is; whoever prints it escapes it.
fn plain(name: &HandlerName) -> String {
    String::from_utf8_lossy(name.as_bytes()).into_owned()
}

/// The interpreter of a handler, where it is an emulator of QEMU's that can be asked for its version: of no other is it
/// known that it has one to tell and does nothing else. A path in `/proc` is of another file in every process.
fn version_path(handler: &Handler) -> Option<&Path> {
    plan::emulates(handler)?;
    let path = handler.entry.interpreter.as_deref()?;
    (path.is_absolute() && !path.starts_with("/proc")).then_some(path)
}

/// Whether a handler takes programs of `arch` and of nothing else.
fn is_mainly(handler: &Handler, arch: &Arch) -> bool {
    handler
        .entry
        .pattern()
        .is_some_and(|pattern| Arch::of_pattern(pattern).iter().all(|taken| *taken == arch))
        && plan::concerns(handler, arch)
}
