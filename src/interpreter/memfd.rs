//! Interpreters in memory: files without a place on disk (`memfd_create(2)`), which the kernel keeps open for their
//! handlers.
//!
//! With the flag `F` the kernel opens the interpreter's path only once, at registration (K47, K51), and stores the path
//! as text (K48). The path must therefore exist only during the registration, and qus can choose its text. It registers
//! the memory file under a relative path, which leads to a link in a temporary working directory, and removes this
//! directory afterwards. The path describes the content of the file: `memory/QEMU-7.2.22/12918384-0123456789abcdef/qemu-arm-static` contains the file's size in bytes and the
//! first digits of its SHA-256. Paths that differ in the version alone mean equal content: the version is unknown if the
//! interpreter could not be started.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Serialize;
use thiserror::Error;

use crate::base::error::{Advice, Advise};
use crate::package::Sha256;

use crate::system::file_id::FileId;
use crate::system::temp_dir::TempDir;

/// First component of the path under which an interpreter in memory is registered.
const PREFIX: &str = "memory";
/// `MFD_EXEC` of `include/uapi/linux/memfd.h` (since Linux 6.3). The flag of `memfd_create(2)` allows execution of the
/// new file, even if the system's default forbids it.
const MFD_EXEC: u32 = 0x10;

/// Failure to load an interpreter into memory.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The sysctl `vm.memfd_noexec` is 2, so the kernel creates no executable file in memory.
    #[error("cannot execute files in memory: vm.memfd_noexec forbids it")]
    NoExec,
    /// Another operation on the file in memory or on its temporary directory failed.
    #[error("cannot {operation} an interpreter in memory: {source}")]
    Io {
        /// Verb for the failed operation, such as `create`.
        operation: &'static str,
        /// Error that the kernel reported.
        source: io::Error,
    },
}

impl Advise for MemoryError {
    fn advice(&self) -> Advice {
        matches!(self, Self::NoExec).then(|| "sudo sysctl -w vm.memfd_noexec=1".to_owned()).into()
    }
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> MemoryError {
    move |source| MemoryError::Io { operation, source }
}

/// Returns the path under which an interpreter in memory is registered. `size` is its size in bytes.
#[must_use]
pub fn path(version: &str, size: u64, sha256: Sha256, file_name: &str) -> PathBuf {
    [PREFIX, &format!("QEMU-{version}"), &name_of(size, sha256), file_name].iter().collect()
}

/// Returns the component of an interpreter's path that identifies its content: the size and the first digits of the
/// SHA-256.
fn name_of(size: u64, sha256: Sha256) -> String {
    let sha256 = sha256.to_string();
    format!("{size}-{}", sha256.get(..16).unwrap_or(&sha256))
}

/// Reports whether `path` is the registered path of an interpreter in memory with this size and SHA-256.
#[must_use]
pub fn is_called(path: &Path, size: u64, sha256: Sha256) -> bool {
    path.parent().is_some_and(|directory| directory.ends_with(name_of(size, sha256)))
}

/// Reports whether `one` and `other` are the registered paths of interpreters in memory that have the same name and the
/// same content.
#[must_use]
pub fn is_same(one: &Path, other: &Path) -> bool {
    let without_version = |path: &Path| {
        let mut parts = path.strip_prefix(PREFIX).ok()?.iter();
        parts.next()?;
        Some(parts.as_path().to_owned())
    };
    without_version(one).is_some_and(|rest| without_version(other).is_some_and(|other| rest == other))
}

/// Reports whether `path`, the interpreter's path of a handler, is that of an interpreter in memory.
#[must_use]
pub fn is_in_memory(path: &Path) -> bool {
    path.starts_with(PREFIX)
}

/// Description of an interpreter in memory, parsed from the path under which it was registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemfdInfo {
    /// QEMU version of the interpreter.
    pub version: String,
    /// Memory in bytes that the interpreter uses until its handlers are removed.
    pub size: u64,
}

/// Parses the path under which an interpreter in memory was registered. Returns `None` for other paths.
#[must_use]
pub fn parse_description(path: &Path) -> Option<MemfdInfo> {
    let mut parts = path.strip_prefix(PREFIX).ok()?.iter().map(|part| part.to_str());
    let version = parts.next()??.strip_prefix("QEMU-")?.to_owned();
    let (size, _) = parts.next()??.split_once('-')?;
    Some(MemfdInfo { version, size: size.parse().ok()? })
}

/// Interpreters in memory that are to be registered, and the temporary working directory to which their paths are
/// relative.
#[derive(Debug)]
pub struct Memory {
    directory: TempDir,
    before: PathBuf,
    files: Vec<File>,
}

impl Memory {
    /// Creates a temporary directory and makes it the working directory of this process. Dropping the returned value
    /// restores the old working directory.
    pub fn enter() -> Result<Self, MemoryError> {
        let nowhere = |reasons: String| failed("find a directory for")(io::Error::other(reasons));
        let directory = TempDir::create(false).map_err(nowhere)?;
        let before = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        std::env::set_current_dir(directory.path()).map_err(failed("find a directory for"))?;
        Ok(Self { directory, before, files: Vec::new() })
    }

    /// Seals the file `pending`, so that its content cannot change any more, and creates a link to it at `path` in the
    /// temporary directory. Returns the file's device and inode number.
    pub fn put(&mut self, path: &Path, pending: PendingFile) -> Result<FileId, MemoryError> {
        let file = pending.0;
        file.set_permissions(PermissionsExt::from_mode(0o755)).map_err(failed("write"))?;
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(|errno| failed("seal")(errno.into()))?;
        let link = self.directory.path().join(path);
        if let Some(parent) = link.parent() {
            std::fs::create_dir_all(parent).map_err(failed("name"))?;
        }
        symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), &link).map_err(failed("name"))?;
        let id = FileId::of(&file.metadata().map_err(failed("inspect"))?);
        self.files.push(file);
        Ok(id)
    }
}

/// File in memory whose content is still being written.
#[derive(Debug)]
pub struct PendingFile(File);

impl PendingFile {
    /// Creates an empty file in memory.
    pub fn new() -> Result<Self, MemoryError> {
        create().map(Self)
    }

    /// Appends `content` to the file in memory.
    pub fn write(&mut self, content: &[u8]) -> Result<(), MemoryError> {
        self.0.write_all(content).map_err(failed("write"))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The previous directory may have been removed. Nothing here depends on it.
        let _ = std::env::set_current_dir(&self.before);
    }
}

fn create() -> Result<File, MemoryError> {
    let usual = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let created = memfd_create("qus", usual | MFdFlags::from_bits_retain(MFD_EXEC));
    let created = match created {
        // Before Linux 6.3 the flag `MFD_EXEC` does not exist, and all files in memory may be executed.
        Err(Errno::EINVAL) => memfd_create("qus", usual),
        other => other,
    };
    created.map(File::from).map_err(|errno| match errno {
        Errno::EACCES => MemoryError::NoExec,
        errno => failed("create")(errno.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a digest that begins with `begin`.
    fn digest(begin: &str) -> Sha256 {
        format!("{begin:0<64}").parse().unwrap()
    }

    #[test]
    fn the_path_contains_version_and_content() {
        let path = path("7.2.22", 129, digest("0123456789abcdef0000"), "qemu-arm-static");
        assert_eq!(path, Path::new("memory/QEMU-7.2.22/129-0123456789abcdef/qemu-arm-static"));
        assert!(is_in_memory(&path) && !is_in_memory(Path::new("/usr/bin/qemu-arm-static")));
        assert_eq!(parse_description(&path), Some(MemfdInfo { version: "7.2.22".to_owned(), size: 129 }));
        assert_eq!(parse_description(Path::new("/usr/bin/qemu-arm-static")), None);
        assert!(is_called(&path, 129, digest("0123456789abcdef1111")));
        assert!(!is_called(&path, 130, digest("0123456789abcdef0000")));
        assert!(!is_called(&path, 129, digest("1123456789abcdef")));
        assert!(is_same(&path, Path::new("memory/QEMU-unknown/129-0123456789abcdef/qemu-arm-static")));
        assert!(!is_same(&path, Path::new("memory/QEMU-7.2.22/130-0123456789abcdef/qemu-arm-static")));
        let file = Path::new("/usr/bin/qemu-arm-static");
        assert!(!is_same(file, file));
        assert_eq!(
            crate::interpreter::arch_from_file_name(crate::system::file_id::file_name(&path)).unwrap().name,
            "arm"
        );
    }
}
