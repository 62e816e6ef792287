//! Hides the machine's emulators, configuration and handlers from a test, by mounts in the test's own mount namespace.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::namespace::INSTANCE;

/// Directories that are empty for a test.
const EMPTY: [&str; 8] = [
    "/etc/binfmt.d",
    "/run",
    "/usr/lib/binfmt.d",
    "/usr/local/lib/binfmt.d",
    "/usr/local/lib/qus",
    "/usr/libexec/qemu-binfmt",
    "/var/cache/qus",
    "/var/lib/binfmts",
];

/// Directories of programs, in which QEMU's programs are hidden from a test.
const PROGRAMS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// Hides everything on the machine that qus looks at. Must be called before a test mounts anything else.
pub(crate) fn machine() {
    if is_mount_point(INSTANCE) {
        hide_instance();
    }
    for directory in EMPTY.iter().filter(|directory| Path::new(directory).is_dir()) {
        mount_empty(directory);
    }
    for directory in PROGRAMS {
        let hidden = emulators(directory);
        if !hidden.is_empty() {
            hide(directory, &hidden);
        }
    }
}

/// Hides the machine's instance with an empty directory of procfs. Then the mount point looks unused, because an unused
/// one is also a directory of procfs (K46).
fn hide_instance() {
    let is_empty =
        |directory: &&&str| fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    match ["/proc/tty/ldisc", "/proc/driver", "/proc/acpi"].iter().find(is_empty) {
        Some(empty) => mount(Some(*empty), INSTANCE, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap(),
        None => {
            crate::skip::skip("binfmt_misc is mounted, and procfs has no empty directory that can hide it")
        }
    }
}

/// Reports whether a path is a mount point. It reads the mount table, because opening the path would start an
/// automount.
fn is_mount_point(path: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(path))
}

fn mount_empty(directory: &str) {
    mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
}

/// Returns the names of QEMU's programs in a directory.
fn emulators(directory: &str) -> Vec<String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    names.filter(|name| name.starts_with("qemu-") || name.ends_with("-binfmt-P")).collect()
}

/// Hides files in a directory with an overlay on a file system in memory, which has a whiteout for each.
fn hide(directory: &str, names: &[String]) {
    const SCRATCH: &str = "/tmp";
    mount_empty(SCRATCH);
    let (upper, work) = (Path::new(SCRATCH).join("upper"), Path::new(SCRATCH).join("work"));
    fs::create_dir(&upper).unwrap();
    fs::create_dir(&work).unwrap();
    for name in names {
        mknod(&upper.join(name), SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).unwrap();
    }
    let options =
        format!("lowerdir={directory},upperdir={},workdir={},userxattr", upper.display(), work.display());
    mount(Some("none"), directory, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
    umount2(SCRATCH, MntFlags::MNT_DETACH).unwrap();
}
