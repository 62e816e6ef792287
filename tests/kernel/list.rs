//! `qus list`, `qus enable`, `qus disable` and `qus show`.

use std::fs;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use qus::arch::ARCHES;
use qus::binfmt::{Flags, Rule};
use qus::interpreter::provenance::Provenance;

use crate::downloads::interpreter;
use crate::lab::{Lab, busybox, order};
use crate::namespace::INSTANCE;

kernel_test!(list_shows_every_handler_newest_first);
fn list_shows_every_handler_newest_first(lab: &Lab) {
    without_configuration();
    lab.register(b":jar:E::jar::/usr/bin/jexec:").unwrap();
    lab.register(b":WSLInterop:M:2:MZ:\\xff\\xf0:/init:P").unwrap();
    lab.handler("FEX", "aarch64", Path::new("/opt/FEXInterpreter"), Flags::empty());
    lab.command("FEX", "0");
    lab.done(["register", "arm"]);
    // Without the ABI bit, a pattern matches programs of two architectures.
    let sloppy = b":sloppy:M::\\x7fELF\\x01\\x02\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x08:\
        \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\xff\\xfe\\xff\\xff:/usr/bin/qemu-mips:";
    lab.register(sloppy).unwrap();

    let text = lab.qus(["list", "-v"]).stdout;
    let cells = |line: &'_ str| {
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
    };
    let rows: Vec<Vec<String>> = text.lines().map(cells).collect();
    let arm = interpreter("arm");
    // An interpreter that the tests downloaded has a record.
    let record = Provenance::of(&arm);
    let from = record.as_ref().map_or_else(|| "-".to_owned(), Provenance::short);
    let version = record.and_then(|record| record.qemu_version).map(|version| format!(" (QEMU {version})"));
    let shown = format!("{}{}", arm.display(), version.unwrap_or_default());
    let expected = [
        ["ARCH", "STATE", "FLAGS", "INTERPRETER", "FROM", "BY", "NAME"],
        ["mips,mipsn32", "enabled", "-", "/usr/bin/qemu-mips", "-", "unknown", "sloppy"],
        ["arm", "enabled", "POF", &shown, &from, "qus", "qemu-arm"],
        ["aarch64", "disabled", "-", "/opt/FEXInterpreter", "-", "FEX", "FEX"],
        ["-", "enabled", "P", "/init", "-", "WSL", "WSLInterop"],
        ["-", "enabled", "-", "/usr/bin/jexec", "-", "unknown", "jar"],
    ];
    assert_eq!(rows, expected);

    let value = lab.json(["list"]);
    assert_eq!(value["enabled"], true);
    assert_eq!(value["instance"], INSTANCE);
    assert!(value["scope"]["user-namespace"].is_u64());
    let handlers = value["handlers"].as_array().unwrap();
    assert_eq!(handlers.iter().map(|handler| handler["name"].as_str().unwrap()).collect::<Vec<_>>(), order());
    let emulators: Vec<_> = handlers.iter().map(|handler| handler["emulator"].as_bool().unwrap()).collect();
    assert_eq!(emulators, [true, true, false, false, false]);
    assert_eq!(handlers[0]["arches"], serde_json::json!(["mips", "mipsn32"]));
    assert_eq!(handlers[2]["state"], "disabled");
    assert_eq!(handlers[3]["offset"], 2);
    assert_eq!((&handlers[3]["magic"], &handlers[3]["mask"]), (&"4d5a".into(), &"fff0".into()));
    assert_eq!(handlers[4]["extension"], "jar");
}

/// Hides the host's configuration, which does not concern these tests.
fn without_configuration() {
    for directory in ["/etc/binfmt.d", "/usr/lib/binfmt.d"]
        .into_iter()
        .map(Path::new)
        .filter(|directory| directory.is_dir())
    {
        mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
}

kernel_test!(list_of_nothing_is_its_header);
fn list_of_nothing_is_its_header(lab: &Lab) {
    without_configuration();
    assert_eq!(lab.done(["list"]), "ARCH  STATE  FLAGS  INTERPRETER  NAME\n");
    let verbose = lab.qus(["list", "-v"]).stdout;
    assert_eq!(verbose, "ARCH  STATE  FLAGS  INTERPRETER  FROM  BY  NAME\n");
    assert_eq!(lab.json(["list"])["handlers"], serde_json::json!([]));
}

kernel_test!(names_cannot_command_a_terminal);
fn names_cannot_command_a_terminal(lab: &Lab) {
    without_configuration();
    lab.register(b":a\x1b[2J\nb:M::MZ::/bin/\x1b[31m\rtrue:").unwrap();
    lab.register(b":\x1b]0;title\x07:E::\x1bx::/bin/true:").unwrap();
    let arm = interpreter("arm");
    lab.handler("\x1b[2Jarm", "arm", &lab.link("\x1b[31m\n/qemu-arm-static", &arm), Flags::FIX_BINARY);
    lab.copy("\x1b[33m/qemu-s390x-static", &arm);
    lab.shell("chmod 777 */qemu-s390x-static");
    for words in [
        &["register", "--credentials", "--interpreter-dir", "\x1b[33m", "s390x"][..],
        &["register", "--interpreter", "\x1b[33m/none", "s390x"],
        &["register", "--from", "\x1b[33m.deb", "s390x"],
        &["list", "--instance", "\x1b[33m"],
        &["list"],
        &["list", "--probe"],
        &["list", "--json"],
        &["register", "arm"],
        &["register", "--credentials", "arm"],
        &["verify"],
        &["disable", "arm"],
        &["enable", "arm", "--json"],
        &["reset", "--dry-run"],
        &["reset", "--dry-run", "--json"],
    ] {
        let ran = lab.qus(words.iter().copied());
        let printed = format!("{}{}", ran.stdout, ran.stderr);
        let commands = printed.chars().any(|character| character.is_control() && character != '\n');
        assert!(!printed.is_empty() && !commands, "{words:?}: {ran:#?}");
        if words == ["list"] {
            assert_eq!(ran.stdout.lines().count(), 4, "{ran:#?}");
            assert!(
                printed.contains(r"/bin/\u{1b}[31m\rtrue") && printed.contains(r"a\u{1b}[2J\nb"),
                "{ran:#?}"
            );
        }
    }
    // JSON has the exact names, in every command.
    let name = "\x1b[2Jarm";
    assert_eq!(lab.json(["list"])["handlers"][0]["name"], name);
    assert_eq!(lab.json(["register", "arm"])["items"][0]["handlers"][0], name);
    assert_eq!(lab.json(["verify"])["items"][0]["name"], name);
    assert_eq!(lab.json(["enable", "arm"])["items"][0]["name"], name);
    let value = lab.json(["reset"]);
    assert_eq!(value["items"][0]["name"], name);
    assert_eq!(value["skipped"], serde_json::json!(order()));
}

kernel_test!(a_disabled_instance_is_reported);
fn a_disabled_instance_is_reported(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.command("status", "0");
    let message = "the whole instance is disabled: no handler is active";
    let command = format!("echo 1 | tee {INSTANCE}/status");
    let ran = lab.qus(["list"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stderr.contains(message), "{ran:#?}");
    ran.suggests(&command);
    assert_eq!(lab.json(["list"])["enabled"], false);
    for words in [&["register", "arm"][..], &["register", "s390x"], &["register", "--no-verify", "s390x"]] {
        lab.refused(words.iter().copied(), 2, message).suggests(&command);
    }
    let ran = lab.qus(["verify"]);
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert!(ran.stdout.contains("the whole instance is disabled"), "{ran:#?}");
    // A handler that the kernel ignores is not enabled, whatever its own state is.
    lab.refused(["enable", "arm"], 2, message).suggests(&command);
    assert_eq!(lab.qus(["disable", "arm"]).status, 0);
    let ran = lab.qus(["enable", "arm"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, "arm  enabled  qemu-arm\n"), "{ran:#?}");
    lab.command("status", "1");
    lab.done(["verify"]);
}

kernel_test!(list_probes_what_it_shows);
fn list_probes_what_it_shows(lab: &Lab) {
    without_configuration();
    lab.done(["register", "arm"]);
    lab.register(b":jar:E::jar::/usr/bin/jexec:").unwrap();
    assert!(lab.done(["list", "--probe"]).contains(" qemu-arm  working"));
    lab.handler("gone", "s390x", Path::new("/gone/qemu-s390x"), Flags::empty());
    let ran = lab.qus(["list", "--probe"]);
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert!(ran.stdout.contains("  gone      broken: its interpreter cannot be started: "), "{ran:#?}");
    let value = lab.json(["list", "--probe"]);
    let states: Vec<_> =
        value["handlers"].as_array().unwrap().iter().map(|handler| &handler["probe"]["state"]).collect();
    assert_eq!(states, [&"broken".into(), &serde_json::Value::Null, &"working".into()]);
}

kernel_test!(enable_and_disable_switch);
fn enable_and_disable_switch(lab: &Lab) {
    lab.register(b":jar:E::jar::/usr/bin/jexec:").unwrap();
    lab.done(["register", "arm", "s390x", "microblaze"]);
    let before = (lab.entries(), order());
    assert_eq!(lab.done(["disable", "arm"]), "arm  disabled  qemu-arm\n");
    assert!(busybox("arm", "true").is_err());
    assert!(busybox("s390x", "true").is_ok());
    assert_eq!(lab.done(["disable", "armhf"]), "arm  unchanged  qemu-arm\n");
    assert_eq!(lab.done(["enable", "linux/arm/v7"]), "arm  enabled  qemu-arm\n");
    assert_eq!(lab.done(["enable", "arm"]), "arm  unchanged  qemu-arm\n");
    assert!(busybox("arm", "true").is_ok());
    // It disables both handlers of microblaze, and never the foreign one.
    assert_eq!(lab.done(["disable", "all"]).matches(" disabled ").count(), 4);
    assert!(lab.entries()["jar"].starts_with("enabled\n"));
    let value = lab.json(["enable", "all"]);
    assert_eq!(value["items"].as_array().unwrap().len(), 4);
    assert_eq!(value["items"][0]["outcome"], "enabled");
    assert_eq!((lab.entries(), order()), before);
}

kernel_test!(enable_without_a_handler_fails);
fn enable_without_a_handler_fails(lab: &Lab) {
    for command in ["enable", "disable"] {
        let ran = lab.refused([command, "s390x"], 2, "no handler is registered for s390x");
        assert!(ran.stdout.contains("s390x  missing  no handler is registered for s390x"), "{ran:#?}");
        match command {
            "enable" => ran.suggests("qus register s390x"),
            _ => assert!(!ran.messages().contains("try: "), "{ran:#?}"),
        }
        let ran = lab.qus([command, "all"]);
        assert_eq!(
            (ran.status, ran.stderr.as_str()),
            (0, "qus: no handler of a QEMU emulator is registered\n")
        );
    }
    // The host runs its own programs, whether a handler exists or not.
    let own = std::env::consts::ARCH;
    assert_eq!(lab.done(["enable", own]), format!("{own}  native\n"));
    lab.refused(["disable", own], 2, &format!("no handler is registered for {own}"));
    // Existing handlers are disabled nevertheless.
    lab.done(["register", "arm"]);
    let ran = lab.qus(["disable", "s390x", "arm"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(lab.entries()["qemu-arm"].starts_with("disabled\n"));
}

kernel_test!(show_is_a_table_of_all_architectures);
fn show_is_a_table_of_all_architectures(lab: &Lab) {
    let text = lab.done(["show"]);
    let rows: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let names: Vec<&str> = ARCHES.iter().map(|arch| arch.name).collect();
    let presets = ["ape", "jar", "wasm32-wasi"];
    assert_eq!(rows, [&["ARCH"], names.as_slice(), &["PRESET"], &presets].concat());
    let value = lab.json(["show"]);
    let shown: Vec<_> = value["arches"].as_array().unwrap().iter().map(|arch| &arch["name"]).collect();
    assert_eq!(shown, names);
    // The command needs no instance.
    assert_eq!(lab.done(["show", "--instance", "/nowhere"]), text);
}

kernel_test!(show_explains_every_architecture);
fn show_explains_every_architecture(lab: &Lab) {
    for arch in ARCHES {
        let text = lab.done(["show", arch.name]);
        assert!(text.starts_with(&format!("{}: {}\n", arch.name, arch.description)), "{text}");
        let value = lab.json(["show", arch.name]);
        assert_eq!(value["name"], arch.name);
        let handlers = value["handlers"].as_array().unwrap();
        assert_eq!(handlers.len(), arch.identity.machines.len());
        for (handler, name) in handlers.iter().zip(arch.handler_names()) {
            assert_eq!(handler["name"], name);
            let line = handler["line"].as_str().unwrap();
            assert!(text.contains(&format!("\nhandler {name}\n")) && text.contains(line), "{text}");
            // The kernel accepts the line, with an existing interpreter instead of the path. The instance is disabled,
            // because one of the lines matches this host's own programs.
            lab.command("status", "0");
            let path = format!("/usr/bin/qemu-{}-static", arch.name);
            assert!(line.ends_with(&format!(":{path}:POF")), "{line}");
            let there = line.replace(&path, interpreter("arm").to_str().unwrap());
            assert!(Rule::parse(there.as_bytes()).is_ok(), "{there}");
            lab.register(there.as_bytes()).unwrap();
            let entry = fs::read_to_string(Path::new(INSTANCE).join(&name)).unwrap();
            for field in ["magic", "mask"] {
                let shown = format!("\n{field} {}\n", handler[field].as_str().unwrap());
                assert!(entry.contains(&shown), "no {shown:?} in {entry}");
            }
            lab.command(&name, "-1");
            lab.command("status", "1");
        }
    }
}

kernel_test!(show_prints_the_line_that_register_writes);
fn show_prints_the_line_that_register_writes(lab: &Lab) {
    let shown = lab.done(["show", "arm"]);
    let line = shown.lines().last().unwrap().trim();
    lab.done(["register", "--no-verify", "arm"]);
    let flags = line.rsplit_once(':').unwrap().1;
    assert!(lab.entries()["qemu-arm"].contains(&format!("\nflags: {flags}\n")), "{line}");
}
