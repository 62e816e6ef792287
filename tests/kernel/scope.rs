//! Scope and lifetime of a registration, and registration in the namespaces of other processes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::downloads;
use crate::lab::{Lab, Ran, run};
use crate::namespace::INSTANCE;

/// Runs `script` in a new mount namespace, with the path of qus as `$QUS`.
fn in_mount_namespace(lab: &Lab, script: &str) -> Ran {
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "unchanged", "sh", "-c", script]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("QUS", env!("CARGO_BIN_EXE_qus"));
    command.env("QUS_INTERPRETER_DIR", downloads::distribution()).current_dir(lab.path(""));
    run(&mut command)
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

kernel_test!(scope_is_reported_by_every_command);
fn scope_is_reported_by_every_command(lab: &Lab) {
    let inode = fs::metadata("/proc/self/ns/user").unwrap().ino();
    let ran = lab.qus(["register", "aarch64"]);
    let sentence = format!(
        "qus: 1 architecture works in user namespace {inode} only, until that namespace ends; the host does not see these handlers\n"
    );
    assert!(ran.stderr.contains(&sentence), "{ran:?}");
    for command in ["list", "verify", "reset"] {
        let ran = lab.qus([command]);
        let sentence = format!("these are the handlers of user namespace {inode}, not the host");
        assert!(ran.status == 0 && ran.stderr.contains(&sentence), "{command}: {ran:?}");
        assert_eq!(lab.qus(["--quiet", command]).stderr, "", "{command}");
    }
    for words in [&["register", "aarch64"][..], &["list"], &["verify"], &["reset"]] {
        let answer = json(&lab.done([&["--json"], words].concat()));
        assert_eq!(answer["scope"]["user-namespace"], inode, "{words:?}: {answer}");
    }
}

kernel_test!(lifetime_of_this_very_command, unmounted);
fn lifetime_of_this_very_command(lab: &Lab) {
    let ran = in_mount_namespace(lab, "exec $QUS register aarch64");
    assert_eq!(ran.status, 2, "{ran:?}");
    let sentence = "the handlers end with this command: only its own mount holds the instance";
    assert!(ran.stderr.contains(sentence) && ran.stderr.contains("qus register --hold"), "{ran:?}");
    assert!(ran.stderr.contains("until this command ends"), "{ran:?}");
    let ran = in_mount_namespace(lab, "exec $QUS --json register aarch64");
    assert_eq!(ran.status, 2, "{ran:?}");
    let answer = json(&ran.stdout);
    assert_eq!((&answer["lifetime"], &answer["held"]), (&"process".into(), &false.into()));
    // The reported lifetime is correct: the handlers are gone.
    let ran = in_mount_namespace(lab, &format!("mount -t binfmt_misc x {INSTANCE}; ls {INSTANCE}"));
    assert_eq!(ran.stdout, "register\nstatus\n");
}

kernel_test!(lifetime_of_a_mount_namespace, unmounted);
fn lifetime_of_a_mount_namespace(lab: &Lab) {
    let script = format!("$QUS --json register aarch64; echo $? >&2; ls {INSTANCE} >&2");
    let ran = in_mount_namespace(lab, &script);
    assert_eq!(json(&ran.stdout)["lifetime"], "mount-namespace", "{ran:?}");
    assert!(ran.stderr.contains("\n0\nqemu-aarch64\nregister\nstatus\n"), "{ran:?}");
    assert!(ran.stderr.contains("an instance of this user namespace, which hides the host's handlers"));
    assert!(ran.stderr.contains("until that namespace ends"), "{ran:?}");
}

kernel_test!(lifetime_where_another_holds_the_instance);
fn lifetime_where_another_holds_the_instance(lab: &Lab) {
    // The delay is longer than a tick of the file system's clock (K68).
    std::thread::sleep(Duration::from_millis(100));
    let ran = in_mount_namespace(lab, &format!("umount {INSTANCE} && exec $QUS --json register aarch64"));
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(json(&ran.stdout)["lifetime"], "user-namespace", "{ran:?}");
    assert!(lab.entries().contains_key("qemu-aarch64"));
}

/// A process in its own user and mount namespace.
struct Other(Child);

impl Other {
    fn start() -> Self {
        let mut command = Command::new("unshare");
        let child = command.args(["-Urm", "sleep", "1000"]).stdout(Stdio::null()).spawn().unwrap();
        let comm = format!("/proc/{}/comm", child.id());
        while fs::read_to_string(&comm).unwrap() != "sleep\n" {
            std::thread::sleep(Duration::from_millis(5));
        }
        Self(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }

    fn inside(&self, words: &[&str]) -> Ran {
        run(Command::new("nsenter")
            .args(["-t", &self.pid(), "-U", "-m", "--preserve-credentials"])
            .args(words))
    }

    fn check(&self, lab: &Lab) {
        let handlers = self.inside(&["ls", INSTANCE]);
        assert_eq!(handlers.stdout, "qemu-aarch64\nregister\nstatus\n", "{handlers:?}");
        let program = downloads::busybox("aarch64");
        fs::copy(program, lab.path("busybox")).unwrap();
        let ran = self.inside(&[lab.path("busybox").to_str().unwrap(), "uname", "-m"]);
        assert_eq!(ran.stdout, "aarch64\n", "{ran:?}");
        assert!(lab.entries().is_empty());
        assert_eq!(run(&mut Command::new(lab.path("true"))).status, 0);
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs a shell script in namespaces that `unshare` creates, with qus as `$QUS`.
fn unshared(lab: &Lab, words: &[&str], script: &str) -> Ran {
    let mut command = Command::new("unshare");
    command.args(words).args(["sh", "-c", script]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("QUS", env!("CARGO_BIN_EXE_qus")).env("QUS_INTERPRETER_DIR", downloads::distribution());
    run(command.current_dir(lab.path("")))
}

const OUTER: &str = "an outer user namespace, usually the host's";

kernel_test!(scope_of_an_inherited_instance);
fn scope_of_an_inherited_instance(lab: &Lab) {
    lab.done(["register", "arm"]);
    let before = lab.entries();
    // Without rights qus cannot find out which namespace owns the instance, and reports that.
    let ran = unshared(lab, &["-Um", "--map-user=7", "--map-group=7"], "$QUS list");
    assert!(
        ran.stderr.contains("a user namespace that could not be determined")
            && ran.stdout.contains("qemu-arm"),
        "{ran:?}"
    );
    let ran = unshared(lab, &["-Um", "--map-user=7", "--map-group=7"], "$QUS --json list");
    assert_eq!(json(&ran.stdout)["scope"], "unknown", "{ran:?}");
    for namespaces in [&["-Ur"][..], &["-Urm"], &["-U", "--map-user=7", "--map-group=7", "--keep-caps"]] {
        let ran = unshared(lab, namespaces, "$QUS list");
        assert!(ran.stderr.contains(&format!("these are the handlers of {OUTER}")), "{namespaces:?} {ran:?}");
        let ran = unshared(lab, namespaces, "$QUS --json list");
        assert_eq!(json(&ran.stdout)["scope"], "outer", "{namespaces:?} {ran:?}");
        let ran = unshared(lab, namespaces, "$QUS doctor --no-verify");
        assert!(
            ran.stdout.contains(&format!("handlers here are those of {OUTER}")),
            "{namespaces:?} {ran:?}"
        );
    }
    // Root of the namespace could write to the outer instance (K71), but its handlers stay in its own namespace.
    let script = format!("$QUS -n register aarch64 >&2; $QUS register aarch64 >&2; ls {INSTANCE}");
    let ran = unshared(lab, &["-Urm"], &script);
    assert_eq!(ran.stdout, "qemu-aarch64\nregister\nstatus\n", "{ran:?}");
    assert!(ran.stderr.contains(" only, until that namespace ends; the host does not see"), "{ran:?}");
    // A dry run plans what the run does: the outer instance does not count.
    let ran = unshared(lab, &["-Urm"], "$QUS --json register -n arm");
    let answer = json(&ran.stdout);
    assert_eq!(answer["items"][0]["outcome"], "registered", "{ran:?}");
    assert!(answer["scope"]["user-namespace"].is_u64(), "{ran:?}");
    assert_eq!(lab.entries(), before);
}

kernel_test!(registering_in_an_outer_instance);
/// Tests a user namespace without its own mount namespace, and so without an instance. Its root registers in the outer
/// instance (K71).
fn registering_in_an_outer_instance(lab: &Lab) {
    let ran = unshared(lab, &["-Ur"], "$QUS register arm");
    assert_eq!(ran.status, 0, "{ran:?}");
    let sentence = format!("1 architecture works in {OUTER}, even after this user namespace ends");
    assert!(ran.stderr.contains(&sentence), "{ran:?}");
    // The reported lifetime is correct.
    assert!(lab.entries().contains_key("qemu-arm"));
    lab.done(["verify"]);
    let ran = unshared(lab, &["-Ur"], "$QUS --json register aarch64");
    let answer = json(&ran.stdout);
    assert_eq!((&answer["scope"], &answer["lifetime"]), (&"outer".into(), &"outer".into()), "{ran:?}");
    let ran = unshared(lab, &["-Ur"], "$QUS --json register -n aarch64");
    assert_eq!(json(&ran.stdout)["scope"], "outer", "{ran:?}");
    let rule = lab.path("rule.conf");
    std::fs::write(&rule, ":other:E::other::/nonexistent:\n").unwrap();
    let apply = format!("apply -n {}", rule.display());
    for command in ["list", "verify", "disable arm", "enable arm", "reset -n", &apply] {
        let ran = unshared(lab, &["-Ur"], &format!("$QUS --json {command}"));
        assert_eq!((ran.status, &json(&ran.stdout)["scope"]), (0, &"outer".into()), "{command}: {ran:?}");
    }
    let ran = unshared(lab, &["-Ur"], "$QUS reset");
    assert!(ran.stderr.contains(&format!("these are the handlers of {OUTER}")), "{ran:?}");
    assert!(lab.entries().is_empty());
}

kernel_test!(scope_of_the_nearest_instance);
/// Tests a user namespace without an instance inside of one with an instance. The scope is the outer one.
fn scope_of_the_nearest_instance(lab: &Lab) {
    let script = format!(
        "mount -t binfmt_misc none {INSTANCE}; $QUS --json list; \
         unshare -Ur $QUS --json register arm; $QUS --json list; ls {INSTANCE} >&2"
    );
    let ran = unshared(lab, &["-Urm"], &script);
    let answers: Vec<_> = serde_json::Deserializer::from_str(&ran.stdout)
        .into_iter::<serde_json::Value>()
        .map(|answer| answer.unwrap()["scope"].clone())
        .collect();
    assert!(answers[0]["user-namespace"].is_u64(), "{ran:?}");
    assert_eq!((&answers[1], &answers[2]), (&"outer".into(), &answers[0]), "{ran:?}");
    assert!(ran.stderr.ends_with("qemu-arm\nregister\nstatus\n"), "{ran:?}");
    assert!(lab.entries().is_empty());
}

kernel_test!(finding_the_scope_changes_nothing);
/// Tests that finding the scope changes neither mounts nor the active handlers (K66).
fn finding_the_scope_changes_nothing(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.copy("busybox", &downloads::busybox("arm"));
    let mounts = "cat /proc/self/mountinfo";
    let script = format!(
        "{mounts} >before; $QUS list >&2; $QUS doctor >&2; {mounts} >after; cmp before after && ./busybox uname -m"
    );
    for namespaces in [&["-Ur"][..], &["-Urm"]] {
        let ran = unshared(lab, namespaces, &script);
        assert_eq!(ran.stdout, "armv7l\n", "{namespaces:?} {ran:?}");
    }
    lab.done(["verify"]);
}

kernel_test!(scope_of_an_instance_of_another_process);
/// Tests a path in `/proc/PID/root` to an instance that is not mounted in this mount namespace.
fn scope_of_an_instance_of_another_process(lab: &Lab) {
    let other = Other::start();
    let mounted = other.inside(&["mount", "-t", "binfmt_misc", "none", INSTANCE]);
    assert_eq!(mounted.status, 0, "{mounted:?}");
    let path = format!("/proc/{}/root{INSTANCE}", other.pid());
    let ran = lab.qus(["--json", "--instance", &path, "list"]);
    assert_eq!(json(&ran.stdout)["scope"], "unknown", "{ran:?}");
}

kernel_test!(target_is_another_process);
fn target_is_another_process(lab: &Lab) {
    lab.executable("true", b"#!/bin/sh\n");
    let other = Other::start();
    let ran = lab.qus(["register", "--in", &other.pid(), "aarch64"]);
    let inode = fs::metadata(format!("/proc/{}/ns/user", other.pid())).unwrap().ino();
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(
        ran.stderr.contains(&format!("in user namespace {inode} only, until that namespace ends")),
        "{ran:?}"
    );
    other.check(lab);
    // The second run finds the handler, and mounts nothing again.
    let ran = lab.qus(["--json", "register", "--in", &other.pid(), "aarch64"]);
    let answer = json(&ran.stdout);
    assert_eq!(answer["items"][0]["outcome"], "unchanged", "{answer}");
    assert_eq!(answer["scope"]["user-namespace"], inode);
    other.check(lab);
}

kernel_test!(target_that_cannot_be_entered);
fn target_that_cannot_be_entered(lab: &Lab) {
    // Process 1 is in the namespaces of the real host, where root of a user namespace has no rights.
    let ran = lab.refused(
        ["register", "--in", "host", "aarch64"],
        2,
        if nix::unistd::geteuid().is_root() {
            "hint: root has no such right here: start qus outside of this container"
        } else {
            "hint: start qus as root, or as the user who owns the process"
        },
    );
    assert!(ran.stderr.contains("/proc/1/ns/") || ran.stderr.contains("of process 1"), "{ran:?}");
    lab.refused(["register", "--in", "nowhere", "aarch64"], 2, "unknown namespaces \"nowhere\"");
    lab.refused(["register", "--in", "4194304", "aarch64"], 2, "/proc has no process 4194304");
}

fn namespaces_of(lab: &Lab, engine: &str) -> Ran {
    let mut command = lab.command_of_qus();
    command.env("XDG_RUNTIME_DIR", lab.path("runtime"));
    run(command.args(["register", "--in", engine, "aarch64"]))
}

fn write_pid(lab: &Lab, file: &str, text: &str) {
    let file = lab.path("runtime").join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

kernel_test!(namespaces_of_engines);
fn namespaces_of_engines(lab: &Lab) {
    lab.executable("true", b"#!/bin/sh\n");
    let files = [
        ("podman", "libpod/tmp/pause.pid"),
        ("docker-rootless", "dockerd-rootless/child_pid"),
        ("docker-rootless", "docker.pid"),
    ];
    for (engine, file) in files {
        let other = Other::start();
        write_pid(lab, file, &format!("{}\n", other.pid()));
        let ran = namespaces_of(lab, engine);
        assert_eq!(ran.status, 0, "{engine}: {ran:?}");
        other.check(lab);
        fs::remove_dir_all(lab.path("runtime")).unwrap();
    }
}

kernel_test!(namespaces_of_engines_that_do_not_run);
fn namespaces_of_engines_that_do_not_run(lab: &Lab) {
    let refused = |engine: &str, message: &str, command: &str| {
        let ran = namespaces_of(lab, engine);
        assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:?}");
        assert!(
            ran.stderr.contains(message) && ran.stderr.contains(command),
            "no {message:?}, {command:?} in {ran:?}"
        );
        assert!(lab.entries().is_empty(), "{ran:?}");
    };
    refused("podman", "runtime/libpod/tmp/pause.pid", "podman unshare true");
    refused("docker-rootless", "runtime/dockerd-rootless/child_pid", "systemctl --user start docker");
    refused("containerd", "unknown namespaces \"containerd\"", "--help");
    write_pid(lab, "libpod/tmp/pause.pid", "many");
    refused("podman", "contains no process number", "podman unshare true");
    // A file that an ended engine left. Then another process has the same id.
    write_pid(lab, "libpod/tmp/pause.pid", "4194304");
    refused("podman", "has ended", "podman unshare true");
    write_pid(lab, "libpod/tmp/pause.pid", &std::process::id().to_string());
    refused("podman", "has no user namespace of its own", "podman unshare true");
    assert!(Path::new(INSTANCE).join("register").exists());
}
