//! Table of cases for [`decide`]: registered handlers, request, and expected decision.

use super::*;
use crate::binfmt::{Entry, Matcher, Pattern};

const OURS: FileId = FileId { device: 1, inode: 1 };
const OTHER: FileId = FileId { device: 1, inode: 2 };
/// Path of the available interpreter.
const PATH: &str = "/usr/bin/qemu-arm-static";
const POF: Flags = Flags::PRESERVE_ARGV0.union(Flags::OPEN_BINARY).union(Flags::FIX_BINARY);

const ASKED: Request = Request { flags: POF, explicit: false, replace: false, force_native: false };
const EXPLICIT: Request = Request { explicit: true, ..ASKED };
const REPLACE: Request = Request { explicit: true, replace: true, ..ASKED };

fn arm() -> &'static Arch {
    Arch::from_qemu_target("arm").unwrap()
}

fn name(name: &str) -> HandlerName {
    HandlerName::new(name).unwrap()
}

/// Returns a handler with the first pattern of the architecture `arch`.
fn handler_of(arch: &str, called: &str, path: &str, flags: Flags) -> Handler {
    let pattern = Arch::from_qemu_target(arch).unwrap().identity.patterns().swap_remove(0);
    let entry = Entry {
        enabled: true,
        interpreter: Some(path.into()),
        flags,
        unknown_flags: String::new(),
        matcher: Some(Matcher::Magic(pattern)),
        unknown_lines: Vec::new(),
    };
    Handler::new(name(called), entry)
}

fn handler(called: &str, path: &str, flags: Flags) -> Handler {
    handler_of("arm", called, path, flags)
}

fn disabled(mut handler: Handler) -> Handler {
    handler.entry.enabled = false;
    handler
}

fn interpreter() -> Interpreter {
    Interpreter { path: PATH.into(), id: OURS, header: b"\x7fELF\x02".to_vec(), owned_by_root: true }
}

#[allow(clippy::unnecessary_wraps, reason = "the type of `Facts::verdict`")]
fn verification(argv0: bool, started: FileId) -> Result<Verification, Failure> {
    Ok(Verification { argv0, empty_root: true, interpreter: Some(started) })
}

/// Returns the decision about the architecture arm if the interpreter at [`PATH`] is available.
fn decided(
    handlers: &[Handler],
    verdict: Option<&Result<Verification, Failure>>,
    request: Request,
) -> Decision {
    let interpreter = interpreter();
    let facts = Facts { interpreter: Some(&interpreter), native: &Nativeness::Foreign, verdict, unfit: None };
    decide(arm(), &Snapshot { handlers, guarded: &[] }, &facts, request).unwrap()
}

fn conflict(with: &str) -> Decision {
    Decision::Conflict { with: vec![name(with)] }
}

/// Returns a registration of the only rule for arm.
fn registration(removes: &[&str], reason: Option<&str>, displaced: &[&str]) -> Decision {
    let names = |names: &[&str]| names.iter().copied().map(name).collect::<Vec<_>>();
    Decision::Register(Registration {
        rules: rules(arm(), Path::new(PATH), POF).unwrap(),
        removes: names(removes),
        reason: reason.map(str::to_owned),
        displaced: names(displaced),
        narrowed: Vec::new(),
    })
}

#[test]
fn no_handler_matches() {
    assert_eq!(decided(&[], None, ASKED), registration(&[], None, &[]));
    let facts = Facts { interpreter: None, native: &Nativeness::Foreign, verdict: None, unfit: None };
    let snapshot = Snapshot { handlers: &[], guarded: &[] };
    assert_eq!(decide(arm(), &snapshot, &facts, ASKED).unwrap(), Decision::NoInterpreter);
    // Handlers for other architectures, other file formats and file extensions do not matter.
    let mut jar = handler("jar", "/usr/bin/jexec", Flags::empty());
    jar.entry.matcher = Some(Matcher::Extension(crate::binfmt::Extension::new("jar").unwrap()));
    let mut windows = handler("WSLInterop", "/init", Flags::PRESERVE_ARGV0);
    windows.entry.matcher = Some(Matcher::Magic(Pattern::new(0, b"MZ".to_vec(), None).unwrap()));
    let others = [jar, windows, handler_of("aarch64", "qemu-aarch64", "/usr/bin/qemu-aarch64-static", POF)];
    assert_eq!(decided(&others, None, ASKED), registration(&[], None, &[]));
}

#[test]
fn the_requested_handler_is_registered() {
    let unchanged = Decision::Unchanged(vec![name("qemu-arm")]);
    let there = [handler("qemu-arm", PATH, POF)];
    for request in [ASKED, EXPLICIT, REPLACE] {
        assert_eq!(decided(&there, None, request), unchanged);
        assert_eq!(decided(&there, Some(&verification(true, OURS)), request), unchanged);
    }
    // The probe showed that the interpreter does not support P.
    let without_p = [handler("qemu-arm", PATH, POF - Flags::PRESERVE_ARGV0)];
    assert_eq!(decided(&without_p, Some(&verification(false, OURS)), EXPLICIT), unchanged);
    assert_eq!(decided(&without_p, Some(&verification(true, OURS)), EXPLICIT), conflict("qemu-arm"));
    // A leftover handler of an interrupted run does not matter.
    let with_leftover = [handler("qemu-arm", PATH, POF), handler("qemu-arm.qus-1", PATH, POF)];
    assert_eq!(decided(&with_leftover, Some(&verification(true, OURS)), ASKED), unchanged);
}

#[test]
fn another_emulators_handler_serves() {
    for (called, path, flags) in [
        ("qemu-arm", "/usr/libexec/qemu-binfmt/arm-binfmt-P", POF),
        ("arm-something", "/usr/bin/qemu-arm", Flags::FIX_BINARY),
        ("qus-arm", "/opt/emulator", POF),
    ] {
        let there = [handler(called, path, flags)];
        let verdict = verification(true, OTHER);
        for verdict in [None, Some(&verdict)] {
            assert_eq!(decided(&there, verdict, ASKED), Decision::LeaveExisting(name(called)), "{called}");
            assert_eq!(decided(&there, verdict, EXPLICIT), conflict(called));
            let reason = format!("in place of {called}");
            assert_eq!(decided(&there, verdict, REPLACE), registration(&[called], Some(&reason), &[]));
        }
    }
    // The handler stays as well if no interpreter is available.
    let there = [handler("qemu-arm", "/usr/bin/qemu-arm", POF)];
    let facts = Facts {
        interpreter: None,
        native: &Nativeness::Foreign,
        verdict: Some(&verification(true, OTHER)),
        unfit: None,
    };
    let snapshot = Snapshot { handlers: &there, guarded: &[] };
    assert_eq!(decide(arm(), &snapshot, &facts, ASKED).unwrap(), Decision::LeaveExisting(name("qemu-arm")));
}

#[test]
fn a_broken_handler_is_replaced() {
    let there = [handler("qemu-arm", "/usr/bin/qemu-arm", POF)];
    for failure in [Failure::NotInEmptyRoot, Failure::Crashed { signal: 11, output: String::new() }] {
        let reason = format!("qemu-arm failed: {failure}");
        for request in [ASKED, EXPLICIT, REPLACE] {
            let decision = decided(&there, Some(&Err(failure.clone())), request);
            assert_eq!(decision, registration(&["qemu-arm"], Some(&reason), &[]));
        }
    }
    // Without a probe, the rule or the interpreter file shows the defect.
    let no_f = [handler("qemu-arm", PATH, Flags::PRESERVE_ARGV0)];
    let reason = "qemu-arm failed: it has no F flag, and would fail in every container";
    assert_eq!(decided(&no_f, None, ASKED), registration(&["qemu-arm"], Some(reason), &[]));
    let interpreter = interpreter();
    let facts = Facts {
        interpreter: Some(&interpreter),
        native: &Nativeness::Foreign,
        verdict: None,
        unfit: Some("it is not static"),
    };
    let decision = decide(arm(), &Snapshot { handlers: &there, guarded: &[] }, &facts, ASKED).unwrap();
    assert_eq!(decision, registration(&["qemu-arm"], Some("qemu-arm failed: it is not static"), &[]));
    // Without an interpreter, nothing can replace the handler.
    let facts = Facts { interpreter: None, ..facts };
    let decision = decide(arm(), &Snapshot { handlers: &there, guarded: &[] }, &facts, ASKED).unwrap();
    assert_eq!(decision, Decision::NoInterpreter);
}

#[test]
fn a_narrow_rule_does_not_suffice() {
    let mut narrow = handler("qemu-arm", "/usr/bin/qemu-arm", POF);
    let header = arm().typical_headers().swap_remove(0);
    narrow.entry.matcher = Some(Matcher::Magic(Pattern::new(0, header[..20].to_vec(), None).unwrap()));
    let reason = "qemu-arm failed: it does not match all programs that today's toolchains write";
    let decision = decided(&[narrow], Some(&verification(true, OTHER)), ASKED);
    assert_eq!(decision, registration(&["qemu-arm"], Some(reason), &[]));
}

#[test]
fn a_disabled_handler_is_replaced() {
    let there = [disabled(handler("qemu-arm", PATH, POF))];
    let reason = "qemu-arm was disabled";
    assert_eq!(decided(&there, None, ASKED), registration(&["qemu-arm"], Some(reason), &[]));
}

#[test]
fn a_handler_of_a_replaced_file_is_replaced() {
    let there = [handler("qemu-arm", PATH, POF)];
    let reason = "qemu-arm still ran the file that was replaced";
    for request in [ASKED, EXPLICIT, REPLACE] {
        let decision = decided(&there, Some(&verification(true, OTHER)), request);
        assert_eq!(decision, registration(&["qemu-arm"], Some(reason), &[]));
    }
}

#[test]
fn another_tools_handler_is_a_conflict() {
    let rosetta = handler("rosetta", "/run/rosetta/rosetta", POF);
    let verdict = verification(true, OTHER);
    for verdict in [None, Some(&verdict)] {
        assert_eq!(decided(std::slice::from_ref(&rosetta), verdict, ASKED), conflict("rosetta"));
        assert_eq!(
            decided(std::slice::from_ref(&rosetta), verdict, REPLACE),
            registration(&[], None, &["rosetta"])
        );
    }
    // `--replace` removes another tool's handler with the same name. A disabled handler with another name stays.
    let namesake = handler_of("mips", "qemu-arm", "/opt/mine", POF);
    assert_eq!(decided(std::slice::from_ref(&namesake), None, ASKED), conflict("qemu-arm"));
    let reason = "in place of qemu-arm";
    assert_eq!(decided(&[namesake], None, REPLACE), registration(&["qemu-arm"], Some(reason), &[]));
    assert_eq!(decided(&[disabled(rosetta)], None, ASKED), registration(&[], None, &[]));
}

#[test]
fn a_shadowed_handler_is_a_conflict() {
    let there = [handler("rosetta", "/run/rosetta/rosetta", POF), handler("qemu-arm", PATH, POF)];
    let verdict = verification(true, OTHER);
    assert_eq!(decided(&there, Some(&verdict), ASKED), conflict("rosetta"));
    let reason = "in place of qemu-arm";
    let decision = decided(&there, Some(&verdict), REPLACE);
    assert_eq!(decision, registration(&["qemu-arm"], Some(reason), &["rosetta"]));
    // The failure of the active handler is not attributed to the shadowed handler.
    let verdict = Err(Failure::Crashed { signal: 11, output: String::new() });
    let decision = decided(&there, Some(&verdict), REPLACE);
    assert_eq!(decision, registration(&["qemu-arm"], Some(reason), &["rosetta"]));
    // If several emulators match, only the active handler counts, and the others are removed with it.
    let there = [handler("new", "/usr/bin/qemu-arm", Flags::empty()), handler("qemu-arm", PATH, POF)];
    let reason = "new failed: it has no F flag, and would fail in every container";
    assert_eq!(decided(&there, None, ASKED), registration(&["new", "qemu-arm"], Some(reason), &[]));
}

#[test]
fn leftover_handlers_of_an_interrupted_run_are_removed() {
    let leftover = handler("qemu-arm.qus-123", PATH, POF);
    assert!(is_staging(&leftover.name) && !is_staging(&name("qus-arm")));
    assert_eq!(emulated_arch(&leftover), Some(arm()));
    let reason = "in place of qemu-arm.qus-123";
    let verdict = verification(true, OURS);
    let decision = decided(std::slice::from_ref(&leftover), Some(&verdict), ASKED);
    assert_eq!(decision, registration(&["qemu-arm.qus-123"], Some(reason), &[]));
    let there = [leftover, handler("qemu-arm", PATH, POF)];
    let decision = decided(&there, Some(&verdict), ASKED);
    assert_eq!(decision, registration(&["qemu-arm.qus-123", "qemu-arm"], Some(reason), &[]));
}

#[test]
fn the_host_is_safe() {
    let reason = |decision: Decision| match decision {
        Decision::Refused { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    let interpreter = interpreter();
    let header = arm().typical_headers().swap_remove(0);
    let force = Request { force_native: true, ..REPLACE };
    let facts =
        Facts { interpreter: Some(&interpreter), native: &Nativeness::Native, verdict: None, unfit: None };
    let open = Snapshot { handlers: &[], guarded: &[] };
    for request in [ASKED, REPLACE] {
        assert!(reason(decide(arm(), &open, &facts, request).unwrap()).contains("runs arm natively"));
    }
    assert_eq!(decide(arm(), &open, &facts, force).unwrap(), registration(&[], None, &[]));
    let guarded = [b"MZ".to_vec(), header.clone()];
    let snapshot = Snapshot { handlers: &[], guarded: &guarded };
    for native in [Nativeness::Foreign, Nativeness::Native] {
        let facts = Facts { native: &native, ..facts };
        let decision = decide(arm(), &snapshot, &facts, force).unwrap();
        assert!(reason(decision).contains("matches this host's own programs"));
    }
    let of_arm = Interpreter { header, ..interpreter.clone() };
    let facts = Facts { interpreter: Some(&of_arm), native: &Nativeness::Foreign, ..facts };
    assert!(reason(decide(arm(), &open, &facts, force).unwrap()).contains("its own interpreter"));
}

#[test]
fn credentials_need_an_interpreter_owned_by_root() {
    let request = Request { flags: POF | Flags::CREDENTIALS, ..EXPLICIT };
    let writable = Interpreter { owned_by_root: false, ..interpreter() };
    let facts =
        Facts { interpreter: Some(&writable), native: &Nativeness::Foreign, verdict: None, unfit: None };
    let snapshot = Snapshot { handlers: &[], guarded: &[] };
    let Decision::Refused { reason, advice } = decide(arm(), &snapshot, &facts, request).unwrap() else {
        panic!("not refused");
    };
    assert!(reason.contains("users other than root may write to it"), "{reason}");
    assert!(advice.command.unwrap().contains("chown root:root /usr/bin/qemu-arm-static"));
    assert_eq!(decide(arm(), &snapshot, &facts, EXPLICIT).unwrap(), registration(&[], None, &[]));
    // A handler without C does not satisfy a request with C.
    let there = [handler("qemu-arm", PATH, POF)];
    assert_eq!(decided(&there, Some(&verification(true, OURS)), request), conflict("qemu-arm"));
}

#[test]
fn only_what_is_missing_is_registered() {
    let microblaze = Arch::from_qemu_target("microblaze").unwrap();
    let path = "/usr/bin/qemu-microblaze-static";
    let interpreter = Interpreter { path: path.into(), ..interpreter() };
    let verdict = verification(true, OURS);
    let facts = Facts {
        interpreter: Some(&interpreter),
        native: &Nativeness::Foreign,
        verdict: Some(&verdict),
        unfit: None,
    };
    let both = rules(microblaze, Path::new(path), POF).unwrap();
    let names: Vec<_> = both.iter().map(|rule| rule.name().to_string()).collect();
    assert_eq!(names, ["qemu-microblaze", "qemu-microblaze-old"]);
    let there = [handler_of("microblaze", "qemu-microblaze", path, POF)];
    let decision = decide(microblaze, &Snapshot { handlers: &there, guarded: &[] }, &facts, ASKED).unwrap();
    let expected = Registration {
        rules: both[1..].to_vec(),
        removes: Vec::new(),
        reason: None,
        displaced: Vec::new(),
        narrowed: Vec::new(),
    };
    assert_eq!(decision, Decision::Register(expected));
}

#[test]
fn the_emulator_of_another_architecture_is_broken() {
    let wrong = handler("qemu-arm", "/usr/bin/qemu-aarch64-static", POF);
    assert_eq!(wrong_emulator(&wrong).map(|arch| arch.name), Some("aarch64"));
    assert_eq!(wrong_emulator(&handler("qemu-arm", PATH, POF)), None);
    let reason = "qemu-arm failed: its interpreter emulates aarch64";
    assert_eq!(decided(&[wrong], None, ASKED), registration(&["qemu-arm"], Some(reason), &[]));
}

#[test]
fn an_emulator_is_recognised_by_its_file_name_or_our_handler_name() {
    let cases = [
        ("anything", "/usr/bin/qemu-arm-static", Some("arm")),
        ("anything", "/usr/libexec/qemu-binfmt/arm-binfmt-P", Some("arm")),
        ("anything", "/usr/bin/qemu-arm-binfmt", Some("arm")),
        ("anything", "/nix/store/x/bin/qemu-arm-binfmt-P", Some("arm")),
        // The pattern decides, not the name of the interpreter.
        ("qemu-arm", "/usr/bin/buildkit-qemu-aarch64", Some("arm")),
        ("qus-aarch64", "/opt/box", Some("arm")),
        ("qus-arm", "/opt/box", Some("arm")),
        ("qemu-arm", "/proc/self/fd/3", Some("arm")),
        ("rosetta", "/proc/self/fd/3", None),
        ("qemu-arm", "/opt/box", None),
        ("qemu-arm", "/usr/bin/qemu-system-arm", None),
        ("qemu-arm", "/usr/bin/qemu-system-arm-binfmt", None),
        ("arm-linux", "/run/binfmt/arm-linux", None),
    ];
    for (called, path, arch) in cases {
        assert_eq!(emulated_arch(&handler(called, path, POF)).map(|arch| arch.name), arch, "{called} {path}");
    }
    let mut linked = handler("arm-linux", "/run/binfmt/arm-linux", POF);
    linked.target = Some("/nix/store/x/bin/qemu-arm-binfmt-P".into());
    assert_eq!(emulated_arch(&linked), Some(arm()));
    let mut script = handler("qus-arm", PATH, POF);
    script.entry.matcher = Some(Matcher::Magic(Pattern::new(0, b"#!".to_vec(), None).unwrap()));
    assert_eq!(emulated_arch(&script), None);
}

/// Returns a handler for arm programs with the OS ABI `os_abi`.
fn special(called: &str, os_abi: u8) -> Handler {
    let mut handler = handler(called, "/opt/special", Flags::empty());
    let pattern = Pattern::new(7, vec![os_abi], None).unwrap();
    handler.entry.matcher = Some(Matcher::Magic(pattern));
    handler
}

#[test]
fn a_handler_of_special_files_is_no_conflict() {
    // In front of ours, or behind: both orders have the same decision.
    let verdict = Err(Failure::NoHandler);
    for there in [vec![special("hermit", 0xff)], vec![special("hermit", 0xff), special("second", 0xfe)]] {
        let Decision::Register(registration) = decided(&there, Some(&verdict), ASKED) else {
            panic!("no registration in front of {there:?}");
        };
        assert_eq!(
            registration.narrowed,
            there.iter().map(|handler| handler.name.clone()).collect::<Vec<_>>()
        );
        assert!(registration.displaced.is_empty() && registration.removes.is_empty());
    }
    let ours = handler("qemu-arm", PATH, POF);
    let there = [special("hermit", 0xff), ours];
    let decision = decided(&there, Some(&verification(true, OURS)), ASKED);
    assert_eq!(decision, Decision::Unchanged(vec![name("qemu-arm")]));
    // OS ABI 0 is that of ordinary programs.
    assert_eq!(decided(&[special("all", 0)], None, ASKED), conflict("all"));
    // A handler that gets no ordinary program, since another one takes it first, loses none.
    let there = [special("all", 0), special("behind", 0)];
    assert_eq!(decided(&there, None, ASKED), conflict("all"));
    let Decision::Register(registration) = decided(&there, None, REPLACE) else { panic!("not registered") };
    assert_eq!((registration.displaced, registration.narrowed), (vec![name("all")], vec![name("behind")]));
}
