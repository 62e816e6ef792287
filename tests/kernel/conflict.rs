//! `qus register` with an existing handler: it leaves it in place, fixes it, or asks before it replaces it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use qus::binfmt::Flags;

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, NO_HANDLER, OURS, busybox, order};

kernel_test!(a_second_run_changes_nothing);
fn a_second_run_changes_nothing(lab: &Lab) {
    let words = ["register", "arm", "aarch64", "microblaze", "riscv64"];
    lab.done(words);
    let (entries, names) = (lab.entries(), order());
    let second = lab.qus(words);
    assert_eq!(second.status, 0, "{second:#?}");
    assert_eq!(second.stdout.matches(" unchanged ").count(), 4, "{second:#?}");
    assert_eq!(second.messages(), "");
    assert_eq!((lab.entries(), order()), (entries, names));
    let item = &lab.json(["register", "arm"])["items"][0];
    assert_eq!(item["outcome"], "unchanged");
    assert_eq!(item["verified"], true);
    assert_eq!(item["handlers"], serde_json::json!(["qemu-arm"]));
}

kernel_test!(another_working_emulator_is_left_in_place);
fn another_working_emulator_is_left_in_place(lab: &Lab) {
    let file = lab.link("libexec/arm-binfmt-P", &interpreter("arm"));
    lab.handler("theirs", "arm", &file, OURS);
    let entries = lab.entries();
    let printed = lab.done(["register", "arm"]);
    assert!(printed.starts_with("arm  existing  POF  "), "{printed}");
    assert!(printed.contains(&format!("{} (QEMU ", file.display())), "{printed}");
    assert_eq!(lab.entries(), entries);
    let item = &lab.json(["register", "arm"])["items"][0];
    assert_eq!(item["outcome"], "existing");
    assert_eq!(item["handlers"], serde_json::json!(["theirs"]));
}

/// Expects that a broken handler for arm is replaced, and that `reason` is printed.
fn replaced(lab: &Lab, reason: &str) {
    let printed = lab.done(["register", "arm"]);
    assert!(printed.starts_with("arm  replaced  POF  "), "{printed}");
    assert!(printed.contains(reason), "no {reason:?} in {printed}");
    assert_eq!(order(), ["qemu-arm"], "{printed}");
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    assert!(lab.done(["register", "arm"]).contains(" unchanged "));
    lab.done(["reset"]);
}

kernel_test!(an_emulator_that_no_container_gets_is_replaced);
fn an_emulator_that_no_container_gets_is_replaced(lab: &Lab) {
    let reason = "failed: it works on this host, but not in an empty root directory";
    for name in ["theirs", "qemu-arm"] {
        lab.handler(name, "arm", &interpreter("arm"), OURS - Flags::FIX_BINARY);
        replaced(lab, &format!("{name} {reason}"));
    }
    lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::empty());
    let printed = lab.done(["register", "--no-verify", "arm"]);
    assert!(
        printed.contains("qemu-arm failed: it has no F flag, and would fail in every container"),
        "{printed}"
    );
}

kernel_test!(an_emulator_that_is_gone_is_replaced);
fn an_emulator_that_is_gone_is_replaced(lab: &Lab) {
    lab.handler("qemu-arm", "arm", Path::new("/gone/qemu-arm-static"), Flags::empty());
    replaced(lab, "qemu-arm failed: its interpreter cannot be started: ");
}

kernel_test!(a_disabled_handler_is_registered_anew);
fn a_disabled_handler_is_registered_anew(lab: &Lab) {
    for name in ["qemu-arm", "theirs"] {
        lab.handler(name, "arm", &interpreter("arm"), OURS);
        lab.command(name, "0");
        replaced(lab, &format!("{name} was disabled"));
    }
}

/// Registers qemu-arm with a pattern of `mask`, as older scripts wrote it.
fn with_mask(lab: &Lab, mask: &[u8]) {
    let mut line = b":qemu-arm:M::\\x7fELF\\x01\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\x28\\x00:".to_vec();
    line.extend(mask);
    line.extend(format!(":{}:POF", interpreter("arm").display()).bytes());
    lab.register(&line).unwrap();
}

kernel_test!(an_old_pattern_that_works_is_left_in_place);
fn an_old_pattern_that_works_is_left_in_place(lab: &Lab) {
    // Debian's mask, which accepts every EI_OSABI.
    with_mask(
        lab,
        b"\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff",
    );
    let entries = lab.entries();
    let printed = lab.done(["register", "arm"]);
    assert!(printed.starts_with("arm  existing  POF  "), "{printed}");
    assert_eq!(lab.entries(), entries);
}

kernel_test!(a_pattern_that_takes_too_little_is_replaced);
fn a_pattern_that_takes_too_little_is_replaced(lab: &Lab) {
    // This mask accepts EI_OSABI 0 only. Programs with indirect functions have 3.
    with_mask(
        lab,
        b"\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff",
    );
    replaced(lab, "qemu-arm failed: it does not match all programs that today's toolchains write");
}

kernel_test!(what_an_interrupted_run_left_is_cleared_away);
fn what_an_interrupted_run_left_is_cleared_away(lab: &Lab) {
    lab.handler("qemu-arm", "arm", &interpreter("arm"), OURS);
    lab.handler("qemu-arm.qus-99", "arm", &interpreter("arm"), OURS);
    replaced(lab, "in place of qemu-arm.qus-99");
}

/// Registers a working handler that represents another emulator, because it is not named like QEMU's.
fn fex(lab: &Lab) -> std::path::PathBuf {
    let file = lab.copy("opt/FEXInterpreter", &interpreter("arm"));
    lab.handler("FEX-arm", "arm", &file, Flags::PRESERVE_ARGV0 | Flags::FIX_BINARY);
    file
}

kernel_test!(another_tools_handler_is_in_the_way);
fn another_tools_handler_is_in_the_way(lab: &Lab) {
    let file = fex(lab);
    let ours = interpreter("arm");
    let message = format!(
        "FEX-arm ({}, flags PF) already handles these programs, not {}",
        file.display(),
        ours.display()
    );
    let ran = lab.refused(["register", "arm"], 2, &message);
    assert!(ran.stderr.contains("qus: arm was not registered\n"), "{ran:#?}");
    ran.suggests("qus register --replace arm");
    assert!(lab.done_with(["reset"], NO_HANDLER).is_empty());
    // With a second problem, each problem has its own hint.
    lab.link("own/qemu-arm-static", &ours);
    let ran = lab.qus(["register", "--interpreter-dir", "own", "arm", "mips"]);
    let commands =
        "  try: qus register --replace --interpreter-dir own arm\n  try: qus register --fetch mips\n";
    assert!(ran.stderr.ends_with(commands), "{ran:#?}");

    let printed = lab.done(["register", "--replace", "arm"]);
    assert!(
        printed.contains(" registered ") && printed.contains("; the kernel now tries FEX-arm after it"),
        "{printed}"
    );
    assert_eq!(order(), ["qemu-arm", "FEX-arm"]);
    assert!(lab.done(["register", "arm"]).contains(" unchanged "));
    lab.done(["reset"]);
    assert_eq!(order(), ["FEX-arm"]);
}

kernel_test!(another_tools_handler_in_front_is_in_the_way);
fn another_tools_handler_in_front_is_in_the_way(lab: &Lab) {
    lab.done(["register", "arm"]);
    fex(lab);
    lab.refused(["register", "arm"], 2, "FEX-arm (").suggests("qus register --replace arm");
    let printed = lab.done(["register", "--replace", "arm"]);
    assert!(printed.contains("the kernel now tries FEX-arm after it"), "{printed}");
    assert_eq!(order(), ["qemu-arm", "FEX-arm"]);
}

kernel_test!(a_name_that_is_taken_is_in_the_way);
fn a_name_that_is_taken_is_in_the_way(lab: &Lab) {
    lab.register(b":qemu-arm:M::MZ::/bin/true:").unwrap();
    let message = "the name is taken by another handler, qemu-arm (/bin/true, flags none)";
    let ran = lab.refused(["register", "arm"], 2, message);
    assert!(!ran.stdout.contains("already handles these programs"), "{ran:#?}");
    ran.suggests("qus register --replace arm");
    let printed = lab.done(["register", "--replace", "arm"]);
    assert!(printed.contains(" replaced ") && printed.contains("; in place of qemu-arm\n"), "{printed}");
    assert!(lab.entries()["qemu-arm"].contains("/qemu-arm-static\n"));
}

kernel_test!(another_interpreter_than_the_named_one_is_in_the_way);
fn another_interpreter_than_the_named_one_is_in_the_way(lab: &Lab) {
    lab.done(["register", "arm"]);
    let newer = downloads::newer();
    let newer = newer.to_str().unwrap();
    let there = format!("qemu-arm ({}, flags POF)", interpreter("arm").display());
    let message = format!("{there} already handles these programs, not {newer}/qemu-arm-static");
    let ran = lab.refused(["register", "--interpreter-dir", newer, "arm"], 2, &message);
    let command = format!("qus register --replace --interpreter-dir {newer} arm");
    ran.suggests(&command);
    let single = format!("{newer}/qemu-arm-static");
    let ran = lab.refused(["register", "--interpreter", &single, "arm"], 2, &message);
    ran.suggests(&format!("qus register --replace --interpreter {single} arm"));

    lab.shell(&command);
    assert_eq!(order(), ["qemu-arm"]);
    assert!(lab.entries()["qemu-arm"].contains(&format!("interpreter {single}\n")));
    // Without an explicit request, the existing handler is sufficient.
    assert!(lab.done(["register", "arm"]).contains(" existing "));
}

kernel_test!(credentials_are_asked_for_by_flag);
fn credentials_are_asked_for_by_flag(lab: &Lab) {
    let place = lab.copy("own/qemu-arm-static", &interpreter("arm"));
    let words = ["register", "--credentials", "--interpreter-dir", "own", "arm"];
    let printed = lab.done(words);
    assert!(printed.starts_with("arm  registered  POCF  "), "{printed}");
    assert!(lab.entries()["qemu-arm"].contains("flags: POCF\n"));
    assert!(lab.done(words).contains(" unchanged "));

    lab.done(["reset"]);
    lab.done(["register", "--interpreter-dir", "own", "arm"]);
    let there = format!("qemu-arm ({}, flags POF) already handles these programs", place.display());
    let ran = lab.refused(words, 2, &there);
    let command = "qus register --replace --credentials --interpreter-dir own arm";
    ran.suggests(command);
    lab.shell(command);
    assert!(lab.entries()["qemu-arm"].contains("flags: POCF\n"));
}

kernel_test!(credentials_need_an_interpreter_of_root_alone);
fn credentials_need_an_interpreter_of_root_alone(lab: &Lab) {
    let file = lab.copy("own/qemu-arm-static", &interpreter("arm"));
    for mode in [0o775, 0o757] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let path = file.display();
        let message =
            format!("with --credentials {path} runs as root, but users other than root may write to it");
        let words = ["register", "--credentials", "--interpreter-dir", "own", "arm"];
        let ran = lab.refused(words, 2, &message);
        ran.suggests(&format!("chown root:root {path} && chmod 755 {path}"));
    }
    // Without that flag the owner does not matter.
    lab.done(["register", "--interpreter-dir", "own", "arm"]);
}

kernel_test!(a_handler_of_special_files_stays);
/// A handler for one OS ABI, as a unikernel has it: it matches files of every architecture, and no ordinary one.
fn a_handler_of_special_files_stays(lab: &Lab) {
    let special = br":special:M:7:\xfe::/bin/true:";
    lab.register(special).unwrap();
    let ran = lab.qus(["register", "arm", "s390x"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    for arch in ["arm", "s390x"] {
        let line = ran.stdout.lines().find(|line| line.starts_with(arch)).unwrap();
        assert!(line.contains(" registered "), "{ran:#?}");
    }
    assert_eq!(ran.stdout.matches("it now also takes files that special matches").count(), 2, "{ran:#?}");
    let entries = lab.entries();
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    // In the other order the rule of the other tool is in front, and nothing is to be done.
    lab.command("special", "-1");
    lab.register(special).unwrap();
    assert_eq!(lab.done(["register", "arm", "s390x"]).matches(" unchanged ").count(), 2);
    assert_eq!(lab.entries(), entries);
}

kernel_test!(a_conflict_names_the_difference);
/// Tests requests that differ from the registered handler in the flags or the pattern only.
fn a_conflict_names_the_difference(lab: &Lab) {
    let own = lab.copy("own/qemu-arm-static", &interpreter("arm"));
    let path = own.to_str().unwrap();
    let there = format!("qemu-arm ({path}, flags POF) already handles these programs");
    lab.done(["register", "--interpreter", path, "arm"]);
    let before = lab.entries();
    let message = format!("{there}, not with the flags POCF");
    let command = format!("qus register --replace --credentials --interpreter {path} arm");
    lab.refused(["register", "--credentials", "--interpreter", path, "arm"], 2, &message).suggests(&command);
    assert_eq!(lab.entries(), before);
    lab.shell(&command);
    assert!(lab.entries()["qemu-arm"].contains("flags: POCF\n"));

    lab.done(["reset"]);
    let header = r"\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00";
    let mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff";
    lab.register(format!(":qemu-arm:M::{header}:{mask}:{path}:POF").as_bytes()).unwrap();
    let before = lab.entries();
    assert!(lab.done(["register", "arm"]).contains(" existing "));
    let message = format!("{there}; its magic or mask differs from that of `qus show arm`");
    let command = format!("qus register --replace --interpreter {path} arm");
    lab.refused(["register", "--interpreter", path, "arm"], 2, &message).suggests(&command);
    assert_eq!(lab.entries(), before);
    lab.shell(&command);
    assert!(lab.done(["register", "--interpreter", path, "arm"]).contains(" unchanged "));
}

kernel_test!(lost_flags_are_named);
fn lost_flags_are_named(lab: &Lab) {
    lab.copy("own/qemu-arm-static", &interpreter("arm"));
    let register = |options: &[&'static str]| {
        let words = ["register", "--interpreter-dir", "own", "--replace"];
        words.into_iter().chain(options.iter().copied()).chain(["arm"]).collect::<Vec<_>>()
    };
    lab.done(register(&["--credentials"]));
    let lost = "; in place of qemu-arm; without its flag C (--credentials sets C)\n";
    let planned = lab.done(register(&["--dry-run"]));
    assert!(planned.contains(" would replace ") && planned.ends_with(lost), "{planned}");
    assert!(lab.entries()["qemu-arm"].contains("flags: POCF\n"));
    let printed = lab.done(register(&[]));
    assert!(printed.contains(" replaced ") && printed.ends_with(lost), "{printed}");
    assert!(lab.entries()["qemu-arm"].contains("flags: POF\n"));
    let printed = lab.done(register(&["--credentials"]));
    assert!(printed.ends_with("; in place of qemu-arm\n"), "{printed}");
    // The flags of a rule are not those of an emulator, and several may be lost.
    lab.done(["reset"]);
    lab.register(b":x:M::abcd::/bin/true:POF").unwrap();
    let words = ["register", "--replace", "--rule", ":x:M::abcd::/bin/true:"];
    let printed = lab.done(words);
    assert!(printed.contains("; without its flags F, O, P; "), "{printed}");
}
