//! Tests that hostile names and content never control the terminal, in any command, in text or JSON. Programs that read
//! JSON get the exact name.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use qus::binfmt::Flags;

use crate::build::{Tree, ar, deb};
use crate::downloads::interpreter;
use crate::faults::version_printer;
use crate::lab::{Lab, QUS, Ran, run};

/// Control characters of every kind: C0, DEL, C1, and bidirectional ones.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{9b}2J\u{7f}\u{202e}\u{2066}";

/// Expects output without control characters, and some output.
fn is_plain(ran: &Ran) {
    let printed = format!("{}{}", ran.stdout, ran.stderr);
    let commands = |letter: char| {
        letter != '\n'
            && (letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    assert!(!printed.is_empty() && !printed.contains(commands), "{ran:#?}");
    assert!(matches!(ran.status, 0..=2 | 125..=127) && !printed.contains("panicked"), "{ran:#?}");
}

/// Runs qus with text output and with JSON.
fn prints_plain_text(lab: &Lab, words: &[&str]) {
    is_plain(&lab.qus(words.iter().copied()));
    let ran = lab.qus(["--json"].into_iter().chain(words.iter().copied()));
    is_plain(&ran);
    ran.json();
}

kernel_test!(what_is_typed_cannot_command_a_terminal);
fn what_is_typed_cannot_command_a_terminal(lab: &Lab) {
    let evil = |begin: &str, end: &str| format!("{begin}{EVIL}{end}");
    let (path, archive, address) = (evil("", "/x"), evil("", ".deb"), evil("https://localhost:1/", ".tar"));
    let option = evil("--", "");
    for words in [
        &["register", EVIL][..],
        &["register", "--interpreter", &path, "arm"],
        &["register", "--interpreter-dir", &path, "arm"],
        &["register", "--from", &archive, "arm"],
        &["register", "--qemu-version", EVIL, "arm"],
        &["register", "--in", EVIL, "arm"],
        &["register", &option, "arm"],
        &["fetch", "--from", &address, "arm"],
        &["fetch", "--from", &archive, "--sha256", EVIL, "arm"],
        &["fetch", "--from", &archive, "--dest", &path, "arm"],
        &["fetch", "--list", "--dest", &path],
        &["fetch", "--prune", "--dest", &path],
        &["bundle", "--interpreter-dir", &path, "-o", &path, "arm"],
        &["bundle", "-o", &path, "arm"],
        &["export", "--format", EVIL, "arm"],
        &["export", "--interpreter-path", &path, "arm"],
        &["export", "--format", "systemd", "-o", "/dev/null/x", "arm"],
        &["list", "--instance", &path],
        &["reset", EVIL],
        &["verify", EVIL],
        &["enable", EVIL],
        &["show", EVIL],
        &["which", &path],
        &["which", "--files0-from", &path],
        &["apply", &path],
        &["man", "-o", &path],
        &["run", "--", &path],
        &["run", "--root", &path, "--", "/x"],
        &["run", "--env", EVIL, "--", "/x"],
        &[EVIL],
    ] {
        prints_plain_text(lab, words);
    }
    // With `--json` first, the output is JSON, whatever arguments follow.
    assert_eq!(lab.json(["register", EVIL])["version"], 1);
}

/// Returns a name with control characters.
fn name(begin: &str) -> String {
    format!("{begin}{EVIL}")
}

kernel_test!(what_is_read_cannot_command_a_terminal);
fn what_is_read_cannot_command_a_terminal(lab: &Lab) {
    files_and_handlers(lab);
    if cfg!(target_arch = "x86_64") {
        printing_interpreters(lab);
    }
    packages(lab);
    let (file, script, link, conf, damaged) =
        (name("file"), name("script"), name("link"), name("conf"), name("damaged"));
    // Configuration with such names and such content.
    fs::write(lab.path(&conf), format!(":a{EVIL}:E::{EVIL}::/a{EVIL}:\n{EVIL}\n:b:M::\\x{EVIL}\n")).unwrap();
    let (package, dest) = (name("package"), name("dest"));
    for words in [
        &["which", &file, &script, &link][..],
        &["which", "-v", &script],
        &["run", "--", &file],
        &["run", "--", &script],
        &["list"],
        &["list", "--probe"],
        &["verify"],
        &["doctor"],
        &["register", "--credentials", "arm"],
        &["register", "--dry-run", "--interpreter-dir", &name("q"), "arm"],
        &["fetch", "--from", "member.deb", "--dest", "one", "arm"],
        &["fetch", "--from", "hostile.deb", "--dest", "one", "arm"],
        &["fetch", "--from", "hostile.tar", "--dest", "one", "arm"],
        &["fetch", "--from", &damaged, "--dest", "one", "arm"],
        &["fetch", "--from", &package, "--dest", &dest, "arm"],
        &["-vv", "fetch", "--from", &package, "--dest", "another", "arm"],
        &["fetch", "--list", "--dest", &dest],
        &["register", "--replace", "--interpreter-dir", &dest, "arm"],
        &["list"],
        &["doctor"],
        &["apply", &conf],
        &["apply", "--dry-run", &conf],
        &["disable", "arm"],
        &["enable", "arm"],
        &["fetch", "--prune", "--dry-run", "--dest", &dest],
        &["reset", "--dry-run"],
        &["reset"],
    ] {
        prints_plain_text(lab, words);
    }
    // Programs that read JSON get the exact name.
    lab.register(format!(":{EVIL}2:E::x::/bin/true:").as_bytes()).unwrap();
    assert_eq!(lab.json(["list"])["handlers"][0]["name"], format!("{EVIL}2"));
    assert_eq!(lab.json(["which", &script])["answers"][0]["file"], script);
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(lab.path(&dest).join("qemu-arm-static.json")).unwrap()).unwrap();
    assert!(record["package"].as_str().unwrap().starts_with("qemu"), "{record}");
}

/// Creates files to start (names, script lines, links) and handlers (names, interpreters, extensions).
fn files_and_handlers(lab: &Lab) {
    fs::write(lab.path(&name("file")), format!("#!/bin/{EVIL}\n")).unwrap();
    lab.executable(&name("script"), format!("#!/bin/{EVIL}\n").as_bytes());
    symlink(name("nowhere"), lab.path(&name("link"))).unwrap();
    lab.copy(&format!("{}/qemu-arm-static", name("q")), &interpreter("arm"));
    lab.register(format!(":{EVIL}:E::{EVIL}::/bin/{EVIL}:").as_bytes()).unwrap();
    lab.handler(&name("arm"), "arm", &lab.path(&format!("{}/qemu-arm-static", name("q"))), Flags::FIX_BINARY);
}

/// Creates an interpreter that prints control characters when it is executed, and fails.
fn printing_interpreters(lab: &Lab) {
    let mut script = version_printer();
    let at = script.len() - 7;
    script[at..].copy_from_slice(b"\x1b[2J\x07\x9b\n");
    lab.executable("script", &script);
    prints_plain_text(lab, &["register", "--replace", "--interpreter", "script", "arm"]);
    fs::create_dir(lab.path("s")).unwrap();
    lab.executable("s/qemu-s390x-static", &script);
    prints_plain_text(lab, &["register", "--interpreter-dir", "s", "s390x"]);
    // The interpreter is small, so that it is compressed quickly.
    fs::create_dir(lab.path(&name("b"))).unwrap();
    lab.executable(&format!("{}/qemu-arm-static", name("b")), &version_printer());
    prints_plain_text(lab, &["bundle", "--interpreter-dir", &name("b"), "-o", &name("bundle"), "arm"]);
}

/// Creates archives with hostile members and package descriptions, and records of fetched files.
fn packages(lab: &Lab) {
    let elf = version_printer();
    let tree = |member: &str| Tree::new().file(member, &elf).done();
    fs::write(lab.path("member.deb"), deb("", &tree(&name("./usr/bin/qemu-arm-static/")))).unwrap();
    fs::write(lab.path("hostile.deb"), deb("", &tree(&name("./usr/bin/..")))).unwrap();
    let control = format!("Package: qemu{EVIL}\nVersion: 1{EVIL}\nArchitecture: {EVIL}\n");
    let control = Tree::new().file("./control", control.as_bytes()).done();
    let data = Tree::new().file("./usr/bin/qemu-arm-static", &fs::read(interpreter("arm")).unwrap()).done();
    let members = [("debian-binary", &b"2.0\n"[..]), ("control.tar", &control), ("data.tar", &data)];
    fs::write(lab.path(&name("package")), ar(&members)).unwrap();
    fs::write(lab.path(&name("damaged")), &ar(&members)[..200]).unwrap();
    let hostile = Tree::new().file(&name("../"), &elf).done();
    fs::write(lab.path("hostile.tar"), hostile).unwrap();
}

kernel_test!(variables_cannot_control_a_terminal);
fn variables_cannot_control_a_terminal(lab: &Lab) {
    fs::create_dir(lab.path(EVIL)).unwrap();
    let evil = lab.path(EVIL);
    for (variable, value) in [
        ("QUS_INTERPRETER_DIR", evil.as_os_str()),
        ("QEMU_BIN_DIR", evil.as_os_str()),
        ("TMPDIR", evil.as_os_str()),
        ("TMPDIR", lab.path("none").join(EVIL).as_os_str()),
        ("XDG_DATA_HOME", evil.as_os_str()),
        ("HOME", evil.as_os_str()),
        ("PATH", evil.as_os_str()),
        ("TERM", EVIL.as_ref()),
        ("LC_ALL", EVIL.as_ref()),
        ("COLUMNS", EVIL.as_ref()),
        ("NOTIFY_SOCKET", EVIL.as_ref()),
        ("XDG_RUNTIME_DIR", evil.as_os_str()),
    ] {
        for words in [
            &["register", "s390x"][..],
            &["register", "--in", "podman", "arm"],
            &["fetch", "--list"],
            &["run", "--", "./none"],
            &["export", "arm"],
        ] {
            for json in [&[][..], &["--json"]] {
                let mut command = lab.program(&[], json.iter().chain(words).copied());
                is_plain(&run(command.env(variable, value)));
            }
        }
        lab.qus(["reset"]);
    }
    is_plain(&run(lab.program(&[], ["doctor"]).env("QUS_INTERPRETER_DIR", &evil).env("TMPDIR", &evil)));
}

kernel_test!(a_progress_bar_cannot_be_made_to_command_a_terminal);
/// Tests a progress bar in a terminal (`script(1)`). The terminal gets the control sequences of the progress bar, but
/// none from a package.
fn a_progress_bar_cannot_be_made_to_command_a_terminal(lab: &Lab) {
    let control = format!("Package: qemu{EVIL}\nVersion: 1\nArchitecture: all\n");
    let control = Tree::new().file("./control", control.as_bytes()).done();
    let data = Tree::new().file("./usr/bin/qemu-arm-static", &fs::read(interpreter("arm")).unwrap()).done();
    let members = [("debian-binary", &b"2.0\n"[..]), ("control.tar", &control), ("data.tar", &data)];
    fs::write(lab.path(EVIL), ar(&members)).unwrap();
    let line = format!("{QUS} fetch --from ./* --dest dest arm");
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(lab.path("")).env("TERM", "xterm");
    let ran = run(&mut script);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stdout.contains("dest/qemu-arm-static"), "{ran:#?}");
    for part in ["\u{1b}]0;", "\u{9b}", "\u{202e}", "\u{7f}"] {
        assert!(!ran.stdout.contains(part), "{part:?} in {ran:#?}");
    }
}

kernel_test!(other_tools_words_cannot_command_a_terminal);
fn other_tools_words_cannot_command_a_terminal(lab: &Lab) {
    let as_tool = |tool: &str, words: &[&str]| {
        let path = lab.path(tool);
        if !path.exists() {
            symlink(QUS, &path).unwrap();
        }
        let mut typed = Command::new(&path);
        typed.env("QUS_INTERPRETER_DIR", crate::downloads::distribution());
        is_plain(&run(typed.args(words).current_dir(lab.path(""))));
    };
    lab.handler(&format!("arm{EVIL}"), "arm", &interpreter("arm"), Flags::FIX_BINARY);
    lab.register(format!(":{EVIL}:E::x::/bin/{EVIL}:").as_bytes()).unwrap();
    // Writes into a directory of the lab; the default is the host's /etc/binfmt.d.
    for (tool, words) in [
        ("binfmt", &["--install", EVIL][..]),
        ("binfmt", &["--uninstall", EVIL]),
        ("binfmt", &["--no-such-option", EVIL]),
        ("binfmt", &[]),
        ("register.sh", &["-s", "--", "-p", EVIL]),
        ("register.sh", &["-l", "--", "-p", "arm"]),
        ("register", &["--reset", "-p", EVIL]),
        ("qemu-binfmt-conf.sh", &["--qemu-path", EVIL, "--exportdir", EVIL, "--systemd", "arm"]),
        ("qemu-binfmt-conf.sh", &["--qemu-suffix", EVIL, "--debian", "--exportdir", "."]),
        ("qemu-binfmt-conf.sh", &[EVIL]),
    ] {
        as_tool(tool, words);
    }
}
