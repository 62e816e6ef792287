//! The environment of one test inside its namespaces: qus, the kernel's instance, and a directory of the test's own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use qus::arch::Arch;
use qus::binfmt::{Flags, HandlerName, Matcher, Rule};
use serde_json::Value;

use crate::downloads;
use crate::namespace::INSTANCE;
use crate::{hints, programs, skip};

/// The qus under test.
pub(crate) const QUS: &str = env!("CARGO_BIN_EXE_qus");

/// The flags that qus registers with.
pub(crate) const OURS: Flags = Flags::PRESERVE_ARGV0.union(Flags::OPEN_BINARY).union(Flags::FIX_BINARY);

/// Message of `reset` when it finds no handler.
pub(crate) const NO_HANDLER: &str = "qus: no handler of a QEMU emulator is registered\n";

/// The environment of one test.
pub(crate) struct Lab {
    directory: tempfile::TempDir,
}

/// Result of a run of qus, or of any other program.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    /// Exit status; for a program that a signal ended, 128 plus the signal, as in a shell.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

#[allow(clippy::unused_self, reason = "a lab has one instance, that of its namespace")]
impl Lab {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        hints::set_directory(directory.path());
        Self { directory }
    }

    /// Returns a path in the directory of this test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes an executable file into the directory of this test.
    pub(crate) fn executable(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Creates a symbolic link in the directory of this test, and the link's parent directory.
    pub(crate) fn link(&self, name: &str, target: &Path) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, &path).unwrap();
        path
    }

    /// Copies a file into the directory of this test, and creates its parent directory. The user who runs the test owns
    /// the copy.
    pub(crate) fn copy(&self, name: &str, source: &Path) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(source, &path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// Copies an executable to a path in the directory of the test, with a byte more at its end: another file that does
    /// the same.
    pub(crate) fn copy_with_a_byte_more(&self, name: &str, source: &Path) -> PathBuf {
        let path = self.copy(name, source);
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"\n").unwrap();
        path
    }

    /// Returns a command that runs qus and finds only the distribution's interpreters. `wrapper` is the beginning of
    /// the command line, such as the programs that a user types before `qus`.
    pub(crate) fn program<'a>(&self, wrapper: &[&str], words: impl IntoIterator<Item = &'a str>) -> Command {
        self.program_of(Path::new(QUS), wrapper, words)
    }

    /// Returns the command of [`program`](Self::program) for another executable of qus.
    pub(crate) fn program_of<'a>(
        &self,
        qus: &Path,
        wrapper: &[&str],
        words: impl IntoIterator<Item = &'a str>,
    ) -> Command {
        let mut line = wrapper.iter().map(OsStr::new).chain([qus.as_os_str()]);
        let mut command = Command::new(line.next().unwrap());
        command.args(line).args(words).env_clear().env("PATH", path());
        command.env("QUS_INTERPRETER_DIR", downloads::distribution()).current_dir(self.directory.path());
        command
    }

    /// Runs qus.
    pub(crate) fn qus<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Ran {
        run(&mut self.program(&[], words))
    }

    /// Returns the command that [`qus`](Self::qus) starts, without arguments.
    pub(crate) fn command_of_qus(&self) -> Command {
        self.program(&[], [])
    }

    /// Runs qus with `--json`, and returns its exit status and its JSON object of version 1.
    pub(crate) fn answer<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> (i32, serde_json::Value) {
        let ran = self.qus(words.into_iter().chain(["--json"]));
        let value: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&ran.stdout);
        assert_eq!(value["version"], 1, "{value:#}");
        (ran.status, value)
    }

    /// Returns the directory that comes first in the `PATH` of printed commands. It has qus, and what a test puts
    /// there.
    pub(crate) fn bin(&self) -> PathBuf {
        let bin = self.path("bin");
        if !bin.exists() {
            fs::create_dir(&bin).unwrap();
            symlink(QUS, bin.join("qus")).unwrap();
        }
        bin
    }

    /// Runs a printed command in a shell, unchanged.
    pub(crate) fn type_command(&self, command: &str) {
        let bin = self.bin();
        let mut shell = Command::new("sh");
        shell
            .env_clear()
            .env("QUS_INTERPRETER_DIR", downloads::distribution())
            .current_dir(self.directory.path());
        shell.args(["-c", command]);
        shell.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
        let ran = run(&mut shell);
        skip::without_programs_of(command, ran.status);
        assert_eq!(ran.status, 0, "{command}: {ran:#?}");
    }

    /// Runs qus, expects success, and returns its standard output. Standard error may hold only the usual sentences
    /// (see [`Ran::messages`]).
    #[track_caller]
    pub(crate) fn done<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> String {
        self.done_with(words, "")
    }

    /// Does the same as [`done`](Self::done) for a run that also prints `messages` on standard error.
    #[track_caller]
    pub(crate) fn done_with<'a>(&self, words: impl IntoIterator<Item = &'a str>, messages: &str) -> String {
        let ran = self.qus(words);
        assert_eq!((ran.status, ran.messages().as_str()), (0, messages), "{ran:#?}");
        ran.stdout
    }

    /// Removes all handlers of the instance.
    pub(crate) fn clear(&self) {
        for name in self.entries().keys() {
            self.command(name, "-1");
        }
    }

    /// Runs qus with `--json` and returns its JSON object of version 1, whatever the exit status is.
    pub(crate) fn json<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Value {
        self.qus(words.into_iter().chain(["--json"])).json()
    }

    /// Runs qus and expects it to fail with `status`, to print `message`, and to change nothing. Expects the same with
    /// `--json`, as one object.
    pub(crate) fn refused<'a>(
        &self,
        words: impl IntoIterator<Item = &'a str>,
        status: i32,
        message: &str,
    ) -> Ran {
        self.refused_under(&[], words, status, message)
    }

    /// Does the same as [`refused`](Self::refused) for a qus that `wrapper` starts.
    pub(crate) fn refused_under<'a>(
        &self,
        wrapper: &[&str],
        words: impl IntoIterator<Item = &'a str>,
        status: i32,
        message: &str,
    ) -> Ran {
        let words: Vec<&str> = words.into_iter().collect();
        let before = self.state();
        let ran = run(&mut self.program(wrapper, words.iter().copied()));
        assert_eq!(ran.status, status, "{ran:#?}");
        assert!(format!("{}{}", ran.stdout, ran.stderr).contains(message), "no {message:?} in {ran:#?}");
        assert_eq!(self.state(), before, "{ran:#?}");
        // `--json` comes first: after `run` it would be an argument of the program.
        let as_json = run(&mut self.program(wrapper, ["--json"].into_iter().chain(words)));
        assert_eq!(as_json.status, status, "{as_json:#?}");
        let value = as_json.json();
        let text = value.to_string();
        let quoted = serde_json::to_string(message).unwrap();
        // Text output has columns, and a summary on standard error. JSON holds only the reason.
        let description = text.contains(quoted.trim_matches('"'))
            || text.contains("\"error\":{") && as_json.stderr.contains(message)
            || as_json.stderr.contains(message)
                && value["items"].as_array().is_some_and(|items| !items.is_empty());
        assert!(description, "no {message:?} in {as_json:#?}");
        assert_eq!(self.state(), before, "{as_json:#?}");
        ran
    }

    /// Runs a printed command line in a shell.
    pub(crate) fn shell(&self, line: &str) {
        let mut command = Command::new("sh");
        let directory = Path::new(QUS).parent().unwrap().display();
        command.args(["-ec", line]).env("PATH", format!("{directory}:/usr/bin:/bin"));
        let ran = run(command.current_dir(self.directory.path()));
        skip::without_programs_of(line, ran.status);
        assert_eq!(ran.status, 0, "{ran:#?}");
    }

    /// Returns everything that a failing command must not change: the handlers, their order, and the mounts.
    fn state(&self) -> (BTreeMap<String, String>, Vec<String>, String) {
        (self.entries(), order(), fs::read_to_string("/proc/self/mounts").unwrap())
    }

    /// Writes a static interpreter, as qus requires, that crashes instead of emulating.
    pub(crate) fn static_failure(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.executable(name, &programs::crashing())
    }

    /// Makes every directory in which qus puts probes unusable, until the value is dropped. Three of them let no
    /// program run; in the others nothing can be written. The files of this test stay readable and executable.
    pub(crate) fn without_probe_directories(&self) -> CoveredDirectories {
        let mut covered = CoveredDirectories { points: Vec::new() };
        for point in ["/dev/shm", "/run", "/var/tmp"] {
            mount(Some("none"), point, Some("tmpfs"), MsFlags::MS_NOEXEC, None::<&str>).unwrap();
            covered.points.push(point.into());
        }
        for point in [Path::new("/tmp"), self.directory.path()] {
            let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(point), point, None::<&str>, bind, None::<&str>).unwrap();
            covered.points.push(point.to_owned());
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, point, None::<&str>, read_only, None::<&str>).unwrap();
        }
        covered
    }

    /// Registers a handler without qus that sends programs of `arch` to `interpreter`, with QEMU's pattern.
    pub(crate) fn handler(&self, name: &str, arch: &str, interpreter: &Path, flags: Flags) {
        let pattern = Arch::from_qemu_target(arch).unwrap().identity.patterns().swap_remove(0);
        let name = HandlerName::new(name).unwrap();
        let rule = Rule::new(name, Matcher::Magic(pattern), interpreter, flags).unwrap();
        self.register(&rule.to_line()).unwrap();
    }

    /// Returns the text of every entry file of the instance, by name.
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

    /// Writes a word to an entry file without qus.
    pub(crate) fn command(&self, name: &str, word: &str) {
        let mut file = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join(name)).unwrap();
        file.write_all(word.as_bytes()).unwrap();
    }
}

/// Directories that a test has covered by mounts.
pub(crate) struct CoveredDirectories {
    points: Vec<PathBuf>,
}

impl Drop for CoveredDirectories {
    fn drop(&mut self) {
        for point in self.points.iter().rev() {
            umount2(point, MntFlags::MNT_DETACH).unwrap();
        }
    }
}

/// Unmounts file systems in the directory, which would otherwise prevent its removal.
impl Drop for Lab {
    fn drop(&mut self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|mount| mount.split(' ').nth(1)).map(Path::new);
        for point in points.filter(|point| point.starts_with(self.directory.path())) {
            let _gone_with_the_namespace_at_the_latest = umount2(point, MntFlags::MNT_DETACH);
        }
    }
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            status: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns standard error without the sentences that report where handlers are registered, and for how long.
    pub(crate) fn messages(&self) -> String {
        let inode = fs::metadata("/proc/self/ns/user").unwrap().ino();
        let about = format!("qus: these are the handlers of user namespace {inode}, not the host\n");
        let summary = format!(" in user namespace {inode} only");
        // Copies are on a file system in memory here (see cover.rs), and the machine's licence texts are not covered.
        let of_this_lab =
            ["is on tmpfs, which is empty after a reboot\n", "no licence text of QEMU was found"];
        // In a pipe, each step of long work is a line.
        let steps = ["downloading ", "unpacking ", "reading ", "updating the lists of packages", "packing "];
        let is_step = |line: &str| steps.iter().any(|step| line.starts_with(&format!("qus: {step}")));
        let is_usual = |line: &&str| {
            is_step(line)
                || *line == about
                || line.contains(&summary)
                || of_this_lab.iter().any(|words| line.contains(words))
        };
        self.stderr.split_inclusive('\n').filter(|line| !is_usual(line)).collect()
    }

    /// Expects this command after `try:`, word for word.
    #[track_caller]
    pub(crate) fn suggests(&self, command: &str) {
        self.has_line(&format!("  try: {command}"));
    }

    /// Expects this sentence after `hint:`, word for word.
    #[track_caller]
    pub(crate) fn hints(&self, sentence: &str) {
        self.has_line(&format!("  hint: {sentence}"));
    }

    #[track_caller]
    fn has_line(&self, line: &str) {
        assert!(self.stderr.lines().any(|printed| printed == line), "no line {line:?} in {self:#?}");
    }

    /// Returns standard output as one JSON object of version 1.
    pub(crate) fn json(&self) -> Value {
        let value: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in {self:#?}"));
        assert_eq!(value["version"], 1, "{self:#?}");
        value
    }
}

/// Returns the usual `PATH`, with a `sudo` in its last directory. Messages for users depend on whether they have it.
pub(crate) fn path() -> String {
    format!("/usr/sbin:/usr/bin:/sbin:/bin:{}", downloads::with_sudo().display())
}

/// Reports whether the qus under test is dynamically linked, as distributions build it. Such a qus makes no bundles.
pub(crate) fn is_dynamic() -> bool {
    let file = fs::File::open(QUS).unwrap();
    qus::arch::elf::Executable::read(&file).unwrap().loader.is_some()
}

/// Returns the size in bytes of the address space that the segments of qus need.
pub(crate) fn loaded_size() -> u64 {
    let file = fs::read(QUS).unwrap();
    let program = goblin::elf::Elf::parse(&file).unwrap();
    let loaded =
        program.program_headers.iter().filter(|header| header.p_type == goblin::elf::program_header::PT_LOAD);
    loaded.map(|header| header.p_vaddr + header.p_memsz).max().unwrap()
}

/// Lowest limit of open files with which this qus starts. The loader of a dynamically linked qus opens files as well.
pub(crate) fn fewest_descriptors() -> u32 {
    if is_dynamic() { 4 } else { 3 }
}

/// Skips a test that makes a bundle, or runs qus in an empty root directory, if qus is dynamically linked.
pub(crate) fn needs_static_qus() {
    if is_dynamic() {
        crate::skip::skip("this qus is dynamically linked");
    }
}

/// Returns the names of the handlers, newest first (K32).
pub(crate) fn order() -> Vec<String> {
    let Ok(files) = fs::read_dir(INSTANCE) else { return Vec::new() };
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !matches!(name.as_str(), "register" | "status")).collect()
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    let output = command.output().unwrap_or_else(|error| {
        if let Some(name) = command.get_program().to_str().filter(|name| !skip::has_program(name)) {
            skip::skip(format!("there is no {name} here"));
        }
        panic!("{command:?}: {error}")
    });
    let ran = Ran::of(&output);
    hints::printed(command, &ran);
    ran
}

/// Starts `path` with `arguments`, of which the first is `argv[0]`. Returns its result, or the errno of `execve(2)`.
pub(crate) fn start(path: &Path, arguments: &[&str]) -> Result<Ran, i32> {
    let mut command = Command::new(path);
    command.arg0(arguments[0]).args(&arguments[1..]);
    match command.output() {
        Ok(output) => Ok(Ran::of(&output)),
        Err(error) => Err(error.raw_os_error().unwrap()),
    }
}

/// Starts the static busybox of `arch` with the words of `line`. Returns its result, or the errno of `execve(2)`.
pub(crate) fn busybox(arch: &str, line: &str) -> Result<Ran, i32> {
    start(&downloads::busybox(arch), &line.split(' ').collect::<Vec<_>>())
}
