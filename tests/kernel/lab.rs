//! What a test works with inside of its namespace: qus, the instance as the kernel has it, and a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::downloads;
use crate::namespace::INSTANCE;

/// The surroundings of one test.
pub(crate) struct Lab {
    folder: tempfile::TempDir,
}

/// How a run of qus, or of any program, ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// The exit status; 128 and the signal for a killed one, as a shell has it.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// A path in the folder of this test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes an executable file into the folder of this test.
    pub(crate) fn executable(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Runs qus, with the distribution's interpreters as the only ones at hand.
    pub(crate) fn qus<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qus"));
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("QUS_INTERPRETER_DIR", downloads::distribution()).current_dir(self.folder.path());
        run(&mut command)
    }

    /// Runs qus and expects it to be done.
    pub(crate) fn done<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> String {
        let ran = self.qus(words);
        assert_eq!(ran.status, 0, "{ran:#?}");
        ran.stdout
    }

    /// Runs qus and expects it to fail with `status`, to say `message`, and to change nothing.
    pub(crate) fn refused<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
        status: i32,
        message: &str,
    ) -> Ran {
        let before = self.entries();
        let ran = self.qus(words);
        assert_eq!(ran.status, status, "{ran:#?}");
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(message), "no {message:?} in {ran:#?}");
        assert_eq!(self.entries(), before, "{ran:#?}");
        ran
    }

    /// What the instance holds: the text of every entry file.
    pub(crate) fn entries(&self) -> BTreeMap<String, String> {
        let Ok(files) = fs::read_dir(INSTANCE) else { return BTreeMap::new() };
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .filter(|name| !matches!(name.as_str(), "register" | "status"))
            .map(|name| (name.clone(), fs::read_to_string(Path::new(INSTANCE).join(name)).unwrap()))
            .collect()
    }

    /// Registers a line without qus.
    pub(crate) fn register(&self, line: &[u8]) -> Result<(), nix::errno::Errno> {
        let mut file = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join("register")).unwrap();
        file.write_all(line).map_err(|error| nix::errno::Errno::from_raw(error.raw_os_error().unwrap()))
    }

    /// Writes a word to an entry file, without qus.
    pub(crate) fn command(&self, name: &str, word: &str) {
        let mut file = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join(name)).unwrap();
        file.write_all(word.as_bytes()).unwrap();
    }
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Ran {
        status: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap()),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Starts `path` with `arguments`, the first of which is `argv[0]`: what it printed, or the errno of `execve(2)`.
pub(crate) fn start(path: &Path, arguments: &[&str]) -> Result<Ran, i32> {
    let mut command = Command::new(path);
    command.arg0(arguments[0]).args(&arguments[1..]);
    match command.output() {
        Ok(_) => Ok(run(&mut command)),
        Err(error) => Err(error.raw_os_error().unwrap()),
    }
}
