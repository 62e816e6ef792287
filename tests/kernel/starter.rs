//! Starts a program and returns the errno of `execve(2)`, in an emulator as well.
//!
//! Without an emulator the standard library reports the errno. In QEMU it does not: `posix_spawn(3)` passes the errno
//! through memory that parent and child share, and QEMU gives each its own. The alternative, `execvp(3)` after a fork,
//! makes a shell run the files that the kernel refuses. So in an emulator a Python of the kernel's own architecture
//! starts the programs.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use nix::errno::Errno;

/// Python script that prints "ready", and then reads lines of JSON: working directory, path and `argv[0]`. It answers
/// each line with exit status and errno.
const PYTHON: &str = r#"
import json, subprocess, sys
print("ready", flush=True)
for line in sys.stdin:
    directory, path, argv0 = json.loads(line)
    status = errno = None
    try:
        status = subprocess.run([argv0], executable=path, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True).returncode
    except OSError as error:
        errno = error.errno
    print(json.dumps([status, errno]), flush=True)
"#;

static STARTER: OnceLock<Mutex<Starter>> = OnceLock::new();

/// The Python process, which runs until this process ends.
struct Starter {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Starts the Python, which from now on starts all programs. Must be called before a handler exists that might take
/// Python itself.
#[allow(clippy::zombie_processes, reason = "it lives as long as this process")]
pub(crate) fn prepare() {
    let mut python = Command::new("python3");
    let mut child = python.args(["-c", PYTHON]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let requests = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap());
    let mut ready = String::new();
    answers.read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    let starter = Mutex::new(Starter { requests, answers });
    assert!(STARTER.set(starter).is_ok(), "the starter was prepared twice");
}

/// Starts the file at `path` as `argv0`. Returns its exit status (none if a signal ended it), or the errno of
/// `execve(2)`.
pub(crate) fn start(path: &Path, argv0: &OsStr) -> Result<Option<i32>, Errno> {
    if let Some(starter) = STARTER.get() {
        return starter.lock().unwrap().start(path, argv0);
    }
    match Command::new(path).arg0(argv0).output() {
        Ok(output) => Ok(output.status.code()),
        Err(error) => Err(Errno::from_raw(error.raw_os_error().unwrap())),
    }
}

impl Starter {
    fn start(&mut self, path: &Path, argv0: &OsStr) -> Result<Option<i32>, Errno> {
        let directory = std::env::current_dir().unwrap();
        let request = serde_json::json!([directory, path, argv0.to_str().unwrap()]);
        writeln!(self.requests, "{request}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        let (status, errno): (Option<i32>, Option<i32>) = serde_json::from_str(&answer).unwrap();
        // Python reports a signal as a negative number.
        errno.map_or(Ok(status.filter(|status| *status >= 0)), |errno| Err(Errno::from_raw(errno)))
    }
}
