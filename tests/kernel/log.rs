//! Tests the log: silent by default, each step with `-v`, and details with times with `-vv`.

use crate::downloads;
use crate::lab::Lab;

fn register(lab: &Lab, options: &[&str]) -> String {
    let directory = downloads::distribution();
    let words = ["register", "--interpreter-dir", directory.to_str().unwrap(), "arm"];
    let ran = lab.qus(options.iter().copied().chain(words));
    assert_eq!(ran.status, 0, "{ran:#?}");
    ran.stderr
}

kernel_test!(verbose_prints_each_step);
fn verbose_prints_each_step(lab: &Lab) {
    let log = register(lab, &["-v"]);
    let steps = [
        "qus: check ",
        "qus: arm: decided: register qemu-arm\n",
        r"qus: arm: write :qemu-arm:M::\x7f\x45\x4c\x46",
        "qus: start 1 probes\n",
        "qus: arm: the probe ended with status 42\n",
        "qus: arm: the probe in an empty root directory ended with status 42\n",
    ];
    let mut rest = log.as_str();
    for step in steps {
        let (_, after) = rest.split_once(step).unwrap_or_else(|| panic!("no {step:?}, in this order: {log}"));
        rest = after;
    }
    assert!(!log.contains(" s] "), "{log}");
    let log = lab.qus(["-v", "reset", "arm"]).stderr;
    assert!(log.contains("qus: remove the handler qemu-arm\n"), "{log}");
}

kernel_test!(verbose_twice_prints_details_and_times);
fn verbose_twice_prints_details_and_times(lab: &Lab) {
    let log = register(lab, &["-vv"]);
    let detail = |line: &str| line.starts_with("qus: [") && line.contains(" s] ");
    assert!(log.lines().filter(|line| detail(line)).count() > 6, "{log}");
    assert!(log.contains("] the probes took "), "{log}");
    assert!(log.contains("] arm: the kernel started "), "{log}");
}

kernel_test!(without_verbose_no_step_is_printed);
fn without_verbose_no_step_is_printed(lab: &Lab) {
    let log = register(lab, &[]);
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("qus: 1 architecture works in user namespace "), "{log}");
}
