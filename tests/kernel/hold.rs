//! Tests `qus register --hold`, whose handlers exist until a signal arrives.

use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::downloads;
use crate::lab::{Lab, QUS, busybox, run};
use crate::namespace::INSTANCE;
use crate::tools;

/// A qus that holds handlers, and the socket on which it reports that it is ready.
struct Holder {
    child: Child,
    socket: UnixDatagram,
}

impl Holder {
    /// Starts `command`, and waits until it reports that it is ready, on a socket in the directory of the test.
    fn start(lab: &Lab, mut command: Command) -> Self {
        let path = lab.path("notify");
        let _none_yet = fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        Self::wait(socket, command.env("NOTIFY_SOCKET", path))
    }

    /// Does the same as [`start`](Self::start), with an abstract socket, which has no file.
    fn start_abstract(mut command: Command) -> Self {
        let name = format!("qus-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Self::wait(socket, command.env("NOTIFY_SOCKET", format!("@{name}")))
    }

    fn wait(socket: UnixDatagram, command: &mut Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The timeout is long enough for a busy machine; reaching it is a failure.
        socket.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
        let mut word = [0; 64];
        let length = socket.recv(&mut word).unwrap();
        assert_eq!(&word[..length], b"READY=1");
        Self { child, socket }
    }

    /// Ends qus with `signal`, and returns its exit status and its output.
    fn end(self, signal: Signal) -> (Option<i32>, String, String) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
        let output = self.child.wait_with_output().unwrap();
        // qus reports that it is ready only once.
        self.socket.set_nonblocking(true).unwrap();
        assert!(self.socket.recv(&mut [0; 64]).is_err());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

fn command(lab: &Lab, words: &[&str]) -> Command {
    let mut command = lab.command_of_qus();
    command.arg("register").args(words);
    command
}

fn names(lab: &Lab) -> Vec<String> {
    lab.entries().into_keys().collect()
}

kernel_test!(hold_until_a_signal);
fn hold_until_a_signal(lab: &Lab) {
    let holder = Holder::start(lab, command(lab, &["--hold", "aarch64,s390x"]));
    assert_eq!(names(lab), ["qemu-aarch64", "qemu-s390x"]);
    let (status, stdout, stderr) = holder.end(Signal::SIGTERM);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    assert!(stderr.contains("until this command is ended"), "{stderr}");
    assert!(stderr.contains("removed 2 handlers of this command"), "{stderr}");
    assert_eq!(names(lab), [""; 0]);

    let holder = Holder::start_abstract(command(lab, &["--hold", "aarch64"]));
    assert_eq!(names(lab), ["qemu-aarch64"]);
    // Another process removes the handler meanwhile, which is no failure.
    lab.command("qemu-aarch64", "-1");
    assert_eq!(holder.end(Signal::SIGINT).0, Some(0));
    assert_eq!(names(lab), [""; 0]);
}

kernel_test!(hold_removes_only_what_it_registered);
fn hold_removes_only_what_it_registered(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.register(b":theirs:E::theirs::/bin/sh:").unwrap();
    let holder = Holder::start(lab, command(lab, &["--hold", "arm", "aarch64"]));
    assert_eq!(names(lab), ["qemu-aarch64", "qemu-arm", "theirs"]);
    holder.end(Signal::SIGTERM);
    assert_eq!(names(lab), ["qemu-arm", "theirs"]);
}

kernel_test!(hold_what_would_end_with_the_command, unmounted);
fn hold_what_would_end_with_the_command(lab: &Lab) {
    let mut command = Command::new("unshare");
    command.args(["-m", env!("CARGO_BIN_EXE_qus"), "--json", "register", "--hold", "aarch64"]);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("QUS_INTERPRETER_DIR", downloads::distribution());
    let holder = Holder::start(lab, command);
    // The handler is active: the kernel selects the instance by the user namespace, not by the mount (K65).
    let busybox = lab.path("busybox");
    fs::copy(downloads::busybox("aarch64"), &busybox).unwrap();
    assert!(Command::new(&busybox).arg("true").status().unwrap().success());
    let (status, stdout, stderr) = holder.end(Signal::SIGTERM);
    assert_eq!(status, Some(0), "{stderr}");
    let answer: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&answer["lifetime"], &answer["held"]), (&"process".into(), &true.into()));
    assert_eq!(Command::new(&busybox).arg("true").status().unwrap_err().raw_os_error(), Some(8));
    crate::namespace::mount_instance(std::path::Path::new(INSTANCE), nix::mount::MsFlags::empty());
    assert_eq!(names(lab), [""; 0]);
}

kernel_test!(hold_as_the_systemd_unit_does);
/// systemd finds no fault in the unit, and its command holds handlers.
fn hold_as_the_systemd_unit_does(lab: &Lab) {
    tools::install();
    for arch in ["aarch64", "riscv64"] {
        lab.copy(&format!("q/qemu-{arch}-static"), &downloads::interpreter(arch));
    }
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/dist/systemd/qus.service")).unwrap();
    // Only the path differs, as nothing is installed here.
    let unit = unit.replace("ExecStart=/usr/bin/qus ", &format!("ExecStart={QUS} "));
    fs::write(lab.path("qus.service"), &unit).unwrap();
    let mut verify = tools::command("systemd-analyze");
    let ran = run(verify.args(["verify", "--man=no", "qus.service"]).current_dir(lab.path("")));
    assert_eq!(ran.status, 0, "{ran:#?}");
    let complaints = ran.stderr.lines().filter(|line| line.contains("qus.service"));
    assert_eq!(complaints.collect::<Vec<_>>(), [""; 0], "{ran:#?}");

    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("QUS_INTERPRETER_DIR", lab.path("q"));
    let holder = Holder::start(lab, command);
    assert_eq!(busybox("aarch64", "uname -m").unwrap().stdout, "aarch64\n");
    assert_eq!(names(lab), ["qemu-aarch64", "qemu-riscv64"]);
    let (status, _, stderr) = holder.end(Signal::SIGTERM);
    assert_eq!(status, Some(0), "{stderr}");
    assert_eq!(busybox("aarch64", "uname -m").unwrap_err(), 8);
    assert_eq!(names(lab), [""; 0]);
}

kernel_test!(hold_nothing);
fn hold_nothing(lab: &Lab) {
    let path = lab.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut command = command(lab, &["--hold", "--interpreter-dir", "/nowhere", "aarch64"]);
    let output = command.env("NOTIFY_SOCKET", path).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 64]).is_err());
}
