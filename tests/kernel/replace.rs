//! Replacement: a handler is registered throughout, and a failed verification restores the previous state.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use qus::binfmt::Flags;

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, QUS, busybox, order};

/// Stops the threads of a scope when the scope ends. Otherwise a failed or skipped test would wait for them forever.
struct StopWhenLeft<'a>(&'a AtomicBool);

impl Drop for StopWhenLeft<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

kernel_test!(a_handler_is_in_place_throughout);
fn a_handler_is_in_place_throughout(lab: &Lab) {
    let directories = [downloads::newer(), downloads::distribution()];
    lab.done(["register", "arm"]);
    let stop = AtomicBool::new(false);
    let until_stopped = |inspect: &dyn Fn()| {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            inspect();
            count += 1;
        }
        count
    };
    let (ran, seen) = thread::scope(|scope| {
        let left = StopWhenLeft(&stop);
        let running = scope.spawn(|| {
            until_stopped(&|| {
                let end = busybox("arm", "true");
                assert!(matches!(&end, Ok(ran) if ran.status == 0), "{end:?}");
            })
        });
        // Starting a program takes long compared with a possible gap. Reading the kernel's list is fast.
        let watching = scope.spawn(|| {
            until_stopped(&|| {
                let names = order();
                assert!(names.iter().any(|name| name.starts_with("qemu-arm")), "{names:?}");
            })
        });
        for directory in directories.iter().cycle().take(24) {
            let words = ["register", "--replace", "--interpreter-dir", directory.to_str().unwrap(), "arm"];
            let printed = lab.done(words);
            assert!(printed.contains(" replaced "), "{printed}");
            assert_eq!(order(), ["qemu-arm"]);
        }
        drop(left);
        (running.join().unwrap(), watching.join().unwrap())
    });
    assert!(ran > 0 && seen > 0, "{ran} programs ran meanwhile, and the list was read {seen} times");
}

/// Returns device and inode of the file that currently runs a program of arm.
fn running() -> (u64, u64) {
    let mut command = Command::new(downloads::busybox("arm"));
    let mut child = command.arg0("cat").stdin(Stdio::piped()).spawn().unwrap();
    let exe = fs::metadata(format!("/proc/{}/exe", child.id())).unwrap();
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    (exe.dev(), exe.ino())
}

kernel_test!(an_interpreter_replaced_on_disk_is_taken_up);
fn an_interpreter_replaced_on_disk_is_taken_up(lab: &Lab) {
    let file = lab.copy("own/qemu-arm-static", &interpreter("arm"));
    let words = ["register", "--interpreter-dir", "own", "arm"];
    lab.done(words);
    let id = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).unwrap();
    let old = id(&file);
    let new = lab.copy("new", &downloads::newer().join("qemu-arm-static"));
    fs::rename(new, &file).unwrap();
    // The kernel does not notice the replacement of the file.
    assert_eq!(running(), old);
    let plan = lab.done(words.into_iter().chain(["--dry-run"]));
    // Only an execution shows which file the kernel uses.
    assert!(plan.contains(" unchanged ") && plan.contains(", unverified"), "{plan}");
    let printed = lab.done(words);
    assert!(printed.contains(" replaced "), "{printed}");
    assert!(printed.contains("qemu-arm still ran the file that was replaced"), "{printed}");
    assert_eq!(order(), ["qemu-arm"]);
    assert_ne!(id(&file), old);
    assert_eq!(running(), id(&file));
    assert!(lab.done(words).contains(" unchanged "));
}

/// Expects that `file` looks like an emulator of arm, fails its verification for `reason`, and is not registered.
fn taken_back(lab: &Lab, file: &Path, reason: &str) {
    lab.copy("own/qemu-arm-static", file);
    lab.link("own/qemu-s390x-static", &interpreter("s390x"));
    let words = ["register", "--replace", "--interpreter-dir", "own", "arm"];
    let ran = lab.refused(words, 1, reason);
    assert!(ran.stdout.starts_with("arm  verification failed "), "{ran:#?}");
    assert!(ran.stderr.contains("qus: arm was not registered\n"), "{ran:#?}");
    let item = &lab.json(words)["items"][0];
    assert_eq!(item["verified"], false);
    assert_eq!(item["handlers"], serde_json::json!([]));
    // In the same batch, the working handler stays.
    let ran = lab.qus(["register", "--interpreter-dir", "own", "arm", "s390x"]);
    assert_eq!(ran.status, 1, "{ran:#?}");
    assert_eq!(order(), ["qemu-s390x"], "{ran:#?}");
}

kernel_test!(a_program_that_is_no_emulator_is_removed_again);
fn a_program_that_is_no_emulator_is_removed_again(lab: &Lab) {
    crate::lab::needs_static_qus();
    taken_back(lab, Path::new(QUS), "its probe ended with status 2, not 42: qus: unrecognized subcommand");
}

kernel_test!(the_emulator_of_another_architecture_is_removed_again);
fn the_emulator_of_another_architecture_is_removed_again(lab: &Lab) {
    taken_back(lab, &interpreter("s390x"), "its probe ended with status 255, not 42: ");
}

kernel_test!(a_failed_replacement_leaves_what_works);
fn a_failed_replacement_leaves_what_works(lab: &Lab) {
    lab.done(["register", "arm", "s390x"]);
    lab.static_failure("own/qemu-arm-static");
    let words = ["register", "--replace", "--interpreter-dir", "own", "arm"];
    lab.refused(words, 1, "its interpreter crashed (signal ");
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    assert!(lab.done(["register", "arm"]).contains(" unchanged "));
}

kernel_test!(a_dry_run_changes_nothing);
fn a_dry_run_changes_nothing(lab: &Lab) {
    let planned = |words: &[&str], printed: &str, status: i32| {
        let words = ["register", "--dry-run"].iter().chain(words).copied();
        let before = (lab.entries(), order());
        let ran = lab.qus(words.clone());
        assert_eq!(ran.status, status, "{ran:#?}");
        assert!(ran.stdout.contains(printed), "no {printed:?} in {ran:#?}");
        assert!(!ran.stderr.contains(" work"), "{ran:#?}");
        let value = lab.json(words);
        assert_eq!(value["dry_run"], true);
        assert_eq!(value["items"][0]["verified"], false);
        assert_eq!((lab.entries(), order()), before);
    };
    planned(&["arm"], "would register", 0);
    lab.handler("qemu-arm", "arm", &interpreter("arm"), qus::binfmt::Flags::empty());
    planned(&["arm"], "qemu-arm failed: it has no F flag, and would fail in every container", 0);
    planned(&["x86_64"], "this host runs it natively", 0);
    let newer = downloads::newer();
    planned(&["--interpreter-dir", newer.to_str().unwrap(), "arm"], "qemu-arm failed", 0);
    lab.done(["register", "arm"]);
    planned(&["arm"], "unchanged", 0);
    planned(&["--interpreter-dir", newer.to_str().unwrap(), "arm"], "already handles these programs", 2);
}

kernel_test!(what_is_not_verified_is_called_so);
fn what_is_not_verified_is_called_so(lab: &Lab) {
    let printed = lab.done(["register", "--no-verify", "arm"]);
    assert!(printed.ends_with(", unverified\n"), "{printed}");
    let item = &lab.json(["register", "--no-verify", "arm"])["items"][0];
    assert_eq!(item["outcome"], "unchanged");
    assert_eq!(item["verified"], false);
    assert_eq!(item["verification"], serde_json::Value::Null);
    assert!(lab.done(["register", "arm"]).contains("unchanged  POF"));
    assert_eq!(lab.json(["register", "arm"])["items"][0]["verification"]["empty_root"], true);
}

kernel_test!(an_architecture_may_have_two_handlers);
fn an_architecture_may_have_two_handlers(lab: &Lab) {
    let names = qus::arch::Arch::from_qemu_target("microblaze").unwrap().handler_names();
    assert_eq!(names.len(), 2);
    lab.done(["register", "microblaze"]);
    assert_eq!(lab.entries().keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    for name in &names {
        lab.command(name, "-1");
        let printed = lab.done(["register", "microblaze"]);
        assert!(printed.starts_with("microblaze  re"), "{printed}");
        assert_eq!(lab.entries().len(), 2, "{printed}");
        assert!(lab.done(["register", "microblaze"]).contains(" unchanged "));
    }
    lab.done(["reset", "microblaze"]);
    assert!(order().is_empty());
    // A replaced file is replaced in both handlers.
    let file = lab.copy("own/qemu-microblaze-static", &interpreter("microblaze"));
    let words = ["register", "--interpreter-dir", "own", "microblaze"];
    lab.done(words);
    let before = order();
    fs::rename(lab.copy("new", &downloads::newer().join("qemu-microblaze-static")), file).unwrap();
    assert!(lab.done(words).contains("still ran the file that was replaced"));
    assert_eq!(order(), before);
}

kernel_test!(a_batch_goes_on);
fn a_batch_goes_on(lab: &Lab) {
    lab.link("own/qemu-arm-static", &interpreter("arm"));
    lab.link("own/qemu-aarch64-static", &interpreter("aarch64"));
    lab.copy("own/qemu-mips-static", Path::new("/bin/true"));
    lab.static_failure("own/qemu-m68k-static");
    let words = ["register", "--interpreter-dir", "own", "arm,mips,x86_64", "m68k", "aarch64"];
    let ran = lab.qus(words);
    assert_eq!(ran.status, 2, "{ran:#?}");
    let outcomes: Vec<&str> = ran
        .stdout
        .lines()
        .map(|line| line.split("  ").filter(|cell| !cell.is_empty()).nth(1).unwrap())
        .collect();
    let expected = ["registered", "missing", "native", "verification failed", "registered"];
    assert_eq!(outcomes.iter().map(|outcome| outcome.trim()).collect::<Vec<_>>(), expected, "{ran:#?}");
    let summary = "qus: 2 of 5 architectures were not registered (missing, verification failed); \
                   2 of 4 architectures work in user namespace ";
    assert!(ran.stderr.contains(summary), "{ran:#?}");
    let end = " only, until that namespace ends; the host does not see these handlers\n";
    assert!(ran.stderr.contains(end), "{ran:#?}");
    ran.suggests("qus register --fetch mips");
    assert_eq!(order().len(), 2, "{ran:#?}");
    for arch in ["arm", "aarch64"] {
        assert_eq!(busybox(arch, "echo works").unwrap().stdout, "works\n");
    }
    let value = lab.json(words);
    let outcomes: Vec<_> = value["items"].as_array().unwrap().iter().map(|item| &item["outcome"]).collect();
    assert_eq!(outcomes, ["unchanged", "missing", "native", "verification-failed", "unchanged"]);
}

kernel_test!(all_who_register_at_once_are_done);
fn all_who_register_at_once_are_done(lab: &Lab) {
    let words = ["register", "arm", "aarch64", "microblaze"];
    thread::scope(|scope| {
        let runs: Vec<_> = (0..8).map(|_| scope.spawn(|| lab.qus(words))).collect();
        for run in runs {
            let ran = run.join().unwrap();
            assert_eq!(ran.status, 0, "{ran:#?}");
        }
    });
    assert_eq!(lab.entries().len(), 4, "{:#?}", lab.entries());
    let printed = lab.done(words);
    assert_eq!(printed.matches(" unchanged ").count(), 3, "{printed}");
}

kernel_test!(what_an_interrupted_run_left_is_removed);
/// Tests a staged handler of a killed run. Its name contains the id of a process that has ended: no process has an id
/// above 4194304 (`PID_MAX_LIMIT`). The process of `alive` still runs.
fn what_an_interrupted_run_left_is_removed(lab: &Lab) {
    lab.done(["register", "arm"]);
    let wanted = lab.entries();
    lab.done(["reset"]);
    let alive = format!("qemu-arm.qus-{}", std::process::id());
    for name in ["qemu-arm.qus-4194305", &alive] {
        lab.handler(name, "arm", &interpreter("arm"), Flags::FIX_BINARY);
    }
    // The staged handlers are older than the final handler, which is in front of them.
    let flags = Flags::PRESERVE_ARGV0 | Flags::OPEN_BINARY | Flags::FIX_BINARY;
    lab.handler("qemu-arm", "arm", &interpreter("arm"), flags);
    lab.handler("qemu-s390x.qus-4194305", "s390x", &interpreter("s390x"), Flags::FIX_BINARY);
    assert!(lab.done(["register", "--dry-run", "arm"]).contains(" unchanged "));
    assert_eq!(order().len(), 4);
    assert!(lab.done(["register", "arm"]).contains(" unchanged "));
    assert_eq!(order(), ["qemu-s390x.qus-4194305", "qemu-arm", &alive]);
    lab.done(["reset"]);
    // A staged handler without a final one works until it is replaced.
    lab.handler("qemu-arm.qus-4194305", "arm", &interpreter("arm"), Flags::FIX_BINARY);
    assert!(lab.done(["register", "arm"]).contains(" replaced "));
    assert_eq!(lab.entries(), wanted);
}

kernel_test!(what_the_host_runs_itself_gets_no_handler);
fn what_the_host_runs_itself_gets_no_handler(lab: &Lab) {
    let own = std::env::consts::ARCH;
    assert!(lab.done(["register", own]).contains(" native "));
    let file = interpreter("arm");
    let message =
        format!("this host runs {own} natively, and all its programs would go through the emulator");
    lab.refused(["register", "--interpreter", file.to_str().unwrap(), own], 2, &message);
    // `--force-native` does not permit it either, because no program could be started any more.
    let message = "its rule matches this host's own programs, which would all fail";
    lab.refused(["register", "--force-native", own], 2, message);
    lab.refused(["register", "--force-native", "--replace", own], 2, message);
    let all = lab.done(["register", "all"]);
    assert!(!all.lines().any(|line| line.split_whitespace().next() == Some(own)), "{all}");
}

kernel_test!(any_static_emulator_can_be_given);
fn any_static_emulator_can_be_given(lab: &Lab) {
    let file = lab.copy("opt/my-emulator", &interpreter("arm"));
    let words = ["register", "--interpreter", file.to_str().unwrap(), "arm"];
    assert!(lab.done(words).contains(" registered "));
    assert_eq!(order(), ["qus-arm"]);
    assert!(lab.done(words).contains(" unchanged "));
    assert!(lab.done(["register", "arm"]).contains(" existing "));
    let listed = lab.json(["list"]);
    assert_eq!(listed["handlers"][0]["arches"], serde_json::json!(["arm"]));
    assert!(lab.done(["reset", "arm"]).contains(" removed "));
    assert!(order().is_empty());
}
