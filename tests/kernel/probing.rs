//! Execution of probes: their rights, suitable directories, and verdicts that do not depend on time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::mount::{MsFlags, mount, umount};
use qus::binfmt::Flags;
use qus::probe::same_family;

use crate::downloads;
use crate::lab::{Lab, Ran, fewest_descriptors, run};
use crate::programs::{arch, host, probe};

/// An interpreter that records the rights it runs with. Its handler has no `F`, because it is a script.
const WRITE_RIGHTS: &str = r#"#!/bin/sh
read_status() { while read -r name value; do case $name in "$1:") echo "$value"; return;; esac; done </proc/self/status; }
for name in Uid Gid Groups NoNewPrivs CapInh CapPrm CapEff CapBnd CapAmb; do echo $name $(read_status $name); done >"${0%/*}/rights"
exit 1
"#;
const NO_CAPABILITIES: &str = "NoNewPrivs 1\nCapInh 0000000000000000\nCapPrm 0000000000000000\n\
                               CapEff 0000000000000000\nCapBnd 0000000000000000\nCapAmb 0000000000000000\n";

/// Expects that every command executes probes with rights that begin with `ids`, and without capabilities.
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

kernel_test!(probes_of_root_run_as_nobody, among_others);
fn probes_of_root_run_as_nobody(lab: &Lab) {
    // If an ordinary user runs the tests, the namespace has no other user.
    let has_others = fs::read_to_string("/proc/self/uid_map").unwrap().lines().count() > 1;
    let nobody = "Uid 65534 65534 65534 65534\nGid 65534 65534 65534 65534\nGroups\n";
    rights_are(lab, if has_others { nobody } else { "Uid 0 0 0 0\nGid 0 0 0 0\n" });
}

kernel_test!(probes_of_a_namespace_of_one_user_have_no_rights);
fn probes_of_a_namespace_of_one_user_have_no_rights(lab: &Lab) {
    rights_are(lab, "Uid 0 0 0 0\nGid 0 0 0 0\n");
}

fn tmpfs(point: &str, flags: MsFlags, options: &str) {
    mount(Some("none"), point, Some("tmpfs"), flags, Some(options)).unwrap();
}

kernel_test!(a_directory_that_does_not_serve_is_passed_over, among_others);
/// Tests a first directory that is full, is `noexec`, or cannot be entered by user nobody (65534).
fn a_directory_that_does_not_serve_is_passed_over(lab: &Lab) {
    let program = |directory: &str| {
        let mut program = lab.program(&[], ["register", "arm", "s390x"]);
        program.env("TMPDIR", directory);
        program
    };
    let works = |directory: &str| {
        let ran = run(&mut program(directory));
        assert_eq!(ran.status, 0, "{directory}: {ran:#?}");
        let works = ran.stderr.contains("qus: 2 architectures work in ");
        assert!(works && !ran.stdout.contains("verified"), "{directory}: {ran:#?}");
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

/// Registers ten emulators repeatedly while every processor is busy.
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
            let works =
                ran.stderr.contains("qus: 10 architectures work in ") && !ran.stdout.contains("verified");
            let good = ran.status == 0 && works && verified.status == 0;
            (!good).then_some((ran, verified))
        })
        .collect();
    for burner in &mut burners {
        burner.kill().unwrap();
        burner.wait().unwrap();
    }
    assert!(refused.is_empty(), "{} of {rounds}: {:#?}", refused.len(), refused[0]);
}

kernel_test!(no_emulator_is_refused_on_a_busy_machine);
fn no_emulator_is_refused_on_a_busy_machine(lab: &Lab) {
    keeps_registering(lab, &[]);
}

kernel_test!(no_emulator_is_refused_on_one_processor);
fn no_emulator_is_refused_on_one_processor(lab: &Lab) {
    keeps_registering(lab, &["taskset", "-c", "0"]);
}

kernel_test!(limits_of_this_process_are_no_verdict);
/// Tests limits on descriptors and processes. qus reports an error or succeeds, but never reports a broken handler.
fn limits_of_this_process_are_no_verdict(lab: &Lab) {
    lab.done(["register", "arm", "s390x"]);
    let before = lab.entries();
    for descriptors in fewest_descriptors()..20 {
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

/// Returns an architecture that this host may run besides its own, with an interpreter for it.
fn companion(lab: &Lab) -> Option<&'static str> {
    let companion = same_family(host()).next()?.name;
    lab.copy(&format!("own/qemu-{companion}-static"), &downloads::interpreter("arm"));
    Some(companion)
}

kernel_test!(a_native_architecture_is_never_taken_for_a_foreign_one);
/// Tests that qus registers nothing for an architecture if it cannot determine whether the host runs it natively. No
/// hint suggests `--force-native`.
fn a_native_architecture_is_never_taken_for_a_foreign_one(lab: &Lab) {
    let Some(companion) = companion(lab) else { return };
    let refuses = |program: &mut Command, reasons: &[&str]| {
        let ran = run(program);
        let is_native = ran.status == 0 && ran.stdout.contains(" native ");
        assert!(is_native || ran.status == 2 || ran.status > 128, "{program:?}: {ran:#?}");
        let text = format!("{}{}", ran.stdout, ran.stderr);
        assert!(reasons.iter().any(|reason| text.contains(reason)), "none of {reasons:?} in {ran:#?}");
        assert!(!text.contains("--no-verify") && !text.contains("--force-native"), "{ran:#?}");
        assert!(lab.entries().is_empty(), "{program:?}: {ran:#?}");
    };
    let words = ["register", "--no-verify", "--interpreter-dir", "own", companion];
    let program = lab.executable("program", &probe(arch(companion)));
    let program = program.to_str().unwrap();
    let unknown = format!("cannot determine whether this host runs {companion} natively");
    let native = "this host runs it natively".to_owned();
    {
        let _covered = lab.without_probe_directories();
        refuses(&mut lab.program(&[], words), &[&unknown]);
        refuses(&mut lab.program(&[], ["register", "--no-verify", "--interpreter-dir", "own"]), &[&unknown]);
        let rule = &qus::handler::classify::rules(
            arch(companion),
            &lab.path("own/qemu-i386-static"),
            Flags::FIX_BINARY,
        )
        .unwrap()[0];
        fs::write("/dev/shm/rule.conf", rule.to_line()).unwrap();
        refuses(&mut lab.program(&[], ["apply", "/dev/shm/rule.conf"]), &[&unknown]);
        refuses(&mut lab.program(&[], ["which", "--no-verify", program]), &[&unknown]);
    }
    // With such inherited state and limits, a former version decided that the architecture was not native.
    let reasons = [unknown.as_str(), &native, "Too many open files", "Resource temporarily unavailable"];
    refuses(&mut lab.program(&["env", "--ignore-signal=CHLD"], words), &reasons);
    for descriptors in fewest_descriptors()..16 {
        refuses(&mut lab.program(&["prlimit", &format!("--nofile={descriptors}")], words), &reasons);
    }
}

/// Runs qus under strace, and expects that it starts no program, opens nothing for writing and changes no handler.
fn traced(lab: &Lab, words: &[&str]) -> Ran {
    let before = lab.entries();
    let trace = lab.path("trace");
    let wrapper = [
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=execve,execveat,clone,clone3,fork,vfork,openat,open,creat,mkdir,mkdirat,unlink,unlinkat,mount",
        "-o",
        trace.to_str().unwrap(),
    ];
    let ran = run(&mut lab.program(&wrapper, words.iter().copied()));
    let text = fs::read_to_string(&trace).unwrap();
    let is_written = |line: &str| ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag));
    let is_forbidden = |line: &&str| {
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        // qus opens a file without a name to find out whether a directory is writable.
        let is_check = line.contains("O_TMPFILE");
        !call.starts_with("open") || !is_check && is_written(line)
    };
    // The first call starts qus itself.
    let starts: Vec<&str> = text.lines().skip(1).filter(is_forbidden).collect();
    assert!(starts.is_empty(), "{words:?}: {starts:#?}");
    assert_eq!(lab.entries(), before);
    ran
}

kernel_test!(a_dry_run_executes_and_writes_nothing, with_strace);
/// Tests that a dry run starts no other program, opens nothing for writing, and prints what it could not determine.
fn a_dry_run_executes_and_writes_nothing(lab: &Lab) {
    lab.done(["register", "s390x"]);
    lab.handler("qemu-arm", "arm", &downloads::interpreter("arm"), Flags::empty());
    let rule = lab.executable(
        "rule.conf",
        &qus::handler::classify::rules(arch("mips"), &downloads::interpreter("mips"), Flags::FIX_BINARY)
            .unwrap()[0]
            .to_line(),
    );
    let traced = |words: &[&str]| traced(lab, words);
    let ran = traced(&["register", "--dry-run", "arm", "s390x", "aarch64"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(ran.stdout.contains("it has no F flag"), "{ran:#?}");
    assert!(
        ran.stdout.lines().any(|line| line.starts_with("s390x") && line.contains("unverified")),
        "{ran:#?}"
    );
    traced(&["register", "--dry-run", "--replace", "all"]);
    traced(&["register", "--dry-run", "--persist", "arm"]);
    traced(&["reset", "--dry-run"]);
    traced(&["reset", "--dry-run", "--persist"]);
    traced(&["apply", "--dry-run", rule.to_str().unwrap()]);
    traced(&["fetch", "--prune", "--dry-run"]);
    if let Some(companion) = companion(lab) {
        let ran = traced(&["register", "-n", "--interpreter-dir", "own", companion]);
        assert!(
            ran.stdout.contains("a dry run does not determine whether this host runs it natively"),
            "{ran:#?}"
        );
    }
}

kernel_test!(a_dry_run_fetches_nothing, with_strace);
/// Tests that a dry run does not start a package manager or unpack a source, and prints the steps that it leaves out.
fn a_dry_run_fetches_nothing(lab: &Lab) {
    fs::create_dir(lab.path("empty")).unwrap();
    let words = ["register", "-n", "--fetch", "--interpreter-dir", "empty", "--dest", "fetched", "sparc"];
    let ran = traced(lab, &words);
    assert_eq!(ran.status, 2, "{ran:#?}");
    let reason = "no interpreter is in empty; a dry run downloads nothing";
    assert!(ran.stdout.contains(reason), "no {reason:?} in {ran:#?}");

    lab.copy("a source/qemu-arm-static", &downloads::interpreter("arm"));
    let words = ["register", "-n", "--from", "a source", "--dest", "fetched", "arm"];
    let ran = traced(lab, &words);
    assert_eq!(ran.status, 2, "{ran:#?}");
    let reason = "cannot plan with a source: a dry run downloads nothing";
    assert!(ran.stderr.contains(reason), "no {reason:?} in {ran:#?}");
    assert!(!lab.path("fetched").exists());

    // After the hint the interpreter exists, and a dry run plans with it.
    let hint = "qus fetch --from 'a source' --dest fetched arm";
    assert!(ran.stderr.contains(hint), "no {hint:?} in {ran:#?}");
    lab.type_command(hint);
    let ran = traced(lab, &["register", "-n", "--interpreter-dir", "fetched", "arm"]);
    assert!(ran.status == 0 && ran.stdout.contains("fetched/qemu-arm-static"), "{ran:#?}");
}

kernel_test!(devices_are_not_opened, with_strace);
/// Opening a device can have an effect: a watchdog starts, a tape rewinds. So it is opened at most with `O_PATH`.
fn devices_are_not_opened(lab: &Lab) {
    let device = lab.link("device", Path::new("/dev/zero")).to_str().unwrap().to_owned();
    let trace = lab.path("trace");
    let commands: [(i32, &[&str], &str); 6] = [
        (1, &["which", &device], "it is not a regular file"),
        (2, &["register", "--interpreter", &device, "arm"], "is not a regular file"),
        (2, &["register", "--interpreter", &device, "jar"], "is not a regular file"),
        (2, &["fetch", "--from", &device, "--dest", "out", "arm"], "is not a package, archive"),
        (2, &["apply", &device], "is not a regular file"),
        (126, &["run", &device], "Permission denied"),
    ];
    for (status, words, message) in commands {
        let wrapper =
            ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,execve", "-o", trace.to_str().unwrap()];
        let ran = run(&mut lab.program(&wrapper, words.iter().copied()));
        assert_eq!(ran.status, status, "{words:?}: {ran:#?}");
        assert!(ran.messages().contains(message) || ran.stdout.contains(message), "{words:?}: {ran:#?}");
        let text = fs::read_to_string(&trace).unwrap();
        let opened: Vec<&str> = text
            .lines()
            .filter(|line| {
                line.contains(&format!("{device}\", ")) && line.contains(" open") && !line.contains("O_PATH")
            })
            .collect();
        assert!(opened.is_empty(), "{words:?}: {opened:#?}");
    }
}
