//! `register` for presets and for rules of the command line: files that are no programs of an architecture.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::lab::{Lab, NO_HANDLER, Ran, order, run};
use crate::programs::{dynamic, execute, host, probe};

/// Returns a static program of this host that exits with the first byte of its `argv[0]`, as an interpreter.
fn interpreter(lab: &Lab, name: &str) -> PathBuf {
    lab.executable(name, &probe(host()))
}

/// Returns the first result of a run with `--json`.
fn item(lab: &Lab, words: &[&str]) -> (i32, Value) {
    let (status, value) = lab.answer(words.iter().copied());
    (status, value["items"][0].clone())
}

/// Returns a line for files that begin with `magic`.
fn line(name: &str, magic: &str, interpreter: &Path, flags: &str) -> String {
    format!(":{name}:M::{magic}::{}:{flags}", interpreter.display())
}

/// Returns the text and the hint of a refused command.
fn conflict(lab: &Lab, words: &[&str], message: &str) -> String {
    let ran = lab.refused(words.iter().copied(), 2, message);
    let hint = ran.stderr.lines().find_map(|line| line.trim().strip_prefix("try: "));
    hint.unwrap_or_else(|| panic!("no command in {ran:#?}")).to_owned()
}

kernel_test!(a_rule_is_registered_once);
fn a_rule_is_registered_once(lab: &Lab) {
    let path = interpreter(lab, "i");
    let words = ["register", "--rule", &line("x", "XY", &path, "F")];
    let (status, first) = item(lab, &words);
    assert_eq!((status, &first["outcome"], &first["flags"]), (0, &"registered".into(), &"F".into()));
    assert_eq!((&first["name"], &first["verified"]), (&"x".into(), &false.into()));
    // The kernel passes the path of the interpreter as `argv[0]`.
    assert_eq!(execute(&lab.executable("file", b"XY and more")), Ok(i32::from(b'/')));
    let before = lab.entries();
    assert_eq!(item(lab, &words).1["outcome"], "unchanged");
    assert_eq!(lab.entries(), before);
    // The parts mean the same.
    let parts = ["register", "--name", "x", "--magic", "5859", "--interpreter", "i"];
    assert_eq!(item(lab, &parts).1["outcome"], "unchanged");
    let masked = [parts.as_slice(), &["--mask", "ffff", "--offset", "0", "--flags", "F"]].concat();
    assert_eq!(item(lab, &masked).1["outcome"], "unchanged");
    // A disabled handler is no conflict.
    lab.command("x", "0");
    let (_, again) = item(lab, &words);
    assert_eq!((&again["outcome"], &again["message"]), (&"replaced".into(), &"x was disabled".into()));
    assert_eq!(lab.entries(), before);
    lab.done(["reset", "x"]);
    assert!(lab.entries().is_empty());
}

kernel_test!(an_extension_is_registered);
fn an_extension_is_registered(lab: &Lab) {
    interpreter(lab, "i");
    let words = ["register", "--name", "x", "--extension", ".ext", "--interpreter", "i"];
    let (status, first) = item(lab, &words);
    assert_eq!((status, &first["outcome"]), (0, &"registered".into()));
    assert!(lab.entries()["x"].contains("\nextension .ext\n"), "{:?}", lab.entries());
    assert_eq!(execute(&lab.executable("file.ext", b"text")), Ok(i32::from(b'/')));
}

kernel_test!(a_rule_for_the_hosts_programs_is_refused);
fn a_rule_for_the_hosts_programs_is_refused(lab: &Lab) {
    let path = interpreter(lab, "i");
    for magic in [r"\x7fELF", "#!"] {
        let rule = line("x", magic, &path, "");
        lab.refused(["register", "--rule", &rule], 2, "it matches this host's own programs");
    }
    lab.executable("i.sh", b"#!/bin/sh\n");
    let words = ["register", "--name", "x", "--extension", "sh", "--interpreter", "i.sh"];
    lab.refused(words, 2, "it matches its own interpreter");
}

kernel_test!(an_interpreter_of_a_rule_is_checked, among_others);
fn an_interpreter_of_a_rule_is_checked(lab: &Lab) {
    let path = interpreter(lab, "i");
    let rule = |path: &Path| line("x", "XY", path, "");
    let refused = |rule: &str, message: &str| lab.refused(["register", "--rule", rule], 2, message);
    refused(&rule(&lab.path("missing")), "missing does not exist");
    refused(&rule(Path::new("/dev/null")), "is not a regular file");
    refused(&rule(&lab.executable("text", b"just text")), "text is not an ELF");
    refused(":x:M::XY::i:", "is not an absolute path");
    refused(":x:K::XY::/i:", "malformed");
    let mode =
        |mode: u32| fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    refused(&rule(&path), "is not executable");
    mode(0o777);
    let ran = refused(&rule(&path), "can be changed by other users");
    let command = ran.stderr.lines().find_map(|line| line.trim().strip_prefix("try: ")).unwrap();
    lab.type_command(command);
    assert_eq!(item(lab, &["register", "--rule", &rule(&path)]).1["outcome"], "registered");
}

kernel_test!(results_name_the_files_that_an_interpreter_needs);
fn results_name_the_files_that_an_interpreter_needs(lab: &Lab) {
    let message = |lab: &Lab, name: &str, path: &Path, flags: &str| {
        let (status, item) = item(lab, &["register", "--rule", &line(name, name, path, flags)]);
        assert_eq!(status, 0, "{item:#}");
        item["message"].as_str().unwrap_or_default().to_owned()
    };
    let needs_loader = lab.executable("dynamic", &dynamic(Path::new("/lib/ld.so")));
    let script = lab.executable("script", b"#! /bin/sh -e\nexit 3\n");
    assert_eq!(message(lab, "aa", &interpreter(lab, "i"), "F"), "");
    let pinned = message(lab, "bb", &needs_loader, "F");
    assert_eq!(pinned, "it is dynamically linked: works only where /lib/ld.so and its libraries exist");
    assert!(message(lab, "cc", &needs_loader, "").contains("dynamic, /lib/ld.so and its libraries exist"));
    assert!(message(lab, "dd", &script, "").contains("script and /bin/sh exist"));
    assert_eq!(execute(&lab.executable("file", b"dd")), Ok(3));
}

kernel_test!(other_handlers_are_in_the_way_of_a_rule);
fn other_handlers_are_in_the_way_of_a_rule(lab: &Lab) {
    let (one, two) = (interpreter(lab, "one"), interpreter(lab, "two"));
    lab.register(line("x", "XYZ", &one, "").as_bytes()).unwrap();
    // The name is taken.
    let words = ["register", "--rule", &line("x", "AB", &two, "")];
    lab.type_command(&conflict(lab, &words, "the name is taken by another handler, x"));
    assert_eq!(item(lab, &words).1["outcome"], "unchanged");
    lab.clear();
    // The new rule would match every file of the old one.
    lab.register(line("x", "XYZ", &one, "").as_bytes()).unwrap();
    let words = ["register", "--rule", &line("new", "XY", &two, "")];
    let command = conflict(lab, &words, "already handles such files");
    // The command is for the instance that was named.
    let other = lab.path("other");
    fs::create_dir(&other).unwrap();
    mount(Some("b"), &other, Some("binfmt_misc"), MsFlags::empty(), None::<&str>).unwrap();
    let named = ["--instance", other.to_str().unwrap()];
    let elsewhere = conflict(lab, &[words.as_slice(), &named].concat(), "already handles such files");
    let begin = format!("qus --instance {} register --replace --rule ", other.display());
    assert!(elsewhere.starts_with(&begin), "{elsewhere}");
    let planned = item(lab, &[words.as_slice(), &["--replace", "--dry-run"]].concat()).1;
    assert_eq!(planned["message"], "the kernel now tries x after it");
    lab.type_command(&command);
    assert_eq!(order()[0], "new");
    lab.clear();
    // The same interpreter for the same files, under another name.
    lab.register(line("x", "XY", &two, "").as_bytes()).unwrap();
    assert_eq!(item(lab, &words).1["outcome"], "existing");
}

kernel_test!(a_rule_comes_before_a_wider_one);
fn a_rule_comes_before_a_wider_one(lab: &Lab) {
    let (one, two) = (interpreter(lab, "one"), interpreter(lab, "two"));
    lab.register(line("wide", "MZ", &one, "").as_bytes()).unwrap();
    let words = ["register", "--rule", &line("long", "MZqF", &two, "")];
    let (status, first) = item(lab, &words);
    assert_eq!((status, &first["message"]), (0, &"it now also takes files that wide matches".into()));
    assert_eq!(order(), ["long", "wide"]);
    assert_eq!(item(lab, &words).1["outcome"], "unchanged");
    // Another tool registers the wider one again, which then comes first.
    lab.command("wide", "-1");
    lab.register(line("wide", "MZ", &one, "").as_bytes()).unwrap();
    assert_eq!(item(lab, &words).1["outcome"], "replaced");
    assert_eq!(order(), ["long", "wide"]);
}

kernel_test!(jars_are_verified_with_a_real_java);
fn jars_are_verified_with_a_real_java(lab: &Lab) {
    if !Path::new("/usr/lib/jvm").exists() {
        crate::skip::skip("no Java is installed");
    }
    let (status, first) = item(lab, &["register", "jar"]);
    assert_eq!((status, &first["outcome"], &first["verified"]), (0, &"registered".into(), &true.into()));
    assert_eq!(first["handlers"][0], "jar");
    assert_eq!(item(lab, &["register", "jar"]).1["outcome"], "unchanged");
    lab.done(["reset", "jar"]);
    assert!(lab.entries().is_empty());
}

/// Writes an interpreter that exits with the status that it finds in the file: a script that searches `pattern`.
fn reader(lab: &Lab, name: &str, pattern: &str, status: i32) -> PathBuf {
    let script = format!("#!/bin/sh\nLC_ALL=C grep -qaF -e \"{pattern}\" \"$1\" || exit 1\nexit {status}\n");
    lab.executable(name, script.as_bytes())
}

kernel_test!(presets_find_their_interpreter);
fn presets_find_their_interpreter(lab: &Lab) {
    lab.bin();
    reader(lab, "bin/wasmtime", "proc_exit", 42);
    reader(lab, "bin/ape", "MZqFpD='", 42);
    let path = format!("{}:/usr/bin:/bin", lab.path("bin").display());
    let register =
        |words: &[&str]| -> Ran { run(lab.program(&[], words.iter().copied()).env("PATH", &path)) };
    for (preset, handlers) in [("wasm32-wasi", vec!["wasm32-wasi"]), ("ape", vec!["APE-jart", "APE"])] {
        let ran = register(&["register", preset]);
        assert!(ran.status == 0 && ran.stdout.contains(", verified on this host only"), "{ran:#?}");
        assert_eq!(order(), handlers);
        assert!(register(&["register", preset]).stdout.contains("  unchanged  "));
        lab.done(["reset", preset]);
        assert!(lab.entries().is_empty());
    }
    // The interpreter is not one: nothing stays registered.
    reader(lab, "bin/wasmtime", "proc_exit", 7);
    let ran = register(&["register", "wasm32-wasi"]);
    assert!(ran.status == 1 && ran.stdout.contains("  verification failed  "), "{ran:#?}");
    assert!(lab.entries().is_empty());
    let ran = register(&["register", "--no-verify", "wasm32-wasi"]);
    assert!(ran.status == 0 && ran.stdout.contains(", unverified"), "{ran:#?}");
}

kernel_test!(a_preset_is_not_verified_by_the_handler_in_front);
fn a_preset_is_not_verified_by_the_handler_in_front(lab: &Lab) {
    lab.bin();
    reader(lab, "bin/jexec", "System", 42);
    let other = reader(lab, "other", "System", 42);
    let path = format!("{}:/usr/bin:/bin", lab.path("bin").display());
    let qus = |words: &[&str]| -> Ran { run(lab.program(&[], words.iter().copied()).env("PATH", &path)) };
    assert_eq!(qus(&["register", "jar"]).status, 0);
    // Every ZIP archive has this magic, and the newest handler comes first.
    lab.register(line("zip", r"PK\x03\x04", &other, "").as_bytes()).unwrap();
    let ran = qus(&["verify", "jar"]);
    assert!(ran.status == 1 && ran.stdout.contains("zip"), "{ran:#?}");
    let ran = qus(&["register", "jar"]);
    assert!(ran.status == 0 && ran.stdout.contains("  replaced  "), "{ran:#?}");
    assert_eq!(order(), ["jar", "zip"]);
    assert_eq!(qus(&["verify", "jar"]).status, 0);
}

kernel_test!(an_ape_is_loaded_in_front_of_programs_of_windows);
fn an_ape_is_loaded_in_front_of_programs_of_windows(lab: &Lab) {
    if !matches!(host().name, "x86_64" | "aarch64") || !crate::skip::has_program("cc") {
        crate::skip::skip("a loader of APEs cannot be compiled here");
    }
    let loader = lab.path("ape");
    fs::write(lab.path("ape.c"), include_str!("ape_loader.c")).unwrap();
    // The loader is not at the address of the program in the test file.
    let words = ["-static-pie", "-O1", "-o", "ape", "ape.c"];
    let compiled = run(Command::new("cc").args(words).current_dir(lab.path(".")));
    assert_eq!(compiled.status, 0, "{compiled:#?}");
    lab.register(line("DOSWin", "MZ", &interpreter(lab, "i"), "").as_bytes()).unwrap();
    let (status, first) = item(lab, &["register", "--interpreter", loader.to_str().unwrap(), "ape"]);
    assert_eq!(
        (status, &first["outcome"], &first["flags"]),
        (0, &"registered".into(), &"F".into()),
        "{first:#}"
    );
    // The static loader works in an empty root directory as well.
    assert_eq!((&first["verified"], &first["verification"]["empty_root"]), (&true.into(), &true.into()));
    assert_eq!(first["message"], "it now also takes files that DOSWin matches");
    assert_eq!(order(), ["APE-jart", "APE", "DOSWin"]);
    lab.done(["reset", "ape"]);
    assert_eq!(order(), ["DOSWin"]);
}

kernel_test!(a_preset_without_interpreter_is_missing);
fn a_preset_without_interpreter_is_missing(lab: &Lab) {
    let ran = lab.refused(["register", "ape"], 2, "no interpreter was found: ape, ");
    assert!(ran.stderr.contains("hint: build `ape` from Cosmopolitan"), "{ran:#?}");
    lab.refused(["register", "ape", "arm"], 2, "cannot be registered together");
    lab.refused(["register", "--fetch", "ape"], 2, "--fetch is not possible for a preset");
}

kernel_test!(presets_are_shown);
fn presets_are_shown(lab: &Lab) {
    let text = lab.done(["show"]);
    assert!(
        ["ape ", "jar ", "wasm32-wasi "].iter().all(|name| text.contains(&format!("\n{name}"))),
        "{text}"
    );
}

/// A path that exists at boot, because only qus and root write there.
const STABLE: &str = "/usr/local/lib/qus/i";

/// Covers the directories of persistent files, and writes an interpreter that exists at boot.
fn host_with_interpreter(lab: &Lab) {
    crate::persist::host(lab);
    fs::create_dir_all("/usr/local/lib/qus").unwrap();
    fs::copy(interpreter(lab, "i"), STABLE).unwrap();
}

kernel_test!(persist_writes_a_rule);
fn persist_writes_a_rule(lab: &Lab) {
    host_with_interpreter(lab);
    let file = "/etc/binfmt.d/zz-qus-x.conf";
    let rule = line("x", "XY", Path::new(STABLE), "F");
    let words = ["register", "--persist", "--rule", &rule];
    assert_eq!(item(lab, &[words.as_slice(), &["--dry-run"]].concat()).1["persisted"], file);
    assert!(!Path::new(file).exists() && lab.entries().is_empty());
    let (status, first) = item(lab, &words);
    assert_eq!((status, &first["outcome"], &first["persisted"]), (0, &"registered".into(), &file.into()));
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("\n# To remove it: qus reset --persist x\n"), "{text}");
    // A boot registers the same handler.
    let entries = lab.entries();
    lab.clear();
    assert_eq!(lab.qus(["apply"]).status, 0);
    assert_eq!(lab.entries(), entries);
    let (_, again) = item(lab, &words);
    assert_eq!((&again["outcome"], &again["persisted"]), (&"unchanged".into(), &file.into()));
    assert_eq!(fs::read_to_string(file).unwrap(), text);
    // Without its name, the handler and its file stay.
    assert_eq!(lab.qus(["reset", "--persist"]).status, 0);
    assert!(Path::new(file).exists() && lab.entries() == entries);
    let ran = lab.qus(["reset", "x"]);
    assert!(
        ran.stderr.contains("sudo qus reset --persist x") || ran.stderr.contains(": qus reset --persist x"),
        "{ran:#?}"
    );
    lab.done_with(["reset", "--persist", "x"], NO_HANDLER);
    assert!(!Path::new(file).exists());
}

kernel_test!(persist_refuses_an_interpreter_that_may_be_gone);
fn persist_refuses_an_interpreter_that_may_be_gone(lab: &Lab) {
    host_with_interpreter(lab);
    let rule = line("x", "XY", &lab.path("i"), "");
    lab.refused(["register", "--persist", "--rule", &rule], 2, "may be missing or changed at the next boot");
    let rule = line("a b", "XY", Path::new(STABLE), "");
    lab.refused(["register", "--persist", "--rule", &rule], 2, "cannot be the name of a file");
    assert!(!Path::new("/etc/binfmt.d").exists());
}

kernel_test!(persist_keeps_a_preset_in_front_of_wider_rules);
fn persist_keeps_a_preset_in_front_of_wider_rules(lab: &Lab) {
    host_with_interpreter(lab);
    fs::create_dir_all("/etc/binfmt.d").unwrap();
    fs::write("/etc/binfmt.d/wine.conf", line("DOSWin", "MZ", Path::new(STABLE), "")).unwrap();
    let words = ["register", "--persist", "--no-verify", "--interpreter", STABLE, "ape"];
    assert_eq!(item(lab, &words).1["persisted"], "/etc/binfmt.d/zz-qus-ape.conf");
    lab.clear();
    assert_eq!(lab.qus(["apply"]).status, 0);
    assert_eq!(order(), ["APE-jart", "APE", "DOSWin"]);
    lab.done(["reset", "--persist", "ape"]);
    assert_eq!(order(), ["DOSWin"]);
    assert!(!Path::new("/etc/binfmt.d/zz-qus-ape.conf").exists());
}

kernel_test!(persist_says_that_another_tools_handler_ends_at_boot);
fn persist_says_that_another_tools_handler_ends_at_boot(lab: &Lab) {
    host_with_interpreter(lab);
    lab.register(line("other", "XY", Path::new(STABLE), "F").as_bytes()).unwrap();
    let words = ["register", "--persist", "--rule", &line("x", "XY", Path::new(STABLE), "F")];
    let ran = lab.refused(words, 2, "registered until the next reboot only");
    let command = ran.stderr.lines().find_map(|line| line.trim().strip_prefix("try: ")).unwrap();
    lab.type_command(command);
    assert!(Path::new("/etc/binfmt.d/zz-qus-x.conf").exists());
}
