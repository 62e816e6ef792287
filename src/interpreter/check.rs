//! Checks whether a file can serve every container as an interpreter.
//!
//! A check reads the first kilobytes of a file, never the whole. What it finds wrong is an [`CheckError`]; what it finds fit is an
//! [`Interpreter`], which can be had in no other way.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::{FsFlags, fstatvfs};
use thiserror::Error;

use crate::arch::Arch;
use crate::arch::elf::{self, ElfError, Executable};
use crate::base::error::Diagnostic;
use crate::base::shell::shell_word;
use crate::binfmt::HEADER_LEN;
use crate::system::file_id::{FileId, open_regular, open_without_waiting};
use crate::system::ownership::is_roots_alone;

/// A file that was checked: a static ELF program of this host, executable, on a file system that lets it run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its absolute path.
    pub path: PathBuf,
    /// Which file that was.
    pub id: FileId,
    /// Its first bytes: a rule must not match them (K37).
    pub header: Vec<u8>,
    /// True if it belongs to root and no other user may write to it. With the flag `C` it will run as root (K61).
    pub owned_by_root: bool,
}

/// Reason why a file cannot be the interpreter of a handler. Displayed after the file's path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckError {
    /// No such file.
    #[error("does not exist")]
    Missing,
    /// A directory.
    #[error("is a directory")]
    Directory,
    /// A device, a pipe, a socket.
    #[error("is not a regular file")]
    Special,
    /// It could not be opened or looked at.
    #[error("cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// Not an ELF program.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A program of another machine than this host; what it is.
    #[error("is a program for {0}, not for this host")]
    OtherHost(String),
    /// It needs a loader, which the root directory of a container does not have (K52).
    #[error(
        "is not static: it needs {}, which containers do not have.\n\
         They would fail with \"No such file or directory\", naming a file that exists.",
        .0.escape_ascii()
    )]
    Dynamic(Vec<u8>),
    /// No `x` bit in its mode.
    #[error("is not executable")]
    NotExecutable,
    /// On a file system that is mounted `noexec` (K55).
    #[error("is on a file system that is mounted noexec")]
    NoExec,
    /// A setuid or setgid bit: every foreign program would run with its owner's rights (K60).
    #[error("has a setuid or setgid bit: all programs would get the rights of its owner")]
    SetId,
}

impl CheckError {
    /// The command that changes the file so that it can serve, if there is one.
    #[must_use]
    pub fn command(&self, path: &Path) -> Option<String> {
        let word = || shell_word(path);
        match self {
            Self::NotExecutable => Some(format!("chmod 755 {}", word())),
            Self::SetId => Some(format!("chmod ug-s {}", word())),
            Self::NoExec => Some(format!("cp {} /usr/local/bin/", word())),
            _ => None,
        }
    }
}

impl Interpreter {
    /// Checks the file at `path` for a host whose own programs begin with `host`.
    pub fn check(path: &Path, host: &[u8]) -> Result<Self, CheckError> {
        let checked = Self::inspect(path, host);
        match &checked {
            Ok(_) => tracing::info!("check {}: it can serve", path.display()),
            Err(error) => tracing::info!("check {}: it {error}", path.display()),
        }
        checked
    }

    fn inspect(path: &Path, host: &[u8]) -> Result<Self, CheckError> {
        let path = std::path::absolute(path).map_err(CheckError::Open)?;
        let file = open_without_waiting(&path).map_err(|error| match error.kind() {
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
        let executable = Executable::read(&file)?;
        if !elf::same_machine(&executable.header, host) {
            let machine =
                Arch::from_header(&executable.header).map_or("an unknown machine", |arch| arch.name);
            return Err(CheckError::OtherHost(machine.to_owned()));
        }
        if let Some(loader) = executable.loader {
            return Err(CheckError::Dynamic(loader));
        }
        if metadata.mode() & 0o111 == 0 {
            return Err(CheckError::NotExecutable);
        }
        if metadata.mode() & 0o6000 != 0 {
            return Err(CheckError::SetId);
        }
        if is_noexec(&file)? {
            return Err(CheckError::NoExec);
        }
        Ok(Self {
            path,
            id: FileId::of(&metadata),
            header: executable.header,
            owned_by_root: is_roots_alone(&metadata),
        })
    }
}

/// Largest interpreter that is read, in bytes, as in a package.
pub(super) const WHOLE_MAX: u64 = 128 << 20;

impl Interpreter {
    /// All of it, if its path still leads to the file that was checked.
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

/// The beginning of qus itself: a program that this host runs.
pub fn self_exe_header() -> Result<Vec<u8>, Diagnostic> {
    let failed = |error: io::Error| Diagnostic::new(format!("cannot read /proc/self/exe: {error}"));
    let file = File::open("/proc/self/exe").map_err(failed)?;
    let mut header = vec![0; HEADER_LEN];
    let length = std::os::unix::fs::FileExt::read_at(&file, &mut header, 0).map_err(failed)?;
    header.truncate(length);
    Ok(header)
}
