//! Hides the machine's emulators, configuration and handlers from a test: mounts in its own mount namespace.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::namespace::INSTANCE;

/// Directories that a test sees empty.
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

/// Directories of programs, of which a test does not see QEMU's.
const PROGRAMS: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// Hides everything of the machine that qus looks at. It comes before all else that a test mounts.
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

/// Hides the machine's instance by an empty directory of procfs, which is what a mount point without a mount shows. A file
/// system of another type would be another state.
fn hide_instance() {
    let is_empty =
        |directory: &&&str| fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    match ["/proc/tty/ldisc", "/proc/driver", "/proc/acpi"].iter().find(is_empty) {
        Some(empty) => mount(Some(*empty), INSTANCE, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap(),
        None => {
            crate::skip::skip("binfmt_misc is mounted here, and no empty directory of procfs can hide it")
        }
    }
}

/// Reads the mount table, as looking at the path itself would start an automount.
fn is_mount_point(path: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(path))
}

fn mount_empty(directory: &str) {
    mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
}

/// Names of QEMU's programs in a directory.
fn emulators(directory: &str) -> Vec<String> {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    names.filter(|name| name.starts_with("qemu-") || name.ends_with("-binfmt-P")).collect()
}

/// Hides files in a directory: an overlay with a whiteout for each, on a file system in memory.
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
