//! Tests that qus does nothing if it is setuid or its file has capabilities, whatever its name and arguments are.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::lab::{Lab, QUS, run};
use crate::namespace::OTHER_USER;

const MESSAGE: &str = "refusing to run with more rights than the caller (setuid, setgid or file capabilities), \
                       because the caller controls arguments and environment";

/// Reports whether the namespace has other users than root.
fn has_others() -> bool {
    fs::read_to_string("/proc/self/uid_map").unwrap().lines().count() > 1
}

/// Copies qus to a file system on which setuid bits take effect. The programs that come first in `PATH` leave a file if
/// they run.
fn copy(lab: &Lab) -> PathBuf {
    fs::set_permissions(lab.path(""), Permissions::from_mode(0o755)).unwrap();
    let directory = lab.path("copy");
    fs::create_dir(&directory).unwrap();
    mount(Some("none"), &directory, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    fs::create_dir(lab.path("bin")).unwrap();
    for name in ["apt-get", "curl", "newuidmap", "qemu-arm-static"] {
        let script = format!("#!/bin/sh\necho run >{}\n", lab.path("was-run").display());
        lab.executable(&format!("bin/{name}"), script.as_bytes());
    }
    lab.copy("copy/qus", Path::new(QUS))
}

/// Starts a copy of qus after `wrapper`, with an environment that the caller controls.
fn start(lab: &Lab, wrapper: &[&str], program: &Path, words: &[&str]) -> crate::lab::Ran {
    let mut line = wrapper.iter().map(Path::new).chain([program]);
    let mut command = Command::new(line.next().unwrap());
    command.args(line).args(words).current_dir(lab.path("")).env_clear();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", lab.path("bin").display());
    for (name, value) in
        [("PATH", path.as_str()), ("TMPDIR", "bin"), ("HOME", "bin"), ("QUS_INTERPRETER_DIR", "bin")]
    {
        command.env(name, value);
    }
    run(&mut command)
}

fn does_nothing(lab: &Lab, wrapper: &[&str], program: &Path, command: &str) {
    let before = lab.entries();
    for (words, status) in [
        (&["register", "arm"][..], 2),
        (&["register", "--fetch", "--replace", "all"], 2),
        (&["run", "--fetch", "--", "./program"], 125),
        (&["fetch", "--dest", "made", "arm"], 2),
        (&["man", "-o", "."], 2),
        (&["reset"], 2),
        (&["--version"], 2),
        (&[], 2),
        (&["--no-such-option"], 2),
        (&[qus::probe::HELPER], 2),
        (&[qus::system::namespace::MAP_HELPER], 2),
    ] {
        let ran = start(lab, wrapper, program, words);
        assert_eq!((ran.status, ran.stdout.as_str()), (status, ""), "{words:?} {ran:#?}");
        assert_eq!(ran.stderr.lines().next(), Some(format!("qus: {MESSAGE}").as_str()), "{ran:#?}");
        ran.suggests(command);
        ran.hints("then start qus with sudo");
        let ran = start(lab, wrapper, program, &[&["--json"], words].concat());
        assert_eq!((ran.status, &ran.json()["error"]["message"]), (status, &MESSAGE.into()), "{ran:#?}");
    }
    assert_eq!(lab.entries(), before);
    for name in ["was-run", "made", "qus.1"] {
        assert!(!lab.path(name).exists(), "{name}");
    }
}

kernel_test!(a_setuid_qus_does_nothing, among_others);
fn a_setuid_qus_does_nothing(lab: &Lab) {
    if !has_others() {
        // With one user there are no rights to gain; the next test covers that.
        return rights_of_the_caller_are_no_obstacle(lab);
    }
    let qus = copy(lab);
    lab.done(["register", "arm"]);
    let command = format!("sudo chmod ug-s {}", qus.display());
    let other_user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"];
    for mode in [0o4755, 0o2755, 0o6755] {
        fs::set_permissions(&qus, Permissions::from_mode(mode)).unwrap();
        does_nothing(lab, &other_user, &qus, &command);
    }
    // The same holds under the name of another tool.
    symlink(&qus, lab.path("copy/binfmt")).unwrap();
    let ran = start(lab, &other_user, &lab.path("copy/binfmt"), &["--install", "all"]);
    assert_eq!(
        (ran.status, ran.stderr.lines().next()),
        (2, Some(format!("qus: {MESSAGE}").as_str())),
        "{ran:#?}"
    );
    // Real and effective ids that differ.
    fs::set_permissions(&qus, Permissions::from_mode(0o755)).unwrap();
    does_nothing(lab, &["setpriv", "--ruid", "1000"], &qus, &command);
    // Only the group differs here, and root types no sudo.
    let command = command.trim_start_matches("sudo ");
    does_nothing(lab, &["setpriv", "--rgid", "1000", "--clear-groups"], &qus, command);
    // Root gains nothing by its own setuid bit.
    fs::set_permissions(&qus, Permissions::from_mode(0o4755)).unwrap();
    let ran = start(lab, &["env"], &qus, &["list"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
}

/// `CAP_SYS_ADMIN`, which permits mounting.
const SYS_ADMIN: &str = "21";

/// Perl script that gives a file capabilities (`struct vfs_cap_data` of `include/uapi/linux/capability.h`), because
/// `setcap` is not installed everywhere.
const GIVE: &str = r#"
my ($call, $file, $capability) = @ARGV;
my $name = "security.capability";
my $value = pack("V5", 0x02000001, 1 << $capability, 0, 0, 0);
exit(syscall($call + 0, $file, $name, $value, length $value, 0) == 0 ? 0 : 1);
"#;

kernel_test!(a_qus_with_capabilities_does_nothing, among_others);
fn a_qus_with_capabilities_does_nothing(lab: &Lab) {
    if !has_others() {
        return rights_of_the_caller_are_no_obstacle(lab);
    }
    let qus = copy(lab);
    let call = nix::libc::SYS_setxattr.to_string();
    let given = Command::new("perl").args(["-e", GIVE, &call]).arg(&qus).arg(SYS_ADMIN).status();
    let Ok(given) = given else {
        eprintln!("skipped: capabilities of a file: perl is not installed");
        assert!(
            std::env::var_os("QUS_REQUIRE_KERNEL").is_none(),
            "with QUS_REQUIRE_KERNEL a skip is a failure"
        );
        return;
    };
    assert!(given.success(), "{given}");
    let command = format!("sudo setcap -r {}", qus.display());
    let other_user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"];
    does_nothing(lab, &other_user, &qus, &command);
}

kernel_test!(rights_of_the_caller_are_no_obstacle, among_others);
/// Tests rights that are allowed: those of root, and a capability that the calling process gives to qus.
fn rights_of_the_caller_are_no_obstacle(lab: &Lab) {
    lab.done(["register", "arm"]);
    if !has_others() {
        return;
    }
    let id = OTHER_USER.to_string();
    let given = [
        "setpriv",
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "--inh-caps",
        "+sys_admin",
        "--ambient-caps",
        "+sys_admin",
    ];
    let qus = copy(lab);
    let ran = start(lab, &given, &qus, &["list"]);
    assert!(ran.status == 0 && ran.stdout.contains(" qemu-arm\n"), "{ran:#?}");
    let status = run(Command::new(given[0]).args(&given[1..]).args(["grep", "CapPrm", "/proc/self/status"]));
    assert_eq!(status.stdout, "CapPrm:\t0000000000200000\n");
}
