//! Changes the root directory of this process. The new root directory gets `/proc`, `/dev` and `/sys` as in a
//! container.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{chdir, fchdir, pivot_root, symlinkat};
use thiserror::Error;

use crate::base::error::Advise;

/// Names of the devices in `/dev` of every container (OCI runtime specification, "Default Devices").
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Symbolic links in `/dev` of every container (OCI runtime specification, "Default symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Paths other than `/sys` that are read-only in a container (OCI runtime specification, `readonlyPaths` as container
/// engines set it). The host's root owns these paths even if this process is in a user namespace.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Failure to change the root directory.
#[derive(Debug, Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct RootError {
    /// Verb for the failed operation, such as `open`.
    operation: &'static str,
    /// File or directory on which the operation failed.
    path: PathBuf,
    /// Error that the kernel returned.
    source: io::Error,
}

impl Advise for RootError {}

fn failed(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> RootError {
    let path = path.into();
    move |errno| RootError { operation, path, source: errno.into() }
}

/// Makes `directory` the root directory of this process, with `/proc`, `/dev`, `/sys` and `/etc/resolv.conf` as in a
/// container. The process must have a mount namespace of its own. Its working directory becomes `/`.
///
/// The contents of `directory` are not trusted: symbolic links in `directory` never lead out of it (`RESOLVE_IN_ROOT`,
/// `openat2(2)`).
pub fn enter_root(directory: &Path) -> Result<(), RootError> {
    // Made absolute, because `.` would be the directory below the new mount.
    let path = fs::canonicalize(directory).map_err(|source| RootError {
        operation: "find",
        path: directory.into(),
        source,
    })?;
    let directory = path.as_path();
    if directory == Path::new("/") {
        let source = io::Error::other("it is already the root directory");
        return Err(RootError { operation: "change the root directory to", path, source });
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(directory), directory, None::<&str>, flags, None::<&str>)
        .map_err(failed("bind", directory))?;
    let root = Root::at(directory)?;

    for name in ["proc", "sys"] {
        bind(&Path::new("/").join(name), &root.directory(name)?)?;
    }
    root.remount_read_only("sys")?;
    for name in READ_ONLY {
        root.make_read_only(name)?;
    }
    let dev = root.directory("dev")?;
    let options = Some("mode=755,size=64k");
    mount(Some("tmpfs"), &dev.path(), Some("tmpfs"), MsFlags::MS_NOSUID, options)
        .map_err(failed("mount", "/dev"))?;
    // Opened again, because the first descriptor refers to the directory below the new file system.
    let dev = Root(root.open("dev", OFlag::O_PATH | OFlag::O_DIRECTORY)?);
    populate_dev(&dev)?;
    if let Err(error) = root.bind_resolv_conf() {
        tracing::info!("host names cannot be resolved in the new root: {error}");
    }

    fchdir(&root.0).map_err(failed("enter", directory))?;
    pivot_root(".", ".").map_err(failed("change the root directory to", directory))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("leave the old root directory for", directory))?;
    chdir("/").map_err(failed("enter", "/"))
}

/// Opens the file to which `path` will lead when `directory` is the root directory; `None` if this file does not exist.
/// Symbolic links never lead out of `directory`.
#[must_use]
pub fn find_in_root(directory: &Path, path: &Path) -> Option<File> {
    let root = Root::at(directory).ok()?;
    let file = File::from(root.open(path, OFlag::O_PATH).ok()?);
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

fn populate_dev(dev: &Root) -> Result<(), RootError> {
    for name in DEVICES {
        let source = Path::new("/dev").join(name);
        // A device that is missing on the host is left out.
        let _missing_on_this_host = dev.create(name).and_then(|target| bind(&source, &target));
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev.0, name).map_err(failed("create", Path::new("/dev").join(name)))?;
    }
    let pts = dev.directory("pts")?;
    let options = Some("newinstance,ptmxmode=0666,mode=620");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), &pts.path(), Some("devpts"), flags, options)
        .map_err(failed("mount", "/dev/pts"))?;
    let shm = dev.directory("shm")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &shm.path(), Some("tmpfs"), flags, Some("mode=1777"))
        .map_err(failed("mount", "/dev/shm"))
}

/// An open directory. A path that is opened below it never leads out of it.
struct Root(OwnedFd);

/// An open file or directory below a [`Root`].
struct Location(OwnedFd);

impl Location {
    /// Returns a path for `mount(2)` that leads to this open file or directory, even if its name leads to another file
    /// now.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl Root {
    fn at(directory: &Path) -> Result<Self, RootError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        open(directory, flags, Mode::empty()).map(Self).map_err(failed("open", directory))
    }

    /// Opens an existing file or directory below this directory. `RESOLVE_IN_ROOT` also forbids the magic links of
    /// `/proc` (`symlink(7)`), which would lead out of this directory.
    fn open(&self, name: impl AsRef<Path>, flags: OFlag) -> Result<OwnedFd, RootError> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        openat2(&self.0, name.as_ref(), how).map_err(failed("open", name.as_ref()))
    }

    /// Opens the file `name` below this directory, and creates it if it is missing.
    fn create(&self, name: &str) -> Result<Location, RootError> {
        let how = OpenHow::new()
            .flags(OFlag::O_CREAT | OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(0o644))
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        openat2(&self.0, name, how).map(Location).map_err(failed("create", name))
    }

    /// Opens the directory `name` below this directory, and creates it if it is missing.
    fn directory(&self, name: &str) -> Result<Location, RootError> {
        match mkdirat(&self.0, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST | Errno::EROFS) => {}
            Err(errno) => return Err(failed("create", name)(errno)),
        }
        self.open(name, OFlag::O_PATH | OFlag::O_DIRECTORY).map(Location)
    }

    /// Mounts the host's `/etc/resolv.conf` over the same file in this directory.
    fn bind_resolv_conf(&self) -> Result<(), RootError> {
        let source = fs::canonicalize("/etc/resolv.conf").map_err(|source| RootError {
            operation: "find",
            path: "/etc/resolv.conf".into(),
            source,
        })?;
        let name = "etc/resolv.conf";
        let target = self.open(name, OFlag::O_PATH).map(Location).or_else(|_| self.create(name))?;
        bind(&source, &target)
    }

    /// Makes the path `name` read-only if it exists. Mounts below this path, such as a binfmt_misc instance, are not
    /// changed.
    fn make_read_only(&self, name: &str) -> Result<(), RootError> {
        let Ok(location) = self.open(name, OFlag::O_PATH).map(Location) else { return Ok(()) };
        bind(&location.path(), &location)?;
        self.remount_read_only(name)
    }

    /// Makes the mount at `name` read-only.
    fn remount_read_only(&self, name: &str) -> Result<(), RootError> {
        let location = Location(self.open(name, OFlag::O_PATH)?);
        // Flags of the host's mount are set again, because a user namespace may not clear them.
        let filesystem = fstatvfs(&location.0).map_err(failed("inspect", name))?.flags();
        let restrictions = [
            (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
            (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
            (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        ];
        let restrictions =
            restrictions.into_iter().filter(|(flag, _)| filesystem.contains(*flag)).map(|(_, flag)| flag);
        let flags = restrictions
            .fold(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, |all, flag| all | flag);
        mount(None::<&str>, &location.path(), None::<&str>, flags, None::<&str>)
            .map_err(failed("make read-only", name))
    }
}

/// Mounts `source`, with all mounts below it, on `target`.
fn bind(source: &Path, target: &Location) -> Result<(), RootError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(source), &target.path(), None::<&str>, flags, None::<&str>).map_err(failed("bind", source))
}
