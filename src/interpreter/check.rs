//! Checks whether a file can be registered as an interpreter that works in all containers.
//!
//! The check reads only the first kilobytes of the file. Its result is an [`Interpreter`] if the file is suitable,
//! otherwise a [`CheckError`]. Only this check creates values of the type [`Interpreter`].

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, fstatvfs};
use thiserror::Error;

use crate::arch::Arch;
use crate::arch::elf::{self, ElfError, Executable};
use crate::base::error::Diagnostic;
use crate::base::shell::shell_word;
use crate::binfmt::HEADER_LEN;
use crate::system::file_id::{FileId, open_regular, open_without_waiting};
use crate::system::ownership::{changeable_by_others, is_roots_alone};

/// Interpreter whose file was checked: a static and executable ELF program for this host's architecture, on a file
/// system that is not mounted `noexec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Absolute path of the interpreter.
    pub path: PathBuf,
    /// Device and inode number of the checked file.
    pub id: FileId,
    /// The first bytes of the file. A rule that registers the interpreter must not match these bytes (K37).
    pub header: Vec<u8>,
    /// True if the file belongs to root and no other user may write to it. This matters for the flag `C`, with which
    /// the interpreter can run as root (K61).
    pub owned_by_root: bool,
}

/// Reason why a file cannot be the interpreter of a handler. Its message is printed after the path of the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The file does not exist.
    #[error("does not exist")]
    Missing,
    /// The path is a directory.
    #[error("is a directory")]
    Directory,
    /// The path is a device, a pipe or a socket.
    #[error("is not a regular file")]
    Special,
    /// The file could not be opened or inspected.
    #[error("cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// The file is not an ELF program.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// The program is for another architecture than that of this host. The value is the name of that architecture.
    #[error("is a program for {0}, not for this host")]
    OtherHost(String),
    /// The program is dynamically linked. The value is the path of its loader, which the root directory of a container
    /// does not have (K52).
    #[error(
        "is not static: it needs {}, which containers do not have.\n\
         They would report \"No such file or directory\" for a program that exists.",
        .0.escape_ascii()
    )]
    Dynamic(Vec<u8>),
    /// The file has no execute permission: no `x` bit is set in its mode.
    #[error("is not executable")]
    NotExecutable,
    /// The file is on a file system that is mounted `noexec` (K55).
    #[error("is on a file system that is mounted noexec")]
    NoExec,
    /// The file has a setuid or setgid bit. If it were registered, every foreign program would run with the rights of
    /// the file's owner (K60).
    #[error("has a setuid or setgid bit: all programs would get the rights of its owner")]
    SetId,
    /// The first line of the script names no program.
    #[error("is a script whose first line names no program")]
    NoProgram,
    /// Other users can change the file or replace it. The value is the file or directory that they may write to.
    #[error("can be changed by other users, who may write to {}", .0.display())]
    Changeable(PathBuf),
}

impl CheckError {
    /// Returns a shell command that makes the file at `path` usable, or `None` if no simple command does.
    #[must_use]
    pub fn command(&self, path: &Path) -> Option<String> {
        let word = || shell_word(path);
        match self {
            Self::NotExecutable => Some(format!("chmod 755 {}", word())),
            Self::Changeable(part) => Some(format!("sudo chmod go-w {}", shell_word(part))),
            Self::SetId => Some(format!("chmod ug-s {}", word())),
            _ => None,
        }
    }
}

impl Interpreter {
    /// Checks the file at `path`. `host` is the beginning of a program that this host runs natively.
    pub fn check(path: &Path, host: &[u8]) -> Result<Self, CheckError> {
        let checked = Self::inspect(path, host);
        match &checked {
            Ok(_) => tracing::info!("check {}: it can be used", path.display()),
            Err(error) => tracing::info!("check {}: it {error}", path.display()),
        }
        checked
    }

    fn inspect(path: &Path, host: &[u8]) -> Result<Self, CheckError> {
        let path = std::path::absolute(path).map_err(CheckError::Open)?;
        let (file, metadata) = open_file(&path)?;
        let executable = program(&file, host)?;
        if let Some(loader) = executable.loader {
            return Err(CheckError::Dynamic(loader));
        }
        check_execution(&file, &metadata)?;
        Ok(Self {
            path,
            id: FileId::of(&metadata),
            header: executable.header,
            owned_by_root: is_roots_alone(&metadata),
        })
    }
}

/// Executable file that can be the interpreter of a handler, although it may work only where other files exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executor {
    /// Absolute path of the file.
    pub path: PathBuf,
    /// Device and inode number of the checked file.
    pub id: FileId,
    /// The first bytes of the file.
    pub header: Vec<u8>,
    /// True if the file belongs to root and no other user may write to it.
    pub owned_by_root: bool,
    /// Path of another file that the kernel starts for this file; `None` for a static program. It is the loader of a
    /// dynamically linked program, or the program in the first line of a script.
    pub needs: Option<Vec<u8>>,
    /// True if the file is a script.
    pub is_script: bool,
}

impl Executor {
    /// Checks the file at `path`, which may be a static or dynamically linked program for this host, or a script. `host`
    /// is the beginning of a program that this host runs natively.
    pub fn check(path: &Path, host: &[u8]) -> Result<Self, CheckError> {
        let path = std::path::absolute(path).map_err(CheckError::Open)?;
        let (file, metadata) = open_file(&path)?;
        let mut header = vec![0; HEADER_LEN];
        let length = file.read_at(&mut header, 0).map_err(CheckError::Open)?;
        header.truncate(length);
        let is_script = header.starts_with(b"#!");
        let needs = if is_script { Some(script_program(&header)?) } else { program(&file, host)?.loader };
        check_execution(&file, &metadata)?;
        if let Some(part) = changeable_by_others(&path).map_err(CheckError::Open)? {
            return Err(CheckError::Changeable(part));
        }
        let owned_by_root = is_roots_alone(&metadata);
        Ok(Self { path, id: FileId::of(&metadata), header, owned_by_root, needs, is_script })
    }
}

/// Returns the path of the program in the first line of a script (`execve(2)`, section "Interpreter scripts").
fn script_program(header: &[u8]) -> Result<Vec<u8>, CheckError> {
    let line = header.get(2..).unwrap_or_default().split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    words.next().map(<[u8]>::to_vec).ok_or(CheckError::NoProgram)
}

fn open_file(path: &Path) -> Result<(File, Metadata), CheckError> {
    let file = open_without_waiting(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CheckError::Missing,
        _ => CheckError::Open(error),
    })?;
    let metadata = file.metadata().map_err(CheckError::Open)?;
    if metadata.is_dir() {
        return Err(CheckError::Directory);
    }
    if !metadata.is_file() {
        return Err(CheckError::Special);
    }
    Ok((file, metadata))
}

/// Reads the headers of an ELF program for this host.
fn program(file: &File, host: &[u8]) -> Result<Executable, CheckError> {
    let executable = Executable::read(file)?;
    if elf::same_machine(&executable.header, host) {
        return Ok(executable);
    }
    let machine = Arch::from_header(&executable.header).map_or("an unknown machine", |arch| arch.name);
    Err(CheckError::OtherHost(machine.to_owned()))
}

/// Checks that the kernel executes the file, with the rights of its caller.
fn check_execution(file: &File, metadata: &Metadata) -> Result<(), CheckError> {
    if metadata.mode() & 0o111 == 0 {
        return Err(CheckError::NotExecutable);
    }
    if metadata.mode() & 0o6000 != 0 {
        return Err(CheckError::SetId);
    }
    if is_noexec(file)? {
        return Err(CheckError::NoExec);
    }
    Ok(())
}

/// Maximum size of an interpreter, in bytes. The limit for a file in a package is the same.
pub(super) const WHOLE_MAX: u64 = 128 << 20;

impl Interpreter {
    /// Reads the whole file of the interpreter.
    ///
    /// # Errors
    /// The path no longer leads to the file that was checked, or the file is too large.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let file = open_regular(&self.path)?;
        if FileId::of(&file.metadata()?) != self.id {
            return Err(io::Error::other("the file was replaced after the check"));
        }
        let mut content = Vec::new();
        file.take(WHOLE_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > WHOLE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(content)
    }
}

fn is_noexec(file: &File) -> Result<bool, CheckError> {
    let filesystem = fstatvfs(file).map_err(|errno| CheckError::Open(errno.into()))?;
    Ok(filesystem.flags().contains(FsFlags::ST_NOEXEC))
}

/// Returns the first bytes of this process's executable, which the host runs natively.
pub fn self_exe_header() -> Result<Vec<u8>, Diagnostic> {
    let failed = |error: io::Error| Diagnostic::new(format!("cannot read /proc/self/exe: {error}"));
    let file = File::open("/proc/self/exe").map_err(failed)?;
    let mut header = vec![0; HEADER_LEN];
    let length = file.read_at(&mut header, 0).map_err(failed)?;
    header.truncate(length);
    Ok(header)
}
