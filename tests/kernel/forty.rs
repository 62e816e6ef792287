//! More than forty handlers in one instance, most of them faulty. `doctor` names each fault, its commands fix them, and a
//! second `doctor` has no problem.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use qus::binfmt::Flags;
use serde_json::Value;

use crate::doctor::tmpfs;
use crate::downloads::interpreter;
use crate::lab::{Lab, OURS, order};
use crate::prediction::native;
use crate::random::{Random, cases};

/// Finding that `doctor` must have: its level, its check, and the name of the handler in its text.
type Expected = (&'static str, &'static str, &'static str);

fn line(lab: &Lab, name: &str, takes: &str, path: &Path, flags: &str) {
    let line = format!(":{name}:{takes}:{}:{flags}", path.display());
    lab.register(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Registers handlers of other tools than QEMU, with faults of their files.
fn other_tools(lab: &Lab) -> Vec<Expected> {
    let (sh, gone) = (Path::new("/bin/sh"), Path::new("/gone/launcher"));
    line(lab, "wine-old", "M::MZ:", Path::new("/gone/wine"), "");
    line(lab, "wine", "M::MZ:", sh, "");
    line(lab, "WSLInterop", "M::MZ:", sh, "P");
    line(lab, "APE", "M::MZqFpD=':", sh, "F");
    line(lab, "jar", "E::jar:", sh, "");
    line(lab, "jarwrapper", "M::\\xca\\xfe\\xba\\xbe:", &lab.executable("class", b"#!/gone/sh\n"), "");
    line(lab, "python3.11", "M::\\xa7\\x0d\\x0d\\x0a:", gone, "");
    let removed = lab.executable("removed", &native(2));
    line(lab, "python3.12", "M::\\xcb\\x0d\\x0d\\x0a:", &removed, "F");
    fs::remove_file(removed).unwrap();
    line(lab, "appimage-type1", "M:8:AI\\x01:", gone, "");
    line(lab, "appimage-type2", "M:8:AI\\x02:", &lab.executable("launcher", b""), "F");
    let plain = lab.executable("wasmtime", &native(2));
    mode(&plain, 0o644);
    line(lab, "wasm", "M::\\x00asm:", &plain, "");
    fs::create_dir(lab.path("noexec")).unwrap();
    tmpfs(lab.path("noexec"), MsFlags::MS_NOEXEC);
    line(lab, "llvm", "M::BC:", &lab.executable("noexec/lli", &native(2)), "");
    let writable = lab.executable("writable", &native(2));
    mode(&writable, 0o777);
    line(lab, "cli", "E::net:", &writable, "");
    fs::create_dir(lab.path("shared")).unwrap();
    line(lab, "ocaml", "E::ml:", &lab.executable("shared/ocaml", &native(2)), "");
    mode(&lab.path("shared"), 0o777);
    mode(&lab.path("shared/ocaml"), 0o775);
    line(lab, "love", "E::love:", &lab.executable("run.love", b"#!/bin/sh\n"), "");
    line(lab, "older", "E::dup:", sh, "");
    line(lab, "newer", "E::dup:", sh, "");
    vec![
        ("note", "interpreter", "wine-old"),
        ("note", "shadowed", "wine never runs: WSLInterop"),
        ("problem", "interpreter", "jarwrapper"),
        ("problem", "interpreter", "python3.11"),
        ("note", "interpreter", "python3.12"),
        ("problem", "interpreter", "appimage-type1"),
        ("problem", "interpreter", "appimage-type2"),
        ("problem", "interpreter", "wasm"),
        ("problem", "interpreter", "llvm"),
        ("problem", "writable-file", "cli"),
        ("problem", "writable-file", "ocaml"),
        ("problem", "self-capture", "love"),
        ("note", "shadowed", "older never runs: newer"),
        ("note", "host-only", "jar"),
        ("note", "host-only", "APE"),
    ]
}

/// Registers disabled handlers, and handlers whose names need quotes.
fn disabled_and_odd_names(lab: &Lab) -> Vec<Expected> {
    let (sh, gone) = (Path::new("/bin/sh"), Path::new("/gone/launcher"));
    for (index, name) in ["it's", "with space", "a*", "all", "-x", "a,b", "x86"].iter().enumerate() {
        line(lab, name, &format!("E::odd{index}:"), if index % 2 == 0 { gone } else { sh }, "");
        lab.command(name, "0");
    }
    line(lab, "off", "E::off:", sh, "");
    line(lab, "rival", "E::off:", sh, "");
    lab.command("off", "0");
    vec![
        ("problem", "interpreter", "s runs /gone/launcher"),
        ("problem", "disabled", "with space"),
        ("problem", "interpreter", "a*"),
        ("problem", "disabled", "all"),
        ("problem", "interpreter", "-x"),
        ("problem", "disabled", "a,b"),
        ("problem", "interpreter", "x86"),
        ("note", "disabled", "off is disabled, and rival takes its files"),
    ]
}

/// Copies the emulator of `arch` into a directory of the test.
fn copy(lab: &Lab, arch: &str) -> PathBuf {
    lab.copy(&format!("own/qemu-{arch}-static"), &interpreter(arch))
}

/// Registers emulators with faults of every kind.
fn emulators(lab: &Lab) -> Vec<Expected> {
    let none = Flags::empty();
    lab.handler("good", "riscv64", &interpreter("riscv64"), OURS);
    lab.handler("sparc", "sparc", &interpreter("sparc64"), OURS);
    lab.handler("qemu-ppc", "ppc", &interpreter("ppc64le"), none);
    lab.handler("qemu-s390x", "s390x", Path::new("/gone/first/qemu-s390x"), none);
    lab.handler("s390x-dead", "s390x", Path::new("/gone/qemu-s390x"), none);
    let m68k = copy(lab, "m68k");
    lab.handler("qemu-m68k", "m68k", &m68k, OURS);
    fs::remove_file(m68k).unwrap();
    let dynamic = lab.copy("dynamic/qemu-hppa", Path::new("/bin/true"));
    lab.handler("qemu-hppa", "hppa", &dynamic, Flags::FIX_BINARY);
    let setuid = copy(lab, "mipsel");
    lab.handler("qemu-mipsel", "mipsel", &setuid, OURS);
    mode(&setuid, 0o4755);
    let stale = copy(lab, "mips64");
    lab.handler("qemu-mips64", "mips64", &stale, OURS);
    fs::copy(&stale, lab.path("new")).unwrap();
    fs::rename(lab.path("new"), &stale).unwrap();
    lab.handler("qemu-mips64el", "mips64el", &interpreter("mips64el"), OURS | Flags::CREDENTIALS);
    lab.handler("xtensa-older", "xtensa", &interpreter("xtensa"), none);
    lab.handler("xtensa-newer", "xtensa", &interpreter("xtensa"), OURS);
    lab.handler("qemu-arm.qus-99", "arm", &interpreter("arm"), OURS);
    // A handler of another tool has the name of a new one.
    line(lab, "qemu-or1k", "E::or1k:", Path::new("/gone/or1k"), "");
    lab.handler("or1k", "or1k", &interpreter("sh4"), OURS);
    // The bytes of the type are in the wrong order.
    let odd = r"M::\x7fELF\x01\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xba\xab:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
    line(lab, "microblaze-odd", odd, &interpreter("microblaze"), "F");
    vec![
        ("problem", "wrong-emulator", "sparc takes programs of sparc, but runs"),
        ("problem", "wrong-emulator", "qemu-ppc takes programs of ppc, but runs"),
        ("problem", "interpreter", "s390x-dead"),
        ("note", "interpreter", "qemu-m68k"),
        ("problem", "interpreter", "qemu-hppa"),
        ("problem", "interpreter", "qemu-mipsel"),
        ("problem", "stale", "qemu-mips64 "),
        ("note", "credentials", "qemu-mips64el"),
        ("problem", "shadowed", "xtensa-older"),
        ("problem", "interim", "qemu-arm.qus-99"),
        ("problem", "interpreter", "qemu-or1k"),
        ("problem", "wrong-emulator", "or1k takes"),
        ("problem", "broken", "microblaze-odd"),
    ]
}

/// Registers emulators that are disabled.
fn disabled_emulators(lab: &Lab) -> Vec<Expected> {
    lab.handler("qemu-alpha", "alpha", &interpreter("alpha"), OURS);
    lab.command("qemu-alpha", "0");
    lab.handler("sh4", "sh4", &interpreter("sh4"), Flags::empty());
    lab.command("sh4", "0");
    for name in ["mips-older", "mips-newer"] {
        lab.handler(name, "mips", &interpreter("mips"), OURS);
        lab.command(name, "0");
    }
    vec![
        ("problem", "disabled", "qemu-alpha"),
        ("problem", "disabled", "sh4"),
        ("problem", "disabled", "mips-newer"),
        ("note", "disabled", "mips-older"),
    ]
}

/// Registers emulators other than QEMU, and the table of `NixOS`.
fn other_emulators(lab: &Lab) -> Vec<Expected> {
    let none = Flags::empty();
    let linked = lab.link("run/armeb-linux", &interpreter("armeb"));
    let dangling = lab.link("run/aarch64-linux", Path::new("/nix/store/gone/bin/qemu-aarch64-binfmt-P"));
    lab.handler("armeb-linux", "armeb", &linked, none);
    lab.handler("aarch64-linux", "aarch64", &dangling, Flags::PRESERVE_ARGV0);
    lab.handler("obs", "aarch64_be", Path::new("/usr/bin/qemu-aarch64_be-binfmt"), none);
    // A dead emulator that is not QEMU's.
    lab.handler("FEX", "loongarch64", Path::new("/gone/FEXInterpreter"), none);
    // QEMU's handler is behind another emulator.
    lab.handler("qemu-riscv32", "riscv32", &interpreter("riscv32"), OURS);
    lab.handler("rosetta", "riscv32", &lab.executable("rosetta", &native(2)), Flags::FIX_BINARY);
    vec![
        ("problem", "no-fix", "armeb-linux"),
        ("problem", "interpreter", "aarch64-linux"),
        ("problem", "no-fix", "obs"),
        ("problem", "broken", "FEX"),
        ("problem", "shadowed", "qemu-riscv32 never runs: rosetta"),
    ]
}

fn findings(lab: &Lab) -> (i32, Vec<Value>) {
    let (status, value) = lab.answer(["doctor"]);
    (status, value["findings"].as_array().unwrap().clone())
}

fn is(finding: &Value, (level, id, text): &Expected) -> bool {
    finding["level"] == *level && finding["id"] == *id && finding["text"].as_str().unwrap().contains(text)
}

/// Returns the problems and notes as lines, for the message of a failure.
fn text(findings: &[Value]) -> String {
    let shown = findings.iter().filter(|finding| finding["level"] != "ok");
    let lines = shown.map(|finding| {
        let word = |key: &str| finding[key].as_str().unwrap_or("-").to_owned();
        format!("{} {}: {}\n    {} {}\n", word("level"), word("id"), word("text"), word("try"), word("hint"))
    });
    lines.collect()
}

/// Types each command of the findings `all` once, in their order, and expects that no problem is left.
fn converges(lab: &Lab, all: &[Value]) {
    let mut typed: Vec<&str> = Vec::new();
    for command in all.iter().filter_map(|finding| finding["try"].as_str()) {
        if !typed.contains(&command) {
            typed.push(command);
            lab.type_command(command);
        }
    }
    let (status, then) = findings(lab);
    let has_problem = then.iter().any(|finding| finding["level"] == "problem");
    assert!(status == 0 && !has_problem, "{}\n after {}", text(&then), text(all));
}

kernel_test!(doctor_fixes_random_handlers);
/// Tests handlers of few architectures, so that many of them take the same files.
fn doctor_fixes_random_handlers(lab: &Lab) {
    crate::doctor::quiet();
    let box_like = lab.executable("box", &native(2));
    let empty = lab.executable("empty", b"");
    let dynamic = lab.copy("dynamic/qemu-ppc", Path::new("/bin/true"));
    for case in 0..cases(12) {
        let mut random = Random::new(case as u64);
        let gone = PathBuf::from("/gone/qemu-sparc");
        for index in 0..2 + random.below(7) {
            let arch = random.pick(&["sparc", "ppc"]);
            let other = random.pick(&["sparc", "ppc", "sparc64"]);
            let (right, wrong) = (interpreter(arch), interpreter(other));
            let path: &Path = random.pick(&[&right, &right, &wrong, &gone, &dynamic, &box_like, &empty]);
            // The program does not support the flag P, which shows only when it is executed.
            let all = if path == box_like { Flags::FIX_BINARY } else { OURS };
            let flags = if random.chance(60) && path.exists() { all } else { Flags::empty() };
            let own = format!("qemu-{arch}");
            let numbered = format!("h{index}");
            let staging = format!("qus-{arch}.qus-99");
            let name = random.pick(&[numbered.as_str(), &numbered, &numbered, &own, &staging]);
            let name = if lab.entries().contains_key(name) { &numbered } else { name };
            match random.below(8) {
                // A registration would take its name.
                0 | 1 if lab.entries().contains_key(&numbered) => continue,
                0 => line(lab, &numbered, "E::sparc:", path, ""),
                1 => line(lab, &numbered, "M::MZ:", path, ""),
                _ => lab.handler(name, arch, path, flags),
            }
            if random.chance(25) {
                let newest = order().remove(0);
                lab.command(&newest, "0");
            }
        }
        let before = lab.entries();
        let (_, all) = findings(lab);
        println!("case {case}: {before:#?}");
        converges(lab, &all);
        lab.clear();
    }
}

kernel_test!(doctor_fixes_forty_handlers);
fn doctor_fixes_forty_handlers(lab: &Lab) {
    crate::doctor::quiet();
    let mut expected = other_tools(lab);
    expected.extend(disabled_and_odd_names(lab));
    expected.extend(emulators(lab));
    expected.extend(disabled_emulators(lab));
    expected.extend(other_emulators(lab));
    // On a host that runs i386 natively, this handler takes programs that need none.
    if lab.qus(["register", "-n", "i386"]).stdout.contains("natively") {
        lab.handler("qemu-i386", "i386", &interpreter("i386"), Flags::empty());
        expected.push(("problem", "captures", "qemu-i386"));
    }
    assert!(lab.entries().len() >= 45, "{}", lab.entries().len());
    let (status, all) = findings(lab);
    assert_eq!(status, 1, "{all:#?}");
    let missing: Vec<&Expected> =
        expected.iter().filter(|one| !all.iter().any(|finding| is(finding, one))).collect();
    assert!(missing.is_empty(), "no {missing:#?} in\n{}", text(&all));
    // A problem has a command.
    assert!(
        all.iter().all(|finding| finding["level"] != "problem" || finding["try"].is_string()),
        "{}",
        text(&all)
    );
    converges(lab, &all);
    // Handlers without a fault are still registered.
    for name in ["jar", "WSLInterop", "APE", "newer", "rival", "good", "rosetta", "cli", "wasm"] {
        assert!(lab.entries()[name].starts_with("enabled"), "{name}");
    }
    for arch in ["sparc", "ppc", "s390x", "mips", "alpha", "aarch64", "or1k", "loongarch64", "riscv32"] {
        // Another tool's handler, which never runs any more, is not meant.
        lab.done(["verify", &format!("[q]emu-{arch}")]);
    }
}
