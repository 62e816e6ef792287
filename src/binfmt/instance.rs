//! [`Instance`]: a mounted binfmt_misc file system, which is a table of handlers. Only this module reads and writes its
//! files.
//!
//! Each operation has an error type: [`OpenError`], [`MountError`], [`RegisterError`], [`HandlerError`]. Each error
//! contains the path and the cause, and advice for the user if there is any.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::geteuid;
use nix::unistd::{read, write};
use thiserror::Error;

use crate::base::error::{Advice, Advise};
use crate::base::shell::shell_word;
use crate::binfmt::{Entry, EntryError, Flags, HandlerName, Rule};

/// Usual mount point of a binfmt_misc instance (`Documentation/admin-guide/binfmt-misc.rst`).
pub const DEFAULT_PATH: &str = "/proc/sys/fs/binfmt_misc";

/// `BINFMTFS_MAGIC` of `include/uapi/linux/magic.h`: "BINM" (K46).
const BINFMT_MAGIC: FsType = FsType(0x4249_4e4d);
/// `AUTOFS_SUPER_MAGIC` of `include/uapi/linux/magic.h`. The mount point has this type while systemd's automount has
/// not yet mounted binfmt_misc (K77).
const AUTOFS_MAGIC: FsType = FsType(0x187);
/// Size of the buffer for the text of a handler's file, in bytes. The longest text in tests had 1958 bytes (K44).
const ENTRY_MAX: usize = 8192;

/// A mounted binfmt_misc instance. Its directory is held open.
#[derive(Debug)]
pub struct Instance {
    path: PathBuf,
    directory: OwnedFd,
    register: OnceCell<OwnedFd>,
}

/// Reason why an instance cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The directory does not exist: the kernel was built without binfmt_misc (K74), or procfs is not mounted.
    #[error("this kernel has no binfmt_misc: {} does not exist", .0.display())]
    NoSupport(PathBuf),
    /// The mount point exists, but nothing is mounted on it (K74).
    #[error("binfmt_misc is not mounted on {}", .0.display())]
    NotMounted(PathBuf),
    /// The directory belongs to a file system that is not binfmt_misc.
    #[error("{} is not a binfmt_misc file system", .0.display())]
    Foreign(PathBuf),
    /// The directory belongs to a file system that is not binfmt_misc, and has files, which a mount would hide.
    #[error("{} is not a binfmt_misc file system", .0.display())]
    Occupied(PathBuf),
    /// systemd's automount on the path does not react to this process, usually because qus runs in a container (K77).
    #[error("{} is an automount point that only the host can trigger", .0.display())]
    Automount(PathBuf),
    /// The kernel reported another error.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// Mount point of the instance.
        path: PathBuf,
        /// Error that the kernel reported.
        source: io::Error,
    },
}

impl Advise for OpenError {
    fn advice(&self) -> Advice {
        match self {
            Self::NoSupport(_) => {
                Advice::hint("use a kernel with CONFIG_BINFMT_MISC, and mount /proc if it is not mounted")
            }
            Self::NotMounted(path) | Self::Foreign(path) => mount_command(path).into(),
            Self::Occupied(_) => Advice::hint(format!(
                "without --instance, qus uses {DEFAULT_PATH}; for another mount point, name an empty directory"
            )),
            Self::Automount(path) => Advice::from(format!("ls {}", shell_word(path))).with_hint(ON_THE_HOST),
            Self::Io { .. } => Advice::default(),
        }
    }
}

/// Hint that is printed after a command which the user must type outside of the container.
pub(crate) const ON_THE_HOST: &str = "type this command on the host, outside of this container";

/// Returns the shell command that mounts binfmt_misc on `path`.
pub(crate) fn mount_command(path: &Path) -> String {
    format!("sudo mount -t binfmt_misc binfmt_misc {}", shell_word(path))
}

/// Returns the shell command that makes the read-only mount at `path` writable.
fn remount_command(path: &Path) -> String {
    format!("sudo mount -o remount,rw {}", shell_word(path))
}

/// Failure to mount binfmt_misc (K69).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountError {
    /// `EPERM` or `EACCES`: this process has no `CAP_SYS_ADMIN` in its user namespace, or another user namespace owns
    /// the mount namespace (K69).
    #[error("binfmt_misc is not mounted on {}, and mounting it is not permitted here", .0.display())]
    AccessError(PathBuf),
    /// `ENODEV`: binfmt_misc is neither built in nor loadable as a module.
    #[error("this kernel has no binfmt_misc: the file system is neither built in nor loadable as a module")]
    NoSupport,
    /// The kernel reported another error.
    #[error("cannot mount binfmt_misc on {}: {source}", path.display())]
    Io {
        /// Path on which binfmt_misc should be mounted.
        path: PathBuf,
        /// Error that the kernel reported.
        source: io::Error,
    },
}

impl MountError {
    /// Returns the shell command with which an administrator fixes the failure, if there is one.
    fn command(&self) -> Option<String> {
        match self {
            Self::AccessError(path) => Some(mount_command(path)),
            Self::NoSupport => Some("sudo modprobe binfmt_misc".to_owned()),
            Self::Io { .. } => None,
        }
    }
}

impl Advise for MountError {
    fn advice(&self) -> Advice {
        match self {
            // qus mounts the instance itself if it is permitted to.
            Self::AccessError(_) if !geteuid().is_root() => Advice::this_command_as_root(),
            _ => self.command().into(),
        }
    }
}

/// Failure to register a rule. docs/kernel.md has a table of the errno values.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// `EACCES` when qus opened the file `register`: only uid 0 of the instance's user namespace may write to that file
    /// (K70).
    #[error("cannot register in {}: only root may register handlers", .0.display())]
    NotRoot(PathBuf),
    /// `EROFS`: the instance is mounted read-only at this path (K64, K76).
    #[error("{} is mounted read-only", .0.display())]
    ReadOnly(PathBuf),
    /// `EINVAL`: the kernel does not support a flag of the rule, or does not accept a register line of this length.
    #[error(
        "cannot register {name}: the kernel does not support one of the flags \"{flags}\" (F needs Linux 4.8), \
         or a line of {length} bytes (Linux 3.18 and later accept 1920)"
    )]
    Refused {
        /// Name of the handler.
        name: HandlerName,
        /// Flags of the rule.
        flags: Flags,
        /// Length of the register line, in bytes.
        length: usize,
    },
    /// `EEXIST`: another handler already has this name.
    #[error("the name {0} is taken")]
    NameTaken(HandlerName),
    /// The kernel could not open the interpreter. With the flag `F` it opens the interpreter at registration.
    #[error("the kernel cannot open the interpreter {}: {reason}", interpreter.display())]
    Interpreter {
        /// Path of the interpreter.
        interpreter: PathBuf,
        /// Explanation of the errno, as text for the user.
        reason: &'static str,
    },
    /// `ENOSPC` (Linux 7.3): the user namespace has reached its limit of interpreters that the kernel holds open for
    /// the flag `F`.
    #[error(
        "the user namespace has reached its limit of open interpreters, user.max_binfmt_misc_interpreters"
    )]
    TooMany,
    /// The file `register` of the instance could not be opened for another reason.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// Path of the file `register`.
        path: PathBuf,
        /// Error that the kernel reported.
        source: io::Error,
    },
    /// The register line could not be written for another reason.
    #[error("cannot register {name} in {}: {source}", path.display())]
    Write {
        /// Mount point of the instance.
        path: PathBuf,
        /// Name of the handler.
        name: HandlerName,
        /// Error that the kernel reported.
        source: io::Error,
    },
}

impl Advise for RegisterError {
    fn advice(&self) -> Advice {
        match self {
            Self::NotRoot(_) => Advice::this_command_as_root(),
            Self::ReadOnly(path) => remount_command(path).into(),
            Self::NameTaken(_) => "qus list".into(),
            _ => Advice::default(),
        }
    }
}

/// Failure to read or change a handler, or to list all handlers.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// No handler has this name.
    #[error("there is no handler {0}")]
    Missing(HandlerName),
    /// `EACCES`: only uid 0 of the instance's user namespace may change handlers (K70).
    #[error("cannot change {0}: only root may change handlers")]
    NotRoot(HandlerName),
    /// `EROFS`: the instance is mounted read-only at this path.
    #[error("{} is mounted read-only", .0.display())]
    ReadOnly(PathBuf),
    /// The text of the handler's file cannot be parsed.
    #[error("cannot parse the handler {name}: {source}")]
    Entry {
        /// Name of the handler.
        name: HandlerName,
        /// The part of the text that cannot be parsed.
        source: EntryError,
    },
    /// The kernel reported another error.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// Verb for the failed operation, such as `read`.
        operation: &'static str,
        /// Path of the file that was read or written.
        path: PathBuf,
        /// Error that the kernel reported.
        source: io::Error,
    },
}

impl Advise for HandlerError {
    fn advice(&self) -> Advice {
        match self {
            Self::NotRoot(_) => Advice::this_command_as_root(),
            Self::ReadOnly(path) => remount_command(path).into(),
            _ => Advice::default(),
        }
    }
}

impl Instance {
    /// Opens the instance that is mounted on `path`.
    ///
    /// If systemd has an automount on `path`, this function triggers it: it opens a file in the directory, because
    /// opening the directory with `O_PATH` is not enough (K77).
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (directory, kind) = open_directory(path)?;
        if kind == BINFMT_MAGIC {
            return Ok(Self { path: path.to_owned(), directory, register: OnceCell::new() });
        }
        if kind != AUTOFS_MAGIC && path != Path::new(DEFAULT_PATH) && !is_empty(path) {
            return Err(OpenError::Occupied(path.to_owned()));
        }
        if kind == PROC_SUPER_MAGIC {
            return Err(OpenError::NotMounted(path.to_owned()));
        }
        if kind != AUTOFS_MAGIC {
            return Err(OpenError::Foreign(path.to_owned()));
        }
        let _triggered = File::open(path.join("status"));
        let (directory, kind) = open_directory(path)?;
        if kind == BINFMT_MAGIC {
            return Ok(Self { path: path.to_owned(), directory, register: OnceCell::new() });
        }
        Err(OpenError::Automount(path.to_owned()))
    }

    /// Mounts the instance of the current user namespace on `path` (K64).
    ///
    /// If the user namespace has no instance yet, the mount creates an empty one. In this user namespace, the empty
    /// instance hides the handlers of the host (K66).
    pub fn mount(path: &Path) -> Result<(), MountError> {
        tracing::info!("mount binfmt_misc on {}", path.display());
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some("binfmt_misc"), path, Some("binfmt_misc"), flags, None::<&str>).map_err(
            |errno| match errno {
                Errno::EPERM | Errno::EACCES => MountError::AccessError(path.to_owned()),
                Errno::ENODEV => MountError::NoSupport,
                errno => MountError::Io { path: path.to_owned(), source: errno.into() },
            },
        )
    }

    /// Reports whether this process may mount binfmt_misc on `path`. Nothing is mounted, because `mount(2)` is called
    /// with an unknown option. `mount(2)` checks permissions before options, so an error about the option shows that
    /// mounting is permitted (K64). This needs Linux 6.7 or later: older kernels accept any option.
    #[must_use]
    pub fn may_mount(path: &Path) -> bool {
        let kind = Some("binfmt_misc");
        nix::mount::mount(kind, path, kind, MsFlags::empty(), Some("no-such-option")) == Err(Errno::EINVAL)
    }

    /// Returns the mount point of the instance.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reports whether the instance as a whole is enabled. If not, the kernel uses none of its handlers (K27).
    pub fn is_enabled(&self) -> Result<bool, HandlerError> {
        let name = Path::new("status");
        let text = self.read(name).map_err(|source| self.io("read", name, source))?;
        Ok(text == b"enabled\n")
    }

    /// Returns the names of all handlers, in the order in which the kernel lists the directory. In tests, the newest
    /// handler always came first (K32).
    pub fn names(&self) -> Result<Vec<HandlerName>, HandlerError> {
        let failed = |source: Errno| self.io("list", Path::new(""), source);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = Dir::openat(&self.directory, ".", flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for file in directory.iter() {
            let file = file.map_err(failed)?;
            // `HandlerName` refuses the names of the instance's own files.
            names.extend(HandlerName::new(file.file_name().to_bytes()));
        }
        Ok(names)
    }

    /// Reads the file of the handler called `name`. Returns `None` if there is no such handler.
    pub fn entry(&self, name: &HandlerName) -> Result<Option<Entry>, HandlerError> {
        let file = Path::new(name.as_os_str());
        match self.read(file) {
            Ok(text) => {
                let entry = Entry::parse(&text);
                entry.map(Some).map_err(|source| HandlerError::Entry { name: name.clone(), source })
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(source) => Err(self.io("read", file, source)),
        }
    }

    /// Reads the names and files of all handlers, newest first (K32). A handler that another process removes during the
    /// reading is left out.
    pub fn entries(&self) -> Result<Vec<(HandlerName, Entry)>, HandlerError> {
        let mut entries = Vec::new();
        for name in self.names()? {
            if let Some(entry) = self.entry(&name)? {
                entries.push((name, entry));
            }
        }
        Ok(entries)
    }

    /// Checks whether this process may register and change handlers. Changes nothing.
    pub fn check_writable(&self) -> Result<(), RegisterError> {
        self.register_file().map(|_| ())
    }

    /// Registers the handler that `rule` describes, with one `write(2)` (K1, K21). With the flag `F` the kernel opens
    /// the interpreter during this call (K47).
    pub fn register(&self, rule: &Rule) -> Result<(), RegisterError> {
        let register = self.register_file()?;
        let line = rule.to_line();
        let text = String::from_utf8_lossy(&line);
        tracing::info!("write {} to {}", text.trim_end(), self.path.join("register").display());
        // The kernel accepts the whole line or nothing; it never writes a part (K1).
        write(register, &line).map(|_| ()).map_err(|errno| self.refusal(rule, line.len(), errno))
    }

    /// Returns the open file `register` of the instance. It is opened at the first call only, because each write to the
    /// same descriptor is a separate registration (K21).
    fn register_file(&self) -> Result<&OwnedFd, RegisterError> {
        if let Some(file) = self.register.get() {
            return Ok(file);
        }
        let file = self.open_file(Path::new("register"), OFlag::O_WRONLY).map_err(|errno| match errno {
            Errno::EACCES | Errno::EPERM => RegisterError::NotRoot(self.path.clone()),
            Errno::EROFS => RegisterError::ReadOnly(self.path.clone()),
            errno => RegisterError::Open { path: self.path.join("register"), source: errno.into() },
        })?;
        Ok(self.register.get_or_init(|| file))
    }

    /// Converts the errno of a failed write to the file `register` into an error. docs/kernel.md has a table of the
    /// errno values.
    fn refusal(&self, rule: &Rule, length: usize, errno: Errno) -> RegisterError {
        let name = rule.name().clone();
        let reason = match errno {
            Errno::EINVAL => return RegisterError::Refused { name, flags: rule.flags(), length },
            Errno::EEXIST => return RegisterError::NameTaken(name),
            Errno::ENOSPC => return RegisterError::TooMany,
            Errno::ENOENT => "there is no such file",
            Errno::ENOTDIR => "a part of the path is not a directory",
            Errno::ELOOP => "its symbolic links form a loop",
            Errno::ENAMETOOLONG => "a part of the path is too long",
            Errno::EACCES => {
                "it is not an executable file, or is on a noexec mount, or is in a directory without access"
            }
            Errno::ETXTBSY => "a process has it open for writing",
            _ => return RegisterError::Write { path: self.path.clone(), name, source: errno.into() },
        };
        RegisterError::Interpreter { interpreter: rule.interpreter().to_owned(), reason }
    }

    /// Removes the handler called `name`. Processes that already run with its interpreter continue (K63).
    pub fn remove(&self, name: &HandlerName) -> Result<(), HandlerError> {
        tracing::info!("remove the handler {name}");
        self.command(name, b"-1")
    }

    /// Enables or disables the handler called `name`. The handler keeps its position in the order of handlers (K31).
    pub fn set_enabled(&self, name: &HandlerName, enabled: bool) -> Result<(), HandlerError> {
        tracing::info!("{} the handler {name}", if enabled { "enable" } else { "disable" });
        self.command(name, if enabled { b"1" } else { b"0" })
    }

    /// Writes the command `word` to the file of the handler called `name` (K26). The type of `name` ensures that the
    /// file is not `status` (K78).
    fn command(&self, name: &HandlerName, word: &[u8]) -> Result<(), HandlerError> {
        let path = Path::new(name.as_os_str());
        // Without O_CREAT: with it, the error for a missing entry would be "permission denied" (K25).
        let written = self.open_file(path, OFlag::O_WRONLY).and_then(|file| write(file, word));
        written.map(|_| ()).map_err(|errno| match errno {
            Errno::ENOENT => HandlerError::Missing(name.clone()),
            Errno::EACCES | Errno::EPERM => HandlerError::NotRoot(name.clone()),
            Errno::EROFS => HandlerError::ReadOnly(self.path.clone()),
            source => self.io("write", path, source),
        })
    }

    fn open_file(&self, name: &Path, access: OFlag) -> Result<OwnedFd, Errno> {
        openat(&self.directory, name, access | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
    }

    /// Reads a file of the instance with one `read(2)`, because the kernel generates the text again for each call
    /// (K44).
    fn read(&self, name: &Path) -> Result<Vec<u8>, Errno> {
        let mut text = [0; ENTRY_MAX];
        let length = read(self.open_file(name, OFlag::O_RDONLY)?, &mut text)?;
        tracing::debug!("read {}", self.path.join(name).display());
        Ok(text.get(..length).unwrap_or_default().to_vec())
    }

    fn io(&self, operation: &'static str, name: &Path, source: Errno) -> HandlerError {
        HandlerError::Io { operation, path: self.path.join(name), source: source.into() }
    }
}

/// Reports whether `path` is a directory without files. A directory that cannot be read counts as one with files.
fn is_empty(path: &Path) -> bool {
    fs::read_dir(path).is_ok_and(|mut files| files.next().is_none())
}

/// Opens the directory at `path` without triggering an automount, and returns the open directory and the type of its
/// file system.
fn open_directory(path: &Path) -> Result<(OwnedFd, FsType), OpenError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let io = |errno: Errno| OpenError::Io { path: path.to_owned(), source: errno.into() };
    let directory = open(path, flags, Mode::empty()).map_err(|errno| match errno {
        // Outside of procfs, a missing directory does not show whether the kernel supports binfmt_misc.
        Errno::ENOENT if path.starts_with("/proc") => OpenError::NoSupport(path.to_owned()),
        Errno::ELOOP => OpenError::Automount(path.to_owned()),
        errno => io(errno),
    })?;
    let kind = fstatfs(&directory).map_err(io)?.filesystem_type();
    Ok((directory, kind))
}
