//! The owner of a handler, as `qus list` prints it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use serde_json::Value;

use qus::binfmt::Flags;

use crate::downloads;
use crate::lab::Lab;

/// Returns the handler called `name`. Expects the same owner in text and in JSON.
fn handler(lab: &Lab, name: &str) -> Value {
    let (status, value) = lab.answer(["list"]);
    assert_eq!(status, 0, "{value:#}");
    let handlers = value["handlers"].as_array().unwrap();
    let handler = handlers.iter().find(|handler| handler["name"] == name);
    let handler = handler.unwrap_or_else(|| panic!("no {name} in {value:#}")).clone();
    let text = lab.qus(["list", "-v"]).stdout;
    let has_name = |line: &&str| line.split_whitespace().next_back() == Some(name);
    let line = text.lines().find(has_name).unwrap_or_else(|| panic!("no {name} in {text}"));
    let by = line.split_whitespace().rev().nth(1);
    assert_eq!(by, handler["by"].as_str(), "{text}");
    handler
}

fn by(lab: &Lab, name: &str) -> String {
    handler(lab, name)["by"].as_str().unwrap().to_owned()
}

/// Covers a directory of the host with an empty one.
fn hide(directory: &str) {
    mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
}

fn register(lab: &Lab, line: &str) {
    lab.register(line.as_bytes()).unwrap();
}

kernel_test!(owner_is_a_file_of_binfmt_d);
fn owner_is_a_file_of_binfmt_d(lab: &Lab) {
    hide("/etc");
    fs::create_dir("/etc/binfmt.d").unwrap();
    let kept = r":kept:M::\x4d\x41\x47\x49\x43::/kept:";
    let text = format!("# comment\n\n{kept}\n:lost:E::lost::/lost:\n");
    fs::write("/etc/binfmt.d/some.conf", text).unwrap();
    register(lab, kept);
    assert_eq!(by(lab, "kept"), "/etc/binfmt.d/some.conf");
    // A handler of the same name with another rule.
    lab.command("kept", "-1");
    register(lab, ":kept:M::MAGIC::/other:");
    assert_eq!(by(lab, "kept"), "unknown");

    let (_, value) = lab.answer(["list"]);
    // The host's own packages may have configuration, too.
    let rules = value["unregistered"].as_array().unwrap().iter();
    let ours = rules.filter(|rule| rule["file"] == "/etc/binfmt.d/some.conf");
    let names: Vec<&str> = ours.map(|rule| rule["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["kept", "lost"], "{value:#}");
    let text = lab.qus(["list", "-v"]).stdout;
    let row = text.lines().find(|line| line.ends_with(" lost")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, ["-", "missing", "-", "/lost", "-", "/etc/binfmt.d/some.conf", "lost"], "{text}");
    // The configured name is registered with another rule: the row shows the configured interpreter.
    let row = text.lines().rfind(|line| line.ends_with(" kept")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, ["-", "differs", "-", "/kept", "-", "/etc/binfmt.d/some.conf", "kept"], "{text}");
    let states: Vec<&str> = value["unregistered"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["file"] == "/etc/binfmt.d/some.conf")
        .map(|rule| rule["state"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["differs", "missing"], "{value:#}");
    // A configured handler that is disabled counts as registered.
    register(lab, ":lost:E::lost::/lost:");
    lab.command("lost", "0");
    assert_eq!(by(lab, "lost"), "/etc/binfmt.d/some.conf");
}

kernel_test!(owner_is_binfmt_support);
fn owner_is_binfmt_support(lab: &Lab) {
    hide("/var/lib");
    fs::create_dir("/var/lib/binfmts").unwrap();
    fs::write("/var/lib/binfmts/jar", "openjdk-17\nmagic\n0\nPK\\x03\\x04\n\n/usr/bin/jexec\n\n\n\n\n")
        .unwrap();
    fs::write("/var/lib/binfmts/mine", ":\nextension\n0\nmine\n\n/usr/bin/mine\n\n\n\n\n").unwrap();
    register(lab, r":jar:M::PK\x03\x04::/usr/bin/jexec:");
    register(lab, ":mine:E::mine::/usr/bin/mine:");
    assert_eq!(by(lab, "jar"), "binfmt-support(openjdk-17)");
    assert_eq!(by(lab, "mine"), "binfmt-support");
}

kernel_test!(owner_is_known_by_its_interpreter);
fn owner_is_known_by_its_interpreter(lab: &Lab) {
    let cases = [
        ("rosetta", "hexagon", "/run/rosetta/rosetta", "Rosetta"),
        ("FEX", "hexagon", "/usr/bin/FEXInterpreter", "FEX"),
        ("box64", "hexagon", "/usr/local/bin/box64", "box64"),
        ("box86", "hexagon", "/usr/local/bin/box86", "box86"),
        ("buildkit", "hexagon", "/buildkit-qemu-hexagon", "BuildKit"),
    ];
    // No host has one of these architectures, so the handlers do not take qus itself.
    for (name, arch, path, owner) in cases {
        lab.handler(name, arch, Path::new(path), Flags::empty());
        assert_eq!(by(lab, name), owner);
    }
    for name in ["WSLInterop", "WSLInterop-late"] {
        register(lab, &format!(":{name}:M::MZ::/init:P"));
        assert_eq!(by(lab, name), "WSL");
    }
}

kernel_test!(owner_is_qus);
fn owner_is_qus(lab: &Lab) {
    lab.done(["register", "arm", "mips"]);
    let handler = handler(lab, "qemu-arm");
    assert_eq!(handler["by"], "qus");
    assert_eq!(handler["arches"][0], "arm");
    assert_eq!(handler["emulator"], true);
    assert_eq!(by(lab, "qemu-mips"), "qus");
    // An interpreter whose name differs from QEMU's.
    let mine: PathBuf = lab.path("emulator");
    fs::copy(downloads::distribution().join("qemu-s390x-static"), &mine).unwrap();
    lab.done(["register", "--interpreter", mine.to_str().unwrap(), "s390x"]);
    assert_eq!(by(lab, "qus-s390x"), "qus");
}

kernel_test!(owner_is_a_package);
fn owner_is_a_package(lab: &Lab) {
    let found = Command::new("dpkg-query").args(["--search", "--", "/usr/bin/perl"]).output();
    let Some(output) = found.ok().filter(|output| output.status.success()) else {
        // This system has no package database like Debian's.
        return;
    };
    let package = String::from_utf8(output.stdout).unwrap().split([':', ',']).next().unwrap().to_owned();
    register(lab, ":scripts:E::pl::/usr/bin/perl:");
    register(lab, ":none:E::no::/usr/bin/absent:");
    assert_eq!(by(lab, "scripts"), package);
    assert_eq!(by(lab, "none"), "unknown");
}

kernel_test!(owner_is_unknown);
fn owner_is_unknown(lab: &Lab) {
    let mine = lab.executable("mine", b"#!/bin/sh\n");
    register(lab, &format!(":mine:E::mine::{}:", mine.display()));
    assert_eq!(by(lab, "mine"), "unknown");
    // The name is QEMU's, but the rule is not in the table, and no package owns the file.
    register(
        lab,
        &format!(r":qemu-arm:M::\x7fELF\x01\x01\x01:\xff\xff\xff\xff\xff\xff\xff:{}:", mine.display()),
    );
    lab.command("qemu-arm", "0");
    assert_eq!(by(lab, "qemu-arm"), "unknown");
}
