//! Helper process that executes probes.
//!
//! qus starts its own executable again with [`HELPER`] as the only argument. The helper enters a user namespace or
//! another root directory and drops all privileges. These steps cannot be undone, so the process that registers
//! handlers must not do them. The helper reads a [`Session`] from standard input and writes a [`Report`] to standard
//! output, both as JSON.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{chdir, chroot, getegid, geteuid, getppid};
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::execution::Executor;
use crate::base::parallel;
use crate::binfmt::instance::{DEFAULT_PATH, Instance};
use crate::system::namespace::map_one;
use crate::system::rights;
use crate::system::signals::{DeferredSignals, end_is_requested};

/// Argument that makes qus run as a helper process. It is the only argument of that process.
pub const HELPER: &str = "__probe";
/// File name of a native program in the directory that contains the probes. The helper executes it if a probe cannot be
/// started or takes long.
const CANARY: &str = "canary";

/// Task that qus gives to one helper process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Session {
    /// Directory that contains the files of the probes. The type is `OsString`, because JSON would store a `PathBuf`
    /// only as UTF-8.
    pub(super) directory: OsString,
    /// Root directory in which the helper executes the probes.
    pub(super) root: Root,
    /// File names of the probes in `directory`.
    pub(super) names: Vec<String>,
    /// True if `directory` also contains a native program, the file `canary`.
    pub(super) has_canary: bool,
    /// Number of the process that starts the helper.
    pub(super) parent: u32,
}

/// Root directory in which a helper executes probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Root {
    /// The root directory of the process that started the helper.
    Host,
    /// The root directory of the process that started the helper. The helper enters a new user namespace, which has its
    /// own binfmt_misc instance without handlers.
    WithoutHandlers,
    /// The directory that contains the probes and nothing else. It is similar to the root directory of a container,
    /// which has none of the host's files.
    Empty,
}

/// Report that a helper process sends back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The probes were executed. The value has one outcome for each probe, in the order of the probes.
    Executed(Vec<Outcome>),
    /// No program, not even a native one, can be executed in the directory of the probes. The value is the reason.
    DirectoryUnusable(String),
    /// The helper has no permission to change its root directory.
    RootNotEntered,
}

/// Returns the file name of the probe with the number `index`.
pub(super) fn file_name(index: usize) -> String {
    format!("probe-{index}")
}

/// Writes executable files into `directory`: each of `probes`, which are file names and contents, and the native program
/// `canary`, if given.
pub(super) fn write_probes(
    directory: &Path,
    probes: &[(String, Vec<u8>)],
    canary: Option<&[u8]>,
) -> io::Result<()> {
    let probes = probes.iter().map(|(name, image)| (name.as_str(), image.as_slice()));
    for (name, image) in probes.chain(canary.map(|canary| (CANARY, canary))) {
        write_executable(&directory.join(name), image)?;
    }
    Ok(())
}

fn write_executable(path: &Path, image: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};

    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(path)?;
    file.write_all(image)?;
    // The umask may have reduced the mode above.
    file.set_permissions(fs::Permissions::from_mode(0o755))
}

/// Does the whole work of a helper process: reads one session from `input`, executes its probes and writes the report
/// to `output`.
///
/// # Errors
/// The probes could not be executed, so there is no report. The error is the reason, as text for the user.
pub fn serve(input: &mut dyn io::Read, output: &mut dyn io::Write) -> Result<(), String> {
    let _deferred = DeferredSignals::begin();
    let mut text = Vec::new();
    input.read_to_end(&mut text).map_err(|error| format!("cannot read the session: {error}"))?;
    let session: Session =
        serde_json::from_slice(&text).map_err(|error| format!("cannot read the session: {error}"))?;
    // A crashing emulator must not leave a core file.
    let _ignored = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let report = session.run()?;
    serde_json::to_writer(&mut *output, &report).map_err(|error| error.to_string())?;
    output.flush().map_err(|error| error.to_string())
}

impl Session {
    fn run(&self) -> Result<Report, String> {
        let directory = if self.root == Root::Empty { Path::new("/") } else { Path::new(&self.directory) };
        let canary = self.has_canary.then(|| directory.join(CANARY));
        // Some files must be opened now, because they cannot be opened without privileges or in another root directory.
        let executor = Executor::new(canary).map_err(|error| format!("cannot open /proc: {error}"))?;
        let entered = match self.root {
            Root::Host => true,
            Root::WithoutHandlers => leave_handlers().map(|()| true)?,
            Root::Empty => enter_root(Path::new(&self.directory)),
        };
        if !entered {
            return Ok(Report::RootNotEntered);
        }
        rights::give_up_all().map_err(|error| error.to_string())?;
        // A change of the user would clear this setting. Without the signal, the time limit ends the programs.
        let _ = prctl::set_pdeathsig(Signal::SIGTERM);
        if u32::try_from(getppid().as_raw()) != Ok(self.parent) {
            return Err("the process that started the helper has ended".to_owned());
        }
        let failed = |error| format!("cannot start a process: {error}");
        let paths: Vec<PathBuf> = self.names.iter().map(|name| directory.join(name)).collect();
        let outcomes = parallel::map(&paths, |path| executor.execute(path));
        let outcomes: Vec<Outcome> = outcomes.into_iter().collect::<io::Result<_>>().map_err(failed)?;
        if end_is_requested() {
            return Err("interrupted by a signal".to_owned());
        }
        Ok(match executor.obstacle(&outcomes).map_err(failed)? {
            Some(error) => Report::DirectoryUnusable(format!("cannot execute programs there: {error}")),
            None => Report::Executed(outcomes),
        })
    }
}

/// Moves this process into a new user namespace that has no handlers. A user namespace without its own binfmt_misc
/// instance uses the handlers of its ancestor, so a new, empty instance is mounted (K65, K66).
fn leave_handlers() -> Result<(), String> {
    let (uid, gid) = (geteuid(), getegid());
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot {what}: {error}");
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|errno| failed("enter a user namespace", &errno))?;
    map_one((0, uid.as_raw()), (0, gid.as_raw())).map_err(|error| error.to_string())?;
    Instance::mount(Path::new(DEFAULT_PATH)).map_err(|error| error.to_string())
}

/// Makes `directory` the root directory of this process. An unprivileged process first enters a new user namespace, in
/// which it may call `chroot(2)`. Returns false if this is not permitted either.
fn enter_root(directory: &Path) -> bool {
    let entered = match chroot(directory) {
        Err(Errno::EPERM) => unshare(CloneFlags::CLONE_NEWUSER).and_then(|()| chroot(directory)),
        other => other,
    };
    entered.and_then(|()| chdir("/")).is_ok()
}
