//! Faults in persistent files: rules and copies of interpreters, together with their handlers.
//!
//! At every moment each of these files is completely the old or completely the new one, even if a process is killed.
//! Files of other tools are never touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use qus::binfmt::Flags;

use crate::downloads::interpreter;
use crate::faults::{SAMPLE, Scene, instance_is_sound, with_foreign};
use crate::lab::{Lab, OURS, Ran, busybox};
use crate::persist::{DIRECTORIES, host};

/// Prefix of the names of temporary files.
const DRAFT: &str = ".qus-new-";
const PERSIST: [&str; 5] = ["register", "--persist", "--interpreter-dir", "q", "arm"];
const COPIED: &str = "# The interpreter was copied for this file. The copy is removed with the file.\n";

/// Content and mode of files, and the target of links. Directories are not recorded.
type Tree = BTreeMap<PathBuf, (Vec<u8>, u32)>;

/// Returns every file in the directories to which qus may write, and the number of temporary files.
fn tree() -> (Tree, usize) {
    let (mut files, mut drafts) = (Tree::new(), 0);
    let mut directories: Vec<PathBuf> = DIRECTORIES.iter().map(PathBuf::from).collect();
    while let Some(directory) = directories.pop() {
        for file in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let kind = file.file_type().unwrap();
            if kind.is_dir() {
                directories.push(file.path());
            } else if file.path() == Path::new("/run/qus.lock") {
                // All processes share this lock file, which stays.
            } else if file.file_name().as_encoded_bytes().starts_with(DRAFT.as_bytes()) {
                drafts += 1;
            } else if kind.is_symlink() {
                let target = fs::read_link(file.path()).unwrap().into_os_string().into_encoded_bytes();
                files.insert(file.path(), (target, 0));
            } else {
                let mode = file.metadata().unwrap().permissions().mode();
                files.insert(file.path(), (fs::read(file.path()).unwrap(), mode));
            }
        }
    }
    (files, drafts)
}

/// Makes the directories have exactly these files. `init` is the directory that identifies systemd or OpenRC.
fn restore(files: &Tree, init: &str) {
    for directory in DIRECTORIES {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                fs::remove_file(path).unwrap();
            }
        }
    }
    fs::create_dir_all(init).unwrap();
    for (path, (content, mode)) in files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if *mode == 0 {
            symlink(String::from_utf8(content.clone()).unwrap(), path).unwrap();
        } else {
            fs::write(path, content).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(*mode)).unwrap();
        }
    }
}

/// Removes the comment about the copy. If a run was interrupted after it made the copy, the next run cannot detect that
/// the copy was made for the file.
fn but_for_the_copy(files: &Tree) -> Tree {
    let without = |(path, (content, mode)): (&PathBuf, &(Vec<u8>, u32))| {
        let text = String::from_utf8(content.clone()).map(|text| text.replace(COPIED, "").into_bytes());
        (path.clone(), (text.unwrap_or_else(|_| content.clone()), *mode))
    };
    files.iter().map(without).collect()
}

/// Expects that every file is in its old or its new state, and that no file of both states is missing.
fn files_are_sound(ran: &Ran, killed: bool, before: &Tree, wanted: &Tree) {
    let (now, drafts) = tree();
    let now = but_for_the_copy(&now);
    let (before, wanted) = (but_for_the_copy(before), but_for_the_copy(wanted));
    for (path, file) in &now {
        let is_known = [before.get(path), wanted.get(path)].contains(&Some(file));
        assert!(is_known, "{} is neither old nor new after {ran:#?}", path.display());
    }
    for path in before.keys().filter(|path| wanted.contains_key(*path)) {
        assert!(now.contains_key(path), "{} is lost after {ran:#?}", path.display());
    }
    // A temporary file that cannot be removed stays.
    assert!(drafts == 0 || killed || ran.status != 0, "{drafts} drafts after {ran:#?}");
    // At most two temporary files: an incomplete copy, and the file that it replaces.
    assert!(drafts <= 2, "{drafts} drafts after {ran:#?}");
}

fn files_are(wanted: &Tree) {
    let (now, drafts) = tree();
    let names = |files: &Tree| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!((names(&now), drafts), (names(wanted), 0));
    let (now, wanted) = (but_for_the_copy(&now), but_for_the_copy(wanted));
    let other: Vec<_> = now.keys().filter(|path| now.get(*path) != wanted.get(*path)).collect();
    assert!(other.is_empty(), "files with other content: {other:?}");
}

const SYSTEMD: &str = "/run/systemd/system";
const OPENRC: &str = "/run/openrc";

/// Returns files of other tools.
fn of_others() -> Tree {
    let file = |path: &str, text: &str| (PathBuf::from(path), (text.as_bytes().to_vec(), 0o100_644));
    Tree::from([
        file("/etc/binfmt.d/theirs.conf", ":theirs:E::theirs::/theirs:\n"),
        file("/usr/local/lib/qus/qemu-mips-static", "fetched by another user"),
        file("/etc/init.d/theirs", "#!/sbin/openrc-run\n"),
    ])
}

/// Tests `register --persist arm` in a state that `prepare` creates.
fn persists(lab: &Lab, sample: usize, prepare: &dyn Fn()) {
    prepare();
    let (before, entries) = (tree().0, lab.entries());
    lab.done(PERSIST);
    let (wanted, wanted_entries) = (tree().0, lab.entries());
    assert!(before != wanted && entries != wanted_entries);
    let served_before = entries.contains_key("qemu-arm");
    Scene {
        lab,
        words: &PERSIST,
        sample,
        prepare,
        after: &|ran, killed| {
            instance_is_sound(lab, ran, killed, &entries, &wanted_entries);
            files_are_sound(ran, killed, &before, &wanted);
            // A handler that was not registered is not restored at boot either.
            if !killed && lab.entries() == entries && !ran.stderr.contains("cannot restore") {
                let (now, _) = tree();
                assert!(
                    but_for_the_copy(&now) == but_for_the_copy(&before),
                    "{:?} after {ran:#?}",
                    now.keys()
                );
            }
            if served_before {
                assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n", "{ran:#?}");
            }
        },
        done: &|| {
            assert_eq!(lab.entries(), wanted_entries);
            files_are(&wanted);
        },
    }
    .play();
}

kernel_test!(faults_in_persist, with_strace);
fn faults_in_persist(lab: &Lab) {
    host(lab);
    persists(lab, SAMPLE, &|| {
        with_foreign(lab);
        restore(&of_others(), SYSTEMD);
    });
}

kernel_test!(faults_in_persist_with_openrc, with_strace);
fn faults_in_persist_with_openrc(lab: &Lab) {
    host(lab);
    persists(lab, SAMPLE / 2, &|| {
        with_foreign(lab);
        restore(&of_others(), OPENRC);
    });
}

kernel_test!(faults_in_persist_of_another_version, with_strace);
/// Tests persistent files of one version while another version is available. The file and the handler are replaced
/// under the same names.
fn faults_in_persist_of_another_version(lab: &Lab) {
    host(lab);
    with_foreign(lab);
    restore(&of_others(), SYSTEMD);
    lab.done(PERSIST);
    let (first, _) = tree();
    let mut newer = fs::read(interpreter("arm")).unwrap();
    newer.push(0);
    lab.executable("q/qemu-arm-static", &newer);
    persists(lab, SAMPLE, &|| {
        with_foreign(lab);
        restore(&first, SYSTEMD);
        // The copy has been replaced, so this handler runs an interpreter that no longer exists.
        lab.handler(
            "qemu-arm",
            "arm",
            Path::new("/usr/local/lib/qus/copies/qemu-arm-static"),
            OURS - Flags::OPEN_BINARY,
        );
    });
}

/// Returns the files without the service, which qus writes again for the remaining files.
fn without_service(files: &Tree) -> Tree {
    let mut files = files.clone();
    if let Some((text, _)) = files.remove(Path::new("/etc/init.d/qus")) {
        assert!(text.starts_with(b"#!/sbin/openrc-run\n# Written by qus for ") && text.ends_with(b"}\n"));
    }
    files
}

/// Tests `reset --persist` of two architectures.
fn resets(lab: &Lab, init: &str, sample: usize) {
    host(lab);
    with_foreign(lab);
    restore(&of_others(), init);
    lab.done(PERSIST.into_iter().chain(["s390x"]));
    let (before, entries) = (tree().0, lab.entries());
    let wanted = of_others();
    Scene {
        lab,
        words: &["reset", "--persist"],
        sample,
        prepare: &|| {
            with_foreign(lab);
            restore(&before, init);
            for arch in ["s390x", "arm"] {
                let copy = format!("/usr/local/lib/qus/copies/qemu-{arch}-static");
                lab.handler(&format!("qemu-{arch}"), arch, Path::new(&copy), OURS);
            }
            assert_eq!(lab.entries(), entries);
        },
        after: &|ran, killed| {
            let now = lab.entries();
            assert!(now.contains_key("foreign"), "{ran:#?}");
            assert!(
                now.iter().all(|(name, text)| entries.get(name) == Some(text)),
                "{now:#?} after {ran:#?}"
            );
            let (files, _) = tree();
            for (path, file) in without_service(&files) {
                assert_eq!(before.get(&path), Some(&file), "{} after {ran:#?}", path.display());
            }
            for path in wanted.keys() {
                assert!(files.contains_key(path), "{} is lost after {ran:#?}", path.display());
            }
            assert!(killed || ran.status != 0 || tree().1 == 0, "{ran:#?}");
        },
        done: &|| {
            assert_eq!(lab.entries().into_keys().collect::<Vec<_>>(), ["foreign"]);
            files_are(&wanted);
        },
    }
    .play();
}

kernel_test!(faults_in_reset_persist, with_strace);
fn faults_in_reset_persist(lab: &Lab) {
    resets(lab, SYSTEMD, SAMPLE);
}

kernel_test!(faults_in_reset_persist_with_openrc, with_strace);
fn faults_in_reset_persist_with_openrc(lab: &Lab) {
    resets(lab, OPENRC, SAMPLE / 2);
}

kernel_test!(faults_in_apply, with_strace);
/// Tests a new rule, a rule that differs from its handler, and a rule that is already registered.
fn faults_in_apply(lab: &Lab) {
    let line = |arch: &str| lab.done(["export", arch, "--format", "register"]);
    fs::write(lab.path("some.conf"), ["arm", "s390x", "mips"].map(line).concat()).unwrap();
    let prepare = || {
        with_foreign(lab);
        lab.handler("qemu-s390x", "s390x", &interpreter("s390x"), OURS - Flags::OPEN_BINARY);
        lab.handler("qemu-mips", "mips", &interpreter("mips"), OURS);
    };
    prepare();
    let before = lab.entries();
    let words = ["apply", "some.conf"];
    lab.done_with(words, "qus: 2 handlers are new; run `qus verify` to test them\n");
    let wanted = lab.entries();
    assert!(before.len() + 1 == wanted.len() && before["qemu-s390x"] != wanted["qemu-s390x"]);
    Scene {
        lab,
        words: &words,
        sample: SAMPLE,
        prepare: &prepare,
        after: &|ran, _| {
            let now = lab.entries();
            for (name, text) in &now {
                let (name, _) = name.split_once(".qus-").unwrap_or((name, ""));
                assert!([before.get(name), wanted.get(name)].contains(&Some(text)), "{name} after {ran:#?}");
            }
            // Lines are independent: handlers of other tools and existing handlers work throughout.
            assert_eq!(now.get("foreign"), before.get("foreign"), "{ran:#?}");
            assert_eq!(now.get("qemu-mips"), before.get("qemu-mips"), "{ran:#?}");
            assert_eq!(busybox("s390x", "echo works").unwrap().stdout, "works\n", "{ran:#?}");
        },
        done: &|| assert_eq!(lab.entries(), wanted),
    }
    .play();
}
