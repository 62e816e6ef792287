//! Floors: minimal programs that produce the same result as qus and do nothing else. This executable runs a floor when
//! it is started again with the arguments `floor NAME …`. So a floor also includes the start of a process.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use qus::binfmt::Rule;
use qus::binfmt::instance::DEFAULT_PATH;
use qus::interpreter::bundle::{Bundle, BundleError};
use qus::probe::STATUS_PATH;

/// Size of a page, in bytes. The kernel compares fewer bytes of a file, and no header is longer.
const PAGE: usize = 4096;

/// Runs the floor that `words` name.
pub(crate) fn play(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["register", lines] => register(Path::new(lines)),
        ["register-in-memory", lines] => register_in_memory(Path::new(lines)),
        ["unpack", bundle] => unpack(Path::new(bundle)),
        ["remove", names] => remove(Path::new(names)),
        ["read-entries"] => read_entries(),
        ["read-heads", list] => read_heads(Path::new(list)),
        ["start", programs @ ..] => start(programs),
        _ => bail!("no floor is called {words:?}"),
    }
}

/// Writes each line to `register`, opened once.
fn register(lines: &Path) -> Result<()> {
    let mut register = File::options().write(true).open(Path::new(DEFAULT_PATH).join("register"))?;
    for line in fs::read(lines)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        register.write_all(line).with_context(|| line.escape_ascii().to_string())?;
    }
    Ok(())
}

/// Writes each line to `register` like [`register`], after copying its interpreter into memory.
fn register_in_memory(lines: &Path) -> Result<()> {
    let mut register = File::options().write(true).open(Path::new(DEFAULT_PATH).join("register"))?;
    for line in fs::read(lines)?.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let rule = Rule::parse(line)?;
        let mut memory = File::from(memfd_create("floor", MFdFlags::MFD_CLOEXEC)?);
        std::io::copy(&mut File::open(rule.interpreter())?, &mut memory)?;
        // Opened read-only, because the kernel does not execute a file that is open for writing.
        let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
        let readable = File::open(&path)?;
        drop(memory);
        let path = format!("/proc/self/fd/{}", readable.as_raw_fd());
        let (name, matcher) = (rule.name().clone(), rule.matcher().clone());
        let rule = Rule::new(name, matcher, Path::new(&path), rule.flags())?;
        register.write_all(&rule.to_line())?;
    }
    Ok(())
}

/// Unpacks the members of a bundle and checks their digests in parallel, with the same library functions as qus. So the
/// difference is the rest of the work of qus.
fn unpack(bundle: &Path) -> Result<()> {
    let bundle = Bundle::open(bundle)?.context("the bundle has no members")?;
    std::thread::scope(|scope| {
        let unpack = |member| bundle.unpack_to(member, |_| Ok::<_, BundleError>(()));
        let threads: Vec<_> =
            bundle.members().iter().map(|member| scope.spawn(move || unpack(member))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| Ok(thread.join().unwrap_or_else(|panic| resume_unwind(panic))?))
    })
}

/// Removes the handlers whose names are in the file `names`.
fn remove(names: &Path) -> Result<()> {
    for name in fs::read_to_string(names)?.lines() {
        let mut entry = File::options().write(true).open(Path::new(DEFAULT_PATH).join(name))?;
        entry.write_all(b"-1")?;
    }
    Ok(())
}

/// Reads every entry.
fn read_entries() -> Result<()> {
    let mut text = [0; PAGE];
    for file in fs::read_dir(DEFAULT_PATH)? {
        let file = file?;
        if file.file_name() != "register" {
            let _length = File::open(file.path())?.read(&mut text)?;
        }
    }
    Ok(())
}

/// Reads the beginning of every file in a list. Each name in the list ends with a NUL.
fn read_heads(list: &Path) -> Result<()> {
    let mut header = [0; PAGE];
    for name in fs::read(list)?.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let _length = File::open(Path::new(std::ffi::OsStr::from_bytes(name)))?.read(&mut header)?;
    }
    Ok(())
}

/// Starts all emulators with their probes at the same time.
fn start(programs: &[&str]) -> Result<()> {
    let mut children = Vec::new();
    for pair in programs.chunks(2) {
        let [emulator, probe] = pair else { bail!("an emulator has no probe") };
        children.push((*emulator, Command::new(emulator).arg(probe).spawn()?));
    }
    for (emulator, mut child) in children {
        // The probe exits with the first byte of its name, which is a path here.
        let status = child.wait()?;
        ensure!(status.code() == Some(STATUS_PATH), "{emulator}: {status}");
    }
    Ok(())
}
