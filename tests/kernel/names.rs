//! Commands that select handlers by their names: `enable`, `disable`, `reset`, `verify` and `list`.

use std::path::Path;

use qus::binfmt::Flags;
use serde_json::{Value, json};

use crate::downloads::interpreter;
use crate::lab::{Lab, OURS, order};

/// Registers handlers of several tools.
fn several(lab: &Lab) {
    lab.register(b":jar:E::jarx::/bin/sh:").unwrap();
    lab.register(b":python3.11:M::\\xa7\\x0d\\x0d\\x0a::/bin/sh:").unwrap();
    lab.register(b":python3.12:M::\\xcb\\x0d\\x0d\\x0a::/bin/sh:").unwrap();
    lab.register(b":wine:M::MZ::/nowhere/wine:").unwrap();
    lab.handler("box", "s390x", Path::new("/bin/sh"), Flags::empty());
    lab.handler("qemu-arm", "arm", &interpreter("arm"), OURS);
}

fn names(value: &Value, key: &str) -> Vec<String> {
    value[key].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

kernel_test!(reset_removes_a_handler_by_its_name);
fn reset_removes_a_handler_by_its_name(lab: &Lab) {
    several(lab);
    let printed = lab.done(["reset", "jar"]);
    assert_eq!(printed, "-  removed  jar  /bin/sh\n");
    assert_eq!(order(), ["qemu-arm", "box", "wine", "python3.12", "python3.11"]);
    lab.done(["reset", "python*,wine"]);
    assert_eq!(order(), ["qemu-arm", "box"]);
    // An architecture selects QEMU's handlers only.
    lab.done_with(["reset", "s390x"], crate::lab::NO_HANDLER);
    lab.done(["reset", "box", "arm"]);
    assert!(order().is_empty());
}

kernel_test!(a_word_that_selects_nothing_changes_nothing);
fn a_word_that_selects_nothing_changes_nothing(lab: &Lab) {
    several(lab);
    for command in ["reset", "enable", "disable", "verify", "list"] {
        let message = r#"no handler or architecture is called "arm65"; did you mean "arm64"?"#;
        lab.refused([command, "jar", "arm65"], 2, message).suggests("qus list");
        lab.refused([command, "jar", "x*"], 2, "no handler has a name like x*").suggests("qus list");
        lab.refused([command, "status"], 2, "status");
        lab.refused([command, "a["], 2, "syntax error in pattern");
    }
}

kernel_test!(an_architecture_comes_before_a_handler_of_its_name);
fn an_architecture_comes_before_a_handler_of_its_name(lab: &Lab) {
    lab.register(b":arm:E::arm::/bin/sh:").unwrap();
    lab.handler("qemu-arm", "arm", &interpreter("arm"), OURS);
    lab.done(["disable", "arm"]);
    let disabled = |lab: &Lab, name: &str| lab.entries()[name].starts_with("disabled");
    assert!(disabled(lab, "qemu-arm") && !disabled(lab, "arm"));
    // A pattern is no architecture.
    lab.done(["disable", "[a]rm"]);
    assert!(disabled(lab, "arm"));
    lab.done(["reset", "arm"]);
    assert_eq!(order(), ["arm"]);
    // The architecture has no handler any more.
    lab.done(["enable", "arm"]);
    assert!(!disabled(lab, "arm"));
    lab.done(["reset", "arm"]);
    assert!(order().is_empty());
}

kernel_test!(handlers_of_other_tools_are_toggled_by_name);
fn handlers_of_other_tools_are_toggled_by_name(lab: &Lab) {
    several(lab);
    assert_eq!(
        lab.done(["disable", "jar", "python*"]),
        "-  disabled  python3.12\n-  disabled  python3.11\n-  disabled  jar\n"
    );
    assert_eq!(lab.done(["enable", "jar", "wine"]), "-  unchanged  wine\n-  enabled    jar\n");
    assert!(
        lab.entries()["python3.11"].starts_with("disabled") && lab.entries()["jar"].starts_with("enabled")
    );
    // Only another tool's handler takes the programs of the architecture.
    let message = "no handler of a QEMU emulator is registered for s390x";
    let ran = lab.refused(["disable", "s390x"], 2, message);
    ran.suggests("qus disable box");
    lab.type_command("qus disable box");
    assert!(lab.entries()["box"].starts_with("disabled"));
}

kernel_test!(verify_executes_the_file_of_a_preset);
fn verify_executes_the_file_of_a_preset(lab: &Lab) {
    let script =
        |name: &str, status: u8| lab.executable(name, format!("#!/bin/sh\nexit {status}\n").as_bytes());
    let line = |name: &str, takes: &str, path: &Path| {
        lab.register(format!(":{name}:{takes}:{}:", path.display()).as_bytes()).unwrap();
    };
    line("java", "E::jar:", &script("works", 42));
    let (status, value) = lab.answer(["verify", "java"]);
    assert_eq!((status, &value["items"][0]["state"]), (0, &"working".into()), "{value:#}");
    lab.done(["reset", "java"]);
    line("java", "E::jar:", &script("fails", 7));
    let (status, value) = lab.answer(["verify", "java"]);
    let reason = "a test file of this kind ended with status 7";
    assert_eq!((status, &value["items"][0]["reason"]), (1, &reason.into()));
    // This handler matches the file of the preset ape, but it is for other files.
    let wine = script("wine", 42);
    line("wine", "M::MZ:", &wine);
    let (status, value) = lab.answer(["verify", "wine"]);
    assert_eq!((status, &value["items"][0]["state"]), (2, &"unverified".into()));
    // Nor is a handler executed whose interpreter other users can change.
    lab.done(["reset", "java"]);
    let open = script("open", 42);
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    line("java", "E::jar:", &open);
    let (status, value) = lab.answer(["verify", "java"]);
    assert_eq!((status, &value["items"][0]["state"]), (2, &"unverified".into()));
}

kernel_test!(verify_reports_that_it_has_no_probe);
fn verify_reports_that_it_has_no_probe(lab: &Lab) {
    several(lab);
    let (status, value) = lab.answer(["verify", "jar"]);
    let item = &value["items"][0];
    assert_eq!((status, &item["state"], &item["arch"]), (2, &"unverified".into(), &Value::Null));
    assert_eq!(item["reason"], "qus has no test program for its files");
    // Faults that show without a probe.
    let (status, value) = lab.answer(["verify", "wine"]);
    assert_eq!((status, &value["items"][0]["reason"]), (1, &"its interpreter does not exist".into()));
    lab.register(b":newer:E::jarx::/bin/sh:").unwrap();
    let (status, value) = lab.answer(["verify", "jar"]);
    let reason = "another handler comes first and matches its programs: newer";
    assert_eq!((status, &value["items"][0]["reason"]), (1, &reason.into()));
    lab.done(["disable", "jar"]);
    let (status, value) = lab.answer(["verify", "jar"]);
    assert_eq!((status, &value["items"][0]["reason"]), (1, &"it is disabled".into()));
    // A handler with a probe is verified by its name, and the default has no other handlers.
    lab.done(["verify", "qemu-ar[m]"]);
    assert_eq!(names(&lab.json(["verify"]), "items"), ["qemu-arm", "box"]);
}

kernel_test!(list_is_filtered);
fn list_is_filtered(lab: &Lab) {
    several(lab);
    assert_eq!(names(&lab.json(["list", "s390x", "j*"]), "handlers"), ["box", "jar"]);
    assert_eq!(names(&lab.json(["list", "qemu-arm"]), "handlers"), ["qemu-arm"]);
    assert_eq!(lab.json(["list", "riscv64"])["handlers"], json!([]));
    assert_eq!(lab.done(["list", "wine"]).lines().count(), 2);
}

kernel_test!(which_compares_named_handlers);
fn which_compares_named_handlers(lab: &Lab) {
    several(lab);
    let compared = |words: &[&str]| {
        let ran = lab.qus(["which", "--no-verify", "/bin/sh"].into_iter().chain(words.iter().copied()));
        let is_compared = |name: &&str| {
            ran.stdout.lines().any(|line| {
                line.split(|letter: char| !letter.is_alphanumeric() && letter != '.' && letter != '-')
                    .any(|word| word == *name)
            })
        };
        ["jar", "wine", "python3.11", "qemu-arm"].into_iter().filter(is_compared).collect::<Vec<_>>()
    };
    assert!(compared(&[]).is_empty());
    assert_eq!(compared(&["--handler", "wine,python*"]), ["wine", "python3.11"]);
    assert_eq!(compared(&["--handler", "arm"]), ["qemu-arm"]);
    assert_eq!(compared(&["-v"]).len(), 4);
    lab.refused(
        ["which", "--handler", "nothing", "/bin/sh"],
        2,
        "no handler or architecture is called \"nothing\"",
    );
}
