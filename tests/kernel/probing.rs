//! Execution of probes: the rights that they have, the directories that serve, and verdicts that do not depend on time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount, umount};
use qus::binfmt::Flags;

use crate::Test;
use crate::lab::{Lab, run};
use crate::programs::{arch, probe};

pub(crate) static TESTS: &[Test] = &[
    Test::new("probes_of_root_run_as_nobody", rights_of_nobody).among_others(),
    Test::new("probes_of_a_namespace_of_one_user_have_no_rights", rights_of_one_user),
    Test::new("a_directory_that_does_not_serve_is_passed_over", directories).among_others(),
    Test::new("no_emulator_is_refused_on_a_busy_machine", busy_machine),
    Test::new("no_emulator_is_refused_on_one_processor", one_processor),
    Test::new("limits_of_this_process_are_no_verdict", limits),
];

/// An interpreter that writes down the rights it runs with. Its handler has no `F`, as it is a script.
const WRITE_RIGHTS: &str = r#"#!/bin/sh
read_status() { while read -r name value; do case $name in "$1:") echo "$value"; return;; esac; done </proc/self/status; }
for name in Uid Gid Groups NoNewPrivs CapInh CapPrm CapEff CapBnd CapAmb; do echo $name $(read_status $name); done >"${0%/*}/rights"
exit 1
"#;
const NO_CAPABILITIES: &str = "NoNewPrivs 1\nCapInh 0000000000000000\nCapPrm 0000000000000000\n\
                               CapEff 0000000000000000\nCapBnd 0000000000000000\nCapAmb 0000000000000000\n";

/// Every command that executes probes executes them with the rights that begin with `ids`, and with no capabilities.
fn rights_are(lab: &Lab, ids: &str) {
    fs::create_dir(lab.path("bin")).unwrap();
    for (directory, mode) in [("", 0o755), ("bin", 0o777)] {
        fs::set_permissions(lab.path(directory), fs::Permissions::from_mode(mode)).unwrap();
    }
    let script = lab.executable("bin/qemu-arm-static", WRITE_RIGHTS.as_bytes());
    lab.handler("qemu-arm", "arm", &script, Flags::empty());
    let program = lab.executable("program", &probe(arch("arm")));
    for words in [
        &["verify", "arm"][..],
        &["list", "--probe"],
        &["doctor"],
        &["which", program.to_str().unwrap()],
        &["register", "s390x", "arm"],
    ] {
        let ran = lab.qus(words.iter().copied());
        let rights =
            fs::read_to_string(lab.path("bin/rights")).unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
        fs::remove_file(lab.path("bin/rights")).unwrap();
        assert!(rights.starts_with(ids) && rights.ends_with(NO_CAPABILITIES), "{words:?}: {rights}");
    }
}

fn rights_of_nobody(lab: &Lab) {
    // Where an ordinary user runs the tests, the namespace has no other user.
    let has_others = fs::read_to_string("/proc/self/uid_map").unwrap().lines().count() > 1;
    let nobody = "Uid 65534 65534 65534 65534\nGid 65534 65534 65534 65534\nGroups\n";
    rights_are(lab, if has_others { nobody } else { "Uid 0 0 0 0\nGid 0 0 0 0\n" });
}

fn rights_of_one_user(lab: &Lab) {
    rights_are(lab, "Uid 0 0 0 0\nGid 0 0 0 0\n");
}

fn tmpfs(point: &str, flags: MsFlags, options: &str) {
    mount(Some("none"), point, Some("tmpfs"), flags, Some(options)).unwrap();
}

/// The first directory is full, is `noexec`, or cannot be entered by nobody.
fn directories(lab: &Lab) {
    let program = |directory: &str| {
        let mut program = lab.program(&[], ["register", "arm", "s390x"]);
        program.env("TMPDIR", directory);
        program
    };
    let works = |directory: &str| {
        let ran = run(&mut program(directory));
        assert_eq!(ran.status, 0, "{directory}: {ran:#?}");
        assert_eq!(ran.stdout.matches("proven").count(), 2, "{directory}: {ran:#?}");
        assert_eq!(
            fs::read_dir(directory)
                .unwrap()
                .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("qus-") })
                .count(),
            0,
            "{directory}"
        );
        lab.done(["verify"]);
        lab.done(["reset"]);
    };
    tmpfs("/dev/shm", MsFlags::empty(), "size=8k");
    fs::write("/dev/shm/full", vec![b' '; 1 << 20]).unwrap_err();
    works("/dev/shm");
    umount("/dev/shm").unwrap();
    tmpfs("/dev/shm", MsFlags::MS_NOEXEC, "mode=1777");
    works("/dev/shm");
    umount("/dev/shm").unwrap();
    let private = lab.path("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    works(private.to_str().unwrap());
    let missing = run(&mut program("/nonexistent"));
    assert_eq!(missing.status, 0, "{missing:#?}");
}

/// Registers ten emulators again and again while every processor is busy.
fn keeps_registering(lab: &Lab, wrapper: &[&str]) {
    let rounds = std::env::var("QUS_REGISTRATIONS").map_or(5, |rounds| rounds.parse().unwrap());
    let arches = "arm,aarch64,riscv64,s390x,ppc64le,mips,mips64el,m68k,sh4,sparc64";
    let processors = thread::available_parallelism().unwrap().get();
    let mut burners: Vec<_> = (0..2 * processors)
        .map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap())
        .collect();
    let refused: Vec<_> = (0..rounds)
        .filter_map(|_| {
            let ran = run(&mut lab.program(wrapper, ["register", arches]));
            let verified = run(&mut lab.program(wrapper, ["verify"]));
            lab.done(["reset"]);
            let good = ran.status == 0 && ran.stdout.matches("proven").count() == 10 && verified.status == 0;
            (!good).then_some((ran, verified))
        })
        .collect();
    for burner in &mut burners {
        burner.kill().unwrap();
        burner.wait().unwrap();
    }
    assert!(refused.is_empty(), "{} of {rounds}: {:#?}", refused.len(), refused[0]);
}

fn busy_machine(lab: &Lab) {
    keeps_registering(lab, &[]);
}

fn one_processor(lab: &Lab) {
    keeps_registering(lab, &["taskset", "-c", "0"]);
}

/// With few descriptors or processes there is an error, or all is well; a handler is never called broken.
fn limits(lab: &Lab) {
    lab.done(["register", "arm", "s390x"]);
    let before = lab.entries();
    for descriptors in 3..20 {
        let limit = format!("--nofile={descriptors}");
        let ran = run(&mut lab.program(&["prlimit", &limit], ["verify"]));
        assert!(ran.status == 0 || ran.status == 2, "{descriptors}: {ran:#?}");
        if ran.status == 2 {
            assert!(ran.stderr.contains("Too many open files"), "{descriptors}: {ran:#?}");
        }
        let ran = run(&mut lab.program(&["prlimit", &limit], ["register", "arm", "s390x"]));
        assert!(ran.status == 0 || ran.status == 2, "{descriptors}: {ran:#?}");
        assert_eq!(lab.entries(), before, "{descriptors}: {ran:#?}");
    }
}
