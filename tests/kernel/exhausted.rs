//! Tests a full disk, a read-only disk and too little memory. qus prints one message, and changes nothing.

use std::fs;

use nix::mount::{MsFlags, mount, umount};

use crate::downloads::interpreter;
use crate::lab::{Lab, run};

/// Mounts a file system of `size` on a directory, and writes a file `name` there.
fn small_disk(lab: &Lab, directory: &str, size: &str, name: &str) {
    let path = lab.path(directory);
    fs::create_dir(&path).unwrap();
    mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), Some(format!("size={size}").as_str()))
        .unwrap();
    fs::write(path.join(name), "as it was").unwrap();
}

fn is_as_it_was(lab: &Lab, directory: &str, name: &str) {
    let names: Vec<_> =
        fs::read_dir(lab.path(directory)).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, [name]);
    assert_eq!(fs::read_to_string(lab.path(directory).join(name)).unwrap(), "as it was");
}

kernel_test!(a_bundle_without_space_leaves_what_was_there);
fn a_bundle_without_space_leaves_what_was_there(lab: &Lab) {
    crate::lab::needs_static_qus();
    small_disk(lab, "dest", "1m", "qus-arm");
    let words = ["bundle", "-o", "dest/qus-arm", "arm"];
    lab.refused(words, 2, "cannot write dest/qus-arm: cannot write the bundle: No space left on device");
    is_as_it_was(lab, "dest", "qus-arm");
    umount(&lab.path("dest")).unwrap();
}

kernel_test!(fetch_and_bundle_on_a_read_only_disk_are_refused);
fn fetch_and_bundle_on_a_read_only_disk_are_refused(lab: &Lab) {
    crate::lab::needs_static_qus();
    small_disk(lab, "dest", "64m", "qemu-arm-static");
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, &lab.path("dest"), None::<&str>, flags, None::<&str>).unwrap();
    let source = interpreter("arm");
    let source = source.to_str().unwrap();
    let message = "/dest/qemu-arm-static: Read-only file system";
    for command in ["fetch", "register"] {
        let ran = lab.refused([command, "--from", source, "--dest", "dest", "arm"], 2, message);
        ran.hints("name a directory that can be written: qus fetch --dest DIR arm");
    }
    let message = "cannot write dest/qus-arm: Read-only file system";
    lab.refused(["bundle", "-o", "dest/qus-arm", "arm"], 2, message);
    is_as_it_was(lab, "dest", "qemu-arm-static");
    umount(&lab.path("dest")).unwrap();
}

kernel_test!(probes_without_space_leave_what_was_there);
/// Tests a machine without a temporary directory in which a probe can be stored and executed.
fn probes_without_space_leave_what_was_there(lab: &Lab) {
    lab.done(["register", "arm"]);
    let before = lab.entries();
    small_disk(lab, "tmp", "8k", "full");
    fs::write(lab.path("tmp/more"), vec![b' '; 8192]).unwrap_err();
    let covered = lab.without_probe_directories();
    for words in [&["register", "s390x"][..], &["register", "--replace", "arm", "s390x"]] {
        let ran = run(lab.program(&[], words.iter().copied()).env("TMPDIR", lab.path("tmp")));
        assert_eq!(ran.status, 2, "{ran:#?}");
        assert!(ran.stderr.contains("cannot run probes: "), "{ran:#?}");
        assert!(ran.stderr.contains("/tmp: No space left on device"), "{ran:#?}");
        for directory in ["/dev/shm", "/run", "/var/tmp"] {
            let reason =
                format!("{directory}: cannot execute programs there: Permission denied (os error 13)");
            assert!(ran.stderr.contains(&reason), "{ran:#?}");
        }
        assert!(ran.stderr.contains("/tmp: Read-only file system"), "{ran:#?}");
        assert_eq!(lab.entries(), before, "{ran:#?}");
    }
    drop(covered);
    umount(&lab.path("tmp")).unwrap();
    lab.done(["register", "s390x"]);
}

kernel_test!(little_memory_leaves_what_was_there);
/// Tests memory limits from far too small to large. Each run either succeeds, or reports its failure and changes
/// nothing.
fn little_memory_leaves_what_was_there(lab: &Lab) {
    lab.done(["register", "arm"]);
    let wanted = lab.entries();
    lab.done(["reset"]);
    let mut done = 0;
    for megabytes in [2_u64, 4, 6, 9, 12, 16, 24, 40, 128, 4096, 1 << 20] {
        let limit = format!("--as={}", megabytes << 20);
        let ran = run(&mut lab.program(&["prlimit", &limit], ["register", "arm"]));
        let now = lab.entries();
        if ran.status == 0 {
            assert_eq!(now, wanted, "{megabytes} MB: {ran:#?}");
            done += 1;
        } else if ran.status < 128 {
            assert!(now.is_empty(), "{megabytes} MB: {now:#?} after {ran:#?}");
        }
        // After a killed run, a run with enough memory succeeds.
        lab.done(["register", "arm"]);
        assert_eq!(lab.entries(), wanted, "{megabytes} MB");
        lab.done(["reset"]);
    }
    assert!((1..10).contains(&done), "{done}");
}
