//! Tests the output of qus on terminals of several widths, in a pipe, and with the variables that control colours.
//!
//! `tests/terminal/NAME.COLUMNS.txt` has what a terminal gets; `\e` is the escape character. Facts of this machine do
//! not appear there: emulators have a fixed path and version, and names and numbers are substituted.
//! `QUS_UPDATE_TERMINAL=1 cargo test --test kernel terminal_` writes the files anew.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use memchr::memmem::Finder;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, umount};
use nix::pty::{Winsize, openpty};
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::pipe2;
use qus::arch::ARCHES;
use qus::binfmt::Flags;
use qus::handler::preset::PRESETS;

use crate::doctor::tmpfs;
use crate::downloads;
use crate::lab::{Lab, QUS, Ran, run};
use crate::namespace::INSTANCE;
use crate::programs::{self, host};
use crate::skip::skip;

/// Widths of the terminals.
const WIDTHS: [u16; 4] = [60, 80, 100, 160];
/// Directory of the emulators. The tests have an empty `/run`.
const EMULATORS: &str = "/run/emulators";
/// Version of QEMU in the files.
const VERSION: &str = "9.8.7";
/// Number of the user namespace in the files. Each such number has ten digits.
const NAMESPACE: &str = "4026530000";
/// Name of the host's architecture in the files.
const HOST: &str = "x86_64";

/// Returns a command that runs qus and finds only the emulators of [`EMULATORS`].
fn qus(lab: &Lab, words: &[&str]) -> Command {
    let mut command = Command::new(QUS);
    command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("TERM", "xterm");
    command.env("QUS_INTERPRETER_DIR", EMULATORS).current_dir(lab.path(""));
    command
}

/// Runs a command on a terminal of this width. Returns what the terminal gets, and the exit status.
fn on_terminal(command: &mut Command, width: u16) -> (String, i32) {
    let size = Winsize { ws_row: 50, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).unwrap_or_else(|errno| skip(format!("no pseudo-terminal: {errno}")));
    let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
    let mut child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
    // The end of the last process that has the terminal open ends the output.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    drop(terminal.slave);
    let text = read_all(terminal.master);
    (text.replace("\r\n", "\n"), child.wait().unwrap().code().unwrap())
}

/// Reads what a terminal gets, until no process has it open (EIO).
fn read_all(master: OwnedFd) -> String {
    let mut bytes = Vec::new();
    match File::from(master).read_to_end(&mut bytes) {
        Err(error) if error.raw_os_error() != Some(Errno::EIO as i32) => panic!("{error}"),
        _ => String::from_utf8(bytes).unwrap(),
    }
}

/// Removes the sequences that set colours. Any other sequence fails the test.
fn without_colors(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap().to_owned();
    let text = parts.fold(first, |text, part| {
        let (color, rest) = part.split_once('m').unwrap();
        assert!(color.bytes().all(|byte| byte.is_ascii_digit() || byte == b';'), "{part:?}");
        text + rest
    });
    assert!(!text.contains('\x1b'), "{text:?}");
    text
}

/// Expects that each line fits the terminal. Only a command, a rule, or a single word may be longer.
fn check_width(text: &str, width: u16) {
    for line in text.lines() {
        let words = line.trim_start();
        let may_be_longer = words.starts_with("try: ") || words.starts_with(':') || !words.contains(' ');
        assert!(
            may_be_longer || line.chars().count() <= usize::from(width),
            "{width} columns: {line:?} in\n{text}"
        );
        assert_eq!(line.trim_end(), line, "{text}");
    }
}

/// Replaces the facts of this machine.
fn substituted(text: &str) -> String {
    let namespace = fs::metadata("/proc/self/ns/user").unwrap().ino().to_string();
    assert_eq!(namespace.len(), NAMESPACE.len());
    // The first column of these tables has thirteen columns with the gap.
    let host = |name: &str| format!("{name:<13}native");
    text.replace(&namespace, NAMESPACE).replace(&host(programs::host().name), &host(HOST))
}

/// Compares what these commands print on terminals of all widths with the files. `prepare` runs before each width.
fn compare(lab: &Lab, name: &str, commands: &[&[&str]], prepare: impl Fn()) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/terminal");
    for width in WIDTHS {
        prepare();
        let mut found = String::new();
        for words in commands {
            let typed = words.iter().map(|word| if *word == HOST { host().name } else { word });
            let (text, status) = on_terminal(&mut qus(lab, &typed.collect::<Vec<_>>()), width);
            check_width(&without_colors(&text), width);
            found.push_str(&format!("$ qus {}\n{}", words.join(" "), substituted(&text)));
            if status != 0 {
                found.push_str(&format!("[exit status {status}]\n"));
            }
        }
        let found = found.replace('\x1b', "\\e");
        let path = directory.join(format!("{name}.{width}.txt"));
        if std::env::var_os("QUS_UPDATE_TERMINAL").is_some() {
            fs::create_dir_all(&directory).unwrap();
            fs::write(&path, &found).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == expected,
            "{} differs; QUS_UPDATE_TERMINAL=1 writes it anew\n{}",
            path.display(),
            difference(&expected, &found)
        );
    }
}

/// Returns the lines that differ.
fn difference(expected: &str, found: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), found.lines().collect());
    let only = |sign: &str, lines: &[&str], others: &[&str]| {
        let lines: Vec<_> = lines.iter().copied().filter(|line| !others.contains(line)).collect();
        lines.iter().map(|line| [sign, line].concat()).collect::<Vec<_>>()
    };
    [only("-", &old, &new), only("+", &new, &old)].concat().join("\n")
}

/// Copies emulators into [`EMULATORS`], with [`VERSION`] as their version.
fn emulators(arches: &[&str]) {
    fs::create_dir(EMULATORS).unwrap();
    for arch in arches {
        let mut bytes = fs::read(downloads::interpreter(arch)).unwrap();
        let words = format!("qemu-{arch} version ");
        let places: Vec<usize> = Finder::new(&words).find_iter(&bytes).map(|at| at + words.len()).collect();
        assert!(!places.is_empty(), "{arch}");
        for at in places {
            let is_version = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
            let length = bytes[at..].iter().take_while(is_version).count();
            if length >= VERSION.len() {
                bytes[at..at + length].fill(b' ');
                bytes[at..at + VERSION.len()].copy_from_slice(VERSION.as_bytes());
            }
        }
        executable(&format!("qemu-{arch}-static"), &bytes);
    }
}

/// Writes a program into [`EMULATORS`].
fn executable(name: &str, content: &[u8]) {
    let path = Path::new(EMULATORS).join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Skips a test whose files show emulated architectures that this host runs natively.
fn needs_foreign(arches: &[&str]) {
    if arches.contains(&host().name) {
        skip(format!("this host runs {} natively", host().name));
    }
}

/// Mounts an empty file system on `/run`.
fn empty_run() {
    if !Path::new("/run").is_dir() {
        skip("there is no directory /run");
    }
    tmpfs("/run", MsFlags::empty());
}

/// Architectures of the emulators.
const FOREIGN: [&str; 3] = ["s390x", "riscv64", "sparc32plus"];

kernel_test!(terminal_register);
fn terminal_register(lab: &Lab) {
    needs_foreign(&FOREIGN);
    empty_run();
    emulators(&FOREIGN);
    executable("qemu-hppa-static", &programs::crashing());
    let commands: &[&[&str]] = &[
        &["register", "s390x", "riscv64", "sparc32plus", "hppa", "xtensa", HOST],
        &["register", "all"],
        &["list"],
        &["list", "--probe"],
        &["list", "-v"],
        &["verify"],
        &["verify", "s390x", "xtensa"],
        &["register", "-n", "s390x", "hppa"],
        &["disable", "riscv64"],
        &["list", "--probe"],
        &["verify", "riscv64"],
        &["reset", "-n"],
        &["reset"],
        &["reset"],
    ];
    compare(lab, "register", commands, || ());
}

kernel_test!(terminal_handlers);
fn terminal_handlers(lab: &Lab) {
    needs_foreign(&["s390x", "microblaze", "sparc32plus", "ppc"]);
    empty_run();
    let qemu = |arch: &str| PathBuf::from(format!("/usr/libexec/qemu-binfmt/qemu-{arch}-static"));
    for arch in ["s390x", "microblaze", "sparc32plus"] {
        lab.handler(&format!("qemu-{arch}"), arch, &qemu(arch), Flags::empty());
    }
    lab.command("qemu-microblaze", "0");
    lab.register(b":jar:E::jar::/usr/lib/jvm/java-21-openjdk-amd64/lib/jexec:").unwrap();
    lab.executable("hello", &programs::probe(programs::arch("ppc")));
    lab.executable("s390x-hello", &programs::probe(programs::arch("s390x")));
    lab.executable("two  words", b"no program");
    let commands: &[&[&str]] = &[
        &["list"],
        &["list", "-v"],
        &["which", "-v", "hello"],
        &["which", "--no-verify", "s390x-hello", "two  words", "missing"],
        &["enable", "microblaze", "arm"],
    ];
    compare(lab, "handlers", commands, || lab.command("qemu-microblaze", "0"));
}

kernel_test!(terminal_show);
fn terminal_show(lab: &Lab) {
    compare(lab, "show", &[&["show"], &["show", "mipsn32el"]], || ());
}

/// Type of a binfmt_misc file system (`BINFMTFS_MAGIC` of `include/uapi/linux/magic.h`).
const BINFMT_MISC: FsType = FsType(0x4249_4e4d);

kernel_test!(terminal_errors, unmounted);
fn terminal_errors(lab: &Lab) {
    needs_foreign(&["s390x"]);
    empty_run();
    fs::create_dir(EMULATORS).unwrap();
    executable("dynamic", &programs::dynamic(Path::new("/lib64/ld-linux-of-this-test.so.2")));
    let commands: &[&[&str]] = &[
        &["list"],
        &["regster"],
        &["register", "armm64"],
        &["register", "--interpreter", "/run/emulators/dynamic", "s390x"],
        &["register", "--interpreter", "/run/emulators/missing", "s390x"],
        &["which"],
        &["disable", "s390x"],
    ];
    compare(lab, "errors", commands, || {
        // `register` has mounted an instance. At first there is none, or the cover of the machine's, which stays.
        if statfs(INSTANCE).unwrap().filesystem_type() == BINFMT_MISC {
            umount(INSTANCE).unwrap();
        }
    });
}

kernel_test!(terminal_doctor);
/// The findings depend on the machine, so only their form is compared.
fn terminal_doctor(lab: &Lab) {
    lab.handler("qemu-s390x", "s390x", Path::new("/gone/qemu-s390x-static"), Flags::empty());
    lab.command("qemu-s390x", "0");
    for width in WIDTHS {
        let (colored, status) = on_terminal(&mut qus(lab, &["doctor"]), width);
        assert_eq!(status, 1, "{colored}");
        let text = without_colors(&colored);
        check_width(&text, width);
        assert!(colored.starts_with("\x1b[31mproblem\x1b[0m  "), "{colored}");
        // Problems come first, then notes, and one line for the rest.
        let levels: Vec<&str> = text
            .lines()
            .filter(|line| !line.starts_with(' '))
            .map(|line| line.split(' ').next().unwrap())
            .collect();
        let order = ["problem", "note", "ok"];
        assert!(levels.is_sorted_by_key(|level| order.iter().position(|other| other == level).unwrap()));
        assert_eq!(levels.iter().filter(|level| **level == "ok").count(), 1, "{text}");
        assert!(text.contains("  try: qus register --replace "), "{text}");
        let (verbose, _) = on_terminal(&mut qus(lab, &["doctor", "-v"]), width);
        let verbose = without_colors(&verbose);
        check_width(&verbose, width);
        assert!(verbose.lines().filter(|line| line.starts_with("ok ")).count() > 1, "{verbose}");
    }
}

kernel_test!(terminal_steps);
fn terminal_steps(lab: &Lab) {
    needs_foreign(&FOREIGN);
    empty_run();
    emulators(&FOREIGN);
    for width in WIDTHS {
        let (text, status) = on_terminal(&mut qus(lab, &["register", "all", "-vv"]), width);
        assert_eq!(status, 0, "{text}");
        check_width(&without_colors(&text), width);
        lab.clear();
    }
    // The summary replaces the lines of what works.
    let (text, _) = on_terminal(&mut qus(lab, &["register", "all"]), 160);
    assert!(text.starts_with("qus: 3 architectures work in user namespace "), "{text}");
    assert_eq!(text.lines().count(), 1);
    let (text, _) = on_terminal(&mut qus(lab, &["register", "all", "-v"]), 160);
    for arch in FOREIGN {
        assert!(text.lines().any(|line| line.starts_with(arch)), "{text}");
    }
}

kernel_test!(terminal_colors_are_respected);
fn terminal_colors_are_respected(lab: &Lab) {
    lab.handler("qemu-s390x", "s390x", Path::new("/gone/qemu-s390x-static"), Flags::empty());
    let list = |variables: &[(&str, &str)]| {
        let mut command = qus(lab, &["list"]);
        command.envs(variables.iter().copied());
        command
    };
    let on = |variables: &[(&str, &str)]| on_terminal(&mut list(variables), 80).0;
    let in_pipe = |variables: &[(&str, &str)]| {
        let ran = run(&mut list(variables));
        ran.stdout + &ran.stderr
    };
    let colored = on(&[]);
    assert!(
        colored.contains("\x1b[32menabled\x1b[0m") && colored.contains("\x1b[1mARCH\x1b[0m"),
        "{colored}"
    );
    let plain = without_colors(&colored);
    for variables in [
        &[("NO_COLOR", "1")][..],
        &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")],
        &[("TERM", "dumb")],
        &[("CLICOLOR", "0")],
    ] {
        assert_eq!(on(variables), plain, "{variables:?}");
    }
    for variables in
        [&[("NO_COLOR", "")][..], &[("CLICOLOR", "1")], &[("TERM", "dumb"), ("CLICOLOR_FORCE", "1")]]
    {
        assert_eq!(on(variables), colored, "{variables:?}");
    }
    // In a pipe.
    assert_eq!(in_pipe(&[("CLICOLOR_FORCE", "1")]), colored);
    for variables in [&[][..], &[("CLICOLOR", "1")], &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]] {
        assert_eq!(in_pipe(variables), plain, "{variables:?}");
    }
}

kernel_test!(terminal_pipe_gets_whole_lines);
fn terminal_pipe_gets_whole_lines(lab: &Lab) {
    let long = "a-very-long-name-of-a-handler/".replace('/', "-");
    let path = Path::new("/a/very/long/path/of/a/directory/that/is/longer/than/most/lines/qemu-s390x-static");
    lab.handler(&long, "s390x", path, Flags::empty());
    for words in
        [&["list"][..], &["list", "-v"], &["show"], &["show", "arm"], &["doctor"], &["which", "missing"]]
    {
        // The shell's variable has no effect.
        let ran = run(qus(lab, words).env("COLUMNS", "60"));
        let Ran { stdout, stderr, .. } = &ran;
        assert!(!stdout.is_empty() && !format!("{stdout}{stderr}").contains(['\x1b', '\r', '…']), "{ran:#?}");
        // The path of the table is whole, and a row is a line.
        if words[0] == "list" {
            assert!(stdout.lines().any(|line| line.contains(&long) && line.contains(path.to_str().unwrap())));
            assert_eq!(stdout.lines().count(), 2, "{ran:#?}");
        }
        if words == ["show"] {
            // A header and rows, an empty line, and the same for presets.
            assert_eq!(stdout.lines().count(), 1 + ARCHES.len() + 2 + PRESETS.len(), "{ran:#?}");
        }
    }
    // Each stream has its own width: a message for a file is not wrapped because the data is on a terminal.
    let messages = lab.path("messages");
    let mut command = Command::new("sh");
    command.args(["-c", r#""$0" list 2>"$1""#, QUS]).arg(&messages).env("TERM", "xterm");
    let (text, _) = on_terminal(&mut command, 60);
    check_width(&without_colors(&text), 60);
    assert_eq!(fs::read_to_string(messages).unwrap().lines().count(), 1);
}

/// Runs a command with standard error in a pipe that keeps writes apart. Returns what each write wrote.
fn writes(command: &mut Command) -> Vec<String> {
    let (reader, standard_error) = pipe2(OFlag::O_DIRECT | OFlag::O_CLOEXEC).unwrap();
    let mut child = command.stdout(Stdio::null()).stderr(standard_error).spawn().unwrap();
    command.stderr(Stdio::null());
    let (mut reader, mut writes) = (File::from(reader), Vec::new());
    let mut buffer = [0; 8 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => writes.push(String::from_utf8(buffer[..count].to_vec()).unwrap()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Interrupted),
        }
    }
    child.wait().unwrap();
    writes
}

kernel_test!(terminal_messages_are_one_write_each);
fn terminal_messages_are_one_write_each(lab: &Lab) {
    empty_run();
    fs::create_dir(EMULATORS).unwrap();
    executable("qemu-s390x-static", &programs::crashing());
    for (words, least) in [
        (&["register", "-vv", "s390x"][..], 5),
        (&["register", "s390x"], 1),
        (&["register", "--interpreter", "/nonexistent", "s390x"], 1),
        (&["register", "--bogus"], 1),
        (&["list"], 1),
    ] {
        let writes = writes(&mut qus(lab, words));
        assert!(writes.len() >= least, "{words:?}: {writes:#?}");
        for text in &writes {
            assert!(text.starts_with("qus: ") && text.ends_with('\n'), "{words:?}: {writes:#?}");
            assert_eq!(text.matches("qus: ").count(), 1, "{words:?}: {writes:#?}");
        }
    }
    // Under the names of other tools.
    for (name, words) in [("binfmt", &["-install", "s390x"][..]), ("qemu-binfmt-conf.sh", &["--bogus"])] {
        let writes = writes(qus(lab, words).arg0(name));
        assert!(!writes.is_empty() && writes.iter().all(|text| text.ends_with('\n')), "{name}: {writes:#?}");
    }
}

kernel_test!(terminal_progress);
fn terminal_progress(lab: &Lab) {
    let steps = |text: &str| text.lines().filter(|line| line.starts_with("qus: unpacking ")).count();
    let fetch = |package: &Path, variables: &[(&str, &str)]| {
        let _absent = fs::remove_dir_all(lab.path("fetched"));
        let words = ["fetch", "--from", package.to_str().unwrap(), "--dest", "fetched", "s390x"];
        let mut command = qus(lab, &words);
        command.envs(variables.iter().copied());
        command
    };
    // Which of the distribution's packages has static emulators depends on its version.
    let packages = downloads::packages("distribution");
    let ran = packages.iter().map(|package| (package, run(&mut fetch(package, &[]))));
    let (package, ran) = ran.into_iter().find(|(_, ran)| ran.status == 0).unwrap();
    assert!(steps(&ran.stderr) == 1 && !ran.stderr.contains(['\x1b', '\r']), "{ran:#?}");
    for width in [60, 100] {
        let (text, status) = on_terminal(&mut fetch(package, &[]), width);
        assert_eq!(status, 0, "{text}");
        for part in ["unpacking ", "iB ", "B/s"] {
            assert!(text.contains(part), "no {part:?} in {text:?}");
        }
        assert_eq!(steps(&text), 0, "{text:?}");
        // The bar is drawn again and again on one line, and removed at the end.
        let drawn = text.split(['\r', '\n']).map(visible).filter(|line| line.starts_with("unpacking "));
        for line in drawn {
            assert!(line.trim_end().chars().count() <= usize::from(width), "{line:?}");
        }
    }
    // A terminal that cannot move its cursor gets lines, as a pipe does.
    let (text, status) = on_terminal(&mut fetch(package, &[("TERM", "dumb")]), 80);
    assert!(status == 0 && steps(&text) == 1 && !text.contains(['\x1b', '\r']), "{text:?}");
    let (text, status) = on_terminal(fetch(package, &[]).arg("-q"), 80);
    assert!(status == 0 && !text.contains("unpacking") && !text.contains('\x1b'), "{text:?}");
}

kernel_test!(terminal_progress_of_a_bundle);
fn terminal_progress_of_a_bundle(lab: &Lab) {
    crate::lab::needs_static_qus();
    needs_foreign(&["s390x"]);
    empty_run();
    emulators(&["s390x"]);
    let bundle = || qus(lab, &["bundle", "-o", "bundle", "s390x"]);
    let ran = run(&mut bundle());
    let steps = ran.stderr.lines().filter(|line| line.starts_with("qus: packing ")).count();
    assert!(ran.status == 0 && steps == 1 && !ran.stderr.contains(['\x1b', '\r']), "{ran:#?}");
    let (text, status) = on_terminal(&mut bundle(), 60);
    assert_eq!(status, 0, "{text}");
    let lines: Vec<String> = text.split(['\r', '\n']).map(visible).collect();
    let drawn: Vec<&String> = lines.iter().filter(|line| line.starts_with("packing ")).collect();
    assert!(drawn.iter().any(|line| line.contains("iB ") && line.contains("B/s")), "{text:?}");
    assert!(drawn.iter().all(|line| line.trim_end().chars().count() <= 60), "{text:?}");
}

/// Removes all sequences that control a terminal.
fn visible(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once(|letter: char| letter.is_ascii_alphabetic()).unwrap().1
    })
}
