//! Tests facts of `docs/kernel.md` that no other test covers: the behaviour of the kernel, without qus.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::sys::statfs::{FsType, statfs};
use nix::unistd::{chroot, fchdir, seteuid};

use crate::lab::{Lab, Ran, run, start};
use crate::namespace::{INSTANCE, OTHER_USER, mount_instance};
use crate::programs::{crashing, host, probe};
use crate::skip::skip;

/// Exit status of [`unknown_file`] if no handler matches: the shell then reads the file as a script.
const NOT_TAKEN: i32 = 3;
/// Exit status of a probe whose `argv[0]` is an absolute path.
const TAKEN: i32 = b'/' as i32;

/// Writes a file that the kernel cannot start without a handler.
fn unknown_file(lab: &Lab, name: &str) -> PathBuf {
    lab.executable(name, format!("exit {NOT_TAKEN}\n").as_bytes())
}

/// Registers a handler `x` for files `*.x`.
fn handler(lab: &Lab, interpreter: &Path, flags: &str) -> Result<(), Errno> {
    lab.register(format!(":x:E::x::{}:{flags}", interpreter.display()).as_bytes())
}

/// Writes a probe of this host as an interpreter. It ends with the first byte of its `argv[0]`.
fn interpreter(lab: &Lab, name: &str) -> PathBuf {
    lab.executable(name, &probe(host()))
}

/// Copies a program of this system. Its output shows how the kernel started it.
fn tool(lab: &Lab, directory: &str, name: &str) -> PathBuf {
    let path = ["/usr/bin", "/bin"].iter().map(|bin| Path::new(bin).join(name)).find(|path| path.exists());
    let Some(path) = path else { skip(format!("there is no {name} here")) };
    lab.copy(&format!("{directory}/{name}"), &path)
}

/// Writes to a file of the instance, in one call of `write(2)`.
fn write(name: &str, text: &[u8]) -> Result<usize, Errno> {
    let file = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join(name)).unwrap();
    nix::unistd::write(&file, text)
}

/// Mounts a file system in memory on which setuid bits take effect.
fn file_system(lab: &Lab, name: &str) -> PathBuf {
    let path = lab.path(name);
    fs::create_dir(&path).unwrap();
    mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    path
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a shell script in the test's directory, in namespaces that `unshare` creates.
fn unshared(lab: &Lab, words: &[&str], script: &str) -> Ran {
    run(Command::new("unshare").args(words).args(["sh", "-c", script]).current_dir(lab.path("")))
}

kernel_test!(one_write_is_one_line);
/// Tests K21.
fn one_write_is_one_line(lab: &Lab) {
    assert_eq!(lab.register(b":a:E::a::/i:\n:b:E::b::/i:\n"), Err(Errno::EINVAL));
    let register = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join("register")).unwrap();
    for half in [&b":a:E::a:"[..], b":/i:"] {
        assert_eq!(nix::unistd::write(&register, half), Err(Errno::EINVAL));
    }
    assert!(lab.entries().is_empty());
    assert_eq!(nix::unistd::write(&register, b":a:E::a::/i:"), Ok(12));
}

kernel_test!(entries_are_not_created_by_opening_them);
/// Tests K25.
fn entries_are_not_created_by_opening_them(_: &Lab) {
    let path = Path::new(INSTANCE).join("missing");
    let errno = |options: &fs::OpenOptions| options.open(&path).unwrap_err().raw_os_error().unwrap();
    assert_eq!(errno(fs::OpenOptions::new().write(true).create(true)), Errno::EACCES as i32);
    assert_eq!(errno(fs::OpenOptions::new().write(true)), Errno::ENOENT as i32);
}

kernel_test!(entries_and_status_take_three_words);
/// Tests K26.
fn entries_and_status_take_three_words(lab: &Lab) {
    for newline in ["", "\n"] {
        let word = |name: &str, word: &str| write(name, format!("{word}{newline}").as_bytes()).unwrap();
        lab.register(b":a:E::a::/i:").unwrap();
        word("a", "0");
        assert!(lab.entries()["a"].starts_with("disabled\n"));
        word("a", "1");
        assert!(lab.entries()["a"].starts_with("enabled\n"));
        word("a", "-1");
        assert!(lab.entries().is_empty());
        lab.register(b":a:E::a::/i:").unwrap();
        word("status", "0");
        assert_eq!(fs::read(Path::new(INSTANCE).join("status")).unwrap(), b"disabled\n");
        word("status", "1");
        assert_eq!(fs::read(Path::new(INSTANCE).join("status")).unwrap(), b"enabled\n");
        word("status", "-1");
        assert!(lab.entries().is_empty());
    }
    lab.register(b":a:E::a::/i:").unwrap();
    for name in ["a", "status"] {
        for other in ["2", "-", "-2", "00", "1\n\n", " 1", "on", "\n"] {
            assert_eq!(write(name, other.as_bytes()), Err(Errno::EINVAL), "{name} {other:?}");
        }
        assert_eq!(write(name, b""), Ok(0));
    }
    assert!(lab.entries()["a"].starts_with("enabled\n"));
}

kernel_test!(a_name_is_not_registered_twice);
/// Tests K30.
fn a_name_is_not_registered_twice(lab: &Lab) {
    lab.register(b":a:E::old::/i:").unwrap();
    let before = lab.entries();
    assert_eq!(lab.register(b":a:E::new::/i:"), Err(Errno::EEXIST));
    assert_eq!(lab.entries(), before);
    lab.command("a", "-1");
    lab.register(b":a:E::new::/i:").unwrap();
    assert!(lab.entries()["a"].contains("extension .new\n"));
}

kernel_test!(numbers_of_the_file_systems, unmounted);
/// Tests K46.
fn numbers_of_the_file_systems(_: &Lab) {
    let number = || statfs(INSTANCE).unwrap().filesystem_type();
    assert_eq!(number(), FsType(0x9fa0));
    mount_instance(Path::new(INSTANCE), MsFlags::empty());
    assert_eq!(number(), FsType(0x4249_4e4d));
}

kernel_test!(a_fixed_interpreter_serves_every_root_directory);
/// Tests K47.
fn a_fixed_interpreter_serves_every_root_directory(lab: &Lab) {
    let path = interpreter(lab, "interpreter");
    unknown_file(lab, "file.x");
    for flags in ["", "F"] {
        handler(lab, &path, flags).unwrap();
        // chroot(8) is in a directory that is not in the PATH of ordinary users.
        let script = format!("PATH=/usr/sbin:/sbin:$PATH; chroot {} /file.x", lab.path("").display());
        let ran = unshared(lab, &["--mount"], &script);
        if flags == "F" {
            assert_eq!((ran.status, ran.stderr.as_str()), (TAKEN, ""));
        } else {
            assert!(ran.stderr.contains("No such file or directory"), "{ran:?}");
        }
        lab.command("x", "-1");
    }
}

kernel_test!(who_opened_register_and_who_writes_to_it, among_others);
/// Tests K47.
fn who_opened_register_and_who_writes_to_it(lab: &Lab) {
    let register = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join("register")).unwrap();
    interpreter(lab, "hidden");
    set_mode(&lab.path("hidden"), 0o700);
    let file = unknown_file(lab, "file.x");
    // If the namespace has one user only, the test stays root.
    let is_other = seteuid(OTHER_USER.into()).is_ok();
    if is_other {
        assert_eq!(start(&lab.path("hidden"), &["*"]), Err(Errno::EACCES as i32));
        seteuid(0.into()).unwrap();
    }
    // The kernel looks up the path from the root directory of the process that writes.
    let outside = fs::File::open("/").unwrap();
    chroot(&lab.path("")).unwrap();
    if is_other {
        seteuid(OTHER_USER.into()).unwrap();
    }
    let written = nix::unistd::write(&register, b":x:E::x::/hidden:F");
    seteuid(0.into()).unwrap();
    fchdir(&outside).unwrap();
    chroot(".").unwrap();
    assert_eq!(written, Ok(18));
    assert_eq!(start(&file, &["*"]).unwrap().status, TAKEN);
}

kernel_test!(entry_and_arguments_keep_the_path);
/// Tests K48.
fn entry_and_arguments_keep_the_path(lab: &Lab) {
    std::env::set_current_dir(lab.path("")).unwrap();
    interpreter(lab, "keep");
    fs::create_dir("elsewhere").unwrap();
    let file = unknown_file(lab, "file.x");
    handler(lab, Path::new("keep"), "F").unwrap();
    assert!(lab.entries()["x"].contains("\ninterpreter keep\n"));
    std::env::set_current_dir("elsewhere").unwrap();
    assert_eq!(start(&file, &["*"]).unwrap().status, i32::from(b'k'));
}

kernel_test!(the_file_of_an_entry_is_kept);
/// Tests K49, K50, K54.
fn the_file_of_an_entry_is_kept(lab: &Lab) {
    let path = interpreter(lab, "interpreter");
    let file = unknown_file(lab, "file.x");
    handler(lab, &path, "F").unwrap();
    let works = || start(&file, &["*"]).unwrap().status == TAKEN;
    assert!(works());
    // The file is no longer executable for any user.
    set_mode(&path, 0o644);
    assert_eq!(start(&path, &["*"]), Err(Errno::EACCES as i32));
    assert!(works());
    let written = fs::OpenOptions::new().write(true).open(&path);
    assert_eq!(written.unwrap_err().raw_os_error(), Some(Errno::ETXTBSY as i32));
    fs::rename(lab.executable("other", &crashing()), &path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), crashing());
    assert!(works());
    fs::OpenOptions::new().write(true).open(&path).unwrap();
}

kernel_test!(an_interpreter_that_becomes_noexec_is_ended);
/// Tests K55.
fn an_interpreter_that_becomes_noexec_is_ended(lab: &Lab) {
    let directory = file_system(lab, "mounted");
    let path = interpreter(lab, "mounted/interpreter");
    let file = unknown_file(lab, "file.x");
    handler(lab, &path, "F").unwrap();
    assert_eq!(start(&file, &["*"]).unwrap().status, TAKEN);
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOEXEC;
    mount(None::<&str>, &directory, None::<&str>, flags, None::<&str>).unwrap();
    assert_eq!(start(&file, &["*"]).unwrap().status, 128 + Signal::SIGSEGV as i32);
    lab.command("x", "-1");
    assert_eq!(handler(lab, &path, "F"), Err(Errno::EACCES));
}

kernel_test!(arguments_of_an_interpreter);
/// Tests K58.
fn arguments_of_an_interpreter(lab: &Lab) {
    let echo = tool(lab, "bin", "echo");
    let file = unknown_file(lab, "file.x");
    for (flags, name) in [("", ""), ("P", "zero ")] {
        handler(lab, &echo, flags).unwrap();
        let ran = start(&file, &["zero", "one", "two"]).unwrap();
        assert_eq!(ran.stdout, format!("{} {name}one two\n", file.display()));
        lab.command("x", "-1");
    }
}

kernel_test!(what_an_interpreter_learns_of_its_flags);
/// Tests K59, and the table of versions.
fn what_an_interpreter_learns_of_its_flags(lab: &Lab) {
    const AT_EXECFD: usize = 2;
    const AT_FLAGS: usize = 8;
    let cat = tool(lab, "bin", "cat");
    let file = lab.executable("file.x", b"");
    for flags in ["", "O", "P", "OP"] {
        handler(lab, &cat, flags).unwrap();
        // With `P`, `argv[0]` is an argument for `cat`, so it must be the name of a file that `cat` can print.
        let name = "/dev/null";
        let output = Command::new(&file).arg("/proc/self/auxv").arg0(name).output().unwrap();
        let numbers: Vec<usize> = output
            .stdout
            .chunks_exact(size_of::<usize>())
            .map(|bytes| usize::from_ne_bytes(bytes.try_into().unwrap()))
            .collect();
        let vector: BTreeMap<usize, usize> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        assert_eq!(vector.contains_key(&AT_EXECFD), flags.contains('O'), "{flags:?}");
        assert_eq!(vector[&AT_FLAGS], usize::from(flags.contains('P')), "{flags:?}");
        lab.command("x", "-1");
    }
}

kernel_test!(whose_rights_an_interpreter_has, among_others);
/// Tests K60, K61.
fn whose_rights_an_interpreter_has(lab: &Lab) {
    file_system(lab, "setuid");
    let cat = tool(lab, "setuid", "cat");
    let file = lab.executable("setuid/file.x", b"");
    let effective_in = |command: &mut Command| {
        let ran = run(command.arg("/proc/self/status"));
        let line = ran.stdout.lines().find_map(|line| line.strip_prefix("Uid:")).expect(&ran.stderr);
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    // If the tests run without root, the namespace has no second user, and the setuid bit gives no other rights.
    if chown(&cat, Some(OTHER_USER), None).is_err() {
        set_mode(&cat, 0o4755);
        set_mode(&file, 0o4755);
        for flags in ["", "C"] {
            handler(lab, &cat, flags).unwrap();
            assert_eq!(effective_in(&mut Command::new(&file)), 0);
            lab.command("x", "-1");
        }
        return;
    }
    set_mode(&cat, 0o4755);
    let effective = |user: u32| {
        let user = user.to_string();
        effective_in(Command::new("setpriv").args(["--reuid", &user, "--clear-groups"]).arg(&file))
    };
    handler(lab, &cat, "").unwrap();
    assert_eq!(effective(0), OTHER_USER);
    lab.command("x", "-1");
    handler(lab, &cat, "C").unwrap();
    assert_eq!(effective(0), 0);
    set_mode(&file, 0o4755);
    assert_eq!(effective(OTHER_USER), 0);
    chown(&file, Some(OTHER_USER), None).unwrap();
    set_mode(&file, 0o4755);
    assert_eq!(effective(0), OTHER_USER);
}

kernel_test!(a_running_program_survives_its_handler);
/// Tests K63.
fn a_running_program_survives_its_handler(lab: &Lab) {
    let cat = tool(lab, "bin", "cat");
    let file = lab.executable("file.x", b"begun\n");
    handler(lab, &cat, "F").unwrap();
    let mut program =
        Command::new(&file).arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = program.stdout.take().unwrap();
    let mut begun = [0; 6];
    stdout.read_exact(&mut begun).unwrap();
    lab.command("x", "-1");
    assert_eq!(start(&file, &["*"]), Err(Errno::ENOEXEC as i32));
    program.stdin.take().unwrap().write_all(b"alive\n").unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "alive\n");
    assert!(program.wait().unwrap().success());
}

kernel_test!(an_instance_of_each_user_namespace);
/// Tests K64, K65, K66.
fn an_instance_of_each_user_namespace(lab: &Lab) {
    let path = interpreter(lab, "interpreter");
    unknown_file(lab, "file.x");
    handler(lab, &path, "").unwrap();
    let again = lab.path("again");
    fs::create_dir(&again).unwrap();
    mount_instance(&again, MsFlags::empty());
    assert_eq!(fs::read_to_string(again.join("x")).unwrap(), lab.entries()["x"]);
    // Neither a mount namespace nor a user namespace without an instance makes a difference.
    let without = format!("umount -l {INSTANCE} again; ./file.x; echo $?");
    for namespaces in [&["--mount"][..], &["-Ur"], &["-Urm"]] {
        let ran = unshared(lab, namespaces, &without);
        assert_eq!(ran.stdout, format!("{TAKEN}\n"), "{namespaces:?}: {ran:?}");
    }
    // The shell runs already when its namespace gets an instance.
    let script = format!(
        "./file.x; echo $?; mount -t binfmt_misc none {INSTANCE}; ls {INSTANCE}; ./file.x; echo $?; \
         umount {INSTANCE}; ./file.x; echo $?"
    );
    let ran = unshared(lab, &["-Urm"], &script);
    assert_eq!(ran.stdout, format!("{TAKEN}\nregister\nstatus\n{NOT_TAKEN}\n{NOT_TAKEN}\n"), "{ran:?}");
}

kernel_test!(entries_end_with_what_holds_their_instance, unmounted);
/// Tests K67, K68.
fn entries_end_with_what_holds_their_instance(lab: &Lab) {
    let instance = Path::new(INSTANCE);
    let again = || {
        umount2(instance, MntFlags::MNT_DETACH).unwrap();
        // The delay is longer than a tick of the file system's clock.
        sleep(Duration::from_millis(50));
        mount_instance(instance, MsFlags::empty());
    };
    let created = || {
        let metadata = fs::metadata(instance.join("register")).unwrap();
        (metadata.ctime(), metadata.ctime_nsec())
    };
    mount_instance(instance, MsFlags::empty());
    let first = created();
    lab.register(b":a:E::a::/i:").unwrap();
    {
        let _held = fs::File::open(instance.join("status")).unwrap();
        again();
        assert!(lab.entries().contains_key("a"));
        assert_eq!(created(), first);
    }
    std::env::set_current_dir(instance).unwrap();
    again();
    assert!(lab.entries().contains_key("a"));
    std::env::set_current_dir("/").unwrap();
    again();
    assert!(lab.entries().is_empty());
    assert!(created() > first);
}

kernel_test!(root_registers_without_capabilities);
/// Tests K70.
fn root_registers_without_capabilities(lab: &Lab) {
    let script = format!("grep CapEff: /proc/self/status; echo :a:E::a::/i: >{INSTANCE}/register");
    let words = ["--bounding-set", "-all", "--inh-caps", "-all", "sh", "-c", &script];
    let ran = run(Command::new("setpriv").args(words));
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "CapEff:\t0000000000000000\n"), "{ran:?}");
    assert!(lab.entries().contains_key("a"));
}

kernel_test!(capabilities_do_not_register, ordinary_user);
/// Tests K70.
fn capabilities_do_not_register(_: &Lab) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    assert_ne!(u64::from_str_radix(capabilities, 16).unwrap(), 0);
    let opened = fs::OpenOptions::new().write(true).open(Path::new(INSTANCE).join("register"));
    assert_eq!(opened.unwrap_err().raw_os_error(), Some(Errno::EACCES as i32));
}
