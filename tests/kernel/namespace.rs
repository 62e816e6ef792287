//! Runs a test in its own namespaces, in a new process of this test executable.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::lab::Lab;
use crate::{cover, hints, skip};

/// Environment variable that names the test which a process of [`run_inside`] has to run.
const VARIABLE: &str = "QUS_TEST_INSIDE";
/// Environment variable that is set if this executable is emulated. It names the architecture that the kernel runs.
const EMULATED: &str = "QUS_TEST_EMULATED_ON";
/// Another user, in a namespace of [`Identity::RootAmongOthers`].
pub(crate) const OTHER_USER: u32 = 1000;
/// Path of the instance.
pub(crate) const INSTANCE: &str = "/proc/sys/fs/binfmt_misc";

/// Identity of a test in its user namespace.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// uid 0.
    Root,
    /// uid 0, with two further users: [`OTHER_USER`] and nobody (65534). Only root of the host can map them; otherwise
    /// the namespace has uid 0 alone.
    RootAmongOthers,
    /// uid 1000 in a namespace that has no uid 0. It may mount, but it may not register (K70).
    User,
}

/// Returns the name of the test that this process has to run, if [`run_inside`] started it.
pub(crate) fn inside() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// Returns QEMU's name of the architecture that the kernel runs, if this executable is of another one
/// (`.ci/foreign-hosts`).
pub(crate) fn emulated_on() -> Option<String> {
    std::env::var(EMULATED).ok()
}

/// Runs the test called `name` in a new process. Returns the reason if it was skipped; the error is the output of that
/// process.
pub(crate) fn run_inside(name: &str) -> Result<Option<String>, String> {
    let ran = start_inside(name, None);
    if !ran.status.success() {
        return result(&ran);
    }
    let mut failures = String::new();
    let printed = String::from_utf8_lossy(&ran.stdout);
    hints::cover(&printed);
    for hint in hints::claim(&printed) {
        let failure = match result(&start_inside(name, Some(&hint))) {
            Ok(Some(reason)) if reason == hints::WAS_TYPED || !skip::is_forbidden() => continue,
            Ok(Some(reason)) => format!("skipped: {reason}"),
            Ok(None) => "qus did not print it again".to_owned(),
            Err(text) => text,
        };
        failures += &format!("hint: {hint}\n{failure}\n");
    }
    if failures.is_empty() { Ok(None) } else { Err(failures) }
}

/// Runs a test in a process of its own, up to `hint` if there is one.
fn start_inside(name: &str, hint: Option<&str>) -> Output {
    let executable = std::env::current_exe().unwrap();
    // An emulator has a second thread, and a process with two threads cannot change its user namespace.
    let mut command = if emulated_on().is_some() {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--mount"]).arg(executable);
        unshare
    } else {
        Command::new(executable)
    };
    // No test reads or writes the directories of the user who runs it.
    for variable in ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
        command.env_remove(variable);
    }
    if let Some(hint) = hint {
        hints::choose(&mut command, hint);
    }
    command.env("HOME", "/nonexistent").env(VARIABLE, name).output().unwrap()
}

/// Returns the result of a test process, as [`run_inside`] does.
fn result(output: &Output) -> Result<Option<String>, String> {
    if output.status.success() {
        return Ok(None);
    }
    if output.status.code() == Some(skip::STATUS.into()) {
        let reason = String::from_utf8_lossy(&output.stdout);
        return Ok(Some(reason.lines().last().unwrap_or_default().to_owned()));
    }
    let text = [&*output.stdout, &*output.stderr].concat();
    Err(format!("{}\n{}", output.status, String::from_utf8_lossy(&text)))
}

/// Returns the reason why this process cannot create namespaces and mount an instance, if it cannot.
pub(crate) fn obstacle() -> Option<String> {
    let script = format!("mount -t binfmt_misc none {INSTANCE} && test -w {INSTANCE}/register");
    let output = Command::new("unshare").args(["-Urm", "sh", "-c", &script]).output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

/// Access to the namespaces of a test.
pub(crate) struct Inside;

impl Inside {
    /// Moves this process, which must have no other thread, into new namespaces. In an emulator, [`run_inside`] has
    /// done that already, as root.
    pub(crate) fn enter(identity: Identity, mounted: bool) {
        if emulated_on().is_some() {
            assert!(
                identity == Identity::Root && mounted,
                "in an emulator a test is root and has an instance"
            );
            crate::starter::prepare();
            cover::machine();
            return mount_instance(Path::new(INSTANCE), MsFlags::empty());
        }
        if identity == Identity::RootAmongOthers && geteuid().is_root() {
            enter_with_others();
            cover::machine();
            return mount_instance(Path::new(INSTANCE), MsFlags::empty());
        }
        enter_as(if identity == Identity::User { 1000 } else { 0 });
        cover::machine();
        mount_instance(Path::new(INSTANCE), MsFlags::empty());
        if !mounted {
            // An instance that was mounted once hides the machine's handlers permanently (K66).
            umount2(INSTANCE, MntFlags::empty()).unwrap();
        }
    }
}

/// Moves a test into a nested user and mount namespace, as its root.
pub(crate) fn enter_nested() {
    enter_as(0);
}

/// Moves this process into a user namespace with one user, `id`, and into a mount namespace.
fn enter_as(id: u32) {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
    fs::write("/proc/self/setgroups", "deny").unwrap();
    fs::write("/proc/self/uid_map", format!("{id} {uid} 1")).unwrap();
    fs::write("/proc/self/gid_map", format!("{id} {gid} 1")).unwrap();
    keep_mounts();
}

/// Separates this mount namespace, so that later mounts of the machine do not appear in it.
fn keep_mounts() {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
}

/// Moves this process into a namespace with further users. Only a process outside of the namespace may map ids of other
/// users.
fn enter_with_others() {
    const MAP: &str = r#"read _ && for file in uid_map gid_map; do printf '0 0 1\n1000 1000 1\n65534 65534 1\n' >"/proc/$PPID/$file"; done"#;
    let mut mapper = Command::new("sh").args(["-ec", MAP]).stdin(Stdio::piped()).spawn().unwrap();
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).unwrap();
    mapper.stdin.take().unwrap().write_all(b"now\n").unwrap();
    assert!(mapper.wait().unwrap().success());
    keep_mounts();
}

/// Mounts the instance of this user namespace on a directory whose path a shell must quote.
pub(crate) fn mount_elsewhere(lab: &Lab) -> PathBuf {
    let elsewhere = lab.path("else where");
    fs::create_dir(&elsewhere).unwrap();
    mount_instance(&elsewhere, MsFlags::empty());
    elsewhere
}

/// Mounts the instance of this user namespace.
pub(crate) fn mount_instance(at: &Path, flags: MsFlags) {
    mount(Some("none"), at, Some("binfmt_misc"), flags, None::<&str>).unwrap();
}
