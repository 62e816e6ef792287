//! Tests a handler whose interpreter's path leads to a program of another user. Root never executes that program.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Gid, Uid, chown};
use qus::binfmt::Flags;

use crate::downloads::{self, interpreter};
use crate::lab::{Lab, OURS, run};
use crate::namespace::OTHER_USER;

/// Script that records the ids of the process that executes it.
const WITNESS: &str = "#!/bin/sh\nwhile read -r name real effective _; do case $name in Uid:) echo \"$real $effective\" >>WITNESS;; esac; done </proc/self/status\nexit 1\n";

/// A directory of another user, in which root registered the emulator of arm.
struct Scene<'a> {
    lab: &'a Lab,
    others: PathBuf,
    path: PathBuf,
    witness: PathBuf,
    has_others: bool,
}

impl<'a> Scene<'a> {
    fn new(lab: &'a Lab, flags: Flags) -> Self {
        let has_others = fs::read_to_string("/proc/self/uid_map").unwrap().lines().count() > 1;
        for (name, mode) in [("", 0o755), ("witness", 0o777), ("others", 0o777)] {
            fs::create_dir_all(lab.path(name)).unwrap();
            fs::set_permissions(lab.path(name), Permissions::from_mode(mode)).unwrap();
        }
        let others = lab.path("others");
        let path = lab.copy("others/qemu-arm-static", &interpreter("arm"));
        if has_others {
            chown(&others, Some(Uid::from_raw(OTHER_USER)), Some(Gid::from_raw(OTHER_USER))).unwrap();
            fs::set_permissions(&others, Permissions::from_mode(0o755)).unwrap();
        }
        lab.handler("qemu-arm", "arm", &path, flags);
        Self { lab, others, path, witness: lab.path("witness/who"), has_others }
    }

    /// Replaces the file at the path by a program of the other user.
    fn exchange(&self) {
        let text = WITNESS.replace("WITNESS", self.witness.to_str().unwrap());
        let script = self.lab.executable("script", text.as_bytes());
        let line = format!("rm -f {0} && cp {1} {0} && chmod 755 {0}", self.path.display(), script.display());
        let mut shell = Command::new(if self.has_others { "setpriv" } else { "env" });
        if self.has_others {
            let id = OTHER_USER.to_string();
            shell.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        }
        let ran = run(shell.args(["sh", "-ec", &line]));
        assert_eq!(ran.status, 0, "{ran:#?}");
        assert!(self.others.exists());
    }

    /// Returns the ids, real and effective, of every process that executed the other user's program since the last
    /// call.
    fn executed_by(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.witness).unwrap_or_default();
        let _none = fs::remove_file(&self.witness);
        text.lines().map(str::to_owned).collect()
    }
}

/// Returns every command that works with handlers or interpreters, as root types it.
fn commands(program: &Path, own: &Path) -> Vec<Vec<String>> {
    let (program, own) = (program.display(), own.display());
    [
        "doctor".to_owned(),
        "verify".to_owned(),
        "list".to_owned(),
        "list --probe".to_owned(),
        "show arm".to_owned(),
        format!("which {program}"),
        format!("which --no-verify {program}"),
        format!("run -- {program} true"),
        "register --dry-run arm".to_owned(),
        "register --no-verify --dry-run all".to_owned(),
        "fetch --list".to_owned(),
        "fetch --prune --dry-run".to_owned(),
        "export --format systemd arm".to_owned(),
        format!("bundle -o {own}/bundle arm"),
        "disable arm".to_owned(),
        "enable arm".to_owned(),
        "register arm".to_owned(),
        "reset --dry-run".to_owned(),
        "reset".to_owned(),
    ]
    .iter()
    .map(|line| line.split(' ').map(str::to_owned).collect())
    .collect()
}

kernel_test!(another_users_file_at_a_path_is_never_executed_by_root, among_others);
fn another_users_file_at_a_path_is_never_executed_by_root(lab: &Lab) {
    let scene = Scene::new(lab, OURS);
    let program = lab.copy("busybox", &downloads::busybox("arm"));
    fs::create_dir_all(lab.path("own")).unwrap();
    scene.exchange();
    for words in commands(&program, &lab.path("own")) {
        if words[0] == "bundle" && crate::lab::is_dynamic() {
            continue;
        }
        let ran = lab.qus(words.iter().map(String::as_str));
        assert_eq!(scene.executed_by(), [""; 0], "{words:?}: {ran:#?}");
    }
}

kernel_test!(without_f_another_users_file_runs_only_as_nobody, among_others);
fn without_f_another_users_file_runs_only_as_nobody(lab: &Lab) {
    // With `O` the kernel would start no script (K59).
    let scene = Scene::new(lab, Flags::PRESERVE_ARGV0);
    let program = lab.copy("busybox", &downloads::busybox("arm"));
    fs::create_dir_all(lab.path("own")).unwrap();
    scene.exchange();
    let mut probed = 0;
    for words in commands(&program, &lab.path("own")).iter().filter(|words| words[0] != "bundle") {
        let ran = lab.qus(words.iter().map(String::as_str));
        let executed = scene.executed_by();
        probed += executed.len();
        // If an ordinary user runs the tests, root of the namespace is that user, without capabilities.
        let nobody = if scene.has_others { "65534 65534" } else { "0 0" };
        assert!(executed.iter().all(|ids| ids == nobody), "{words:?}: {executed:?} {ran:#?}");
        let may_probe = ["doctor", "verify", "which", "register"].contains(&words[0].as_str())
            || words.contains(&"--probe".to_owned());
        assert!(may_probe || executed.is_empty(), "{words:?}: {executed:?}");
    }
    assert!(probed > 0, "no probe reached the program, so the test is void");
}

kernel_test!(paths_that_others_can_change_are_reported);
fn paths_that_others_can_change_are_reported(lab: &Lab) {
    let scene = Scene::new(lab, OURS);
    fs::set_permissions(&scene.others, Permissions::from_mode(0o777)).unwrap();
    let ran = lab.qus(["list"]);
    assert_eq!(ran.status, 0, "{ran:#?}");
    let (path, others) = (scene.path.display(), scene.others.display());
    let note = format!("qus: qemu-arm runs {path}: other users can change {others}\n");
    assert!(ran.stderr.contains(&note), "no {note:?} in {ran:#?}");
    let list = lab.json(["list"]);
    assert_eq!(list["handlers"][0]["changeable_by_others"], scene.others.to_str().unwrap());
    crate::doctor::fixes(
        lab,
        "note",
        "writable-file",
        &format!("qemu-arm runs {path}, and other users can change {others}"),
    );
    let list = lab.json(["list"]);
    assert_eq!(list["handlers"][0]["changeable_by_others"], serde_json::Value::Null, "{list:#}");

    // `run` skips such a handler, and prints a warning.
    lab.done(["reset"]);
    lab.copy("others/qemu-sh4-static", &interpreter("sh4"));
    lab.handler("qemu-sh4", "sh4", &lab.path("others/qemu-sh4-static"), OURS);
    let program = lab.copy("busybox", &downloads::busybox("arm"));
    let mut command = lab.program(&[], ["run", "--arch", "arm", "--", program.to_str().unwrap(), "true"]);
    let ran = run(&mut command);
    let warning = format!(
        "the handler qemu-sh4 is left out: other users can change {others}, and thereby the interpreter"
    );
    assert!(ran.status == 0 && ran.stderr.contains(&warning), "no {warning:?} in {ran:#?}");
}
