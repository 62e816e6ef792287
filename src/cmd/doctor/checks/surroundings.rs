//! What is around qus on this machine.

use super::Said;
use crate::cmd::doctor::facts::Facts;

pub(super) fn engines(facts: &Facts) -> Vec<Said> {
    if facts.engines.is_empty() {
        return Vec::new();
    }
    let mut text = format!(
        "{} here: what was registered after a builder started, it does not know until the next build starts it again",
        facts.engines.join(", ")
    );
    let builders = facts.engines.iter().any(|engine| matches!(*engine, "docker" | "buildkitd"));
    if !builders {
        text = format!("{} here: it sees every handler that has the flag F", facts.engines.join(", "));
        return vec![Said::ok(text)];
    }
    vec![Said::note(text, "docker buildx stop".to_owned())]
}

pub(super) fn page_size(facts: &Facts) -> Vec<Said> {
    if facts.page_size == 4096 {
        return vec![Said::ok("pages of 4 KiB")];
    }
    vec![Said::note(format!("pages of {} KiB", facts.page_size / 1024), None)]
}

pub(super) fn security(facts: &Facts) -> Vec<Said> {
    let selinux = facts.security.iter().any(|module| module.starts_with("SELinux"));
    if selinux {
        let text = format!(
            "active: {}; its log tells why a container is refused something",
            facts.security.join(", ")
        );
        return vec![Said::note(text, "sudo ausearch -m avc -ts recent".to_owned())];
    }
    facts.security.iter().map(|module| Said::ok(format!("active: {module}"))).collect()
}

pub(super) fn namespaces(facts: &Facts) -> Vec<Said> {
    match &facts.no_user_namespaces {
        Some(cure) => {
            vec![Said::note("a setting keeps user namespaces from unprivileged users", cure.clone())]
        }
        None => vec![Said::ok("user namespaces are to be had")],
    }
}
