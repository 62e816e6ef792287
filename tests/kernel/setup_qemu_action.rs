//! The calls of docker/setup-qemu-action, with its inputs `reset` and `platforms`. qus under the name `binfmt`, or a
//! bundle of that name, replaces `docker run --rm --privileged IMAGE`.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::downloads::interpreter;
use crate::lab::{Lab, QUS, Ran, busybox, needs_static_qus, run};

/// Runs `binfmt` as the action runs the image. The interpreters of the image are in `q`.
fn call(lab: &Lab, words: &[&str]) -> Ran {
    let mut command = Command::new(lab.path("binfmt"));
    command.args(words).env_clear().env("PATH", "/usr/bin:/bin").env("QUS_INTERPRETER_DIR", lab.path("q"));
    run(&mut command)
}

/// Returns the error that the action reports: the last line of standard error, if the status is not 0 and there is one.
fn error(ran: &Ran) -> Option<&str> {
    if ran.status == 0 { None } else { ran.stderr.lines().last() }
}

/// Returns the JSON object of a call that the action takes as successful.
fn object(ran: &Ran) -> Value {
    assert_eq!(error(ran), None, "{ran:#?}");
    let value: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
    assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["emulators", "supported"], "{ran:#?}");
    value
}

kernel_test!(setup_qemu_action_gets_what_it_expects);
fn setup_qemu_action_gets_what_it_expects(lab: &Lab) {
    for arch in ["aarch64", "arm", "s390x"] {
        lab.copy(&format!("q/qemu-{arch}-static"), &interpreter(arch));
    }
    lab.link("binfmt", Path::new(QUS));
    // A handler of another tool, which has to stay, and an emulator of QEMU, which the input `reset` removes.
    lab.register(b":python3.11:M::\\xa7\\x0d\\x0d\\x0a::/usr/bin/python3.11:").unwrap();
    lab.register(b":qemu-sparc:M::\\x7fELF\\x01\\x02\\x01::/usr/bin/qemu-sparc-static:").unwrap();

    let ran = call(lab, &["--version"]);
    assert_eq!(error(&ran), None, "{ran:#?}");
    assert!(ran.stderr.contains(" qemu/v"), "{ran:#?}");

    let ran = call(lab, &["--uninstall", "qemu-*"]);
    assert_eq!(error(&ran), None, "{ran:#?}");
    assert!(ran.stderr.lines().any(|line| line == "uninstalling: qemu-sparc OK"), "{ran:#?}");
    assert_eq!(lab.entries().into_keys().collect::<Vec<_>>(), ["python3.11"]);

    let ran = call(lab, &["--install", "linux/amd64,linux/arm64,s390x"]);
    assert_eq!(object(&ran)["emulators"], json!(["qemu-aarch64", "qemu-s390x"]));
    assert!(ran.stderr.lines().any(|line| line == "installing: arm64 OK"), "{ran:#?}");

    let status = object(&call(lab, &[]));
    assert_eq!(status["emulators"], json!(["qemu-aarch64", "qemu-s390x"]));
    // The output `platforms` of the action.
    let platforms: Vec<&str> =
        status["supported"].as_array().unwrap().iter().map(|platform| platform.as_str().unwrap()).collect();
    assert!(platforms.join(",").contains("linux/arm64,linux/s390x"), "{platforms:?}");

    let ran = call(lab, &["--install", "linux/arm64,nonsense"]);
    let message = "error: installing: nonsense unsupported architecture: nonsense";
    assert_eq!(error(&ran), Some(message), "{ran:#?}");

    let ran = call(lab, &["--install", "all"]);
    assert_eq!(object(&ran)["emulators"], json!(["qemu-aarch64", "qemu-arm", "qemu-s390x"]));
    assert_eq!(busybox("aarch64", "uname -m").unwrap().stdout, "aarch64\n");
    let names = ["python3.11", "qemu-aarch64", "qemu-arm", "qemu-s390x"];
    assert_eq!(lab.entries().into_keys().collect::<Vec<_>>(), names);
}

kernel_test!(setup_qemu_action_may_remove_the_image);
fn setup_qemu_action_may_remove_the_image(lab: &Lab) {
    needs_static_qus();
    let source = interpreter("aarch64");
    lab.done(["bundle", "--from", source.to_str().unwrap(), "--output", "binfmt", "all"]);
    let ran = call(lab, &["--install", "all"]);
    assert_eq!(object(&ran)["emulators"], json!(["qemu-aarch64"]));
    assert_eq!(busybox("aarch64", "uname -m").unwrap().stdout, "aarch64\n");
    fs::remove_file(lab.path("binfmt")).unwrap();
    assert_eq!(busybox("aarch64", "uname -m").unwrap().stdout, "aarch64\n");
}
