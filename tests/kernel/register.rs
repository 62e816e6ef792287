//! `qus register` with the kernel, real interpreters and real programs.

use std::fs;
use std::process::Command;

use crate::downloads::{self, PROGRAMS};
use crate::lab::{Lab, run, start};

fn register_all(lab: &Lab, directory: &std::path::Path) {
    let path = directory.to_str().unwrap();
    let interpreters = downloads::interpreters(directory);
    assert!(interpreters.len() >= 31, "{interpreters:?}");
    let ran = lab.qus(["register", "-v", "--interpreter-dir", path, "all"]);
    let first = ran.stdout;
    for line in first.lines() {
        assert!(line.contains(" registered ") && !line.contains("verified"), "{line}");
    }
    let summary = format!("qus: {} architectures work in user namespace ", first.lines().count());
    assert!(ran.status == 0 && ran.stderr.contains(&summary), "{}", ran.stderr);
    for arch in interpreters.keys().filter(|arch| !matches!(arch.as_str(), "i386" | "x86_64")) {
        assert!(first.lines().any(|line| line.split_whitespace().next() == Some(arch)), "{arch} in\n{first}");
    }
    let entries = lab.entries();
    let second = lab.qus(["register", "-v", "--interpreter-dir", path, "all"]).stdout;
    assert_eq!(second.lines().count(), first.lines().count());
    for line in second.lines() {
        assert!(line.contains(" unchanged "), "{line}");
    }
    // If every architecture works, only the summary is printed.
    let ran = lab.qus(["register", "--interpreter-dir", path, "all"]);
    assert!(ran.status == 0 && ran.stdout.is_empty() && ran.stderr.contains(&summary), "{ran:#?}");
    assert_eq!(lab.entries(), entries);
    lab.done(["verify"]);
    lab.done(["reset"]);
    assert!(lab.entries().is_empty());
}

kernel_test!(register_all_of_the_distribution);
fn register_all_of_the_distribution(lab: &Lab) {
    register_all(lab, &downloads::distribution());
}

kernel_test!(register_all_of_a_newer_qemu);
fn register_all_of_a_newer_qemu(lab: &Lab) {
    register_all(lab, &downloads::newer());
}

kernel_test!(programs_of_debian_run);
fn programs_of_debian_run(lab: &Lab) {
    // Programs of later suites may need instructions that only a newer QEMU emulates.
    let newer = downloads::newer();
    for directory in [downloads::distribution(), newer.clone()] {
        lab.done(["register", "--interpreter-dir", directory.to_str().unwrap(), "--replace", "all"]);
        for (name, debian) in PROGRAMS {
            if directory != newer && matches!(name, "loongarch64" | "riscv64") {
                continue;
            }
            let busybox = downloads::busybox(name);
            let ran = start(&busybox, &["echo", "hello", "from", debian]).unwrap();
            assert_eq!(ran.stdout, format!("hello from {debian}\n"), "{ran:?}");
            let root = lab.path(&format!("root-{name}"));
            fs::create_dir_all(root.join("bin")).unwrap();
            fs::copy(&busybox, root.join("bin/busybox")).unwrap();
            let ran =
                run(Command::new("/usr/sbin/chroot").arg(&root).args(["/bin/busybox", "sh", "-c", "exit 7"]));
            assert_eq!(ran.status, 7, "{name}: {ran:?}");
        }
    }
}
