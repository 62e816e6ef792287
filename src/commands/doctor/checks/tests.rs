//! Tests of checks with invented facts, which a namespace for tests cannot have.

use std::collections::{BTreeMap, BTreeSet};

use super::configuration::{configured, flushed};
use super::environment::{page_size, restart};
use super::mount::{kernel, mounted};
use super::*;
use crate::arch::Arch;
use crate::base::order::ByArch;
use crate::binfmt::instance::OpenError;
use crate::binfmt::{Entry, HandlerName, Rule};
use crate::boot::configuration::{Configuration, ConfiguredRule};
use crate::commands::doctor::processes::MountHolder;
use crate::handler::owner::Owner;
use crate::system::kernel_version::KernelVersion;
use crate::system::namespace::{Scope, UserNamespace};

fn facts() -> Facts {
    Facts {
        kernel: KernelVersion::parse("6.18.0"),
        path: crate::binfmt::instance::DEFAULT_PATH.into(),
        instance: Err(OpenError::NotMounted(crate::binfmt::instance::DEFAULT_PATH.into())),
        process: UserNamespace::Initial,
        scope: Scope::Host,
        container: None,
        is_container: false,
        may_mount: true,
        is_wsl: false,
        systemd: true,
        configuration: Configuration::default(),
        engines: Vec::new(),
        buildkit_daemons: Vec::new(),
        page_size: 4096,
        security: Vec::new(),
        no_user_namespaces: None,
    }
}

fn with_handler(name: &str) -> Facts {
    let name = HandlerName::new(name).unwrap();
    let entry = Entry::parse(b"enabled\ninterpreter /bin/sh\nflags: F\noffset 0\nmagic 4d\n").unwrap();
    let state = State {
        enabled: true,
        read_only: false,
        registered: Vec::new(),
        holder: MountHolder::Others,
        owners: BTreeMap::from([(name.clone(), Owner::Qus)]),
        handlers: vec![Handler::new(name, entry)],
        health: Ok(BTreeMap::new()),
        faults: BTreeMap::new(),
        broken: BTreeMap::new(),
        available: ByArch::new(),
        natives: ByArch::new(),
    };
    Facts { instance: Ok(state), ..facts() }
}

#[test]
fn ids_are_unique() {
    let ids: BTreeSet<&str> = CHECKS.iter().map(|check| check.id).collect();
    assert_eq!(ids.len(), CHECKS.len());
}

#[test]
fn old_kernels_are_a_problem_or_have_one_instance() {
    let observations = kernel(&Facts { kernel: KernelVersion::parse("4.4.0"), ..facts() });
    assert_eq!(observations[0].level, Severity::Problem);
    assert_eq!(observations[0].text, "Linux 4.4 does not support the flag F; 4.8 and later do");
    let observations = kernel(&Facts { kernel: KernelVersion::parse("5.10.0"), ..facts() });
    assert_eq!(
        (observations[0].level, observations[0].text.as_str()),
        (Severity::Ok, "Linux 5.10: F, one instance for all user namespaces")
    );
}

#[test]
fn an_instance_of_the_host_has_to_be_mounted() {
    assert_eq!(mounted(&facts())[0].level, Severity::Problem);
    let old = Facts { kernel: KernelVersion::parse("6.1.0"), process: UserNamespace::Other(1), ..facts() };
    assert_eq!(mounted(&old)[0].level, Severity::Problem);
    let automount = OpenError::Automount(crate::binfmt::instance::DEFAULT_PATH.into());
    let observations = mounted(&Facts { instance: Err(automount), ..facts() });
    assert!(observations[0].text.ends_with("that only the host can trigger"));
    assert_eq!(observations[0].fix.advice.command.as_deref(), Some("ls /proc/sys/fs/binfmt_misc"));
}

#[test]
fn large_pages_are_a_note() {
    let observations = page_size(&Facts { page_size: 65536, ..facts() });
    assert_eq!((observations[0].level, observations[0].text.as_str()), (Severity::Note, "pages of 64 KiB"));
}

#[test]
fn systemd_removes_handlers_that_are_not_configured() {
    let facts = |name: &str, interpreter: &str| {
        let pattern = Arch::from_qemu_target("arm").unwrap().identity.patterns().swap_remove(0);
        let mut facts = with_handler(name);
        let State { handlers, .. } = facts.instance.as_mut().unwrap();
        handlers[0].entry.matcher = Some(crate::binfmt::Matcher::Magic(pattern));
        handlers[0].entry.interpreter = Some(interpreter.into());
        facts
    };
    let observations = flushed(&facts("qemu-arm", "/usr/bin/qemu-arm-static"));
    assert_eq!(observations[0].text, "1 handler is not configured, and lost at the next reboot");
    assert_eq!(observations[0].fix.advice.command.as_deref(), Some("sudo qus register --persist arm"));
    let observations = flushed(&facts("qus-arm", "/opt/other"));
    let hint = "sudo qus register --persist --replace --interpreter /opt/other arm";
    assert_eq!(observations[0].fix.advice.command.as_deref(), Some(hint));
    let ours = || facts("qemu-arm", "/usr/bin/qemu-arm-static");
    assert!(flushed(&Facts { systemd: false, ..ours() }).is_empty());
    assert!(flushed(&Facts { scope: Scope::UserNamespace(1), ..ours() }).is_empty());
    // Before Linux 6.7 a container uses the host's instance, and its systemd is not the host's.
    assert!(flushed(&Facts { process: UserNamespace::Other(1), ..ours() }).is_empty());
    // A handler in memory can be persistent only if an interpreter file is available.
    let in_memory = || facts("qemu-arm", "memory/QEMU-7.2.22/129-0123/qemu-arm-static");
    assert!(flushed(&in_memory()).is_empty());
    let mut available = in_memory();
    available.instance.as_mut().unwrap().available.insert("arm", "/usr/bin/qemu-arm".into());
    assert_eq!(flushed(&available)[0].fix.advice.command.as_deref(), Some("sudo qus register --persist arm"));
}

#[test]
fn a_builder_is_restarted_by_its_own_manager() {
    let id = "0123456789abcdef".repeat(4);
    let cases = [
        (format!("0::/system.slice/docker-{id}.scope"), Some("sudo docker restart 0123456789ab")),
        (format!("4:memory:/docker/{id}\n0::/\n"), Some("sudo docker restart 0123456789ab")),
        (format!("0::/machine.slice/libpod-{id}.scope"), Some("sudo podman restart 0123456789ab")),
        ("0::/system.slice/buildkit.service".to_owned(), Some("sudo systemctl restart buildkit.service")),
        (
            "0::/user.slice/user-7.slice/user@7.service/app.slice/it's.service".to_owned(),
            Some(r"systemctl --user restart 'it'\''s.service'"),
        ),
        ("0::/system.slice/docker-; rm.scope".to_owned(), None),
        ("0::/user.slice/session-1.scope\n1:name=systemd:/\nnonsense".to_owned(), None),
        (String::new(), None),
    ];
    for (groups, hint) in cases {
        assert_eq!(restart(&groups).as_deref(), hint, "{groups}");
    }
}

#[test]
fn a_configured_rule_is_applied_without_removing_others() {
    let rule = Rule::parse(b":configured:M::M::/bin/sh:F").unwrap();
    let rules = vec![ConfiguredRule { file: "/etc/binfmt.d/a.conf".into(), rule }];
    let configuration = || Configuration { rules: rules.clone(), ..Configuration::default() };
    let observations = configured(&Facts { configuration: configuration(), ..with_handler("other") });
    assert_eq!(observations[0].fix.advice.command.as_deref(), Some("sudo qus apply /etc/binfmt.d/a.conf"));
    assert!(configured(&Facts { configuration: configuration(), ..with_handler("configured") }).is_empty());
}
