//! Tests `qus apply`: it registers the rules of `binfmt.d`, leaves handlers of other tools in place, and ignores
//! hostile lines.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use qus::binfmt::Flags;

use crate::boot::SYSTEMD_BINFMT;
use crate::downloads::interpreter;
use crate::lab::{Lab, Ran, busybox, order, run};
use crate::tools;

const DIRECTORIES: [&str; 4] =
    ["/etc/binfmt.d", "/run/binfmt.d", "/usr/local/lib/binfmt.d", "/usr/lib/binfmt.d"];

/// Mounts empty configuration directories for the test.
fn directories(lab: &Lab) {
    let cover =
        |directory: &str| mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>);
    for directory in ["/etc", "/run", "/usr/local/lib"] {
        cover(directory).unwrap();
    }
    for directory in &DIRECTORIES[..3] {
        fs::create_dir(directory).unwrap();
    }
    // /usr/lib is not covered as a whole, because programs need it.
    if Path::new(DIRECTORIES[3]).exists() {
        cover(DIRECTORIES[3]).unwrap();
    }
    fs::create_dir(lab.path("conf")).unwrap();
}

fn done(ran: Ran) -> Ran {
    assert_eq!(ran.status, 0, "{ran:#?}");
    ran
}

/// Returns the line for the programs of an architecture, as `register` writes it.
fn line(lab: &Lab, arch: &str) -> String {
    lab.done(["export", arch, "--format", "register"])
}

/// Returns location, outcome and name of each line that `apply` prints: `etc/binfmt.d/a.conf:1 registered name`.
fn words(ran: &Ran) -> Vec<String> {
    let row = |line: &str| line.split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    ran.stdout.lines().map(row).collect()
}

kernel_test!(apply_registers_what_is_configured_and_removes_no_other_handler);
fn apply_registers_what_is_configured_and_removes_no_other_handler(lab: &Lab) {
    directories(lab);
    let foreign = b":foreign:E::foreign::/bin/true:";
    lab.register(foreign).unwrap();
    lab.done(["register", "s390x"]);
    let before = lab.entries();
    fs::write(DIRECTORIES[0].to_owned() + "/arm.conf", format!("# Arm\n\n{}", line(lab, "arm"))).unwrap();
    let ran = done(lab.qus(["apply"]));
    assert_eq!(words(&ran), ["/etc/binfmt.d/arm.conf:3 registered qemu-arm"]);
    assert!(ran.stderr.contains("qus: 1 handler is new; run `qus verify` to test them\n"), "{ran:#?}");
    assert_eq!(busybox("arm", "echo works").unwrap().stdout, "works\n");
    let mut after = lab.entries();
    after.remove("qemu-arm").unwrap();
    assert_eq!(after, before);
    // `register` makes the same entry.
    let by_apply = lab.entries();
    lab.done_with(["reset", "arm"], "qus: /etc/binfmt.d/arm.conf registers qemu-arm again at boot\n");
    lab.done(["register", "arm"]);
    assert_eq!(lab.entries(), by_apply);
    let ran = done(lab.qus(["apply"]));
    assert_eq!(words(&ran), ["/etc/binfmt.d/arm.conf:3 unchanged qemu-arm"]);
    let value = lab.json(["apply"]);
    let item = &value["items"][0];
    assert_eq!((&item["line"], &item["outcome"]), (&3.into(), &"unchanged".into()), "{value:#}");
}

/// Returns a rule that no file matches.
fn odd(name: &str, interpreter: &str) -> String {
    format!(":{name}:E::{name}::{interpreter}:\n")
}

kernel_test!(apply_has_systemds_precedence);
fn apply_has_systemds_precedence(lab: &Lab) {
    directories(lab);
    let write = |file: String, text: &str| fs::write(file, text).unwrap();
    let [etc, run_, local, usr] = DIRECTORIES;
    for name in ["a", "b", "c", "d"] {
        write(format!("{local}/{name}.conf"), &odd(name, "/local"));
    }
    write(format!("{run_}/b.conf"), &odd("b", "/run"));
    write(format!("{run_}/c.conf"), &odd("c", "/run"));
    write(format!("{etc}/c.conf"), &odd("c", "/etc"));
    // There are two ways to mask a file.
    symlink("/dev/null", format!("{etc}/d.conf")).unwrap();
    write(format!("{local}/e.conf"), &odd("e", "/local"));
    write(format!("{etc}/e.conf"), "");
    write(format!("{etc}/z.txt"), &odd("z", "/etc"));
    let mut expected = vec![
        format!("{local}/a.conf:1 registered a"),
        format!("{run_}/b.conf:1 registered b"),
        format!("{etc}/c.conf:1 registered c"),
    ];
    if Path::new(usr).exists() {
        write(format!("{usr}/a.conf"), &odd("a", "/usr"));
        write(format!("{usr}/aa.conf"), &odd("aa", "/usr"));
        expected.insert(1, format!("{usr}/aa.conf:1 registered aa"));
    }
    assert_eq!(words(&done(lab.qus(["apply"]))), expected);
    assert!(lab.entries()["b"].contains("interpreter /run\n"));
    // If several files have a rule of one name, the last one counts, as in systemd.
    write(format!("{etc}/zz.conf"), &odd("c", "/last"));
    let ran = done(lab.qus(["apply"]));
    let rows = words(&ran);
    assert_eq!(
        rows[rows.len() - 2..],
        ["/etc/binfmt.d/c.conf:1 superseded c", "/etc/binfmt.d/zz.conf:1 replaced c"]
    );
    assert!(lab.entries()["c"].contains("interpreter /last\n"));
}

kernel_test!(apply_makes_the_last_rule_win);
fn apply_makes_the_last_rule_win(lab: &Lab) {
    let pattern = r":M::\x4d\x41\x47\x49\x43::";
    let lines = format!(":first{pattern}/first:\n:other:E::other::/other:\n:last{pattern}/last:\n");
    fs::write(lab.path("some.conf"), lines).unwrap();
    done(lab.qus(["apply", "some.conf"]));
    assert_eq!(order(), ["last", "other", "first"]);
    // Some handlers were registered by hand, in another order. A handler of the same files moves to the front again.
    lab.command("first", "-1");
    let ran = done(lab.qus(["apply", "some.conf"]));
    let expected =
        ["some.conf:1 registered first", "some.conf:2 unchanged other", "some.conf:3 replaced last"];
    assert_eq!(words(&ran), expected);
    assert_eq!(order(), ["last", "first", "other"]);
    assert_eq!(words(&done(lab.qus(["apply", "some.conf"])))[2], "some.conf:3 unchanged last");
}

kernel_test!(apply_agrees_with_systemd_binfmt);
/// Compares the handlers after systemd-binfmt with those after `qus apply`, for the same configuration.
fn apply_agrees_with_systemd_binfmt(lab: &Lab) {
    tools::install();
    directories(lab);
    let [etc, run_, local, _] = DIRECTORIES;
    let exported = |arch: &str| lab.done(["export", arch, "--format", "systemd"]);
    fs::write(format!("{etc}/qus-arm.conf"), exported("arm")).unwrap();
    fs::write(format!("{run_}/qus-arm.conf"), odd("hidden", "/x")).unwrap();
    fs::write(format!("{run_}/qus-s390x.conf"), exported("s390x").replace("\n:", "\n \t:") + "  \n\r\n; x\n")
        .unwrap();
    fs::write(format!("{local}/a.conf"), odd("twice", "/first") + ":bad:X:::::\n" + &odd("c", "/c")).unwrap();
    fs::write(format!("{local}/b.conf"), odd("twice", "/second") + "register\n:status:E::x::/x:\n").unwrap();
    symlink("/nowhere", format!("{etc}/c.conf")).unwrap();
    fs::write(format!("{local}/c.conf"), odd("masked", "/x")).unwrap();
    fs::write(format!("{local}/.d.conf"), odd("concealed", "/x")).unwrap();
    run(&mut tools::command(SYSTEMD_BINFMT));
    let by_systemd = (lab.entries(), order());
    assert!(by_systemd.0.len() >= 4, "{by_systemd:#?}");
    for name in order() {
        lab.command(&name, "-1");
    }
    let ran = lab.qus(["apply"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert_eq!((lab.entries(), order()), by_systemd);
    // After systemd, `qus apply` has nothing left to do.
    run(&mut tools::command(SYSTEMD_BINFMT));
    let ran = lab.qus(["apply"]);
    assert!(!ran.stdout.contains("registered") && !ran.stdout.contains("replaced"), "{ran:#?}");
}

kernel_test!(apply_refuses_hostile_lines_and_does_the_rest);
fn apply_refuses_hostile_lines_and_does_the_rest(lab: &Lab) {
    let good = odd("good", "/good");
    let long = format!(":long:E::long::/{}:", "a".repeat(3000));
    let lines = [
        "register",
        ":status:E::x::/x:",
        ":../x:E::x::/x:",
        ":x:M::::/x:",
        r":x:M::\x5g::/x:",
        ":x:E::x::/x:Z",
        ":x:E::x:::",
        "-1",
        "\0\0\0",
        &long,
    ];
    let text = format!("{}\n{good}", lines.join("\n"));
    fs::write(lab.path("bad.conf"), text).unwrap();
    let ran = lab.qus(["apply", "bad.conf"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    for number in 1..=lines.len() {
        let failed = format!("bad.conf:{number} failed -");
        assert!(words(&ran).contains(&failed), "no {failed} in {ran:#?}");
    }
    assert!(words(&ran).contains(&"bad.conf:11 registered good".to_owned()), "{ran:#?}");
    assert!(ran.stderr.contains("10 of 11 rules are not registered; the others are"), "{ran:#?}");
    assert_eq!(order(), ["good"]);
    // A line that the kernel refuses is reported with its location, too.
    fs::write(lab.path("missing.conf"), ":gone:E::gone::/nowhere/at/all:F\n").unwrap();
    let message = "the kernel cannot open the interpreter /nowhere/at/all: there is no such file";
    lab.refused(["apply", "missing.conf"], 2, message);
    // A name cannot control a terminal.
    fs::write(lab.path("odd.conf"), b":a\x1b[2J:E::a::/a:\n").unwrap();
    assert!(!done(lab.qus(["apply", "odd.conf"])).stdout.contains('\x1b'));
}

kernel_test!(apply_refuses_what_would_take_the_hosts_programs);
fn apply_refuses_what_would_take_the_hosts_programs(lab: &Lab) {
    let magic = r"\x7fELF";
    let own = lab.done(["show", std::env::consts::ARCH]);
    let own = own.lines().find_map(|line| line.trim().strip_prefix(":qemu-")).unwrap().to_owned();
    let own = format!(":qemu-{}", own.replace("/usr/bin/qemu", "/usr/bin/nothing-qemu"));
    let own = own.rsplit_once(':').unwrap().0.to_owned() + ":";
    let refused = |line: &str, message: &str| {
        fs::write(lab.path("x.conf"), format!("{line}\n")).unwrap();
        lab.refused(["apply", "x.conf"], 2, message);
        assert_eq!(run(&mut Command::new("/bin/true")).status, 0);
    };
    let takes = "it matches this host's own programs, which would all fail";
    refused(&format!(":all:M::{magic}::/x:"), takes);
    refused(r":any:M::\x00:\x00:/x:", takes);
    refused(":scripts:M::#!::/x:", takes);
    refused(&own, takes);
    // A rule that matches its own interpreter, but no program of this host.
    let interpreter = lab.executable("loop.mine", b"MINE and more");
    refused(&format!(":own:M::MINE::{}:", interpreter.display()), "it matches its own interpreter, ");
    refused(&format!(":own:E::mine::{}:", interpreter.display()), "it matches its own interpreter, ");
    // Rules that would give other users more rights.
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o777)).unwrap();
    refused(
        &format!(":c:E::c::{}:C", interpreter.display()),
        "runs as root, but users other than root may write to it",
    );
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o4755)).unwrap();
    refused(&format!(":s:E::s::{}:F", interpreter.display()), "has a setuid or setgid bit");
    assert!(order().is_empty());
}

kernel_test!(apply_replaces_what_differs);
fn apply_replaces_what_differs(lab: &Lab) {
    fs::write(lab.path("arm.conf"), line(lab, "arm")).unwrap();
    lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::empty());
    assert_eq!(words(&done(lab.qus(["apply", "arm.conf"]))), ["arm.conf:1 replaced qemu-arm"]);
    assert!(lab.entries()["qemu-arm"].contains("\nflags: POF\n"));
    assert_eq!(order(), ["qemu-arm"]);
    // A disabled handler is not what the rule asks for.
    lab.command("qemu-arm", "0");
    assert_eq!(words(&done(lab.qus(["apply", "arm.conf"]))), ["arm.conf:1 replaced qemu-arm"]);
    assert!(lab.entries()["qemu-arm"].starts_with("enabled\n"));
    // A rule that cannot be registered leaves the old handler in place.
    let before = lab.entries();
    fs::write(lab.path("arm.conf"), line(lab, "arm").replace(":POF", "-gone:POF")).unwrap();
    lab.refused(["apply", "arm.conf"], 2, "there is no such file");
    assert_eq!(lab.entries(), before);
}

kernel_test!(apply_reads_what_is_named);
fn apply_reads_what_is_named(lab: &Lab) {
    for directory in ["one", "two"] {
        fs::create_dir(lab.path(directory)).unwrap();
    }
    let write = |file: &str, text: &str| fs::write(lab.path(file), text).unwrap();
    write("one/b.conf", &odd("b", "/one"));
    write("two/b.conf", &odd("b", "/two"));
    write("two/a.conf", &odd("a", "/two"));
    write("two/not.txt", &odd("no", "/two"));
    write("any-name", &odd("c", "/file"));
    let ran = done(lab.qus(["apply", "one", "any-name", "two"]));
    assert_eq!(
        words(&ran),
        ["two/a.conf:1 registered a", "one/b.conf:1 registered b", "any-name:1 registered c"]
    );
    // Exactly these handlers exist, and none from the host's configuration.
    assert_eq!(order(), ["c", "b", "a"]);
    // A user who names a directory or a file expects rules in it.
    fs::create_dir(lab.path("empty.conf")).unwrap();
    lab.refused(["apply", "empty.conf"], 2, "has no file whose name ends in .conf");
    lab.refused(["apply", "one", "empty.conf"], 2, "has no file whose name ends in .conf");
    assert_eq!(order(), ["c", "b", "a"]);
}

kernel_test!(apply_reads_standard_input);
fn apply_reads_standard_input(lab: &Lab) {
    fs::write(lab.path("rule"), odd("a", "/a")).unwrap();
    let input = || fs::File::open(lab.path("rule")).unwrap();
    let ran = done(run(lab.program(&[], ["apply", "-"]).stdin(input())));
    assert_eq!(words(&ran), ["-:1 registered a"]);
    assert_eq!(order(), ["a"]);
}

kernel_test!(apply_knows_the_format_of_binfmt_support);
fn apply_knows_the_format_of_binfmt_support(lab: &Lab) {
    fs::write(lab.path("jar"), "package jexec\ninterpreter /usr/bin/jexec\nmagic PK\\x03\\x04\n").unwrap();
    let message = "is in the format of binfmt-support, which `update-binfmts --import` reads";
    lab.refused(["apply", "jar"], 2, message);
    let ran = run(lab.program(&[], ["apply", "-"]).stdin(fs::File::open(lab.path("jar")).unwrap()));
    assert!(ran.status == 2 && ran.stdout.contains(message), "{ran:#?}");
}

kernel_test!(apply_fails_without_a_rule);
fn apply_fails_without_a_rule(lab: &Lab) {
    fs::write(lab.path("comment.conf"), "# :a:M::a::/a:\n").unwrap();
    fs::create_dir(lab.path("some")).unwrap();
    symlink("/dev/null", lab.path("some/a.conf")).unwrap();
    for path in ["comment.conf", "some", "/dev/null"] {
        lab.refused(["apply", path], 2, &format!("no rule was found in {path}"));
        lab.refused(["apply", "--dry-run", path], 2, &format!("no rule was found in {path}"));
    }
    // The producer in front of a pipe may have failed.
    let ran = run(lab.program(&[], ["apply", "-"]).stdin(std::process::Stdio::null()));
    assert_eq!((ran.status, ran.stderr.contains("no rule was found in -")), (2, true), "{ran:#?}");
    // Without a path, an empty configuration is no error: `qus.service` runs at every boot.
    directories(lab);
    assert_eq!(lab.qus(["apply"]).status, 0);
    assert!(order().is_empty());
}

kernel_test!(reasons_for_a_malformed_line);
fn reasons_for_a_malformed_line(lab: &Lab) {
    let cases = [
        (":x:M::abcd::/bin/true", "the register line ends too early: "),
        (":x:M::abcd::/bin/true:Z", "the field \"flags\" of the register line is malformed"),
        (":x:M::abcd::/bin/true::", "the field \"flags\" of the register line is malformed"),
        (":x:Q::abcd::/bin/true:", "the field \"type\" of the register line is malformed"),
        (":x:M:z:abcd::/bin/true:", "the field \"offset\" of the register line is malformed"),
    ];
    for (line, message) in cases {
        fs::write(lab.path("a.conf"), line).unwrap();
        lab.refused(["apply", "a.conf"], 2, message);
        lab.refused(["register", "--rule", line], 2, message);
        // The kernel refuses the line, too.
        assert!(lab.register(line.as_bytes()).is_err(), "{line}");
    }
}

kernel_test!(apply_reports_what_it_cannot_read);
fn apply_reports_what_it_cannot_read(lab: &Lab) {
    lab.refused(["apply", "nowhere.conf"], 2, "does not exist");
    mkfifo(&lab.path("pipe.conf"), Mode::S_IRWXU).unwrap();
    lab.refused(["apply", "pipe.conf"], 2, "is not a regular file");
    let large = fs::File::create(lab.path("large.conf")).unwrap();
    large.set_len(2 << 20).unwrap();
    lab.refused(["apply", "large.conf"], 2, "has more than 1048576 bytes");
    // In a directory, a failing file does not stop the others.
    fs::create_dir(lab.path("some")).unwrap();
    fs::rename(lab.path("large.conf"), lab.path("some/large.conf")).unwrap();
    fs::write(lab.path("some/z.conf"), odd("z", "/z")).unwrap();
    symlink("/nowhere", lab.path("some/a.conf")).unwrap();
    let ran = lab.qus(["apply", "some"]);
    assert_eq!(ran.status, 2, "{ran:#?}");
    assert_eq!(words(&ran), ["some/large.conf failed -", "some/z.conf:1 registered z"]);
}

kernel_test!(a_dry_run_of_apply_changes_nothing);
fn a_dry_run_of_apply_changes_nothing(lab: &Lab) {
    lab.handler("qemu-arm", "arm", &interpreter("arm"), Flags::empty());
    fs::write(lab.path("x.conf"), line(lab, "arm") + &line(lab, "s390x")).unwrap();
    let before = (lab.entries(), order());
    let printed = lab.done(["apply", "--dry-run", "x.conf"]);
    assert!(printed.contains("x.conf:1  would replace   qemu-arm"), "{printed}");
    assert!(printed.contains("x.conf:2  would register  qemu-s390x"), "{printed}");
    assert_eq!((lab.entries(), order()), before);
}

kernel_test!(apply_needs_root, ordinary_user);
fn apply_needs_root(lab: &Lab) {
    fs::write(lab.path("x.conf"), odd("x", "/x")).unwrap();
    lab.refused(["apply", "x.conf"], 2, "only root may").suggests("sudo qus apply x.conf");
}

kernel_test!(apply_mounts_what_is_not_mounted, unmounted);
fn apply_mounts_what_is_not_mounted(lab: &Lab) {
    fs::write(lab.path("x.conf"), odd("x", "/x")).unwrap();
    let ran = lab.qus(["apply", "x.conf"]);
    assert!(ran.stderr.contains("mounted binfmt_misc on "), "{ran:#?}");
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert_eq!(order(), ["x"]);
}

kernel_test!(apply_reports_a_disabled_instance);
fn apply_reports_a_disabled_instance(lab: &Lab) {
    fs::write(lab.path("x.conf"), odd("x", "/x")).unwrap();
    lab.command("status", "0");
    lab.refused(["apply", "x.conf"], 2, "the whole instance is disabled: no handler is active");
}
