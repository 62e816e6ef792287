//! `qus run` with the kernel: the program, its user, its exit status, and no leftovers.
//!
//! Each test has a namespace that represents the host, with its instance, mounts and files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, umount2};
use nix::unistd::{getegid, geteuid};

use crate::downloads;
use crate::lab::{Lab, Ran, run};
use crate::namespace::INSTANCE;

/// Copies a foreign busybox under a name with which it takes its applet from the first argument.
fn busybox(lab: &Lab) -> String {
    let path = lab.path("busybox");
    if !path.exists() {
        fs::copy(downloads::busybox("aarch64"), &path).unwrap();
    }
    path.to_str().unwrap().to_owned()
}

/// Runs a shell script with `qus run`, with the foreign busybox as `$1`.
fn shell(lab: &Lab, script: &str) -> Ran {
    lab.qus(["run", "--", "sh", "-c", script, "sh", &busybox(lab)])
}

/// Returns the mounts of this namespace.
fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

/// Returns all files in a directory, with values that every change of a file affects.
fn files(directory: &Path) -> BTreeMap<PathBuf, (u32, u64)> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for file in fs::read_dir(&directory).unwrap().map(|file| file.unwrap().path()) {
            let metadata = file.symlink_metadata().unwrap();
            if metadata.is_dir() {
                directories.push(file.clone());
            }
            let length = if metadata.is_dir() { 0 } else { metadata.len() };
            found.insert(file, (metadata.permissions().mode(), length));
        }
    }
    found
}

kernel_test!(run_a_foreign_program);
fn run_a_foreign_program(lab: &Lab) {
    let busybox = busybox(lab);
    assert_eq!(lab.done(["run", "--", &busybox, "uname", "-m"]), "aarch64\n");
    // The two dashes can be left out: all words after the program are its arguments.
    assert_eq!(lab.done(["run", &busybox, "uname", "-m"]), "aarch64\n");
}

kernel_test!(run_as_who_called, ordinary_user);
fn run_as_who_called(lab: &Lab) {
    assert_eq!((geteuid().as_raw(), getegid().as_raw()), (1000, 1000));
    let busybox = busybox(lab);
    assert_eq!(lab.done(["run", "--", &busybox, "id", "-u"]), "1000\n");
    assert_eq!(lab.done(["run", "--", &busybox, "id", "-g"]), "1000\n");
    // New files belong to the caller.
    lab.done(["run", "--", &busybox, "touch", "new"]);
    let metadata = fs::metadata(lab.path("new")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), 1000);
}

kernel_test!(run_as_root_of_the_namespace, ordinary_user);
fn run_as_root_of_the_namespace(lab: &Lab) {
    let busybox = busybox(lab);
    assert_eq!(lab.done(["run", "--as-root", "--", &busybox, "id", "-u"]), "0\n");
    // The program may do what root may, such as mounting.
    let script = "mount -t tmpfs none /tmp";
    assert_eq!(lab.qus(["run", "--as-root", "--", "sh", "-c", script]).status, 0);
    assert_ne!(lab.qus(["run", "--", "sh", "-c", script]).status, 0);
}

kernel_test!(run_ends_as_the_program_does);
fn run_ends_as_the_program_does(lab: &Lab) {
    let busybox = busybox(lab);
    for status in ["0", "1", "2", "7", "125", "255"] {
        let ran = lab.qus(["run", "--", &busybox, "sh", "-c", &format!("exit {status}")]);
        assert_eq!(ran.status.to_string(), status, "{ran:?}");
    }
    for (name, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11)] {
        let mut command = lab.command_of_qus();
        let output = command.args(["run", "--", &busybox, "sh", "-c", &format!("kill -{name} $$")]);
        let output = output.output().unwrap();
        assert_eq!(output.status.signal(), Some(number), "{output:?}");
    }
    // A reader that ends also ends the writer, without a message, as without qus.
    let ran = shell(lab, "\"$1\" yes | head -n 1; yes | head -n 1");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("y\ny\n", ""));
}

kernel_test!(run_reports_why_it_did_not_start);
fn run_reports_why_it_did_not_start(lab: &Lab) {
    let busybox = busybox(lab);
    fs::write(lab.path("plain"), "no program").unwrap();
    let junk = lab.executable("junk", b"\x7fan unknown format");
    let no_loader = lab.executable("script", b"#!/does/not/exist\n");
    lab.refused(["run", "--no-such-option", "--", &busybox], 125, "--no-such-option");
    lab.refused(["run"], 125, "PROGRAM");
    lab.refused(["run", "--env", "NAME", "--", &busybox], 125, "a variable is written NAME=VALUE");
    lab.refused(["run", "--root", "/does/not/exist", "--", "sh"], 125, "cannot find /does/not/exist");
    lab.refused(["run", "--", lab.path("plain").to_str().unwrap()], 126, "Permission denied");
    lab.refused(["run", "--", junk.to_str().unwrap()], 126, "Exec format error");
    lab.refused(["run", "--", "/"], 126, "cannot start /");
    lab.refused(["run", "--", no_loader.to_str().unwrap()], 127, "does not exist");
    lab.refused(["run", "--", "/does/not/exist"], 127, "cannot find the program /does/not/exist");
    lab.refused(["run", "--", "qus-no-such-program"], 127, "cannot find the program qus-no-such-program");
    // For other commands, the status cannot be confused with that of a program.
    lab.refused(["list", "--no-such-option"], 2, "--no-such-option");
    let ran = lab.refused(["--json", "run", "--", "/does/not/exist"], 127, "");
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["error"]["message"], "cannot find the program /does/not/exist");
    let ran = lab.refused(["--json", "run", "--no-such-option"], 125, "");
    let answer: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer["version"], 1);
}

kernel_test!(run_passes_words_streams_and_variables);
fn run_passes_words_streams_and_variables(lab: &Lab) {
    let busybox = busybox(lab);
    let words = ["-n", "--help", "--", "", "two words", "ü", "--env", "A=b"];
    let mut command = vec!["run", "--", &busybox, "printf", "[%s]"];
    command.extend(words);
    let expected: String = words.map(|word| ["[", word, "]"].concat()).concat();
    assert_eq!(lab.done(command), expected);

    // Arguments that are not UTF-8.
    let word = std::ffi::OsString::from_vec(vec![0xff, b'=', 0xfe]);
    let mut command = lab.command_of_qus();
    command.args(["run", "--env"]).arg(std::ffi::OsString::from_vec(b"RAW=\xfd".to_vec()));
    command.args(["--", &busybox, "sh", "-c", r#"printf '%s%s' "$1" "$RAW""#, "sh"]).arg(&word);
    assert_eq!(command.output().unwrap().stdout, [0xff, b'=', 0xfe, 0xfd]);

    let script = "echo $ONE $TWO $HOME $NOT";
    let mut command = lab.command_of_qus();
    command.env("ONE", "1").env("HOME", "/before");
    command.args(["run", "--env", "TWO=2", "--env", "HOME=/a=b", "--", &busybox, "sh", "-c", script]);
    assert_eq!(run(&mut command).stdout, "1 2 /a=b\n");

    let mut command = lab.command_of_qus();
    command.args(["run", "--", &busybox, "sh", "-c", "cat; echo error >&2"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"through\0all\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.stdout.as_slice(), output.stderr.as_slice()),
        (&b"through\0all\n"[..], &b"error\n"[..])
    );

    // argv[0] is the typed word, and the program is found as a shell finds it.
    fs::create_dir(lab.path("bin")).unwrap();
    fs::create_dir(lab.path("first")).unwrap();
    fs::create_dir(lab.path("first/uname")).unwrap();
    symlink(&busybox, lab.path("bin/uname")).unwrap();
    let path = format!("{}:{}", lab.path("first").display(), lab.path("bin").display());
    let mut command = lab.command_of_qus();
    command.env("PATH", path).args(["run", "uname", "-m"]);
    assert_eq!(run(&mut command).stdout, "aarch64\n");

    // The program inherits no descriptor of qus.
    let open = shell(lab, "ls /proc/self/fd | wc -l");
    let outside = run(Command::new("sh").args(["-c", "ls /proc/self/fd | wc -l"]));
    assert_eq!(open.stdout, outside.stdout);
}

kernel_test!(run_native_programs_with_foreign_children);
fn run_native_programs_with_foreign_children(lab: &Lab) {
    let ran = shell(lab, "for i in 1 2 3; do \"$1\" uname -m; done; cat /proc/self/comm");
    assert_eq!(ran.stdout, "aarch64\naarch64\naarch64\ncat\n", "{ran:?}");
    // Programs of several architectures, and foreign programs that start a third one.
    let other = downloads::busybox("s390x");
    symlink(&other, lab.path("uname")).unwrap();
    let ran = shell(lab, "\"$1\" sh -c \"./uname -m; /bin/uname -m\"");
    let native = run(Command::new("uname").arg("-m")).stdout;
    assert_eq!(ran.stdout, format!("s390x\n{native}"), "{ran:?}");
}

kernel_test!(run_inside_of_run);
fn run_inside_of_run(lab: &Lab) {
    let qus = env!("CARGO_BIN_EXE_qus");
    let script = format!("{qus} run -- {qus} run -- \"$1\" uname -m && {qus} run -- \"$1\" id -u && id -u");
    let ran = shell(lab, &script);
    assert_eq!(ran.stdout, "aarch64\n0\n0\n", "{ran:?}");
}

/// Creates an interpreter that prints its name and its file.
fn reporter(lab: &Lab, name: &str) -> PathBuf {
    lab.executable(name, format!("#!/bin/sh\necho {name} got ${{1##*/}}\n").as_bytes())
}

kernel_test!(run_takes_over_the_hosts_handlers);
fn run_takes_over_the_hosts_handlers(lab: &Lab) {
    let report = reporter(lab, "report");
    let gone = reporter(lab, "gone");
    lab.register(format!(":works:E::works::{}:", report.display()).as_bytes()).unwrap();
    lab.register(format!(":lost:E::lost::{}:F", gone.display()).as_bytes()).unwrap();
    lab.register(format!(":off:E::off::{}:", report.display()).as_bytes()).unwrap();
    lab.command("off", "0");
    fs::remove_file(gone).unwrap();
    for name in ["file.works", "file.off"] {
        lab.executable(name, b"anything");
    }
    let before = lab.entries();
    let ran = lab.qus(["run", "--", "./file.works"]);
    assert_eq!(ran.stdout, "report got file.works\n", "{ran:?}");
    let complaints: Vec<&str> = ran.stderr.lines().collect();
    assert_eq!(complaints.len(), 1, "{ran:?}");
    assert!(complaints[0].starts_with("qus: warning: the handler lost is left out: "), "{ran:?}");
    let ran = shell(lab, &format!("ls {INSTANCE}; ./file.works; \"$1\" uname -m"));
    assert!(ran.stdout.contains("\nworks\n"), "{ran:?}");
    assert!(!ran.stdout.contains("off") && !ran.stdout.contains("lost"), "{ran:?}");
    assert!(ran.stdout.ends_with("report got file.works\naarch64\n"), "{ran:?}");
    let ran = lab.qus(["run", "--", "./file.off"]);
    assert_eq!(ran.status, 126, "{ran:?}");
    assert_eq!(lab.entries(), before);
    // A disabled instance has no active handler.
    lab.command("status", "0");
    assert_eq!(lab.qus(["run", "--", "./file.works"]).status, 126);
}

kernel_test!(run_keeps_the_order_of_handlers);
fn run_keeps_the_order_of_handlers(lab: &Lab) {
    for name in ["first", "second", "third"] {
        let interpreter = reporter(lab, name);
        lab.register(format!(":{name}:E::foo::{}:", interpreter.display()).as_bytes()).unwrap();
    }
    let file = lab.executable("file.foo", b"anything");
    // The newest handler is the active one (K32).
    assert_eq!(run(&mut Command::new(&file)).stdout, "third got file.foo\n");
    assert_eq!(lab.done(["run", "--", "./file.foo"]), "third got file.foo\n");
    lab.command("third", "0");
    assert_eq!(lab.done(["run", "--", "./file.foo"]), "second got file.foo\n");
}

kernel_test!(run_prefers_what_works_in_another_root);
fn run_prefers_what_works_in_another_root(lab: &Lab) {
    // The host's handler sends these programs to another interpreter. An interpreter that the user names has
    // precedence.
    let report = reporter(lab, "report");
    let magic = format!(r"\x7fELF\x02\x01\x01{}\x02\x00\xb7\x00", r"\x00".repeat(9));
    let mask = format!(r"{}{}\xfe\xff\xff\xff", r"\xff".repeat(7), r"\x00".repeat(9));
    lab.register(format!(":mine:M::{magic}:{mask}:{}:", report.display()).as_bytes()).unwrap();
    let busybox = busybox(lab);
    assert_eq!(lab.done(["run", "--", &busybox, "uname", "-m"]), "report got busybox\n");
    let directory = downloads::distribution();
    let directory = directory.to_str().unwrap();
    let ran = lab.done(["run", "--interpreter-dir", directory, "--", &busybox, "uname", "-m"]);
    assert_eq!(ran, "aarch64\n");
    lab.command("mine", "-1");

    // A handler of QEMU without F does not work in a root directory without QEMU.
    let qemu = downloads::distribution().join("qemu-aarch64-static");
    lab.register(format!(":qemu-aarch64:M::{magic}:{mask}:{}:", qemu.display()).as_bytes()).unwrap();
    let root = root(lab);
    let ran = lab.qus(["run", "--root", &root, "--", "/bin/busybox", "uname", "-m"]);
    assert_eq!(ran.stdout, "aarch64\n", "{ran:?}");
    // A handler with F stays active, next to those that qus adds.
    lab.command("qemu-aarch64", "-1");
    lab.register(format!(":theirs:M::{magic}:{mask}:{}:F", qemu.display()).as_bytes()).unwrap();
    let ran = shell(lab, &format!("ls {INSTANCE}"));
    assert!(ran.stdout.contains("theirs") && ran.stdout.contains("qemu-s390x"), "{ran:?}");
}

kernel_test!(run_leaves_the_host_as_it_was);
fn run_leaves_the_host_as_it_was(lab: &Lab) {
    let report = reporter(lab, "report");
    lab.register(format!(":mine:E::mine::{}:", report.display()).as_bytes()).unwrap();
    let busybox = busybox(lab);
    let root = root(lab);
    // The mount points have to exist.
    for name in ["proc", "sys", "dev", "etc/resolv.conf"] {
        assert_eq!(lab.qus(["run", "--root", &root, "--", "/bin/busybox", "true"]).status, 0);
        assert!(Path::new(&root).join(name).exists(), "{name}");
    }
    let state = || (mounts(), lab.entries(), files(&lab.path("")), fs::read("/proc/self/uid_map").unwrap());
    let before = state();
    lab.done(["run", "--", &busybox, "true"]);
    lab.done(["run", "--as-root", "--", &busybox, "true"]);
    lab.done(["run", "--root", &root, "--", "/bin/busybox", "true"]);
    assert_eq!(lab.qus(["run", "--", "/does/not/exist"]).status, 127);
    assert_eq!(state(), before);
}

kernel_test!(run_without_an_instance_on_the_host, unmounted);
fn run_without_an_instance_on_the_host(lab: &Lab) {
    let before = mounts();
    let busybox = busybox(lab);
    assert_eq!(lab.done(["run", "--", &busybox, "uname", "-m"]), "aarch64\n");
    assert_eq!(mounts(), before);
    // The program still does not run outside.
    assert_eq!(Command::new(&busybox).output().unwrap_err().raw_os_error(), Some(8));
}

kernel_test!(run_leaves_no_process_between);
fn run_leaves_no_process_between(lab: &Lab) {
    let root = root(lab);
    let native = ["run", "--", "sh", "-c", "echo $$; exec cat"];
    let foreign = ["run", "--", &busybox(lab), "sh", "-c", "echo $$; exec cat"];
    let rooted = ["run", "--root", &root, "--", "/bin/busybox", "sh", "-c", "echo $$; exec cat"];
    for words in [&native[..], &foreign, &rooted] {
        let mut command = lab.command_of_qus();
        let mut child = command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line)
            .unwrap();
        assert_eq!(line.trim(), child.id().to_string(), "{words:?}");
        // No child process is left, running or ended.
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        assert_eq!(children, "", "{words:?}");
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}

kernel_test!(run_directly);
fn run_directly(lab: &Lab) {
    let busybox = busybox(lab);
    let before = (mounts(), lab.entries());
    assert_eq!(lab.done(["run", "--direct", "--", &busybox, "uname", "-m"]), "aarch64\n");
    assert_eq!(lab.qus(["run", "--direct", "--", &busybox, "sh", "-c", "exit 9"]).status, 9);
    symlink(&busybox, lab.path("uname")).unwrap();
    assert_eq!(lab.done(["run", "--direct", "--", "./uname", "-m"]), "aarch64\n");
    lab.refused(["run", "--direct", "--root", "/", "--", "sh"], 125, "--root");
    lab.refused(
        ["run", "--direct", "--interpreter-dir", "/", "--", &busybox],
        125,
        "no interpreter for aarch64",
    );
    assert_eq!((mounts(), lab.entries()), before);
}

kernel_test!(run_from_a_directory);
fn run_from_a_directory(lab: &Lab) {
    let busybox = busybox(lab);
    let home = lab.path("home");
    fs::create_dir(&home).unwrap();
    let source = downloads::distribution();
    let version = run(Command::new(source.join("qemu-aarch64-static")).arg("--version")).stdout;
    let version = version.split_whitespace().nth(2).unwrap();
    let fetched = home.join("data/qus").join(version).join("qemu-aarch64-static");
    let command = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_qus"));
        command.args(words).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", &home);
        command.env("XDG_DATA_HOME", home.join("data")).env("QEMU_BIN_DIR", "");
        run(&mut command)
    };
    let from = source.to_str().unwrap();
    let ran = command(&["run", "--from", from, "--", &busybox, "uname", "-m"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "aarch64\n"), "{ran:?}");
    assert!(fetched.exists());
    // The interpreter is available now: nothing is fetched or changed.
    let before = files(&home);
    let ran = command(&["run", "--fetch", "--", &busybox, "uname", "-m"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "aarch64\n"), "{ran:?}");
    assert_eq!(files(&home), before);
}

kernel_test!(run_keeps_what_was_typed_in_its_command);
fn run_keeps_what_was_typed_in_its_command(lab: &Lab) {
    let root = root(lab);
    let words =
        ["run", "--root", &root, "--interpreter-dir", "/", "--env", "A=b c", "--", "/bin/sh", "-c", "x y"];
    let command =
        format!("try: qus run --fetch --root {root} --interpreter-dir / --env 'A=b c' -- /bin/sh -c 'x y'\n");
    lab.refused(words, 125, &command);
}

kernel_test!(run_where_namespaces_are_forbidden);
fn run_where_namespaces_are_forbidden(lab: &Lab) {
    let busybox = busybox(lab);
    fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
    let ran = lab.refused(
        ["run", "--env", "A=b", "--", &busybox, "uname", "-m"],
        125,
        "user namespaces are forbidden here by user.max_user_namespaces\n",
    );
    assert!(ran.stderr.contains("try: sysctl -w user.max_user_namespaces=65536\n"), "{ran:?}");
    let direct = format!(
        "hint: or run the program without handlers: qus run --direct --env A=b -- {busybox} uname -m\n"
    );
    assert!(ran.stderr.contains(&direct), "{ran:?}");
    assert_eq!(lab.done(["run", "--direct", "--", &busybox, "uname", "-m"]), "aarch64\n");
    // For a command that needs a namespace, the hint does not suggest `--direct`.
    let ran = lab.refused(["run", "--root", &root(lab), "--", "/bin/sh"], 125, "forbidden here by");
    assert!(!ran.stderr.contains("--direct"), "{ran:?}");
}

kernel_test!(run_killed_at_any_moment);
fn run_killed_at_any_moment(lab: &Lab) {
    let busybox = busybox(lab);
    let root = root(lab);
    assert_eq!(lab.qus(["run", "--root", &root, "--", "/bin/busybox", "true"]).status, 0);
    let temporary = lab.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let state = || (mounts(), lab.entries(), files(&lab.path("")), children());
    let before = state();
    for step in 0..60 {
        let mut command = lab.command_of_qus();
        command.env("TMPDIR", &temporary).args(["run"]);
        if step % 2 == 0 {
            command.args(["--", &busybox, "sleep", "100"]);
        } else {
            command.args(["--root", &root, "--", "/bin/busybox", "sleep", "100"]);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(step * 700));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
    // A waiting child process ends when its parent is gone.
    for _ in 0..100 {
        if children() == before.3 {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(state(), before);
}

/// Returns the command lines of processes that run qus in this user namespace or below it.
fn children() -> Vec<String> {
    let directory = env!("CARGO_BIN_EXE_qus");
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    let parents = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    fs::read_dir("/proc")
        .unwrap()
        .map(|process| process.unwrap().path())
        .filter(|process| parents(process).as_ref() == Some(&own))
        .filter_map(|process| fs::read_to_string(process.join("cmdline")).ok())
        .filter(|line| line.contains(directory) || line.contains("__map-ids"))
        .collect()
}

/// Creates a root directory that has only a foreign busybox and empty directories.
fn root(lab: &Lab) -> String {
    let root = lab.path("root");
    if !root.exists() {
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
        fs::copy(downloads::busybox("aarch64"), root.join("bin/busybox")).unwrap();
        // An absolute link: outside of the root it leads to a program of the host, or to nothing.
        symlink("/bin/busybox", root.join("bin/sh")).unwrap();
    }
    root.to_str().unwrap().to_owned()
}

kernel_test!(run_in_another_root);
fn run_in_another_root(lab: &Lab) {
    let root = root(lab);
    let inside = |script: &str| {
        let ran = lab.qus(["run", "--root", &root, "--", "/bin/sh", "-c", script]);
        assert_eq!(ran.status, 0, "{script}: {ran:?}");
        ran.stdout
    };
    assert_eq!(inside("pwd; busybox uname -m"), "/\naarch64\n");
    assert_eq!(inside("busybox ls /"), "bin\ndev\netc\nproc\nsys\n");
    assert_eq!(inside("test -d /proc/$$ && echo yes"), "yes\n");
    if Path::new("/sys/kernel").exists() {
        assert_eq!(inside("test -d /sys/kernel && echo yes"), "yes\n");
    }
    assert_eq!(inside("echo gone > /dev/null; busybox head -c 5 /dev/zero | busybox wc -c"), "5\n");
    assert_eq!(
        inside("test -c /dev/urandom && test -d /dev/shm && test -e /dev/pts/ptmx && echo yes"),
        "yes\n"
    );
    assert_eq!(
        inside("echo in > /dev/shm/file; busybox cat /dev/shm/file; echo out > /dev/stdout"),
        "in\nout\n"
    );
    let resolv = fs::read_to_string("/etc/resolv.conf").unwrap();
    assert_eq!(inside("busybox cat /etc/resolv.conf"), resolv);
    // The program cannot change kernel settings.
    assert_eq!(
        inside("busybox sh -c ': >> /proc/sys/kernel/hostname' 2>/dev/null || echo read-only"),
        "read-only\n"
    );
    assert_eq!(inside("busybox touch /sys/x 2>&1 || echo no"), "touch: /sys/x: Read-only file system\nno\n");
    assert_eq!(inside("busybox id -u; busybox touch /new"), "0\n");
    assert!(Path::new(&root).join("new").exists());
    // Mount points that were missing stay, and are empty.
    for name in ["dev", "proc", "sys"] {
        assert_eq!(fs::read_dir(Path::new(&root).join(name)).unwrap().count(), 0, "{name}");
    }
    // The program cannot reach the host's root.
    assert_eq!(inside("busybox ls /../../bin"), "busybox\nsh\n");
    let ran = lab.qus(["run", "--root", &root, "--", "/bin/cat"]);
    assert_eq!(ran.status, 127, "{ran:?}");
}

kernel_test!(run_in_a_root_given_relatively);
fn run_in_a_root_given_relatively(lab: &Lab) {
    let root = root(lab);
    assert_eq!(lab.done(["run", "--root", "root", "--", "/bin/sh", "-c", "pwd"]), "/\n");
    let mut command = lab.command_of_qus();
    command.current_dir(&root).args(["run", "--root", ".", "--", "/bin/sh", "-c", "pwd; busybox ls"]);
    assert_eq!(run(&mut command).stdout, "/\nbin\ndev\netc\nproc\nsys\n");
    symlink("root", lab.path("link")).unwrap();
    assert_eq!(lab.done(["run", "--root", "link", "--", "/bin/sh", "-c", "pwd"]), "/\n");
    lab.refused(["run", "--root", "/", "--", "/bin/sh"], 125, "it is already the root directory");
    lab.refused(["run", "--root", "root/bin/busybox", "--", "/bin/sh"], 125, "Not a directory");
}

kernel_test!(run_in_a_hostile_root);
fn run_in_a_hostile_root(lab: &Lab) {
    let outside = lab.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "precious").unwrap();
    let root = PathBuf::from(root(lab));
    fs::write(root.join("etc/passwd"), "the root's").unwrap();
    let links = [
        ("dev", outside.to_str().unwrap()),
        ("proc", "../outside"),
        ("sys", "/../../outside"),
        ("etc/resolv.conf", "../../../../../../etc/passwd"),
    ];
    for (name, target) in links {
        symlink(target, root.join(name)).unwrap();
    }
    let before = (files(&outside), mounts(), fs::read("/etc/passwd").unwrap());
    let unchanged = |ran: &Ran| {
        assert_eq!((files(&outside), mounts(), fs::read("/etc/passwd").unwrap()), before, "{ran:?}");
    };
    let try_it = || lab.qus(["run", "--root", root.to_str().unwrap(), "--", "/bin/sh", "-c", "echo ran"]);
    // Links to a target that does not exist inside are refused.
    let ran = try_it();
    assert_eq!((ran.status, ran.stdout.as_str()), (125, ""), "{ran:?}");
    assert!(ran.stderr.contains("cannot open proc"), "{ran:?}");
    unchanged(&ran);
    // If the target exists inside, it becomes the mount point.
    fs::create_dir_all(root.join(outside.strip_prefix("/").unwrap())).unwrap();
    fs::create_dir(root.join("outside")).unwrap();
    let ran = try_it();
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "ran\n"), "{ran:?}");
    unchanged(&ran);
    // A magic link of /proc would lead to the real root.
    for name in ["dev", "proc", "sys"] {
        fs::remove_file(root.join(name)).unwrap();
    }
    symlink("/proc/self/root/tmp", root.join("dev")).unwrap();
    let ran = try_it();
    assert_eq!((ran.status, ran.stdout.as_str()), (125, ""), "{ran:?}");
    assert!(ran.stderr.contains("cannot open dev"), "{ran:?}");
    unchanged(&ran);
    // The program is not searched outside of the root either.
    symlink(busybox(lab), root.join("bin/escape")).unwrap();
    fs::remove_file(root.join("dev")).unwrap();
    let ran = lab.qus(["run", "--root", root.to_str().unwrap(), "--", "/bin/escape", "true"]);
    assert_eq!(ran.status, 127, "{ran:?}");
    unchanged(&ran);
    umount2(INSTANCE, MntFlags::empty()).unwrap();
}
