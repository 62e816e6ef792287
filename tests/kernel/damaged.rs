//! Damaged ELF programs: `qus which` compared with `execve(2)`. Each file is a program with one damage: it is truncated,
//! or a bit of its ELF header or its program headers is flipped.
//!
//! Some damaged headers are those of another valid program: an entry point can move within the code. `execve(2)` starts
//! such a program, as `which` predicts, and a signal ends it later. Their number is limited.
//!
//! `QUS_DAMAGED` is the number of files, of which half are for this host and half for emulators. `QUS_TEST_SEED` is the
//! random seed.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::Lab;
use crate::prediction::native;
use crate::programs::{arch, probe};
use crate::random::Random;

/// Number of files without `QUS_DAMAGED`.
const USUAL: usize = 240;
/// Number of files that are written, explained and started at once.
const BATCH: usize = 120;
/// Architectures of the foreign programs.
const FOREIGN: [&str; 4] = ["aarch64", "arm", "riscv64", "s390x"];

/// Result of an execution: its errno, the signal that ended it, or its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Errno(i32),
    Signal(i32),
    Status(i32),
    TimedOut,
}

fn number(variable: &str, default: usize) -> usize {
    std::env::var(variable).map_or(default, |value| value.parse().unwrap())
}

kernel_test!(damaged_programs_are_judged_as_execve_does, among_others);
fn damaged_programs_are_judged_as_execve_does(lab: &Lab) {
    let mut random = Random::new(number("QUS_TEST_SEED", 1) as u64);
    let total = number("QUS_DAMAGED", USUAL);
    lab.done(["register", "aarch64", "arm", "riscv64", "s390x"]);
    let mut bases = vec![native(2), native(3)];
    bases.extend(["/bin/true", "/sbin/ldconfig"].iter().filter_map(|path| fs::read(path).ok()));
    let own = bases.len();
    bases.extend(FOREIGN.map(|name| probe(arch(name))));
    let (mut disagreements, mut unknown, mut ended, mut done) = (Vec::new(), 0, 0, 0);
    while done < total {
        let batch: Vec<(PathBuf, String)> = (0..BATCH.min(total - done))
            .map(|index| {
                let range = if index % 2 == 0 { 0..own } else { own..bases.len() };
                let base = range.start + random.below(range.len());
                let mut content = bases[base].clone();
                let damage = damage(&mut content, &mut random);
                (lab.executable(&format!("damaged-{index}"), &content), format!("program {base}, {damage}"))
            })
            .collect();
        let answers = answers(lab, &batch);
        for ((path, damage), answer) in batch.iter().zip(&answers) {
            let end = start(path);
            ended += usize::from(answer["runs"] == true && !matches!(end, End::Status(_) | End::Errno(_)));
            unknown += usize::from(answer["runs"].is_null());
            if !agrees(answer, end) {
                disagreements.push(format!("{damage}: {end:?}, but {}: {}", answer["runs"], answer["text"]));
            }
        }
        done += batch.len();
    }
    println!(
        "{done} files, {unknown} unknown, {ended} started and ended later, {} disagreements",
        disagreements.len()
    );
    assert!(ended * 10 <= done, "{ended} of {done} programs that `which` calls undamaged ended by a signal");
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n"));
}

/// Returns the answers of `which` without probes.
pub(crate) fn answers(lab: &Lab, files: &[(PathBuf, String)]) -> Vec<Value> {
    let list: Vec<&str> = files.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    fs::write(lab.path("list"), list.join("\0")).unwrap();
    let list = lab.path("list");
    let (_, value) = lab.answer(["which", "--no-verify", "--files0-from", list.to_str().unwrap()]);
    value["answers"].as_array().unwrap().clone()
}

/// Damages a program, and describes the damage.
fn damage(content: &mut Vec<u8>, random: &mut Random) -> String {
    if random.chance(20) {
        let length = if random.chance(50) { random.below(content.len()) } else { random.below(300) };
        content.truncate(length);
        return format!("truncated to {length} bytes");
    }
    let wide = content[4] == 2;
    let (header, entry) = if wide { (64, 56) } else { (52, 32) };
    let count = usize::from(content[header - 8] | content[header - 7]);
    let end = if random.chance(50) { header } else { header + count * entry };
    let position = (4 + random.below(end - 4)).min(content.len() - 1);
    let bit = random.below(8);
    content[position] ^= 1 << bit;
    format!("bit {bit} of byte {position} flipped")
}

/// Reports whether an answer describes what happened. An answer that it cannot be known is always right, unless
/// `execve(2)` failed. Of x32 programs it cannot be known whether `execve(2)` fails.
pub(crate) fn agrees(answer: &Value, end: End) -> bool {
    match (answer["runs"].as_bool(), end) {
        (None, End::Errno(errno)) => {
            errno == Errno::ENOEXEC as i32 && answer["text"].as_str().unwrap().contains("CONFIG_X86_X32_ABI")
        }
        (None, _) => true,
        (Some(true), end) => !matches!(end, End::Errno(_)),
        (Some(false), End::Errno(errno)) => answer["errno"] == format!("{:?}", Errno::from_raw(errno)),
        (Some(false), End::Status(status)) => answer["errno"].is_null() && status != 42,
        (Some(false), End::Signal(_) | End::TimedOut) => answer["errno"].is_null(),
    }
}

/// Starts a file as nobody, with limits.
#[allow(unsafe_code, reason = "the standard library marks code between fork and exec as unsafe")]
pub(crate) fn start(path: &Path) -> End {
    let mut command = Command::new(path);
    command.arg0("*").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
    if nix::unistd::geteuid().is_root()
        && fs::read_to_string("/proc/self/uid_map").unwrap().lines().count() > 1
    {
        command.uid(65534).gid(65534);
    }
    let word = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: setrlimit, prctl and execve are plain system calls.
    unsafe {
        command.pre_exec(move || {
            for (resource, limit) in
                [(Resource::RLIMIT_CPU, 2), (Resource::RLIMIT_FSIZE, 0), (Resource::RLIMIT_CORE, 0)]
            {
                setrlimit(resource, limit, limit)?;
            }
            nix::sys::prctl::set_no_new_privs()?;
            // After ENOEXEC the standard library would start the file with a shell.
            let Err(errno) = nix::unistd::execv(&word, &[c"*"]);
            Err(errno.into())
        });
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return End::Errno(error.raw_os_error().unwrap()),
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().map_or_else(|| End::Signal(status.signal().unwrap()), End::Status);
        }
        if Instant::now() > deadline {
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGKILL).unwrap();
            child.wait().unwrap();
            return End::TimedOut;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
