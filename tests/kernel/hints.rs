//! Types the commands that qus prints after `try:` in these tests, each in the situation in which qus printed it. Covers
//! all runs through [`crate::lab::run`], and in them the text output.
//!
//! Such a command changes the situation, so it cannot be typed in the middle of a test. A test therefore runs once, and
//! reports the hints that qus printed. Then it runs again for each of them, up to the place where qus prints the hint.
//! There the printed commands are typed in a shell. They must succeed, and the command that printed them must then
//! succeed as well, or at least print neither this hint nor a new one.
//!
//! Hints that are the same but for numbers and the test's directory are typed once for all tests, as are commands that
//! download.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, OnceLock};
use std::{env, fs};

use clap::CommandFactory as _;
use nix::unistd::geteuid;

use crate::lab::{QUS, Ran};
use crate::skip;

/// Environment variable of a test process that types a hint. Its value is the hint as [`Hint::key`] returns it.
const TYPED: &str = "QUS_TEST_HINT";
/// Beginning of a line on the standard output of a test process that names a hint.
const LINE: &str = "hint\t";
/// Beginning of a line that names a command, with or without hints.
const COMMAND_LINES: [&str; 2] = ["silent\t", "hinting\t"];
/// Reason with which a test process ends after it has typed its hint.
pub(crate) const WAS_TYPED: &str = "the hint was typed";

/// Parts of hints whose commands no test types, each with the reason.
const NOT_TYPED: [(&str, &str); 16] = [
    ("QEMU_LD_PREFIX=", "it starts the program, which the test does itself"),
    ("$(printf", "the files with such names are of other architectures than their names say"),
    ("WSLInterop", "its interpreter /init exists on Windows only"),
    ("apt-get install", "it changes the machine"),
    ("docker restart", "no test has an engine"),
    ("podman restart", "no test has an engine"),
    ("podman unshare", "no test has an engine"),
    ("modprobe ", "it changes the machine"),
    ("rpmkeys ", "the path of the key is an example"),
    ("dpkg --add-architecture", "it changes the machine, and installs packages of another architecture"),
    ("java -cp", "the class file is for a newer Java than many machines have"),
    ("kill ", "the hint says that the user must then start the builder again"),
    ("qus run sh", "it starts another shell, in which the user goes on"),
    ("sysctl -w vm.memfd_noexec", "the setting is that of a PID namespace, in which this shell is not"),
    ("systemctl ", "no test has a service manager"),
    ("refusing to run with more rights", "the hint says that the user must then start qus with sudo"),
];

/// Programs that are typed, because what they change is gone at the end of the test.
const HARMLESS: [&str; 10] =
    ["chmod", "chown", "echo", "mkdir", "mount", "mv", "qus", "rm", "sysctl", "umount"];

/// Subcommands that print an answer and change nothing.
const QUESTIONS: [&str; 6] = ["doctor", "help", "list", "show", "verify", "which"];

/// Names of all commands of qus.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let cli = qus::cli::Cli::command();
    cli.get_subcommands().map(|command| command.get_name().to_owned()).collect()
});

/// Commands that have nothing to suggest: they print a part of qus itself.
const WITHOUT_HINTS: [&str; 2] = ["completions", "man"];

/// Hints that this test process has seen.
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
/// False if this test types no hint.
static ARE_TYPED: AtomicBool = AtomicBool::new(true);
/// Directory of this test.
static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
/// Commands that this test process ran. The value is true if one of their runs printed a hint.
static COMMANDS: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
/// Commands that any test ran, as in [`COMMANDS`].
static COVERED: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
/// Hints that were typed by any test.
static CLAIMED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Commands that qus printed together after one message.
#[derive(Debug, PartialEq, Eq)]
struct Hint {
    message: String,
    /// True in a note of `qus doctor`, which is no problem.
    is_note: bool,
    commands: Vec<String>,
}

impl Hint {
    /// Returns the hint as one line.
    fn text(&self) -> String {
        format!("{} => {}", self.message, self.commands.join(" && "))
    }

    /// Returns the hint as one line, without what differs from run to run.
    fn key(&self) -> String {
        let text = self.text();
        let directory = DIRECTORY.get().map(|path| path.display().to_string()).unwrap_or_default();
        let text = if directory.is_empty() { text } else { text.replace(&directory, "DIR") };
        let mut key = String::new();
        for letter in text.chars() {
            let letter = if letter.is_ascii_digit() { '#' } else { letter };
            if letter != '#' || !key.ends_with('#') {
                key.push(letter);
            }
        }
        key.replace(['\t', '\n'], " ")
    }

    /// Reports whether no command of this hint changes anything.
    fn is_question(&self) -> bool {
        self.commands.iter().all(|command| {
            let mut words = command.split(' ').skip_while(|word| *word != "qus").skip(1);
            words.any(|word| QUESTIONS.contains(&word) || word == "--help" || word == "--dry-run")
        })
    }
}

/// Remembers the directory of the test, which is part of hints.
pub(crate) fn set_directory(directory: &Path) {
    DIRECTORY.get_or_init(|| directory.to_owned());
}

/// Declares that this test types no hint, for `reason`.
pub(crate) fn are_not_typed(_reason: &'static str) {
    ARE_TYPED.store(false, Ordering::Relaxed);
}

/// Returns the hints in the output of a program.
fn hints(ran: &Ran) -> Vec<Hint> {
    let mut hints: Vec<Hint> = Vec::new();
    let mut message = "";
    let (mut follows, mut is_note) = (false, false);
    for line in ran.stdout.lines().chain(ran.stderr.lines()) {
        if let Some(command) = line.trim_start().strip_prefix("try: ") {
            match hints.last_mut().filter(|_| follows) {
                Some(hint) => hint.commands.push(command.to_owned()),
                None => {
                    hints.push(Hint {
                        message: message.to_owned(),
                        is_note,
                        commands: vec![command.to_owned()],
                    });
                }
            }
            follows = true;
        } else {
            (follows, message) = (false, line);
            if !line.starts_with(' ') {
                is_note = line.starts_with("note ");
            }
        }
    }
    hints
}

/// Records the hints that `command` printed. If this process has to type one of them, types it and ends the test.
pub(crate) fn printed(command: &mut Command, ran: &Ran) {
    let words = words_of_qus(command);
    if let Some(name) = words.iter().find(|word| NAMES.contains(word)) {
        *COMMANDS.lock().unwrap().entry(name.clone()).or_default() |= !hints(ran).is_empty();
    }
    for hint in hints(ran).into_iter().filter(|_| ARE_TYPED.load(Ordering::Relaxed)) {
        let key = hint.key();
        if NOT_TYPED.iter().any(|(part, _)| hint.text().contains(part)) {
            continue;
        }
        let is_harmless = |command: &String| {
            let program = command.split(' ').find(|word| *word != "sudo");
            program.is_some_and(|program| HARMLESS.contains(&program))
        };
        assert!(hint.commands.iter().all(is_harmless), "neither harmless nor named as not typed: {hint:?}");
        // A test without root cannot become root.
        if !geteuid().is_root() && hint.commands.iter().any(|command| command.contains("sudo ")) {
            continue;
        }
        if env::var(TYPED).is_ok_and(|typed| typed == key) {
            try_out(command, ran, &hint);
            skip::skip(WAS_TYPED);
        }
        SEEN.lock().unwrap().insert(key);
    }
}

/// Types the commands of `hint`, which `command` printed, and then runs `command` again.
fn try_out(command: &mut Command, ran: &Ran, hint: &Hint) {
    let directory = tempfile::tempdir().unwrap();
    for line in &hint.commands {
        let typed = Ran::of(&shell(command, line, directory.path()).output().unwrap());
        skip::without_programs_of(line, typed.status);
        // A question that is answered may have an unpleasant answer, and `run` returns the status of its program.
        let is_right = match line {
            line if line.contains("qus run ") => typed.status != 125,
            _ if hint.is_question() => typed.status <= 1,
            _ => typed.status == 0,
        };
        assert!(is_right, "{line}: {typed:#?}\nprinted by {command:?}: {ran:#?}");
    }
    let words = words_of_qus(command);
    if hint.is_question() || is_part_of(hint, &words) || removes(&words) || is_dry_run(&words) {
        return;
    }
    let again = Ran::of(&command.output().unwrap());
    let before = hints(ran);
    let after = hints(&again);
    let new: Vec<&Hint> = after.iter().filter(|hint| !hint.is_note && !before.contains(hint)).collect();
    let context = || format!("{command:?} printed {hint:#?}, and after it {again:#?}");
    assert!(!after.contains(hint), "the hint changes nothing: {}", context());
    assert!(new.is_empty(), "a new problem: {}", context());
    // The first answer must name every problem that the command does not solve.
    let sentences = |ran: &Ran| -> Vec<String> {
        let lines = ran.stdout.lines().chain(ran.stderr.lines()).map(str::trim_start);
        lines.filter_map(|line| line.strip_prefix("hint: ")).map(str::to_owned).collect()
    };
    let announced = sentences(ran);
    let is_announced = sentences(&again).iter().any(|later| announced.iter().any(|now| now.ends_with(later)));
    let is_mended = again.status == 0 || !after.is_empty() || is_announced;
    assert!(is_mended, "it fails without a hint: {}", context());
}

/// Returns the words of the command line of qus, or of the tool whose name it has, after that name.
fn words_of_qus(command: &Command) -> Vec<String> {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let is_qus = |word: &OsStr| {
        let target = fs::canonicalize(word).unwrap_or_else(|_| word.into());
        target.file_name() == Some("qus".as_ref())
    };
    let words = words.skip_while(|word| !is_qus(word)).skip(1);
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Reports whether the hint is another form of the same command, which does what the user wanted.
fn is_part_of(hint: &Hint, words: &[String]) -> bool {
    let name = words.iter().find(|word| !word.starts_with('-'));
    let name = if words.iter().any(|word| word == "--install") {
        Some("register")
    } else {
        name.map(String::as_str)
    };
    name.is_some_and(|name| hint.commands.iter().any(|line| line.split(' ').any(|word| word == name)))
}

/// Reports whether the command removes handlers. Run again, it would undo what its hint did.
fn removes(words: &[String]) -> bool {
    words.iter().any(|word| ["reset", "disable", "--uninstall"].contains(&word.as_str()))
}

/// Reports whether the command only shows what it would do.
fn is_dry_run(words: &[String]) -> bool {
    words.iter().any(|word| word == "-n" || word == "--dry-run")
}

/// Returns a shell that runs `line` where `command` runs, with the qus under test as `qus`. `bin` is a directory for
/// further programs, and for the home directory.
fn shell(command: &Command, line: &str, bin: &Path) -> Command {
    if !bin.join("qus").exists() {
        symlink(QUS, bin.join("qus")).unwrap();
        // Root of a user namespace needs no sudo, and sudo does not work there.
        let sudo = bin.join("sudo");
        fs::write(&sudo, "#!/bin/sh\nexec \"$@\"\n").unwrap();
        fs::set_permissions(&sudo, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", line]).env_clear();
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    // Without a home directory qus has no place for what an ordinary user fetches.
    let home = bin.join("home");
    fs::create_dir_all(&home).unwrap();
    if !command.get_envs().any(|(name, _)| name == "HOME") {
        shell.env("HOME", home);
    }
    let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
    let path = path.unwrap_or_default().to_string_lossy();
    shell.env("PATH", format!("{}:{path}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()));
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    shell
}

/// Prints the hints that this test process has seen, for the process that runs all tests.
pub(crate) fn report() {
    for key in &*SEEN.lock().unwrap() {
        println!("{LINE}{key}");
    }
    for (name, has_hints) in &*COMMANDS.lock().unwrap() {
        println!("{}{name}", COMMAND_LINES[usize::from(*has_hints)]);
    }
}

/// Records the commands in the standard output of a test process.
pub(crate) fn cover(stdout: &str) {
    let mut covered = COVERED.lock().unwrap();
    for (begin, has_hints) in COMMAND_LINES.into_iter().zip([false, true]) {
        for name in stdout.lines().filter_map(|line| line.strip_prefix(begin)) {
            *covered.entry(name.to_owned()).or_default() |= has_hints;
        }
    }
}

/// Checks, after all tests, that every command of qus but those in [`WITHOUT_HINTS`] printed a hint in a test.
pub(crate) fn check_coverage() -> Result<(), String> {
    let covered = COVERED.lock().unwrap();
    let missing =
        |name: &&String| !WITHOUT_HINTS.contains(&name.as_str()) && covered.get(*name) != Some(&true);
    let missing: Vec<&String> = NAMES.iter().filter(missing).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("no test types a hint of: {missing:?}\n{covered:?}"))
    }
}

/// Returns the hints in the standard output of a test process that no test has typed yet. They count as typed from now
/// on.
pub(crate) fn claim(stdout: &str) -> Vec<String> {
    let mut claimed = CLAIMED.lock().unwrap();
    let keys = stdout.lines().filter_map(|line| line.strip_prefix(LINE)).map(str::to_owned);
    // A download takes long, so the same one is typed after one message only.
    let situation = |key: &str| match key.split_once(" => ") {
        Some((_, command)) if command.contains("fetch") => command.to_owned(),
        _ => key.to_owned(),
    };
    keys.filter(|key| claimed.insert(situation(key))).collect()
}

/// Sets the hint that a test process types.
pub(crate) fn choose(command: &mut Command, key: &str) {
    command.env(TYPED, key);
}
