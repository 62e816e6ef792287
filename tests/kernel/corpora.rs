//! Public corpora: `qus which` compared with `execve(2)`, and rules that the kernel refuses.
//!
//! * LTP's cases of binfmt_misc: nine rules that the kernel refuses, and six handlers of which each takes a file or not.
//! * Situations of the kernel's selftests (`tools/testing/selftests/exec`): first lines of scripts around the size of the
//!   kernel's buffer, files that are not regular, and interpreters that start one another.
//! * Debian's package `arch-test`: a tiny program for each architecture and for some other operating systems.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::damaged::{End, agrees, answers, start};
use crate::downloads;
use crate::lab::Lab;

/// Size of the buffer in which the kernel looks for the interpreter of a script (`BINPRM_BUF_SIZE`), in bytes.
const BUFFER: usize = 256;

/// Executes each file, and compares the result with the answer of `which`. Returns the results.
fn compare(lab: &Lab, files: &[PathBuf]) -> Vec<End> {
    let named: Vec<(PathBuf, String)> =
        files.iter().map(|path| (path.clone(), path.display().to_string())).collect();
    let answers = answers(lab, &named);
    assert_eq!(answers.len(), files.len());
    let ends: Vec<End> = files.iter().map(|path| start(path)).collect();
    for ((path, end), answer) in files.iter().zip(&ends).zip(&answers) {
        assert!(agrees(answer, *end), "{}: {end:?}, but {answer:#}", path.display());
    }
    ends
}

kernel_test!(ltp_rules_that_the_kernel_refuses);
fn ltp_rules_that_the_kernel_refuses(lab: &Lab) {
    let interpreter = lab.executable("interpreter", b"#!/bin/sh\n");
    let interpreter = interpreter.display();
    let lines = [
        // A field is missing.
        format!(":none:M:1::{interpreter}:"),
        // The type is neither M nor E.
        format!(":type:X::ltp::{interpreter}:"),
        // The name is empty, or contains a slash.
        format!("::E::ltp::{interpreter}:"),
        format!(":a/b:E::ltp::{interpreter}:"),
        // The offset is no number, is negative, or is beyond the buffer.
        format!(":word:M:x:ltp::{interpreter}:"),
        format!(":minus:M:-1:ltp::{interpreter}:"),
        format!(":far:M:{BUFFER}:ltp::{interpreter}:"),
        // The magic is empty.
        format!(":empty:M::::{interpreter}:"),
        // The extension contains a slash.
        format!(":slash:E::l/tp::{interpreter}:"),
    ];
    for line in &lines {
        assert_eq!(lab.register(line.as_bytes()), Err(Errno::EINVAL), "{line}");
        let ran = lab.qus(["register", "--rule", line]);
        assert_eq!(ran.status, 2, "{line}: {ran:#?}");
        assert!(lab.entries().is_empty(), "{line}");
    }
}

kernel_test!(ltp_files_that_handlers_take);
fn ltp_files_that_handlers_take(lab: &Lab) {
    // The interpreter is the probe of this host, which ends with the first byte of its `argv[0]`.
    let interpreter = lab.executable("interpreter", &crate::prediction::native(2));
    let interpreter = interpreter.display();
    let taken = End::Status(i32::from(b'i'));
    let refused = End::Errno(Errno::ENOEXEC as i32);
    let by_extension = lab.executable("file.ltp", b"ltp");
    let by_magic = lab.executable("file", b"\x00ltp text");
    let both = |lab: &Lab| compare(lab, &[by_extension.clone(), by_magic.clone()]);
    assert_eq!(both(lab), [refused, refused]);
    let cases = [
        (format!(":ltp:E::ltp::{interpreter}:"), [taken, refused]),
        (format!(":ltp:E::other::{interpreter}:"), [refused, refused]),
        (format!(":ltp:M:1:ltp::{interpreter}:"), [refused, taken]),
        (format!(":ltp:M:1:abc::{interpreter}:"), [refused, refused]),
        (format!(r":ltp:M:1:lxp:\xff\x00\xff:{interpreter}:"), [refused, taken]),
        (format!(r":ltp:M:1:lxp:\xff\x0f\xff:{interpreter}:"), [refused, refused]),
    ];
    for (line, ends) in cases {
        lab.register(line.as_bytes()).unwrap();
        let is_taken = |end: &End| *end == refused || matches!(end, End::Status(_));
        let seen = both(lab);
        assert!(seen.iter().all(is_taken), "{line}: {seen:?}");
        let ran: Vec<bool> = seen.iter().map(|end| *end != refused).collect();
        assert_eq!(ran, ends.map(|end| end != refused), "{line}");
        lab.command("ltp", "0");
        assert_eq!(both(lab), [refused, refused], "{line}");
        lab.command("ltp", "1");
        assert_eq!(both(lab), seen, "{line}");
        lab.command("ltp", "-1");
    }
}

/// Creates a link to a program, whose path has `length` bytes, and returns the path.
fn path_of_length(lab: &Lab, length: usize) -> String {
    let mut path = lab.path("").display().to_string().trim_end_matches('/').to_owned();
    while path.len() + 60 < length {
        path.push_str("/a-directory-with-a-name-of-40-characters-");
    }
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let name = "x".repeat(length - path.len() - 1);
    path = format!("{path}/{name}");
    if !Path::new(&path).exists() {
        symlink("/bin/true", &path).unwrap();
    }
    path
}

kernel_test!(selftests_first_lines_of_scripts);
fn selftests_first_lines_of_scripts(lab: &Lab) {
    let path = |length| path_of_length(lab, length);
    // Each line has three parts: the text before the path of the interpreter, this path, and the rest.
    let room = BUFFER - 2;
    let lines = [
        ("#!".to_owned(), path(room + 1), "\n"),
        ("#!".to_owned(), path(room), "\n"),
        ("#!".to_owned(), path(room - 1), "\n"),
        ("#!".to_owned(), path(room - 1), ""),
        ("#!".to_owned(), path(room - 2), " argument that is cut off\n"),
        ("#!".to_owned(), path(room - 2), "\t\n"),
        (format!("#!{}", " ".repeat(4)), path(room - 4), "\n"),
        (format!("#!{}", " ".repeat(4)), path(room - 5), "\n"),
        (format!("#!{}", " ".repeat(room)), path(room / 2), "\n"),
        (format!("#!{}", " ".repeat(room - 1)), String::new(), "\n"),
        (format!("#!{}", "\t ".repeat(50)), path(room / 2), "\n"),
        ("#!".to_owned(), path(room / 2), " and an argument\n"),
        ("#!".to_owned(), path(room / 2), "   \n"),
        ("#!".to_owned(), path(room / 2), ""),
        ("#!\n".to_owned(), path(room / 2), "\n"),
        ("#! \n".to_owned(), path(room / 2), "\n"),
        ("#!".to_owned(), String::new(), ""),
        ("#!".to_owned(), String::new(), "\n"),
        ("#! ".to_owned(), "/nonexistent".to_owned(), "\n"),
        (" #!".to_owned(), path(room / 2), "\n"),
        ("#".to_owned(), path(room / 2), "\n"),
    ];
    let files: Vec<PathBuf> = lines
        .iter()
        .enumerate()
        .map(|(index, (before, interpreter, after))| {
            lab.executable(&format!("script-{index}"), format!("{before}{interpreter}{after}").as_bytes())
        })
        .collect();
    let ends = compare(lab, &files);
    let started = ends.iter().filter(|end| **end == End::Status(0)).count();
    assert!(started >= 8 && ends.len() - started >= 8, "{ends:?}");
}

kernel_test!(selftests_files_that_are_not_regular);
fn selftests_files_that_are_not_regular(lab: &Lab) {
    let directory = lab.path("directory");
    fs::create_dir(&directory).unwrap();
    let fifo = lab.path("fifo");
    mkfifo(&fifo, Mode::S_IRWXU | Mode::S_IRWXG | Mode::S_IRWXO).unwrap();
    let socket = lab.path("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).unwrap();
    let broken = lab.path("broken");
    symlink("/nonexistent", &broken).unwrap();
    let empty = lab.executable("empty", b"");
    let ends = compare(lab, &[directory, fifo, socket, "/dev/null".into(), broken, empty]);
    let (denied, missing) = (End::Errno(Errno::EACCES as i32), End::Errno(Errno::ENOENT as i32));
    assert_eq!(ends, [denied, denied, denied, denied, missing, End::Errno(Errno::ENOEXEC as i32)]);
}

kernel_test!(selftests_interpreters_that_start_one_another);
fn selftests_interpreters_that_start_one_another(lab: &Lab) {
    let mut last = PathBuf::from("/bin/true");
    let chain: Vec<PathBuf> = (0..8)
        .map(|index| {
            last = lab.executable(&format!("script-{index}"), format!("#!{}\n", last.display()).as_bytes());
            last.clone()
        })
        .collect();
    let ends = compare(lab, &chain);
    let started = ends.iter().take_while(|end| **end == End::Status(0)).count();
    assert_eq!(started, 5, "{ends:?}");
    assert!(ends.iter().skip(5).all(|end| *end == End::Errno(Errno::ELOOP as i32)), "{ends:?}");
}

kernel_test!(programs_of_arch_test_are_judged_as_execve_does, among_others);
fn programs_of_arch_test_are_judged_as_execve_does(lab: &Lab) {
    // Version 0.22 moved them to libexec.
    let directories =
        ["usr/lib/arch-test", "usr/libexec/arch-test"].map(|name| downloads::tools().join(name));
    let directory = directories.iter().find(|directory| directory.is_dir()).unwrap();
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap())
        .map(|file| lab.copy(file.file_name().to_str().unwrap(), &file.path()))
        .collect();
    files.sort();
    assert!(files.len() > 25, "{files:?}");
    let alone = compare(lab, &files);
    lab.done(["register", "all"]);
    let with_handlers = compare(lab, &files);
    let run = |ends: &[End]| ends.iter().filter(|end| **end == End::Status(0)).count();
    assert!(run(&alone) >= 1 && run(&with_handlers) > run(&alone) + 10, "{alone:?}\n{with_handlers:?}");
}
