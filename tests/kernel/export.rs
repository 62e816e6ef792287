//! `qus export` prints what `register` registers, and reports what it cannot print.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use qus::arch::ARCHES;

use crate::downloads;
use crate::lab::{Lab, Ran, order, run};

const FORMATS: [&str; 6] = ["systemd", "binfmt-support", "openrc", "nix", "register", "json"];

/// Returns the rules of all architectures for which the distribution has an emulator.
fn all(lab: &Lab, format: &str) -> String {
    lab.done(["export", "all", "--format", format])
}

kernel_test!(export_prints_what_register_registers);
fn export_prints_what_register_registers(lab: &Lab) {
    let lines = all(lab, "register");
    for line in lines.lines() {
        lab.register(line.as_bytes()).unwrap();
    }
    let exported = lab.entries();
    assert!(exported.len() > 25, "{exported:#?}");
    for name in order() {
        lab.command(&name, "-1");
    }
    lab.done(["register", "--no-verify", "all"]);
    assert_eq!(lab.entries(), exported);
    // The lines for binfmt.d are the same, except for comments.
    let configuration = all(lab, "systemd");
    let rules: Vec<&str> =
        configuration.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert_eq!(rules, lines.lines().collect::<Vec<_>>());
}

kernel_test!(export_prints_the_same_each_time);
fn export_prints_the_same_each_time(lab: &Lab) {
    for format in FORMATS {
        let once = lab.done(["export", "arm", "aarch64", "--format", format]);
        assert!(!once.is_empty());
        assert_eq!(lab.done(["export", "aarch64,arm", "--format", format]), once);
    }
    // Registered handlers do not change the output.
    let before = all(lab, "json");
    lab.done(["register", "arm"]);
    assert_eq!(all(lab, "json"), before);
    assert_eq!(lab.done(["export", "--json"]), before);
}

/// Template for interpreters that do not exist.
const NOWHERE: &str = "/nowhere/{arch}/emulator";

kernel_test!(export_knows_paths_that_are_not_here);
fn export_knows_paths_that_are_not_here(lab: &Lab) {
    let value = lab.json(["export", "arm64", "--format", "json", "--interpreter-path", NOWHERE]);
    let rules = value["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1, "{value:#}");
    // The interpreter is not named like QEMU's, so the handler's name marks it as qus's.
    assert_eq!((&rules[0]["arch"], &rules[0]["name"]), (&"aarch64".into(), &"qus-aarch64".into()));
    assert_eq!(rules[0]["interpreter"], "/nowhere/aarch64/emulator");
    assert_eq!(rules[0]["flags"], "POF");
    let one = ["export", "arm64", "--format", "register", "--credentials"];
    let one = lab.done(one.into_iter().chain(["--interpreter-path", "/opt/box64"]));
    assert!(one.ends_with(":/opt/box64:POCF\n"), "{one}");
    let every = lab.json(["export", "--format", "json", "--interpreter-path", NOWHERE]);
    let arches = |value: &Value| -> Vec<String> {
        let rules = value["rules"].as_array().unwrap().iter();
        let mut arches: Vec<_> = rules.map(|rule| rule["arch"].as_str().unwrap().to_owned()).collect();
        arches.dedup();
        arches
    };
    assert!(arches(&every).len() > ARCHES.len() - 4);
    // For another machine, that machine's own architectures are left out.
    let options = ["--for", "riscv64", "--interpreter-path", NOWHERE];
    let other = lab.json(["export", "--format", "json"].into_iter().chain(options));
    let named = arches(&other);
    assert!(!named.contains(&"riscv64".to_owned()) && !named.contains(&"riscv32".to_owned()), "{named:?}");
    assert!(named.contains(&"x86_64".to_owned()) && named.contains(&"arm".to_owned()), "{named:?}");
}

kernel_test!(export_leaves_the_machines_own_family_out);
fn export_leaves_the_machines_own_family_out(lab: &Lab) {
    let own = std::env::consts::ARCH;
    let value = lab.json(["export", "all", "--format", "json", "--interpreter-path", NOWHERE]);
    assert!(!value.to_string().contains(&format!("\"arch\":\"{own}\"")), "{value:#}");
    let words = ["export", own, "--format", "systemd", "--interpreter-path", NOWHERE];
    lab.refused(words, 2, &format!("cannot export {own}: the target machine runs {own} natively"));
}

fn files(lab: &Lab, directory: &str) -> BTreeMap<String, (u32, String)> {
    let files = fs::read_dir(lab.path(directory)).unwrap().map(Result::unwrap);
    files
        .map(|file| {
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            let text = fs::read_to_string(file.path()).unwrap();
            (file.file_name().into_string().unwrap(), (mode, text))
        })
        .collect()
}

kernel_test!(export_writes_files_and_spares_those_of_others);
fn export_writes_files_and_spares_those_of_others(lab: &Lab) {
    let write =
        |format: &str| lab.qus(["export", "arm", "microblaze", "--format", format, "-o", "made/here"]);
    let done = |ran: Ran| {
        assert_eq!(ran.status, 0, "{ran:#?}");
        ran.stdout
    };
    assert_eq!(done(write("systemd")), "made/here/qus-arm.conf\nmade/here/qus-microblaze.conf\n");
    done(write("binfmt-support"));
    done(write("openrc"));
    done(write("nix"));
    done(write("json"));
    let before = files(lab, "made/here");
    let names: Vec<&str> = before.keys().map(String::as_str).collect();
    let expected = [
        "qemu-arm",
        "qemu-microblaze",
        "qemu-microblaze-old",
        "qus",
        "qus-arm.conf",
        "qus-microblaze.conf",
        "qus.json",
        "qus.nix",
    ];
    assert_eq!(names, expected);
    for (name, (mode, text)) in &before {
        assert_eq!(*mode, if name == "qus" { 0o755 } else { 0o644 }, "{name}");
        assert!(!text.contains("==>"), "{text}");
    }
    // A second run changes nothing.
    for format in ["systemd", "binfmt-support", "openrc", "nix", "json"] {
        done(write(format));
    }
    assert_eq!(files(lab, "made/here"), before);
    // A file of another tool: neither this file nor the others in its directory are touched.
    let theirs = lab.path("made/here/qus-microblaze.conf");
    fs::write(&theirs, ":mine:E::mine::/mine:\n").unwrap();
    fs::remove_file(lab.path("made/here/qus-arm.conf")).unwrap();
    let before = files(lab, "made/here");
    let words = ["export", "arm", "microblaze", "--format", "systemd", "-o", "made/here"];
    let ran = lab.refused(words, 2, "qus-microblaze.conf was not written by qus, and is left in place");
    ran.suggests("mv made/here/qus-microblaze.conf made/here/qus-microblaze.conf.before-qus");
    assert_eq!(files(lab, "made/here"), before);
}

kernel_test!(export_reports_what_it_cannot_do);
fn export_reports_what_it_cannot_do(lab: &Lab) {
    let own = lab.path("empty");
    fs::create_dir(&own).unwrap();
    let words = ["export", "arm", "--format", "systemd", "--interpreter-dir", "empty"];
    lab.refused(words, 2, "no interpreter for arm is in empty");
    let words = ["export", "--format", "systemd", "--interpreter-dir", "empty"];
    lab.refused(words, 2, "no interpreter for any architecture is in empty");
    let words = ["export", "arm", "--format", "systemd", "--interpreter-path", "relative/{arch}"];
    lab.refused(words, 2, "relative/{arch} is not an absolute path");
    let words = ["export", "arm", "s390x", "--format", "systemd", "--interpreter-path", "/opt/emulator"];
    lab.refused(words, 2, "/opt/emulator would be the interpreter of several architectures");
    let words = ["export", "arm", "--format", "nix", "--interpreter-path", "/opt/a\nb"];
    lab.refused(words, 2, "the path of the interpreter for arm contains a line break");
    let long = format!("/{}", "a".repeat(1100));
    let words = ["export", "arm", "--format", "openrc", "--interpreter-path", &long];
    lab.refused(words, 2, "the format allows 1023");
    let ran = lab.qus(["export", "arm"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("--format"), "{ran:#?}");
    fs::write(lab.path("file"), "").unwrap();
    let ran = lab.qus(["export", "arm", "--format", "systemd", "-o", "file/in"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("file/in/qus-arm.conf"), "{ran:#?}");
}

kernel_test!(an_exported_script_registers_and_removes);
/// Tests the script for OpenRC in a plain shell, with replacements for the three OpenRC functions that it calls. The
/// tests in `boot` run it with OpenRC.
fn an_exported_script_registers_and_removes(lab: &Lab) {
    let words = ["export", "arm", "microblaze", "--format", "openrc", "-o", "."];
    lab.done(words);
    let shell = |command: &str| {
        let functions = "ebegin() { :; }\neend() { return $1; }\neerror() { echo \"$*\" >&2; }\n. ./qus\n";
        let mut shell = std::process::Command::new("sh");
        run(shell.args(["-c", &format!("{functions}{command}")]).current_dir(lab.path(".")))
    };
    lab.register(b":foreign:E::foreign::/bin/true:").unwrap();
    let empty = lab.entries();
    lab.done(["register", "arm", "microblaze"]);
    let registered = lab.entries();
    assert_eq!(registered.len(), 4);
    // Everything is registered: the script has nothing to do.
    assert_eq!(shell("start").status, 0);
    assert_eq!(lab.entries(), registered);
    assert_eq!(shell("stop").status, 0);
    assert_eq!(lab.entries(), empty);
    let ran = shell("start");
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert_eq!(lab.entries(), registered);
    assert_eq!(crate::lab::busybox("arm", "echo works").unwrap().stdout, "works\n");
    // A handler of another tool with that name stays, and the script reports it.
    lab.command("qemu-arm", "-1");
    lab.register(b":qemu-arm:E::x::/bin/true:").unwrap();
    let ran = shell("start");
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert!(ran.stderr.contains("qemu-arm is already registered with another interpreter"), "{ran:#?}");
    assert_eq!(shell("stop").status, 0);
    assert!(order().contains(&"qemu-arm".to_owned()));
}

kernel_test!(export_needs_no_root, ordinary_user);
fn export_needs_no_root(lab: &Lab) {
    let path = downloads::distribution().join("qemu-arm-static");
    let line = lab.done(["export", "arm", "--format", "register"]);
    assert!(line.ends_with(&format!(":{}:POF\n", path.display())), "{line}");
}

kernel_test!(export_needs_no_instance, unmounted);
fn export_needs_no_instance(lab: &Lab) {
    let line = lab.done(["export", "arm", "--format", "register", "--instance", "/nowhere"]);
    assert!(line.starts_with(":qemu-arm:M:"), "{line}");
    assert!(order().is_empty());
}
