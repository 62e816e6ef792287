//! Another root directory, furnished as a container would see it.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{chdir, pivot_root, symlinkat};
use thiserror::Error;

/// Devices of every container (OCI runtime specification, "Default Devices").
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// Links in `/dev` of every container (there, "Default symbolic links").
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Why a directory could not become the root.
#[derive(Debug, Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct RootError {
    /// What was tried.
    operation: &'static str,
    /// With what.
    path: PathBuf,
    /// What the kernel said.
    source: io::Error,
}

fn failed(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> RootError {
    let path = path.into();
    move |errno| RootError { operation, path, source: errno.into() }
}

/// Makes `directory` the root of this process, in the mount namespace that it has for itself, with `/proc`, `/dev`,
/// `/sys` and `/etc/resolv.conf` as a container would see them; the working directory is then `/`.
///
/// What lies in the directory is not trusted: links in it never lead out of it (`RESOLVE_IN_ROOT`, `openat2(2)`).
pub fn enter_root(directory: &Path) -> Result<(), RootError> {
    let none = None::<&str>;
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(directory), directory, none, bind, none).map_err(failed("bind", directory))?;
    let root = open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let root = Root(root.map_err(failed("open", directory))?);

    for (name, flags) in [("proc", bind), ("sys", bind)] {
        let source = Path::new("/").join(name);
        let target = root.folder(name)?;
        mount(Some(&source), &target.path(), none, flags, none).map_err(failed("bind", source))?;
    }
    let dev = root.folder("dev")?;
    let options = Some("mode=755,size=64k");
    mount(Some("tmpfs"), &dev.path(), Some("tmpfs"), MsFlags::MS_NOSUID, options)
        .map_err(failed("mount", "/dev"))?;
    // The descriptor still names the folder below the new file system.
    let dev = Root(root.open("dev", OFlag::O_PATH | OFlag::O_DIRECTORY)?);
    furnish_dev(&dev)?;
    let _no_network_without = root.bind_file("/etc/resolv.conf");

    chdir(directory).map_err(failed("enter", directory))?;
    pivot_root(".", ".").map_err(failed("change the root directory to", directory))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("leave the old root directory for", directory))?;
    chdir("/").map_err(failed("enter", "/"))
}

fn furnish_dev(dev: &Root) -> Result<(), RootError> {
    for name in DEVICES {
        let source = Path::new("/dev").join(name);
        // A host without one of them has none to give.
        let _missing_on_this_host = dev.bind_new_file(name, &source);
    }
    for (name, target) in LINKS {
        symlinkat(target, &dev.0, name).map_err(failed("create", Path::new("/dev").join(name)))?;
    }
    let pts = dev.folder("pts")?;
    let options = Some("newinstance,ptmxmode=0666,mode=620");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), &pts.path(), Some("devpts"), flags, options)
        .map_err(failed("mount", "/dev/pts"))?;
    let shm = dev.folder("shm")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &shm.path(), Some("tmpfs"), flags, Some("mode=1777"))
        .map_err(failed("mount", "/dev/shm"))
}

/// A directory that nothing opened below it leads out of.
struct Root(OwnedFd);

/// Something in it.
struct Place(OwnedFd);

impl Place {
    /// A path by which `mount(2)` reaches it, whatever its name means now.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl Root {
    fn open(&self, name: &str, flags: OFlag) -> Result<OwnedFd, RootError> {
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        openat2(&self.0, name, how).map_err(failed("open", name))
    }

    /// The folder `name`, made where there is none.
    fn folder(&self, name: &str) -> Result<Place, RootError> {
        match mkdirat(&self.0, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(Errno::EEXIST | Errno::EROFS) => {}
            Err(errno) => return Err(failed("create", name)(errno)),
        }
        self.open(name, OFlag::O_PATH | OFlag::O_DIRECTORY).map(Place)
    }

    /// Puts the host's file `path` in the place of the one in this root, if it has one.
    fn bind_file(&self, path: &str) -> Result<(), RootError> {
        let source = fs::canonicalize(path).map_err(|source| RootError {
            operation: "find",
            path: path.into(),
            source,
        })?;
        let target = Place(self.open(path.trim_start_matches('/'), OFlag::O_PATH)?);
        mount(Some(&source), &target.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(failed("bind", source))
    }

    fn bind_new_file(&self, name: &str, source: &Path) -> Result<(), RootError> {
        let how = OpenHow::new()
            .flags(OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC)
            .mode(Mode::from_bits_truncate(0o644))
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let file = Place(openat2(&self.0, name, how).map_err(failed("create", name))?);
        mount(Some(source), &file.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(failed("bind", source))
    }
}
