//! [`Instance`]: a mounted binfmt_misc. The only module that does IO on one.
//!
//! Each operation has an error type: [`OpenError`], [`MountError`], [`RegisterError`], [`HandlerError`]. An error names
//! the path and the cause, and has advice if there is any.

use std::cell::OnceCell;
use std::fs::File;
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
use crate::base::shell::{shell_word, this_command_as_root};
use crate::binfmt::{Entry, EntryError, Flags, Handler, HandlerName, Rule};

/// Where Linux has the instance of a user namespace mounted (`Documentation/admin-guide/binfmt-misc.rst`).
pub const DEFAULT_PATH: &str = "/proc/sys/fs/binfmt_misc";

/// `BINFMTFS_MAGIC` of `include/uapi/linux/magic.h`: "BINM" (K46).
const BINFMT_MAGIC: FsType = FsType(0x4249_4e4d);
/// `AUTOFS_SUPER_MAGIC` of `include/uapi/linux/magic.h`: systemd's automount stands in for the instance (K77).
const AUTOFS_MAGIC: FsType = FsType(0x187);
/// Size of the buffer for an entry, in bytes. The longest entry seen has 1958 (K44).
const ENTRY_MAX: usize = 8192;

/// A mounted binfmt_misc, held by its directory.
#[derive(Debug)]
pub struct Instance {
    path: PathBuf,
    directory: OwnedFd,
    register: OnceCell<OwnedFd>,
}

/// Reason why there is no instance at a path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No such directory: the kernel was built without binfmt_misc (K74), or procfs is not mounted.
    #[error("this kernel has no binfmt_misc: {} does not exist", .0.display())]
    NoSupport(PathBuf),
    /// The mount point is there, and nothing mounted on it (K74).
    #[error("binfmt_misc is not mounted on {}", .0.display())]
    NotMounted(PathBuf),
    /// A directory of another file system.
    #[error("{} is not a binfmt_misc file system", .0.display())]
    Foreign(PathBuf),
    /// systemd's automount does not answer here, usually because this is a container (K77).
    #[error("{} is an automount point that only the host can trigger", .0.display())]
    Automount(PathBuf),
    /// Anything else that went wrong.
    #[error("cannot open {}: {source}", path.display())]
    Io {
        /// The instance's directory.
        path: PathBuf,
        /// Error of the kernel.
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
            Self::Automount(path) => Advice::from(format!("ls {}", shell_word(path))).with_hint(ON_THE_HOST),
            Self::Io { .. } => Advice::default(),
        }
    }
}

/// A hint after a command that has to be typed outside of a container.
pub(crate) const ON_THE_HOST: &str = "type it on the host, outside of this container";

/// The command that mounts an instance on `path`.
pub(crate) fn mount_command(path: &Path) -> String {
    format!("sudo mount -t binfmt_misc binfmt_misc {}", shell_word(path))
}

/// The command that makes the mount at `path` writable.
fn remount_command(path: &Path) -> String {
    format!("sudo mount -o remount,rw {}", shell_word(path))
}

/// Failure to mount binfmt_misc (K69).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MountError {
    /// `EPERM` or `EACCES`: no `CAP_SYS_ADMIN` in the user namespace, or the mount namespace is another's (K69).
    #[error("binfmt_misc is not mounted on {}, and mounting it is not permitted here", .0.display())]
    AccessError(PathBuf),
    /// `ENODEV`: neither built in nor loadable.
    #[error("this kernel has no binfmt_misc: the file system is neither built in nor loadable as a module")]
    NoSupport,
    /// Anything else that went wrong.
    #[error("cannot mount binfmt_misc on {}: {source}", path.display())]
    Io {
        /// The mount point.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
}

impl MountError {
    /// The command that an administrator of this instance types.
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
            // qus mounts it itself where it may.
            Self::AccessError(_) if !geteuid().is_root() => this_command_as_root().into(),
            _ => self.command().into(),
        }
    }
}

/// Failure to register a rule (the table of errno in docs/kernel.md).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// `EACCES` at opening `register`: only uid 0 of the instance's user namespace may write there (K70).
    #[error("cannot register in {}: only root may", .0.display())]
    NotRoot(PathBuf),
    /// `EROFS`: this mount of the instance is read-only (K64, K76).
    #[error("{} is mounted read-only", .0.display())]
    ReadOnly(PathBuf),
    /// `EINVAL`: a kernel that does not know a flag of the rule, or does not take so long a line.
    #[error(
        "cannot register {name}: the kernel does not support a flag of \"{flags}\" (F needs Linux 4.8), \
         or a line of {length} bytes (1920 since 3.18)"
    )]
    Refused {
        /// Name of the handler.
        name: HandlerName,
        /// The rule's flags.
        flags: Flags,
        /// Length of the register line, in bytes.
        length: usize,
    },
    /// `EEXIST`.
    #[error("the name {0} is taken")]
    NameTaken(HandlerName),
    /// With `F` the kernel opens the interpreter at once, which failed.
    #[error("the kernel cannot open the interpreter {}: {reason}", interpreter.display())]
    Interpreter {
        /// Path of the interpreter.
        interpreter: PathBuf,
        /// The errno in words, for this context.
        reason: &'static str,
    },
    /// `ENOSPC` (Linux 7.3): more `F` interpreters than the user namespace may have.
    #[error("the user namespace has as many interpreters open as user.max_binfmt_misc_interpreters allows")]
    TooMany,
    /// `register` could not be opened, for another reason.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The line could not be written, for another reason.
    #[error("cannot register {name} in {}: {source}", path.display())]
    Write {
        /// The instance's directory.
        path: PathBuf,
        /// Name of the handler.
        name: HandlerName,
        /// Error of the kernel.
        source: io::Error,
    },
}

impl Advise for RegisterError {
    fn advice(&self) -> Advice {
        match self {
            Self::NotRoot(_) => this_command_as_root().into(),
            Self::ReadOnly(path) => remount_command(path).into(),
            Self::NameTaken(_) => "qus list".into(),
            _ => Advice::default(),
        }
    }
}

/// Failure to read or change a handler, or to read the list.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// No handler of this name.
    #[error("there is no handler {0}")]
    Missing(HandlerName),
    /// `EACCES`: only uid 0 of the instance's user namespace may (K70).
    #[error("cannot change {0}: only root may")]
    NotRoot(HandlerName),
    /// `EROFS`: this mount of the instance is read-only.
    #[error("{} is mounted read-only", .0.display())]
    ReadOnly(PathBuf),
    /// The kernel shows an entry that is not understood.
    #[error("cannot parse the handler {name}: {source}")]
    Entry {
        /// Name of the handler.
        name: HandlerName,
        /// The part that is not understood.
        source: EntryError,
    },
    /// Anything else that went wrong.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// The operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
}

impl Advise for HandlerError {
    fn advice(&self) -> Advice {
        match self {
            Self::NotRoot(_) => this_command_as_root().into(),
            Self::ReadOnly(path) => remount_command(path).into(),
            _ => Advice::default(),
        }
    }
}

impl Instance {
    /// The instance that is mounted on `path`.
    ///
    /// An automount in its place is triggered, by opening a file below it, as `O_PATH` on the directory is not enough
    /// (K77).
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (directory, kind) = open_directory(path)?;
        if kind == BINFMT_MAGIC {
            return Ok(Self { path: path.to_owned(), directory, register: OnceCell::new() });
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

    /// Mounts binfmt_misc on `path`: the instance of the current user namespace (K64).
    ///
    /// In a user namespace that has none yet this creates a fresh one, which hides the handlers of the host (K66).
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

    /// Reports whether this process may mount on `path`, found out without mounting: `mount(2)` looks for the right
    /// before it looks at the options, and binfmt_misc has none (K64). Linux 6.7 or later; older ones take any.
    #[must_use]
    pub fn may_mount(path: &Path) -> bool {
        let kind = Some("binfmt_misc");
        nix::mount::mount(kind, path, kind, MsFlags::empty(), Some("no-such-option")) == Err(Errno::EINVAL)
    }

    /// The directory it is mounted on.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reports whether the instance as a whole is on (K27).
    pub fn is_enabled(&self) -> Result<bool, HandlerError> {
        let name = Path::new("status");
        let text = self.read(name).map_err(|source| self.io("read", name, source))?;
        Ok(text == b"enabled\n")
    }

    /// Names of all handlers, in the kernel's directory order, which is newest first as far as anyone has seen (K32).
    pub fn names(&self) -> Result<Vec<HandlerName>, HandlerError> {
        let failed = |source: Errno| self.io("list", Path::new(""), source);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut directory = Dir::openat(&self.directory, ".", flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for file in directory.iter() {
            let file = file.map_err(failed)?;
            // Other names are files of the instance itself.
            names.extend(HandlerName::new(file.file_name().to_bytes()));
        }
        Ok(names)
    }

    /// The handler called `name`, if there is one.
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

    /// All handlers, newest first (K32). One that is removed meanwhile is left out.
    pub fn handlers(&self) -> Result<Vec<Handler>, HandlerError> {
        let mut handlers = Vec::new();
        for name in self.names()? {
            if let Some(entry) = self.entry(&name)? {
                handlers.push(Handler { name, entry });
            }
        }
        Ok(handlers)
    }

    /// Reports whether this process may register and change handlers, found out without doing either.
    pub fn check_writable(&self) -> Result<(), RegisterError> {
        self.register_file().map(|_| ())
    }

    /// Asks the kernel for `rule`, in one `write(2)` (K1, K21). With `F` the interpreter is opened now (K47).
    pub fn register(&self, rule: &Rule) -> Result<(), RegisterError> {
        let register = self.register_file()?;
        let line = rule.to_line();
        let text = String::from_utf8_lossy(&line);
        tracing::info!("write {} to {}", text.trim_end(), self.path.join("register").display());
        // The kernel takes the line whole or not at all; it never writes short (K1).
        write(register, &line).map(|_| ()).map_err(|errno| self.refusal(rule, line.len(), errno))
    }

    /// The file `register`, opened once: several writes to it are several registrations (K21).
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

    /// Returns the meaning of an errno of `write(register)` (the table of errno in docs/kernel.md).
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
                "it is not an executable file, is on a noexec mount, or in a directory without access"
            }
            Errno::ETXTBSY => "a process has it open for writing",
            _ => return RegisterError::Write { path: self.path.clone(), name, source: errno.into() },
        };
        RegisterError::Interpreter { interpreter: rule.interpreter().to_owned(), reason }
    }

    /// Removes the handler called `name`; processes that it started go on (K63).
    pub fn remove(&self, name: &HandlerName) -> Result<(), HandlerError> {
        tracing::info!("remove the handler {name}");
        self.command(name, b"-1")
    }

    /// Switches the handler called `name` on or off; it keeps its place in the order (K31).
    pub fn set_enabled(&self, name: &HandlerName, enabled: bool) -> Result<(), HandlerError> {
        tracing::info!("switch the handler {name} {}", if enabled { "on" } else { "off" });
        self.command(name, if enabled { b"1" } else { b"0" })
    }

    /// Writes one of the words that an entry file takes (K26). The type of `name` keeps it away from `status` (K78).
    fn command(&self, name: &HandlerName, word: &[u8]) -> Result<(), HandlerError> {
        let path = Path::new(name.as_os_str());
        // Without O_CREAT: with it a missing entry would be "permission denied" (K25).
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

    /// A file of the instance in one read: the kernel makes the text anew at every read (K44).
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

/// The directory at `path`, without touching what an automount stands for, and the file system it is on.
fn open_directory(path: &Path) -> Result<(OwnedFd, FsType), OpenError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let io = |errno: Errno| OpenError::Io { path: path.to_owned(), source: errno.into() };
    let directory = open(path, flags, Mode::empty()).map_err(|errno| match errno {
        // Outside of procfs, a missing directory does not concern the kernel.
        Errno::ENOENT if path.starts_with("/proc") => OpenError::NoSupport(path.to_owned()),
        Errno::ELOOP => OpenError::Automount(path.to_owned()),
        errno => io(errno),
    })?;
    let kind = fstatfs(&directory).map_err(io)?.filesystem_type();
    Ok((directory, kind))
}
