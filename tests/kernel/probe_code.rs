//! Execution of the probes' code: each probe waits until its parent process releases it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use qus::arch::{ARCHES, Arch};
use qus::binfmt::Flags;
use qus::probe::{ProbeTarget, Variant};

use crate::downloads;
use crate::lab::{Lab, OURS};
use crate::programs::{ET_DYN, host};

/// Event on standard input for which a probe waits.
#[derive(Clone, Copy, Debug)]
enum Release {
    EndOfFile,
    Byte,
    /// Standard input is closed.
    Closed,
}

/// Starts the probe at `path`, and returns its exit status. Expects that it does not end before it is released.
fn run(path: &Path, release: Release) -> i32 {
    let (mut exec, before_exec) = io::pipe().unwrap();
    let mut command = match release {
        Release::Closed => {
            // The shell closes standard input, and passes the other descriptors on.
            let mut shell = Command::new("bash");
            shell.args(["-c", "exec -a '*' \"$0\" <&-"]).arg(path);
            shell
        }
        _ => Command::new(path),
    };
    if !matches!(release, Release::Closed) {
        command.arg0("*").stdin(Stdio::piped());
    }
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    drop(before_exec);
    // The pipe closes at exec.
    assert_eq!(exec.read(&mut [0]).unwrap(), 0);
    if let Some(mut input) = child.stdin.take() {
        // The probe must still run when its emulator waits for the pipe. That may take any time, so the test reads the
        // current call from procfs.
        let call = format!("/proc/{}/syscall", child.id());
        while !fs::read_to_string(&call)
            .unwrap_or_default()
            .starts_with(&format!("{} 0x0 ", nix::libc::SYS_read))
        {
            assert!(child.try_wait().unwrap().is_none(), "{} ended before it was released", path.display());
            std::thread::yield_now();
        }
        if matches!(release, Release::Byte) {
            input.write_all(b"x").unwrap();
        }
    }
    child.wait().unwrap().code().unwrap_or(-1)
}

kernel_test!(every_probe_waits_for_its_starter);
/// Runs the probe of every architecture that an emulator of the distribution, or a newer one, supports.
fn every_probe_waits_for_its_starter(lab: &Lab) {
    let mut executed = BTreeSet::new();
    for directory in [downloads::distribution(), downloads::newer()] {
        for arch in ARCHES.iter().filter(|arch| **arch != *host()) {
            let interpreter = directory.join(format!("qemu-{}-static", arch.name));
            if interpreter.exists() {
                waits_with(lab, arch, &interpreter);
                executed.insert(arch.name);
            }
        }
    }
    let all: BTreeSet<&str> = ARCHES.iter().map(|arch| arch.name).collect();
    let missing: Vec<_> = all.difference(&executed).collect();
    eprintln!("not executed, as there is no emulator: {missing:?}");
    assert!(executed.len() >= 30, "only {executed:?}");
    let native = lab.executable("native", &ProbeTarget::all_of(host()).next().unwrap().image());
    for release in [Release::EndOfFile, Release::Byte, Release::Closed] {
        assert_eq!(run(&native, release), 42, "native {release:?}");
    }
}

fn waits_with(lab: &Lab, arch: &'static Arch, interpreter: &Path) {
    for flags in [OURS, Flags::FIX_BINARY | Flags::OPEN_BINARY] {
        lab.handler("probed", arch.name, interpreter, flags);
        let status = if flags.contains(Flags::PRESERVE_ARGV0) { 42 } else { 47 };
        let subject = ProbeTarget::all_of(arch).next().unwrap();
        for variant in [Variant::default(), Variant { e_type: ET_DYN, ..Variant::default() }] {
            let path = lab.executable("probe", &ProbeTarget { variant, ..subject }.image());
            for release in [Release::EndOfFile, Release::Byte, Release::Closed] {
                let end = run(&path, release);
                assert_eq!(
                    end,
                    status,
                    "{} {flags} {variant:?} {release:?} {}",
                    arch.name,
                    interpreter.display()
                );
            }
        }
        lab.command("probed", "-1");
    }
}
