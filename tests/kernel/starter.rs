//! Starting a program and learning the errno of `execve(2)`, in an emulator too.
//!
//! On a host of its own a test asks the standard library. In QEMU that does not say: of `posix_spawn(3)` it learns the errno
//! through memory of both processes, of which QEMU gives each its own, and `execvp(3)`, which it would call after a fork,
//! has a shell run what the kernel refuses. There it is a Python of the kernel's own architecture that starts programs.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, OnceLock};

use nix::errno::Errno;

/// Says that it is ready, then reads lines of JSON: folder, path, and what the program shall be called. Answers with exit status and errno.
const PYTHON: &str = r#"
import json, subprocess, sys
print("ready", flush=True)
for line in sys.stdin:
    folder, path, argv0 = json.loads(line)
    status = errno = None
    try:
        status = subprocess.run([argv0], executable=path, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True).returncode
    except OSError as error:
        errno = error.errno
    print(json.dumps([status, errno]), flush=True)
"#;

static STARTER: OnceLock<Mutex<Starter>> = OnceLock::new();

/// The Python, until this process ends.
struct Starter {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Has programs started by Python from now on. To be called before there is a handler that might get Python itself.
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
    assert!(STARTER.set(starter).is_ok(), "there is a starter already");
}

/// Starts the file at `path` as `argv0`: its exit status, which one that a signal ended has not, or the errno of
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
        // Python tells a signal as a negative number.
        errno.map_or(Ok(status.filter(|status| *status >= 0)), |errno| Err(Errno::from_raw(errno)))
    }
}
