//! Tests output files of every type. qus replaces only regular files.

use std::fs::{self, File};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use nix::mount::umount;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::doctor::bind;
use crate::downloads::interpreter;
use crate::lab::{Lab, Ran, run};

fn bundle(lab: &Lab, output: &str) -> Ran {
    lab.qus(["bundle", "-o", output, "arm"])
}

/// Creates a pipe in the directory of the test.
fn pipe(lab: &Lab, name: &str) -> std::path::PathBuf {
    let path = lab.path(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

fn is_pipe(path: &Path) -> bool {
    fs::symlink_metadata(path).unwrap().file_type().is_fifo()
}

kernel_test!(a_bundle_goes_into_pipes_and_to_standard_output);
fn a_bundle_goes_into_pipes_and_to_standard_output(lab: &Lab) {
    crate::lab::needs_static_qus();
    let ran = bundle(lab, "bundle");
    assert_eq!(ran.status, 0, "{ran:#?}");
    let expected = fs::read(lab.path("bundle")).unwrap();
    let line = ran.stdout.replacen("bundle", "-", 1);

    let path = pipe(lab, "pipe");
    let (ran, content) = thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(&path).unwrap());
        (bundle(lab, "pipe"), reader.join().unwrap())
    });
    assert_eq!(ran.status, 0, "{ran:#?}");
    assert!(is_pipe(&path) && content == expected, "{} bytes", content.len());

    let mut command = lab.program(&[], ["bundle", "-o", "-", "arm"]);
    let output = command.output().unwrap();
    assert!(output.status.success() && output.stdout == expected);
    assert!(String::from_utf8(output.stderr).unwrap().contains(&format!("qus: {line}")));

    // The target is the file that standard output was redirected to, and not the link /dev/stdout.
    let mut command = lab.program(&[], ["bundle", "-o", "/dev/stdout", "arm"]);
    let status = command.stdout(File::create(lab.path("redirected")).unwrap()).status().unwrap();
    assert!(status.success());
    assert!(fs::read(lab.path("redirected")).unwrap() == expected);
    assert!(fs::symlink_metadata("/dev/stdout").unwrap().is_symlink());

    lab.refused(
        ["--json", "bundle", "-o", "-", "arm"],
        2,
        "cannot write both the bundle and JSON to standard output",
    );
}

kernel_test!(a_device_stays_a_device);
fn a_device_stays_a_device(lab: &Lab) {
    crate::lab::needs_static_qus();
    for (device, status) in [("/dev/null", 0), ("/dev/full", 2)] {
        let path = lab.path("device");
        fs::write(&path, "").unwrap();
        bind(Path::new(device), path.to_str().unwrap());
        let ran = bundle(lab, "device");
        assert_eq!(ran.status, status, "{ran:#?}");
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_char_device());
        if status == 2 {
            assert!(ran.stderr.contains("qus: cannot write device: "), "{ran:#?}");
            assert!(ran.stderr.contains("No space left on device"), "{ran:#?}");
        }
        umount(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}

kernel_test!(what_takes_no_data_is_refused_as_output);
fn what_takes_no_data_is_refused_as_output(lab: &Lab) {
    crate::lab::needs_static_qus();
    fs::create_dir(lab.path("directory")).unwrap();
    let _socket = UnixListener::bind(lab.path("socket")).unwrap();
    lab.refused(["bundle", "-o", "directory", "arm"], 2, "cannot write directory: it is a directory");
    lab.refused(["bundle", "-o", "socket", "arm"], 2, "cannot write socket: it is a socket");
    let terminal = "script -qec '\"$QUS\" bundle -o - arm' /dev/null";
    let mut command = lab.program(&["sh", "-c", &format!("QUS=$0; export QUS; {terminal}")], []);
    let ran = run(&mut command);
    assert!(ran.stdout.contains("cannot write -: it is a terminal, and the data is not text"), "{ran:#?}");
    assert!(ran.stdout.len() < 1000);
}

kernel_test!(no_file_of_a_directory_replaces_a_pipe);
fn no_file_of_a_directory_replaces_a_pipe(lab: &Lab) {
    let source = interpreter("arm");
    let source = source.to_str().unwrap();
    let cases: [(&str, Vec<&str>); 3] = [
        ("man/qus-register.1", vec!["man", "-o", "man"]),
        ("dest/qemu-arm-static", vec!["fetch", "--from", source, "--dest", "dest", "arm"]),
        ("rules/qus-arm.conf", vec!["export", "-f", "systemd", "-o", "rules", "arm"]),
    ];
    for (name, words) in cases {
        let path = pipe(lab, name);
        // A pipe may have no reader, so qus must not wait for one.
        let wrapper = ["timeout", "-s", "KILL", "60"];
        let ran = run(&mut lab.program(&wrapper, words.iter().copied()));
        assert_eq!(ran.status, 2, "{ran:#?}");
        let description =
            ran.stderr.contains("it is a named pipe") || ran.stderr.contains("not a regular file");
        assert!(description && ran.stderr.contains(name.split('/').next_back().unwrap()), "{ran:#?}");
        assert!(is_pipe(&path), "{words:?}");
    }
}

kernel_test!(output_that_is_lost_is_a_failure);
fn output_that_is_lost_is_a_failure(lab: &Lab) {
    lab.done(["register", "arm"]);
    lab.executable("program", &crate::programs::probe(crate::programs::arch("arm")));
    let full = || fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let commands: [&[&str]; 16] = [
        &["list"],
        &["list", "--json"],
        &["show"],
        &["which", "./program"],
        &["which", "--json", "./program"],
        &["verify"],
        &["doctor", "--no-verify"],
        &["export", "--format", "systemd", "arm"],
        &["register", "arm"],
        &["disable", "arm"],
        &["enable", "arm"],
        &["completions", "bash"],
        &["man", "--output", "-"],
        &["--help"],
        &["--version"],
        &["help", "list"],
    ];
    for words in commands {
        let mut command = lab.program(&[], words.iter().copied());
        let output = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {message}");
        assert!(message.contains("No space left on device"), "{words:?}: {message}");
        // A closed pipe is no failure.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = lab.program(&[], words.iter().copied()).stdout(writer).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!message.contains("cannot print"), "{words:?}: {message}");
        assert!(matches!(output.status.code(), Some(0 | 1)), "{words:?}: {:?} {message}", output.status);
    }
}
