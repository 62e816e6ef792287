//! `register --persist` and `reset --persist`: the files for the next boot, and what prevents writing them. Each test
//! has its own `/etc`, `/run`, `/usr/local/lib` and `/var/lib`. The programs that read the files at boot run in the
//! tests of `boot`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};

use qus::binfmt::Flags;

use crate::concurrency::all_at_once;
use crate::downloads::interpreter;
use crate::lab::{Lab, NO_HANDLER, OURS, Ran, order, run};

/// Directories that the tests cover and compare.
pub(crate) const DIRECTORIES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/var/lib"];

fn cover(directory: &str, options: &str, flags: MsFlags) {
    mount(Some("none"), directory, Some("tmpfs"), flags, Some(options)).unwrap();
}

/// Covers the directories, with a systemd in them. Emulators are in `q`, a directory that any user could change.
pub(crate) fn host(lab: &Lab) {
    for directory in DIRECTORIES {
        cover(directory, "mode=755", MsFlags::empty());
    }
    fs::create_dir_all("/run/systemd/system").unwrap();
    for arch in ["arm", "s390x"] {
        lab.copy(&format!("q/qemu-{arch}-static"), &interpreter(arch));
    }
    fs::set_permissions(lab.path("q"), fs::Permissions::from_mode(0o777)).unwrap();
}

fn persist(lab: &Lab, words: &[&str]) -> Ran {
    let options = ["register", "--persist", "--interpreter-dir", "q"];
    lab.qus(options.iter().chain(words).copied())
}

fn done(ran: Ran) -> Ran {
    assert_eq!(ran.status, 0, "{ran:#?}");
    ran
}

/// Returns every file in the directories, with its content, its inode and its mode.
fn tree() -> BTreeMap<PathBuf, (Vec<u8>, u64, u32)> {
    let mut files = BTreeMap::new();
    let mut directories: Vec<PathBuf> = DIRECTORIES.iter().map(PathBuf::from).collect();
    while let Some(directory) = directories.pop() {
        for file in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let metadata = file.metadata().unwrap();
            let content = match fs::read_link(file.path()) {
                Ok(target) => target.into_os_string().into_encoded_bytes(),
                Err(_) if metadata.is_file() => fs::read(file.path()).unwrap(),
                Err(_) => Vec::new(),
            };
            // All processes share this lock file, which stays.
            if file.path() == Path::new("/run/qus.lock") {
                continue;
            }
            files.insert(file.path(), (content, metadata.ino(), metadata.mode()));
            if metadata.is_dir() {
                directories.push(file.path());
            }
        }
    }
    files
}

/// Expects that `--persist` fails with `message`, and changes neither handlers nor files.
fn refused(lab: &Lab, message: &str) -> Ran {
    let before = tree();
    let words = ["register", "--persist", "--interpreter-dir", "q", "arm"];
    let ran = lab.refused(words, 2, message);
    assert_eq!(tree(), before);
    ran
}

const ARM: &str = "/etc/binfmt.d/qus-arm.conf";
const COPY: &str = "/usr/local/lib/qus/copies/qemu-arm-static";
/// An interpreter in the directory to which `fetch` writes.
const FETCHED: &str = "/usr/local/lib/qus/qemu-arm-static";

kernel_test!(persist_writes_what_was_registered);
fn persist_writes_what_was_registered(lab: &Lab) {
    host(lab);
    let ran = done(persist(lab, &["arm", "s390x"]));
    let row = format!("arm    registered  POF  {COPY} (QEMU ");
    assert!(
        ran.stdout.starts_with(&row) && ran.stdout.contains(&format!("; at boot by {ARM}\n")),
        "{ran:#?}"
    );
    assert!(ran.stderr.contains("; systemd registers them again whenever it starts; "), "{ran:#?}");
    assert!(!ran.stderr.contains("until"), "{ran:#?}");
    // The test's own directory is on tmpfs, and qus reports that.
    assert!(ran.stderr.contains(&format!("{COPY} is on tmpfs, which is empty after a reboot")), "{ran:#?}");
    // The file names its writer, the command that removes it, and exactly the rule that the kernel has.
    let text = fs::read_to_string(ARM).unwrap();
    let words = ["export", "arm", "--format", "systemd", "--interpreter-path"];
    let exported = lab.done(words.into_iter().chain(["/usr/local/lib/qus/copies/qemu-{arch}-static"]));
    let comment = "# The interpreter was copied for this file. The copy is removed with the file.\n";
    let is_checksum = |line: &&str| line.starts_with("# Checksum: ");
    assert_eq!(text.lines().filter(is_checksum).count(), 1, "{text}");
    let lines = text.split_inclusive('\n').filter(|line| !is_checksum(line));
    assert_eq!(lines.collect::<String>().replace(comment, ""), exported);
    assert!(text.contains(comment) && text.contains("\n# To remove it: qus reset --persist arm\n"), "{text}");
    assert_eq!(fs::metadata(ARM).unwrap().mode() & 0o7777, 0o644);
    let registered = lab.entries();
    for name in order() {
        lab.command(&name, "-1");
    }
    for file in [ARM, "/etc/binfmt.d/qus-s390x.conf"] {
        let text = fs::read_to_string(file).unwrap();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            lab.register(line.as_bytes()).unwrap();
        }
    }
    assert_eq!(lab.entries(), registered);
    // A second run changes nothing.
    let before = tree();
    let ran = done(persist(lab, &["arm", "s390x"]));
    assert!(ran.stdout.starts_with(&format!("arm    unchanged  POF  {COPY} ")), "{ran:#?}");
    assert!(ran.stdout.contains(&format!("; at boot by {ARM}\n")), "{ran:#?}");
    assert_eq!(tree(), before);
    let value = lab.json(["register", "--persist", "--interpreter-dir", "q", "arm"]);
    assert_eq!((&value["init-system"], &value["items"][0]["persisted"]), (&"systemd".into(), &ARM.into()));
    let handlers = &lab.json(["list"])["handlers"];
    assert_eq!(handlers[1]["by"], ARM, "{handlers:#}");
}

kernel_test!(persist_copies_interpreters_that_cannot_stay);
fn persist_copies_interpreters_that_cannot_stay(lab: &Lab) {
    host(lab);
    done(persist(lab, &["arm"]));
    let metadata = fs::metadata(COPY).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid()), (0o755, 0));
    assert_eq!(fs::read(COPY).unwrap(), fs::read(lab.path("q/qemu-arm-static")).unwrap());
    // Another version at the same path replaces the first, and the handler follows.
    let mut newer = fs::read(lab.path("q/qemu-arm-static")).unwrap();
    newer.push(0);
    lab.executable("q/qemu-arm-static", &newer);
    let ran = done(persist(lab, &["arm"]));
    assert!(ran.stdout.contains("replaced"), "{ran:#?}");
    assert!(ran.stdout.contains("qemu-arm still ran the file that was replaced"), "{ran:#?}");
    assert_eq!(fs::read(COPY).unwrap(), newer);
    assert_ne!(fs::metadata(COPY).unwrap().ino(), metadata.ino());
    // The file still marks its interpreter as a copy.
    assert!(fs::read_to_string(ARM).unwrap().contains("# The interpreter was copied for this file."));
    // The interpreter of the user's choice may have any name.
    lab.copy("q/emulator", &interpreter("s390x"));
    let words = ["register", "--persist", "--interpreter", "q/emulator", "s390x"];
    let printed = lab.done(words);
    assert!(printed.contains("/usr/local/lib/qus/copies/emulator"), "{printed}");
    let text = fs::read_to_string("/etc/binfmt.d/qus-s390x.conf").unwrap();
    assert!(
        text.contains(":qus-s390x:M:") && text.contains(":/usr/local/lib/qus/copies/emulator:POF"),
        "{text}"
    );
}

kernel_test!(persist_leaves_interpreters_that_can_stay);
fn persist_leaves_interpreters_that_can_stay(lab: &Lab) {
    host(lab);
    // `qus fetch` writes the file like this.
    fs::create_dir("/usr/local/lib/qus").unwrap();
    fs::copy(lab.path("q/qemu-arm-static"), FETCHED).unwrap();
    fs::set_permissions(FETCHED, fs::Permissions::from_mode(0o755)).unwrap();
    let before = fs::metadata(FETCHED).unwrap().ino();
    for words in [&["register", "arm"][..], &["register", "--persist", "arm"]] {
        let mut command = lab.program(&[], words.iter().copied());
        done(run(command.env_remove("QUS_INTERPRETER_DIR")));
    }
    let text = fs::read_to_string(ARM).unwrap();
    assert!(text.ends_with(&format!(":{FETCHED}:POF\n")) && !text.contains("copy"), "{text}");
    // The same content from elsewhere is no reason for another file.
    let ran = done(persist(lab, &["arm"]));
    assert!(ran.stdout.contains("unchanged"), "{ran:#?}");
    assert_eq!(fs::metadata(FETCHED).unwrap().ino(), before);
    lab.done(["reset", "--persist"]);
    assert!(Path::new(FETCHED).exists());
}

kernel_test!(persist_takes_interpreters_out_of_memory);
fn persist_takes_interpreters_out_of_memory(lab: &Lab) {
    crate::lab::needs_static_qus();
    host(lab);
    lab.done(["register", "--in-memory", "--interpreter-dir", "q", "arm"]);
    assert!(lab.entries()["qemu-arm"].contains("interpreter memory/"));
    // qus replaces its own temporary handler by a persistent one.
    let ran = done(persist(lab, &["arm"]));
    assert!(ran.stdout.starts_with(&format!("arm  replaced  POF  {COPY} ")), "{ran:#?}");
    assert_eq!(order(), ["qemu-arm"]);
    // A bundle has no files, so the persistent ones are extracted from it.
    lab.done(["reset", "--persist"]);
    lab.done(["bundle", "--from", "q", "-o", "qus-arm", "arm"]);
    let mut bundle = std::process::Command::new(lab.path("qus-arm"));
    let ran = done(run(bundle.args(["register", "--persist", "arm"]).env_clear()));
    assert!(ran.stdout.starts_with(&format!("arm  registered  POF  {COPY} (QEMU ")), "{ran:#?}");
    assert!(fs::read_to_string(ARM).unwrap().ends_with(&format!(":{COPY}:POF\n")));
}

kernel_test!(persist_after_an_interrupted_run_repairs_it);
fn persist_after_an_interrupted_run_repairs_it(lab: &Lab) {
    host(lab);
    done(persist(lab, &["arm"]));
    let text = fs::read_to_string(ARM).unwrap();
    // Killed between registering and writing: the handler and its interpreter exist, and perhaps an incomplete file.
    fs::remove_file(ARM).unwrap();
    fs::write("/etc/binfmt.d/.qus-AbCdEf", "# Writ").unwrap();
    let ran = done(persist(lab, &["arm"]));
    assert!(ran.stdout.contains("unchanged"), "{ran:#?}");
    assert_eq!(fs::read_to_string(ARM).unwrap(), text);
    // Killed between copying and registering.
    fs::remove_file(ARM).unwrap();
    lab.command("qemu-arm", "-1");
    let ran = done(persist(lab, &["arm"]));
    assert!(ran.stdout.contains("registered"), "{ran:#?}");
    assert_eq!(fs::read_to_string(ARM).unwrap(), text);
    assert_eq!(
        lab.json(["list"])["unregistered"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|rule| rule["file"] == ARM)
            .count(),
        0
    );
}

kernel_test!(persist_that_fails_its_verification_leaves_the_boot_files);
/// Tests a broken interpreter that would replace a copy of the same name. After the failure, the previous boot files
/// remain.
fn persist_that_fails_its_verification_leaves_the_boot_files(lab: &Lab) {
    host(lab);
    lab.static_failure("none/qemu-arm-static");
    let words = ["register", "--persist", "--replace", "--interpreter", "none/qemu-arm-static", "arm"];
    let refused = || {
        let (before, handlers) = (tree(), lab.entries());
        let ran = lab.qus(words);
        assert!(ran.status == 1 && ran.stdout.contains(" verification failed "), "{ran:#?}");
        assert_eq!((tree(), lab.entries()), (before, handlers));
        // The same holds if no probe can be executed.
        let (before, handlers) = (tree(), lab.entries());
        fs::create_dir(lab.path("tmp")).unwrap();
        cover(lab.path("tmp").to_str().unwrap(), "size=8k", MsFlags::empty());
        fs::write(lab.path("tmp/full"), vec![b' '; 16384]).unwrap_err();
        let covered = lab.without_probe_directories();
        let ran = run(lab.program(&[], words).env("TMPDIR", lab.path("tmp")));
        drop(covered);
        umount(&lab.path("tmp")).unwrap();
        fs::remove_dir(lab.path("tmp")).unwrap();
        assert!(ran.status == 2 && ran.stderr.contains("cannot run probes"), "{ran:#?}");
        assert_eq!((tree(), lab.entries()), (before, handlers));
    };
    refused();
    done(persist(lab, &["arm"]));
    refused();
    // The outcome "unchanged" shows that the handler still runs the old file.
    let ran = done(persist(lab, &["arm"]));
    assert!(ran.stdout.contains("unchanged"), "{ran:#?}");
}

kernel_test!(many_persist_at_once);
/// Tests concurrent runs of the same command. One run makes the copy, and no run removes a copy that another one needs.
fn many_persist_at_once(lab: &Lab) {
    host(lab);
    let words = ["register", "--persist", "--interpreter-dir", "q", "arm", "s390x"];
    let mut newer = fs::read(lab.path("q/qemu-arm-static")).unwrap();
    newer.push(0);
    let wanted = [ARM, "/etc/binfmt.d/qus-s390x.conf", COPY, "/usr/local/lib/qus/copies/qemu-s390x-static"];
    let wanted = wanted.map(PathBuf::from);
    for content in [None, Some(newer)] {
        if let Some(content) = &content {
            lab.executable("q/qemu-arm-static", content);
        }
        for ran in all_at_once((0..8).map(|_| lab.program(&[], words)).collect()) {
            assert_eq!(ran.status, 0, "{ran:#?}");
        }
        assert_eq!(ordinary_files(), wanted);
        done(lab.qus(words));
        assert_eq!(order().len(), 2);
        assert_eq!(fs::read(COPY).unwrap(), fs::read(lab.path("q/qemu-arm-static")).unwrap());
        assert!(fs::read_to_string(ARM).unwrap().ends_with(&format!(":{COPY}:POF\n")));
        let ran = done(lab.qus(words));
        assert!(ran.stdout.contains("unchanged") && !ran.stdout.contains("replaced"), "{ran:#?}");
    }
    // After concurrent runs of `register` and `reset`, either everything exists or nothing.
    for _ in 0..3 {
        let command = |index: usize| {
            let words = if index.is_multiple_of(2) { &words[..] } else { &["reset", "--persist"] };
            lab.program(&[], words.iter().copied())
        };
        for ran in all_at_once((0..8).map(command).collect()) {
            assert_eq!(ran.status, 0, "{ran:#?}");
        }
        let (files, handlers) = (ordinary_files(), order().len());
        assert!(
            files == wanted && handlers == 2 || files.is_empty() && handlers == 0,
            "{files:?}, {handlers}"
        );
    }
}

fn ordinary_files() -> Vec<PathBuf> {
    let is_ordinary = |mode: u32| mode & 0o170_000 == 0o100_000;
    tree().into_iter().filter(|(_, (_, _, mode))| is_ordinary(*mode)).map(|(path, _)| path).collect()
}

kernel_test!(persist_keeps_what_others_restore);
fn persist_keeps_what_others_restore(lab: &Lab) {
    host(lab);
    lab.handler("arm", "arm", &lab.path("q/qemu-arm-static"), OURS);
    fs::create_dir("/etc/binfmt.d").unwrap();
    // The distribution's configuration restores the distribution's handler.
    let words = ["export", "arm", "--format", "register", "--interpreter-dir", "q"];
    let line = lab.done(words).replacen("qemu-arm", "arm", 1);
    fs::write("/etc/binfmt.d/distribution.conf", line).unwrap();
    // No interpreter is named, because that would be an explicit request.
    let persist = || {
        let mut command = lab.program(&[], ["register", "--persist", "arm"]);
        done(run(command.env("QUS_INTERPRETER_DIR", lab.path("q"))))
    };
    let (before, handlers) = (tree(), lab.entries());
    let ran = persist();
    assert!(ran.stdout.contains(" existing "), "{ran:#?}");
    assert!(ran.stdout.ends_with("; at boot by /etc/binfmt.d/distribution.conf\n"), "{ran:#?}");
    assert_eq!((tree(), lab.entries()), (before, handlers.clone()));
    // The same holds for binfmt-support.
    fs::remove_file("/etc/binfmt.d/distribution.conf").unwrap();
    fs::create_dir("/var/lib/binfmts").unwrap();
    fs::write("/var/lib/binfmts/arm", "qemu-user-static\nmagic\n0\n\n\n/usr/bin/x\n").unwrap();
    let ran = persist();
    assert!(ran.stdout.ends_with("; at boot by /var/lib/binfmts/arm\n"), "{ran:#?}");
    assert!(!Path::new(ARM).exists());
    assert_eq!(lab.entries(), handlers);
}

kernel_test!(persist_asks_before_it_replaces_a_handler_without_a_file);
fn persist_asks_before_it_replaces_a_handler_without_a_file(lab: &Lab) {
    host(lab);
    // An image registered this handler, so it does not exist after the next boot.
    lab.handler("arm", "arm", &lab.path("q/qemu-arm-static"), OURS);
    let ran = refused(lab, "arm (");
    ran.suggests("qus register --replace --persist --interpreter-dir q arm");
    lab.type_command("qus register --replace --persist --interpreter-dir q arm");
    assert_eq!(order(), ["qemu-arm"]);
    assert!(Path::new(ARM).exists());
    // A handler with an interpreter that the user named is a conflict, too, unless the user names it again.
    lab.done(["reset", "--persist"]);
    lab.copy("q/emulator", &interpreter("arm"));
    lab.done(["register", "--interpreter", "q/emulator", "arm"]);
    refused(lab, "qus-arm (");
    let chosen = ["register", "--interpreter", "q/emulator", "--replace", "--persist", "arm"];
    assert!(lab.done(chosen).contains("/usr/local/lib/qus/copies/emulator"));
    // A handler of another tool is a conflict with and without `--persist`.
    lab.done(["reset", "--persist"]);
    lab.handler("rosetta", "arm", Path::new("/run/rosetta/rosetta"), Flags::empty());
    refused(lab, "rosetta (/run/rosetta/rosetta, flags none) already handles these programs");
}

kernel_test!(persist_never_touches_files_of_others);
fn persist_never_touches_files_of_others(lab: &Lab) {
    host(lab);
    fs::create_dir("/etc/binfmt.d").unwrap();
    for content in ["", ":mine:E::mine::/mine:\n", "# Written by another tool\n"] {
        fs::write(ARM, content).unwrap();
        let ran = refused(lab, "/etc/binfmt.d/qus-arm.conf was not written by qus, and is left in place");
        ran.suggests(&format!("mv {ARM} {ARM}.before-qus"));
        // `reset` does not remove the file either.
        lab.done_with(["reset", "--persist"], NO_HANDLER);
        assert_eq!(fs::read_to_string(ARM).unwrap(), content);
    }
    lab.type_command(&format!("mv {ARM} {ARM}.before-qus"));
    symlink("/dev/null", ARM).unwrap();
    refused(lab, "/etc/binfmt.d/qus-arm.conf is a symbolic link, to /dev/null, and is left in place");
    fs::remove_file(ARM).unwrap();
    fs::write("/etc/victim", "precious").unwrap();
    symlink("/etc/victim", ARM).unwrap();
    refused(lab, "/etc/binfmt.d/qus-arm.conf is a symbolic link, to /etc/victim, and is left in place");
    lab.done_with(["reset", "--persist"], NO_HANDLER);
    assert_eq!(fs::read_to_string("/etc/victim").unwrap(), "precious");
    fs::remove_file(ARM).unwrap();
    fs::create_dir(ARM).unwrap();
    refused(lab, "/etc/binfmt.d/qus-arm.conf is not a regular file, and is left in place");
    // The rest of a batch is registered nevertheless.
    let ran = persist(lab, &["arm", "s390x"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert_eq!(order(), ["qemu-s390x"]);
    assert!(Path::new("/etc/binfmt.d/qus-s390x.conf").exists());
}

kernel_test!(persist_reports_a_later_file_that_overrides_it);
fn persist_reports_a_later_file_that_overrides_it(lab: &Lab) {
    host(lab);
    fs::create_dir("/etc/binfmt.d").unwrap();
    fs::write("/etc/binfmt.d/zz.conf", ":qemu-arm:E::x::/x:\n").unwrap();
    refused(lab, "/etc/binfmt.d/zz.conf has another rule for qemu-arm, which would replace this one at boot");
    fs::rename("/etc/binfmt.d/zz.conf", "/etc/binfmt.d/qemu-arm.conf").unwrap();
    done(persist(lab, &["arm"]));
}

kernel_test!(persist_where_nothing_can_be_written_registers_nothing);
fn persist_where_nothing_can_be_written_registers_nothing(lab: &Lab) {
    host(lab);
    cover("/etc", "mode=755", MsFlags::MS_RDONLY);
    refused(lab, "cannot write /etc/binfmt.d/qus-arm.conf: Read-only file system");
    // The file system has no inode for another file.
    cover("/etc", "mode=755,nr_inodes=2", MsFlags::empty());
    fs::create_dir("/etc/binfmt.d").unwrap();
    refused(lab, "cannot write /etc/binfmt.d/qus-arm.conf: No space left on device");
    cover("/etc", "mode=755", MsFlags::empty());
    cover("/usr/local/lib", "mode=755", MsFlags::MS_RDONLY);
    refused(
        lab,
        "cannot copy the interpreter for arm to /usr/local/lib/qus/copies/qemu-arm-static: Read-only file system",
    );
    cover("/usr/local/lib", "mode=755,size=1m", MsFlags::empty());
    fs::create_dir_all("/usr/local/lib/qus/copies").unwrap();
    refused(
        lab,
        "cannot copy the interpreter for arm to /usr/local/lib/qus/copies/qemu-arm-static: No space left",
    );
    fs::write("/etc/binfmt.d", "").unwrap();
    refused(lab, "/etc/binfmt.d");
}

kernel_test!(persist_without_space_for_the_rules_reports_the_lifetime);
/// Tests a full disk, which qus detects only when it writes a file.
fn persist_without_space_for_the_rules_reports_the_lifetime(lab: &Lab) {
    host(lab);
    cover("/etc", "mode=755,size=8k", MsFlags::empty());
    fs::create_dir("/etc/binfmt.d").unwrap();
    fs::write("/etc/full", vec![b' '; 16384]).unwrap_err();
    let message = "registered until the next reboot only: \
        cannot write /etc/binfmt.d/qus-arm.conf: No space left on device";
    for _ in 0..2 {
        let ran = persist(lab, &["arm"]);
        assert!(ran.status == 2 && ran.stdout.contains(message), "{ran:#?}");
        assert_eq!(fs::read_dir("/etc/binfmt.d").unwrap().count(), 0);
        assert_eq!(order(), ["qemu-arm"]);
    }
    fs::remove_file("/etc/full").unwrap();
    let ran = done(persist(lab, &["arm"]));
    assert!(ran.stdout.contains(&format!("; at boot by {ARM}\n")), "{ran:#?}");
    // The old file stays complete if there is no space for the new one.
    lab.copy("q/emulator", &interpreter("arm"));
    lab.done(["register", "--persist", "--replace", "--interpreter", "q/emulator", "arm"]);
    let before = fs::read(ARM).unwrap();
    fs::write("/etc/full", vec![b' '; 16384]).unwrap_err();
    let ran = persist(lab, &["--replace", "arm"]);
    assert!(ran.status == 2 && ran.stdout.contains(message), "{ran:#?}");
    assert_eq!((fs::read(ARM).unwrap(), fs::read_dir("/etc/binfmt.d").unwrap().count()), (before, 1));
}

kernel_test!(persist_needs_root, ordinary_user);
fn persist_needs_root(lab: &Lab) {
    lab.refused(["register", "--persist", "arm"], 2, "only root may");
    assert!(!Path::new(ARM).exists());
}

kernel_test!(persist_reports_a_host_without_registration_at_boot);
fn persist_reports_a_host_without_registration_at_boot(lab: &Lab) {
    host(lab);
    fs::remove_dir_all("/run/systemd").unwrap();
    cover("/usr/sbin", "mode=755", MsFlags::empty());
    if !Path::new("/sbin").is_symlink() {
        cover("/sbin", "mode=755", MsFlags::empty());
    }
    let ran = persist(lab, &["arm"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    let message = "nothing on this host reads /etc/binfmt.d at boot";
    assert!(ran.stderr.contains(message), "{ran:#?}");
    ran.hints("run `qus apply` as root at boot, for example from /etc/rc.local");
    // qus must not print that the handlers are restored.
    assert!(
        ran.stderr.contains(", until that namespace ends; ") && !ran.stderr.contains("again"),
        "{ran:#?}"
    );
    assert_eq!(order(), ["qemu-arm"]);
    assert!(Path::new(ARM).exists());
    assert_eq!(
        lab.json(["register", "--persist", "--interpreter-dir", "q", "arm"])["init-system"],
        "unsupported"
    );
}

kernel_test!(persist_reports_a_masked_systemd_unit);
fn persist_reports_a_masked_systemd_unit(lab: &Lab) {
    host(lab);
    fs::create_dir_all("/etc/systemd/system").unwrap();
    symlink("/dev/null", "/etc/systemd/system/systemd-binfmt.service").unwrap();
    let ran = persist(lab, &["arm"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(ran.stderr.contains("systemd-binfmt.service is masked"), "{ran:#?}");
    ran.suggests("systemctl unmask systemd-binfmt.service");
}

kernel_test!(persist_makes_a_service_of_openrc);
fn persist_makes_a_service_of_openrc(lab: &Lab) {
    host(lab);
    fs::remove_dir_all("/run/systemd").unwrap();
    fs::create_dir("/run/openrc").unwrap();
    let (service, link) = (Path::new("/etc/init.d/qus"), Path::new("/etc/runlevels/boot/qus"));
    fs::create_dir("/etc/init.d").unwrap();
    fs::write(service, "#!/sbin/openrc-run\n# Mine\n").unwrap();
    refused(lab, "/etc/init.d/qus was not written by qus, and is left in place");
    fs::remove_file(service).unwrap();
    let ran = done(persist(lab, &["arm"]));
    assert!(
        ran.stderr.contains("the service qus in OpenRC's runlevel boot registers them again"),
        "{ran:#?}"
    );
    done(persist(lab, &["s390x"]));
    let text = fs::read_to_string(service).unwrap();
    assert!(text.starts_with("#!/sbin/openrc-run\n# Written by qus for arm s390x."), "{text}");
    assert!(text.contains("'qemu-arm'") && text.contains("'qemu-s390x'"), "{text}");
    assert_eq!(fs::metadata(service).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_link(link).unwrap(), service);
    // A second run changes nothing, and restores a file that was removed.
    let before = tree();
    done(persist(lab, &["arm"]));
    assert_eq!(tree(), before);
    fs::remove_file(link).unwrap();
    done(persist(lab, &["arm"]));
    assert_eq!(fs::read_link(link).unwrap(), service);
    lab.done(["reset", "--persist", "arm"]);
    let text = fs::read_to_string(service).unwrap();
    assert!(!text.contains("'qemu-arm'") && text.contains("'qemu-s390x'"), "{text}");
    lab.done(["reset", "--persist"]);
    assert!(!service.exists() && !link.is_symlink());
    // Under systemd, the files for OpenRC are removed.
    done(persist(lab, &["arm"]));
    fs::create_dir_all("/run/systemd/system").unwrap();
    done(persist(lab, &["arm"]));
    assert!(!service.exists() && !link.is_symlink() && Path::new(ARM).exists());
}

kernel_test!(a_dry_run_of_persist_writes_nothing);
fn a_dry_run_of_persist_writes_nothing(lab: &Lab) {
    host(lab);
    let (before, handlers) = (tree(), lab.entries());
    let ran = done(persist(lab, &["--dry-run", "arm"]));
    let line = format!("arm  would register  POF  {COPY}; at boot by {ARM}\n");
    assert_eq!(ran.stdout, line, "{ran:#?}");
    assert_eq!((tree(), lab.entries()), (before, handlers));
    done(persist(lab, &["arm"]));
    let (before, handlers) = (tree(), lab.entries());
    let printed = lab.done(["reset", "--persist", "--dry-run"]);
    assert_eq!(printed.matches(" would remove ").count(), 2, "{printed}");
    assert_eq!((tree(), lab.entries()), (before, handlers));
}

kernel_test!(reset_persist_takes_back_exactly_what_was_written);
fn reset_persist_takes_back_exactly_what_was_written(lab: &Lab) {
    host(lab);
    fs::create_dir("/etc/binfmt.d").unwrap();
    fs::write("/etc/binfmt.d/theirs.conf", ":theirs:E::theirs::/theirs:\n").unwrap();
    fs::create_dir("/usr/local/lib/qus").unwrap();
    fs::write("/usr/local/lib/qus/qemu-mips-static", "fetched").unwrap();
    lab.register(b":theirs:E::theirs::/theirs:").unwrap();
    let (before, handlers) = (tree(), lab.entries());
    done(persist(lab, &["arm", "s390x"]));
    let printed = lab.done(["reset", "--persist", "s390x"]);
    let file = "s390x  removed  /etc/binfmt.d/qus-s390x.conf\n";
    assert!(printed.starts_with("s390x  removed  qemu-s390x ") && printed.contains(file), "{printed}");
    assert!(printed.contains("s390x  removed  /usr/local/lib/qus/copies/qemu-s390x-static\n"), "{printed}");
    assert!(Path::new(ARM).exists() && order().contains(&"qemu-arm".to_owned()));
    // Handler and file need not exist together: here the handler is gone already.
    lab.command("qemu-arm", "-1");
    lab.done_with(["reset", "--persist"], NO_HANDLER);
    assert_eq!((tree(), lab.entries()), (before.clone(), handlers.clone()));
    done(persist(lab, &["arm"]));
    fs::remove_file(ARM).unwrap();
    lab.done(["reset", "--persist"]);
    assert_eq!(lab.entries(), handlers);
    assert_eq!(tree(), before);
    // A copy that another tool's file names stays. Nothing outside of the directory of copies is ever removed.
    done(persist(lab, &["arm"]));
    fs::write("/etc/binfmt.d/theirs.conf", format!(":theirs:E::theirs::{COPY}:\n")).unwrap();
    lab.done(["reset", "--persist"]);
    assert!(Path::new(COPY).exists() && !Path::new(ARM).exists());
    done(persist(lab, &["arm"]));
    fs::write("/etc/victim", "").unwrap();
    let forged = "# Written by qus\n# The interpreter was copied for this file. The copy is removed with the file.\n:qemu-arm:M::AAAA::/etc/victim:\n";
    fs::write(ARM, forged).unwrap();
    assert_eq!(lab.qus(["reset", "--persist"]).status, 2);
    assert!(Path::new("/etc/victim").exists() && Path::new(ARM).exists());
    fs::remove_file(ARM).unwrap();
    // If a directory is not writable, nothing is removed.
    done(persist(lab, &["arm"]));
    let options = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, "/etc", None::<&str>, options, None::<&str>).unwrap();
    let before = tree();
    lab.refused(["reset", "--persist"], 2, "cannot write /etc/binfmt.d/qus-arm.conf: Read-only file system");
    assert_eq!(tree(), before);
}

kernel_test!(reset_persist_that_failed_halfway_is_done_by_the_next);
/// Tests an interrupted `reset`. It removes the file last, so the next `reset` can find the other parts by this file.
fn reset_persist_that_failed_halfway_is_done_by_the_next(lab: &Lab) {
    host(lab);
    // Only binfmt-support changes its database, so a script imitates `update-binfmts`.
    fs::remove_dir_all("/run/systemd").unwrap();
    cover("/usr/sbin", "mode=755", MsFlags::empty());
    if !Path::new("/sbin").is_symlink() {
        cover("/sbin", "mode=755", MsFlags::empty());
    }
    let script = "#!/bin/sh\nset -e\ncd /var/lib/binfmts\ncase $1 in\n\
        --import) printf 'qus\\nmagic\\n' >\"${2##*/}\";;\n\
        --package) if [ -e /var/lib/full ]; then echo full >&2; exit 1; fi; rm \"$4\";;\nesac\n";
    fs::write("/usr/sbin/update-binfmts", script).unwrap();
    fs::set_permissions("/usr/sbin/update-binfmts", fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir("/var/lib/binfmts").unwrap();
    let database = Path::new("/var/lib/binfmts/qemu-arm");
    done(persist(lab, &["arm"]));
    assert!(database.exists());
    fs::write("/var/lib/full", "").unwrap();
    let ran = lab.qus(["reset", "--persist"]);
    assert!(ran.status == 2 && ran.stdout.contains("update-binfmts failed: full"), "{ran:#?}");
    assert!(database.exists() && Path::new(ARM).exists() && Path::new(COPY).exists());
    fs::remove_file("/var/lib/full").unwrap();
    lab.done_with(["reset", "--persist"], NO_HANDLER);
    assert!(!database.exists() && !Path::new(ARM).exists() && !Path::new(COPY).exists());
    // If a directory has the name of the copy, `reset` cannot remove it.
    done(persist(lab, &["arm"]));
    fs::remove_file(COPY).unwrap();
    fs::create_dir(COPY).unwrap();
    let ran = lab.qus(["reset", "--persist"]);
    assert!(ran.status == 2 && ran.stdout.contains(&format!("cannot remove {COPY}")), "{ran:#?}");
    assert!(Path::new(ARM).exists());
    fs::remove_dir(COPY).unwrap();
    lab.done_with(["reset", "--persist"], NO_HANDLER);
    assert!(!Path::new(ARM).exists());
}

kernel_test!(reset_reports_what_comes_back);
fn reset_reports_what_comes_back(lab: &Lab) {
    host(lab);
    done(persist(lab, &["arm"]));
    let ran = done(lab.qus(["reset"]));
    let message = format!(
        "{ARM} registers qemu-arm again at boot; to remove it for good: sudo qus reset --persist arm\n"
    );
    assert!(ran.stderr.ends_with(&message), "{ran:#?}");
    lab.done_with(["reset", "--persist", "arm"], NO_HANDLER);
    // A file of another tool stays, and qus reports it.
    let arm = lab.path("q/qemu-arm-static");
    lab.handler("qemu-arm", "arm", &arm, OURS);
    let words = ["export", "arm", "--format", "register", "--interpreter-path"];
    fs::write("/etc/binfmt.d/theirs.conf", lab.done(words.into_iter().chain([arm.to_str().unwrap()])))
        .unwrap();
    let before = tree();
    let ran = done(lab.qus(["reset", "--persist"]));
    assert!(ran.stderr.ends_with("/etc/binfmt.d/theirs.conf registers qemu-arm again at boot\n"), "{ran:#?}");
    assert_eq!(tree(), before);
    lab.handler("qemu-arm", "arm", &arm, OURS);
    let value = lab.json(["reset", "--persist"]);
    assert_eq!(value["returns"][0]["file"], "/etc/binfmt.d/theirs.conf");
    assert_eq!(value["returns"][0]["own"], false);
}

kernel_test!(list_prints_what_is_missing_and_what_differs);
fn list_prints_what_is_missing_and_what_differs(lab: &Lab) {
    host(lab);
    done(persist(lab, &["arm"]));
    let row = |state: &str| {
        let text = lab.qus(["list", "-v"]).stdout;
        let found = text.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.get(1) == Some(&state) && words.ends_with(&[ARM, "qemu-arm"])
        });
        (found, text)
    };
    for state in ["missing", "differs"] {
        let (found, text) = row(state);
        assert!(!found, "{text}");
    }
    lab.command("qemu-arm", "-1");
    let (found, text) = row("missing");
    assert!(found, "{text}");
    // The handler has the same rule without a flag.
    lab.handler("qemu-arm", "arm", Path::new(COPY), Flags::FIX_BINARY);
    let (found, text) = row("differs");
    assert!(found, "{text}");
    let (found, text) = row("missing");
    assert!(!found, "{text}");
}

kernel_test!(persist_goes_with_no_other_way_to_last);
fn persist_goes_with_no_other_way_to_last(lab: &Lab) {
    host(lab);
    for other in ["--in-memory", "--hold"] {
        lab.refused(["register", "--persist", other, "arm"], 2, "cannot be used with");
    }
    // The hint to fetch an interpreter keeps `--persist`.
    fs::create_dir(lab.path("empty")).unwrap();
    let words = ["register", "--persist", "--interpreter-dir", "empty", "arm"];
    lab.refused(words, 2, "no interpreter is in empty").suggests("qus register --fetch --persist arm");
}
