//! Tests environments in which nothing can be registered: not root, not mounted, read-only, no binfmt_misc. qus prints
//! one clear message with a hint, exits with 2, and changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::unistd::geteuid;

use crate::downloads;
use crate::lab::{Lab, NO_HANDLER, order, run};
use crate::namespace::{INSTANCE, mount_instance};

/// Starts a program as root without capabilities, as in a container that dropped them.
const POWERLESS: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];

kernel_test!(a_user_who_is_not_root_gets_a_command, ordinary_user);
fn a_user_who_is_not_root_gets_a_command(lab: &Lab) {
    let message = "cannot register in /proc/sys/fs/binfmt_misc: only root may register handlers";
    for words in [&["register", "arm"][..], &["register", "all"], &["register", "--no-verify", "linux/arm64"]]
    {
        let ran = lab.refused(words.iter().copied(), 2, message);
        ran.suggests(&format!("sudo qus {}", words.join(" ")));
        ran.hints("without root: qus run --fetch PROGRAM");
    }
    // The hint holds.
    let program = lab.copy("busybox", &downloads::busybox("aarch64"));
    let words = ["run", "--fetch", program.to_str().unwrap(), "uname", "-m"];
    assert_eq!(lab.done(words), "aarch64\n");
    // For a registration at boot there is no such alternative.
    let persisted = lab.refused(["register", "--persist", "arm"], 2, "");
    assert!(!persisted.stderr.contains("qus run"), "{persisted:#?}");
    // Commands that change nothing work for every user.
    lab.done(["register", "--dry-run", "arm"]);
    lab.done_with(["list"], "qus: these are the handlers of a user namespace that could not be determined\n");
    let nothing =
        format!("qus: these are the handlers of a user namespace that could not be determined\n{NO_HANDLER}");
    lab.done_with(["reset"], &nothing);
}

kernel_test!(users_who_may_not_change_handlers_get_a_command);
fn users_who_may_not_change_handlers_get_a_command(lab: &Lab) {
    lab.done(["register", "arm"]);
    for file in ["register", "qemu-arm"] {
        fs::set_permissions(Path::new(INSTANCE).join(file), fs::Permissions::from_mode(0o444)).unwrap();
    }
    let message = "cannot register in /proc/sys/fs/binfmt_misc: only root may register handlers";
    for words in [&["register", "s390x"][..], &["reset"], &["reset", "arm"], &["disable", "all"]] {
        let ran = lab.refused_under(&POWERLESS, words.iter().copied(), 2, message);
        // With sudo this root would have the same rights.
        ran.hints(
            "root has no such right here: start qus outside of this container, or with all capabilities",
        );
    }
    fs::set_permissions(Path::new(INSTANCE).join("register"), fs::Permissions::from_mode(0o644)).unwrap();
    for command in ["reset", "disable"] {
        lab.refused_under(
            &POWERLESS,
            [command, "arm"],
            2,
            "cannot change qemu-arm: only root may change handlers",
        );
    }
}

const NOT_MOUNTED: &str =
    "binfmt_misc is not mounted on /proc/sys/fs/binfmt_misc, and mounting it is not permitted here";
const MOUNT: &str = "mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc";

kernel_test!(users_who_may_not_mount_get_a_command, unmounted);
fn users_who_may_not_mount_get_a_command(lab: &Lab) {
    let another_mount_namespace = ["unshare", "--user", "--map-root-user"];
    for wrapper in [&POWERLESS[..], &another_mount_namespace] {
        lab.refused_under(wrapper, ["register", "arm"], 2, NOT_MOUNTED).suggests(MOUNT);
    }
    // A user who is not root of the namespace is asked to use sudo; as root, qus mounts by itself.
    lab.refused_under(&["unshare", "--user"], ["register", "arm"], 2, NOT_MOUNTED)
        .suggests("sudo qus register arm");
    commands_without_instance(lab);
}

kernel_test!(a_user_who_may_not_mount_gets_a_command, unmounted, ordinary_user);
fn a_user_who_may_not_mount_gets_a_command(lab: &Lab) {
    lab.refused(["register", "arm"], 2, NOT_MOUNTED).suggests("sudo qus register arm");
    commands_without_instance(lab);
}

/// Expects that commands which do not mount report what is missing, and that commands which need no instance work.
fn commands_without_instance(lab: &Lab) {
    let message = "binfmt_misc is not mounted on /proc/sys/fs/binfmt_misc";
    let mount = if geteuid().is_root() { MOUNT.to_owned() } else { format!("sudo {MOUNT}") };
    for words in [&["list"][..], &["verify"], &["enable", "arm"], &["disable", "all"], &["reset"]] {
        lab.refused(words.iter().copied(), 2, message).suggests(&mount);
    }
    let printed = lab.done(["register", "--dry-run", "arm"]);
    assert!(printed.starts_with("arm  would register  POF  "), "{printed}");
    assert!(!Path::new(INSTANCE).join("register").exists());
    lab.done(["show"]);
}

kernel_test!(what_is_missing_is_mounted, unmounted);
fn what_is_missing_is_mounted(lab: &Lab) {
    let ran = lab.qus(["register", "arm"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    let message = "mounted binfmt_misc on /proc/sys/fs/binfmt_misc: an instance of this user namespace, \
                   which hides the host's handlers";
    assert!(ran.stderr.contains(message), "{ran:#?}");
    assert_eq!(order(), ["qemu-arm"]);
}

/// Expects the error of commands that have to write to the instance at `path`, which has a handler for arm.
fn cannot_write(lab: &Lab, path: &str) {
    let message = format!("{path} is mounted read-only");
    for words in [&["register", "s390x"][..], &["reset"], &["disable", "arm"]] {
        let ran = lab.refused(["--instance", path].into_iter().chain(words.iter().copied()), 2, &message);
        ran.suggests(&format!("mount -o remount,rw {path}"));
    }
    let printed = lab.done(["--instance", path, "register", "--dry-run", "s390x"]);
    assert!(printed.contains(" would register "), "{printed}");
    assert!(lab.done(["--instance", path, "list"]).contains(" qemu-arm\n"));
    // Nothing has to be written, so nothing fails.
    assert!(lab.done(["--instance", path, "enable", "arm"]).contains(" unchanged "));
}

kernel_test!(a_read_only_instance_is_reported);
fn a_read_only_instance_is_reported(lab: &Lab) {
    lab.done(["register", "arm"]);
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, INSTANCE, None::<&str>, flags, None::<&str>).unwrap();
    cannot_write(lab, INSTANCE);
}

kernel_test!(a_read_only_bind_mount_is_reported);
fn a_read_only_bind_mount_is_reported(lab: &Lab) {
    lab.done(["register", "arm"]);
    let mount_point = lab.path("bind");
    fs::create_dir(&mount_point).unwrap();
    mount(Some(INSTANCE), &mount_point, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, &mount_point, None::<&str>, flags, None::<&str>).unwrap();
    cannot_write(lab, mount_point.to_str().unwrap());
}

kernel_test!(a_kernel_without_binfmt_misc_is_reported, unmounted);
fn a_kernel_without_binfmt_misc_is_reported(lab: &Lab) {
    mount(Some("none"), "/proc/sys/fs", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let message = "this kernel has no binfmt_misc: /proc/sys/fs/binfmt_misc does not exist";
    let register = ["register", "arm"];
    for words in [&register[..], &["register", "--dry-run", "arm"], &["list"], &["reset"], &["verify"]] {
        let ran = lab.refused(words.iter().copied(), 2, message);
        ran.hints("use a kernel with CONFIG_BINFMT_MISC, and mount /proc if it is not mounted");
    }
}

kernel_test!(another_directory_is_no_instance);
fn another_directory_is_no_instance(lab: &Lab) {
    let mount_point = lab.path("somewhere");
    fs::create_dir(&mount_point).unwrap();
    let path = mount_point.to_str().unwrap();
    for command in [&["list"][..], &["register", "arm"], &["reset"], &["register", "--dry-run", "arm"]] {
        let words = || ["--instance", path].into_iter().chain(command.iter().copied());
        let ran = lab.refused(words(), 2, &format!("{path} is not a binfmt_misc file system"));
        ran.suggests(&format!("mount -t binfmt_misc binfmt_misc {path}"));
    }
    // A mount would hide the files of a directory.
    fs::create_dir(lab.path("full")).unwrap();
    fs::write(lab.path("full/file"), "").unwrap();
    for directory in ["full", "/proc"] {
        for command in [&["list"][..], &["register", "arm"], &["reset"], &["register", "--dry-run", "arm"]] {
            let words = ["--instance", directory].into_iter().chain(command.iter().copied());
            let ran = lab.refused(words, 2, &format!("{directory} is not a binfmt_misc file system"));
            assert!(!ran.stderr.contains("try: "), "{ran:#?}");
            ran.hints(
                "without --instance, qus uses /proc/sys/fs/binfmt_misc; for another mount point, \
                 name an empty directory",
            );
        }
    }
    let nowhere = lab.refused(["list", "--instance", "/no/where"], 2, "cannot open /no/where: ");
    assert!(nowhere.stderr.contains("No such file or directory"), "{nowhere:#?}");
    fs::write(lab.path("file"), "").unwrap();
    let file = lab.refused(["list", "--instance", "file"], 2, "cannot open file: ");
    assert!(file.stderr.contains("Not a directory"), "{file:#?}");
}

kernel_test!(an_instance_may_be_mounted_elsewhere);
fn an_instance_may_be_mounted_elsewhere(lab: &Lab) {
    let mount_point = lab.path("instance");
    fs::create_dir(&mount_point).unwrap();
    mount_instance(&mount_point, MsFlags::empty());
    nix::mount::umount(INSTANCE).unwrap();
    let path = mount_point.to_str().unwrap();
    let printed = lab.done(["--instance", path, "register", "arm"]);
    assert!(printed.contains(" registered ") && !printed.contains("unverified"), "{printed}");
    assert!(mount_point.join("qemu-arm").exists());
    assert_eq!(lab.json(["list", "--instance", path])["instance"], path);
    lab.done(["--instance", path, "verify"]);
    for command in ["verify", "enable"] {
        let ran = lab.refused(
            ["--instance", path, command, "s390x"],
            if command == "verify" { 1 } else { 2 },
            "no handler",
        );
        ran.suggests(&format!("qus --instance {path} register s390x"));
    }
    lab.done(["--instance", path, "disable", "arm"]);
    assert!(lab.done(["--instance", path, "reset"]).contains(" removed "));
    assert!(!mount_point.join("qemu-arm").exists());
}

kernel_test!(advice_is_what_this_user_can_use, unmounted, ordinary_user);
fn advice_is_what_this_user_can_use(lab: &Lab) {
    let register = |path: &str| {
        let mut command = lab.program(&[], ["register", "arm"]);
        run(command.env("PATH", path).env("QUS_INTERPRETER_DIR", lab.path("")))
    };
    let empty = lab.path("empty");
    fs::create_dir(&empty).unwrap();
    let ran = register(empty.to_str().unwrap());
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert!(!ran.messages().contains("sudo"), "{ran:#?}");
    ran.hints("as root: qus register arm; without root: qus run --from SRC PROGRAM");
    // Without new privileges sudo cannot work.
    let wrapper = ["setpriv", "--no-new-privs"];
    let ran = run(&mut lab.program(&wrapper, ["register", "arm"]));
    assert!(ran.stderr.contains("\n  hint: as root: qus register arm; without root: "), "{ran:#?}");
}

kernel_test!(a_machine_without_packages_is_told_to_name_a_source);
fn a_machine_without_packages_is_told_to_name_a_source(lab: &Lab) {
    let empty = lab.path("empty");
    fs::create_dir(&empty).unwrap();
    let mut command = lab.program(&[], ["register", "--interpreter-dir", "empty", "arm"]);
    let ran = run(command.env("PATH", &empty));
    ran.hints("qus knows no package manager of this system; name a source: qus register --from SRC arm");
    let ran = run(lab.program(&[], ["fetch", "--dest", "out", "arm"]).env("PATH", &empty));
    assert_eq!(ran.status, 2, "{ran:#?}");
}

kernel_test!(a_machine_without_network_is_told_to_name_a_source);
fn a_machine_without_network_is_told_to_name_a_source(lab: &Lab) {
    fs::create_dir(lab.path("empty")).unwrap();
    let words = ["register", "--interpreter-dir", "empty", "arm"];
    let ran = run(&mut lab.program(&["unshare", "--net"], words));
    assert_eq!(ran.status, 2, "{ran:#?}");
    ran.hints("there is no network here; name a source: qus register --from SRC arm");
    let ran = run(&mut lab.program(&["unshare", "--net"], ["fetch", "--dest", "out", "arm"]));
    assert!(ran.status == 2 && ran.messages().contains("--from"), "{ran:#?}");
}
