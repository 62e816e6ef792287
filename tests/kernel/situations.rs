//! The twelve most frequent problems of users, from wiped handlers to handlers that are gone with their container. Each
//! test creates the situation and runs `qus doctor` as a new user would. It types the first printed command into a
//! shell as it is, and repeats that until the foreign program runs. The test does nothing else.
//!
//! A namespace cannot create three of the situations. Two belong to the sixth: a kernel without binfmt_misc, and an
//! automount that only the host can trigger. The third is the twelfth, a restart of the machine. For it,
//! `.ci/e2e/situations` runs systemd's own program as at boot, in the initial user namespace, where `doctor` looks for
//! it. That script also tests the ninth situation with docker.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::checks::{Seen, saw};
use crate::doctor::{CONFIGURATION, quiet, systemd};
use crate::downloads;
use crate::lab::{Lab, start};
use crate::namespace::{INSTANCE, enter_nested, mount_instance};
use crate::prediction::native;
use qus::binfmt::Flags;

/// `ENOEXEC`, "Exec format error".
const ENOEXEC: i32 = 8;

/// Copies a program of an architecture into the directory of the test. Its name is one that an emulator may pass as
/// `argv[0]`.
fn program(lab: &Lab, arch: &str) -> PathBuf {
    lab.copy(&format!("{arch}/busybox"), &downloads::busybox(arch))
}

/// Starts the program of an architecture. Returns its output, or the errno of `execve(2)`.
fn starts(lab: &Lab, arch: &str) -> Result<String, i32> {
    start(&program(lab, arch), &["busybox", "uname", "-m"]).map(|ran| ran.stdout.trim_end().to_owned())
}

fn runs(lab: &Lab, arch: &str, machine: &str) {
    assert_eq!(starts(lab, arch).as_deref(), Ok(machine));
}

/// Returns the first printed command, and the check that prints it.
fn first_command(printed: &str) -> Option<(&str, &str)> {
    let mut check = "";
    for line in printed.lines() {
        let mut words = line.split_whitespace();
        if !line.starts_with(' ') {
            check = words.nth(1).unwrap();
        } else if let Some(command) = line.trim_start().strip_prefix("try: ") {
            return Some((check, command));
        }
    }
    None
}

/// Runs `qus doctor` and types its first command, once for each of `checks`. Each time the first command must belong to
/// the next check.
fn follow(lab: &Lab, checks: &[&str]) {
    Shell::start(lab, &[]).follows(checks);
}

/// An open shell, for example in a container or older than the situation.
struct Shell(Child, ChildStdin, BufReader<ChildStdout>);

impl Shell {
    /// Starts a shell after `wrapper`, with the environment in which tests type commands.
    fn start(lab: &Lab, wrapper: &[&str]) -> Self {
        let mut line = wrapper.iter().chain(&["sh"]);
        let mut command = Command::new(line.next().unwrap());
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", lab.bin().display());
        command.args(line).env_clear().env("PATH", path).current_dir(lab.path(""));
        command.env("QUS_INTERPRETER_DIR", downloads::distribution());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self(child, stdin, BufReader::new(stdout))
    }

    /// Types a command, and returns its exit status and its output.
    fn types(&mut self, line: &str) -> (String, String) {
        writeln!(self.1, "{{ {line}\n}} 2> /dev/null; echo \"end $?\"").unwrap();
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.2.read_line(&mut line).unwrap(), 0, "the shell has ended: {printed}");
            match line.strip_prefix("end ") {
                Some(status) => return (status.trim_end().to_owned(), printed),
                None => printed.push_str(&line),
            }
        }
    }

    /// Does the same as [`follow`] in this shell, and returns the last command.
    fn follows(&mut self, checks: &[&str]) -> String {
        let mut typed = String::new();
        for check in checks {
            let printed = self.types("qus doctor").1;
            let (of, command) = first_command(&printed).unwrap_or_else(|| panic!("no command in {printed}"));
            assert_eq!(of, *check, "{printed}");
            self.done(command);
            command.clone_into(&mut typed);
        }
        typed
    }

    /// Types a command that has to succeed, and returns its output.
    fn done(&mut self, line: &str) -> String {
        let (status, printed) = self.types(line);
        assert_eq!(status, "0", "{line}: {printed}");
        printed
    }
}

impl Drop for Shell {
    /// Ends the shell without a signal, and waits for it. Then the processes of a container have ended, too.
    fn drop(&mut self) {
        let _ended_before = writeln!(self.1, "exit");
        self.0.wait().unwrap();
    }
}

/// Creates a root directory like a container's, with only the program.
fn container(lab: &Lab, arch: &str) -> PathBuf {
    let root = lab.path("container");
    lab.copy("container/busybox", &downloads::busybox(arch));
    root
}

fn in_root(root: &Path) -> Result<String, i32> {
    let mut command = Command::new("/usr/sbin/chroot");
    let output = command.arg(root).args(["/busybox", "uname", "-m"]).output().unwrap();
    // chroot(1) reports by its status that a program cannot be started.
    let status = output.status.code().unwrap();
    if status == 0 { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(status) }
}

kernel_test!(situation_1_wiped);
/// Situation 1: a process writes `-1` to `status`, which removes all handlers.
fn situation_1_wiped(lab: &Lab) {
    wipe_what_is_configured(lab);
    follow(lab, &["configured"]);
    runs(lab, "aarch64", "aarch64");
}

kernel_test!(situation_1_wiped_with_systemd);
fn situation_1_wiped_with_systemd(lab: &Lab) {
    wipe_what_is_configured(lab);
    systemd();
    follow(lab, &["configured"]);
    runs(lab, "aarch64", "aarch64");
}

fn wipe_what_is_configured(lab: &Lab) {
    quiet();
    let rule = rule("qemu-aarch64", "aarch64", &downloads::interpreter("aarch64"));
    fs::write(Path::new(CONFIGURATION).join("qemu.conf"), &rule).unwrap();
    lab.register(&rule).unwrap();
    runs(lab, "aarch64", "aarch64");
    lab.command("status", "-1");
    assert_eq!(starts(lab, "aarch64"), Err(ENOEXEC));
}

/// Returns a line of configuration.
fn rule(name: &str, arch: &str, interpreter: &Path) -> Vec<u8> {
    use qus::binfmt::{HandlerName, Matcher, Rule};
    let pattern = qus::arch::Arch::from_qemu_target(arch).unwrap().identity.patterns().swap_remove(0);
    let name = HandlerName::new(name).unwrap();
    let mut line =
        Rule::new(name, Matcher::Magic(pattern), interpreter, Flags::FIX_BINARY).unwrap().to_line();
    line.push(b'\n');
    line
}

kernel_test!(situation_2_in_a_user_namespace);
/// Situation 2: a container engine without root, or a container in a container. The host's handlers do not work there,
/// and handlers registered there do not work on the host.
fn situation_2_in_a_user_namespace(lab: &Lab) {
    quiet();
    let program = program(lab, "aarch64");
    let uname = format!("{} uname -m", program.display());
    let wrapper = [&CONTAINER[..], &["--user", "--map-root-user"]].concat();
    let mut container = Shell::start(lab, &wrapper);
    assert_eq!(container.types(&uname).0, "126");
    container.follows(&["mounted", "working"]);
    assert_eq!(container.done(&uname), "aarch64\n");
    assert!(lab.entries().is_empty());
}

kernel_test!(situation_2_nothing_may_be_mounted, unmounted);
/// Situation 2 without permission to mount, because the mounts belong to another user namespace.
fn situation_2_nothing_may_be_mounted(lab: &Lab) {
    quiet();
    let program = program(lab, "aarch64");
    let wrapper = ["unshare", "--user", "--map-root-user"];
    let mut shell = Shell::start(lab, &wrapper);
    let printed = shell.types("qus doctor").1;
    let (check, command) = first_command(&printed).unwrap();
    assert_eq!(check, "mounted", "{printed}");
    // The user types this into the shell that the printed command starts.
    let inside = format!("{} uname -m", program.display());
    assert_eq!(shell.done(&format!("echo '{inside}' | {command}")), "aarch64\n");
}

kernel_test!(situation_3_a_version_that_crashes);
/// Situation 3: a version of the emulator that crashes.
fn situation_3_a_version_that_crashes(lab: &Lab) {
    quiet();
    let mut crashing = native(2);
    let code = crashing.len() - 10;
    crashing[code - 10..].fill(0);
    lab.handler("qemu-aarch64", "aarch64", &lab.executable("qemu-aarch64", &crashing), Flags::FIX_BINARY);
    let ran = start(&program(lab, "aarch64"), &["busybox", "true"]).unwrap();
    assert!(ran.status > 128, "{ran:?}");
    follow(lab, &["broken"]);
    runs(lab, "aarch64", "aarch64");
}

kernel_test!(situation_4_native_programs_captured);
/// Situation 4: a handler matches the host's own programs. No program can be started any more, not even `doctor`. So
/// `doctor` runs in a user namespace with its own instance, as in a container (K65).
fn situation_4_native_programs_captured(lab: &Lab) {
    quiet();
    let mut shell = Shell::start(lab, &[]);
    shell.done("/bin/true");
    enter_nested();
    fs::create_dir(lab.path("inner")).unwrap();
    mount_instance(&lab.path("inner"), MsFlags::empty());
    let interpreter = downloads::interpreter("aarch64");
    lab.register(format!(r":catch-all:M::\x7fELF::{}:F", interpreter.display()).as_bytes()).unwrap();
    assert_ne!(shell.types("/bin/true").0, "0");
    follow(lab, &["captures"]);
    shell.done("/bin/true");
    saw("captures", Seen::Fixed);
}

kernel_test!(situation_4_programs_of_the_family_captured);
/// Situation 4 with programs of another architecture of the host's family, if this machine runs one natively.
fn situation_4_programs_of_the_family_captured(lab: &Lab) {
    quiet();
    let native = || {
        let path = downloads::busybox("i386");
        let Ok(mut child) = Command::new(&path).arg0("busybox").args(["sleep", "100"]).spawn() else {
            return None;
        };
        let ran = fs::read_link(format!("/proc/{}/exe", child.id())).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        Some(ran == fs::canonicalize(path).unwrap())
    };
    if native() != Some(true) {
        // Then the handler cannot match native programs, and an emulator is correct.
        lab.done(["register", "i386"]);
        assert_eq!(native(), Some(false));
        return;
    }
    lab.done(["register", "--force-native", "i386"]);
    assert_eq!(native(), Some(false));
    follow(lab, &["captures"]);
    assert_eq!(native(), Some(true));
}

kernel_test!(situation_5_success_was_reported);
/// Situation 5: a handler does not work, although the command that registered it reported success.
fn situation_5_success_was_reported(lab: &Lab) {
    quiet();
    lab.command("status", "0");
    lab.handler("qemu-aarch64", "aarch64", &downloads::interpreter("aarch64"), Flags::FIX_BINARY);
    assert_eq!(starts(lab, "aarch64"), Err(ENOEXEC));
    follow(lab, &["instance-off"]);
    runs(lab, "aarch64", "aarch64");
    // A failed download left an empty file.
    lab.handler("qemu-arm", "arm", &lab.executable("qemu-arm", b""), Flags::FIX_BINARY);
    assert_eq!(starts(lab, "arm"), Err(ENOEXEC));
    follow(lab, &["interpreter"]);
    runs(lab, "arm", "armv7l");
}

kernel_test!(situation_6_no_instance, unmounted);
/// Situation 6: binfmt_misc is not mounted.
fn situation_6_no_instance(lab: &Lab) {
    quiet();
    follow(lab, &["mounted", "working"]);
    runs(lab, "aarch64", "aarch64");
}

kernel_test!(situation_6_read_only);
fn situation_6_read_only(lab: &Lab) {
    quiet();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(None::<&str>, INSTANCE, None::<&str>, flags, None::<&str>).unwrap();
    assert_eq!(starts(lab, "aarch64"), Err(ENOEXEC));
    follow(lab, &["writable", "working"]);
    runs(lab, "aarch64", "aarch64");
}

kernel_test!(situation_7_not_in_containers);
/// Situation 7: programs run on the host, but not in a container. The handler has no `F`, or its interpreter needs a
/// loader.
fn situation_7_not_in_containers(lab: &Lab) {
    quiet();
    let root = container(lab, "aarch64");
    lab.handler("qemu-aarch64", "aarch64", &downloads::interpreter("aarch64"), Flags::empty());
    runs(lab, "aarch64", "aarch64");
    assert_eq!(in_root(&root), Err(127));
    follow(lab, &["no-fix"]);
    assert_eq!(in_root(&root).as_deref(), Ok("aarch64\n"));
    lab.done(["reset"]);
    let dynamic = lab.executable("qemu-aarch64", &fs::read("/bin/true").unwrap());
    lab.handler("qemu-aarch64", "aarch64", &dynamic, Flags::FIX_BINARY);
    assert_eq!(in_root(&root), Err(127));
    follow(lab, &["interpreter"]);
    assert_eq!(in_root(&root).as_deref(), Ok("aarch64\n"));
}

kernel_test!(situation_8_competing_handlers);
/// Situation 8: the handler of another tool is in front, and does not work here.
fn situation_8_competing_handlers(lab: &Lab) {
    quiet();
    lab.done(["register", "aarch64"]);
    lab.handler("rosetta", "aarch64", &lab.executable("rosetta", &native(2)), Flags::FIX_BINARY);
    assert_eq!(starts(lab, "aarch64").as_deref(), Ok(""));
    follow(lab, &["shadowed"]);
    runs(lab, "aarch64", "aarch64");
}

/// A privileged container on a host that has not mounted binfmt_misc: a mount namespace in the host's user namespace,
/// with its own process ids and its own procfs.
const CONTAINER: [&str; 6] = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

kernel_test!(situation_9_gone_with_its_container, unmounted);
/// Situation 9: a container registered and verified a handler, reported that, and ended.
fn situation_9_gone_with_its_container(lab: &Lab) {
    quiet();
    let uname = format!("{} uname -m", program(lab, "aarch64").display());
    let in_container = || {
        let mut container = Shell::start(lab, &CONTAINER);
        assert!(container.done("qus register aarch64").starts_with("aarch64  registered "));
        assert_eq!(container.done(&uname), "aarch64\n");
    };
    in_container();
    assert_eq!(starts(lab, "aarch64"), Err(ENOEXEC));
    let printed = lab.qus(["doctor"]).stdout;
    let why = "those of a container end with its mount";
    assert!(printed.contains("binfmt_misc is not mounted on ") && printed.contains(why), "{printed}");
    // The first hint fixes the cause. Then the user starts the container again.
    follow(lab, &["mounted"]);
    in_container();
    runs(lab, "aarch64", "aarch64");
    lab.done(["reset"]);
    // Alternatively, the user follows the next hint.
    follow(lab, &["working"]);
    runs(lab, "aarch64", "aarch64");
}

kernel_test!(situation_9_in_a_container, unmounted);
/// Situation 9 before the container ends: `doctor` runs inside, where other processes are not visible.
fn situation_9_in_a_container(lab: &Lab) {
    quiet();
    // The pause is long enough to decide whether the container is older than the instance.
    let pause = || std::thread::sleep(Duration::from_millis(300));
    let mut container = Shell::start(lab, &CONTAINER);
    container.done("true");
    pause();
    container.done("qus register aarch64");
    let printed = container.done("qus doctor");
    let text = "note  lifetime  1 handler is removed when this container ends, and so are all new ones, unless another container in";
    assert!(printed.contains(text), "{printed}");
    mount_instance(Path::new(INSTANCE), MsFlags::empty());
    drop(container);
    runs(lab, "aarch64", "aarch64");
    pause();
    let mut container = Shell::start(lab, &CONTAINER);
    container.done(&format!("mount -t binfmt_misc x {INSTANCE}"));
    let printed = container.done("qus doctor -v 2>&1");
    assert!(
        printed.contains("working architectures: aarch64") && !printed.contains(" lifetime "),
        "{printed}"
    );
}

kernel_test!(situation_9_in_a_mount_namespace, unmounted);
/// Situation 9 in a mount namespace from which processes outside are visible.
fn situation_9_in_a_mount_namespace(lab: &Lab) {
    quiet();
    let mut shell = Shell::start(lab, &["unshare", "--mount", "--propagation", "private"]);
    shell.done("qus register aarch64");
    let typed = shell.follows(&["lifetime"]);
    let me = std::process::id();
    assert_eq!(typed, format!("nsenter -t {me} -m mount -t binfmt_misc binfmt_misc {INSTANCE}"));
    let printed = shell.done("qus doctor -v 2>&1");
    assert!(
        printed.contains("working architectures: aarch64") && !printed.contains(" lifetime "),
        "{printed}"
    );
    saw("lifetime", Seen::Fixed);
    drop(shell);
    runs(lab, "aarch64", "aarch64");
}

kernel_test!(situation_10_file_exists);
/// Situation 10: "File exists", for a leftover handler that does not work.
fn situation_10_file_exists(lab: &Lab) {
    quiet();
    let interpreter = downloads::interpreter("aarch64");
    let again = || lab.register(&rule("qemu-aarch64", "aarch64", &interpreter)).unwrap_err();
    // A container registered it with an interpreter of its own.
    lab.handler("qemu-aarch64", "aarch64", &lab.path("gone/qemu-aarch64-static"), Flags::empty());
    assert_eq!(starts(lab, "aarch64"), Err(2));
    assert_eq!(again(), nix::errno::Errno::EEXIST);
    follow(lab, &["no-fix"]);
    runs(lab, "aarch64", "aarch64");
    // The handler is disabled.
    lab.command("qemu-aarch64", "0");
    assert_eq!(starts(lab, "aarch64"), Err(ENOEXEC));
    assert_eq!(again(), nix::errno::Errno::EEXIST);
    follow(lab, &["disabled"]);
    runs(lab, "aarch64", "aarch64");
}

kernel_test!(situation_11_any_architecture);
/// Situation 11: every architecture for which Debian has a program, by Debian's names.
fn situation_11_any_architecture(lab: &Lab) {
    quiet();
    let have = downloads::interpreters(&downloads::distribution());
    // QEMU has one interpreter for both of Debian's 32-bit arm. QEMU 7.2 is older than the programs of loongarch64.
    let can =
        |name: &str| name != "loongarch64" && have.contains_key(if name == "armel" { "arm" } else { name });
    let mut count = 0;
    for (name, debian) in downloads::PROGRAMS.iter().filter(|(name, _)| can(name)) {
        lab.clear();
        // The host runs some of them natively.
        if starts(lab, name).is_ok() {
            continue;
        }
        let mut shell = Shell::start(lab, &[]);
        let printed = shell.types("qus doctor").1;
        let (check, command) = first_command(&printed).unwrap();
        assert_eq!((check, command), ("working", "qus register --fetch aarch64"), "{printed}");
        shell.done(&command.replace("aarch64", debian));
        assert!(starts(lab, name).is_ok_and(|machine| !machine.is_empty()), "{name}");
        count += 1;
    }
    assert!(count >= 6, "{count} architectures were tried");
}
