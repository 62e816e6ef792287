//! Tests that a user with an empty home can fetch an interpreter and run a foreign program. No other files are left.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sys::statvfs::{FsFlags, statvfs};
use qus::package::{Package, debian_packages};

use crate::downloads;
use crate::lab::{Lab, QUS, Ran, run};

/// Directories outside of the home in which every user may write.
const WRITABLE: [&str; 3] = ["/dev/shm", "/run", "/var/tmp"];

/// Makes apt use only a repository of the packages that were downloaded already.
fn use_repository(lab: &Lab) {
    let repository = lab.path("repository");
    fs::create_dir(&repository).unwrap();
    let mut index = String::new();
    for package in downloads::packages("distribution") {
        let name = package.file_name().unwrap().to_str().unwrap();
        // The files are not copied, because they are large.
        symlink(&package, repository.join(name)).unwrap();
        let opened = Package::open(&package).unwrap();
        let info = opened.info().unwrap();
        let sum = run(Command::new("sha256sum").arg(&package)).stdout;
        let size = fs::metadata(&package).unwrap().len();
        writeln!(index, "Package: {}\nVersion: {}\nArchitecture: all", info.name, info.version).unwrap();
        writeln!(index, "Filename: ./{name}\nSize: {size}\nSHA256: {}\nDescription: x\n", &sum[..64])
            .unwrap();
    }
    assert!(debian_packages().iter().any(|name| index.contains(&format!("Package: {name}\n"))), "{index}");
    fs::write(repository.join("Packages"), index).unwrap();
    let list = format!("deb [trusted=yes] copy:{} ./\n", repository.display());
    let list = lab.executable("sources.list", list.as_bytes());
    mount(Some("none"), "/etc/apt/sources.list.d", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::copy(list, "/etc/apt/sources.list.d/repository.list").unwrap();
    let single = Path::new("/etc/apt/sources.list");
    if single.exists() {
        mount(Some("/dev/null"), single, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    }
}

/// Mount points of the machine that are read-only until the value is dropped, with their other flags. The directory of
/// a test can be removed only afterwards.
struct ReadOnly(Vec<(PathBuf, MsFlags)>);

impl ReadOnly {
    /// Makes the machine's file systems read-only, except for those of the kernel. Mounts empty file systems over
    /// [`WRITABLE`] and `directories`.
    fn except(directories: &[&Path]) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut changed = Self(Vec::new());
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
            let is_of_kernel = ["/proc", "/sys", "/dev"].iter().any(|own| point.starts_with(own));
            // A mount may be hidden by another one, or its path may be escaped.
            let Ok(found) = statvfs(point) else { continue };
            if is_of_kernel || found.flags().contains(FsFlags::ST_RDONLY) {
                continue;
            }
            let mut flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
            for (flag, present) in [
                (MsFlags::MS_NOSUID, FsFlags::ST_NOSUID),
                (MsFlags::MS_NODEV, FsFlags::ST_NODEV),
                (MsFlags::MS_NOEXEC, FsFlags::ST_NOEXEC),
            ] {
                flags.set(flag, found.flags().contains(present));
            }
            changed.0.push((point.to_owned(), flags));
            mount(None::<&str>, point, None::<&str>, flags | MsFlags::MS_RDONLY, None::<&str>).unwrap();
        }
        for directory in WRITABLE.iter().map(Path::new).chain(directories.iter().copied()) {
            mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=1777")).unwrap();
        }
        changed
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        for (point, flags) in &self.0 {
            let _other_mounts_have_covered_it =
                mount(None::<&str>, point, None::<&str>, *flags, None::<&str>);
        }
    }
}

/// Returns the paths of everything in a directory that is not a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()) {
        if path.is_dir() && !path.is_symlink() {
            files.extend(self::files(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

kernel_test!(run_fetches_into_an_empty_home, ordinary_user);
fn run_fetches_into_an_empty_home(lab: &Lab) {
    let program = lab.copy("program/busybox", &downloads::busybox("aarch64"));
    let program = program.to_str().unwrap();
    use_repository(lab);
    let (home, temporary) = (lab.path("home"), lab.path("tmp"));
    for directory in [&home, &temporary] {
        fs::create_dir(directory).unwrap();
    }
    let _read_only = ReadOnly::except(&[&home, &temporary]);
    fs::write(lab.path("elsewhere"), "").unwrap_err();
    let before = (fs::read_to_string("/proc/self/mountinfo").unwrap(), lab.entries());
    let qus = |words: &[&str]| -> Ran {
        let mut command = Command::new(QUS);
        command.args(words).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        run(command.env("HOME", &home).env("TMPDIR", &temporary).current_dir(&home))
    };
    let ran = qus(&["run", "--fetch", "--", program, "uname", "-m"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "aarch64\n"), "{ran:#?}");
    // The interpreter is available now. The program has the user's own ids.
    let ran = qus(&["run", "--", "/bin/sh", "-c", "\"$0\" id -u; \"$0\" id -g", program]);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "1000\n1000\n"), "{ran:#?}");

    // The only new files are the cache, the interpreter and its record. The last two are in a directory with the name
    // of the version.
    let cache = home.join(".cache");
    assert!(cache.is_dir());
    let new: Vec<PathBuf> = files(&home).into_iter().filter(|path| !path.starts_with(&cache)).collect();
    let version = run(Command::new(downloads::interpreter("aarch64")).arg("--version")).stdout;
    let version = version.split_whitespace().nth(2).unwrap();
    let stored = home.join(".local/share/qus").join(version);
    assert_eq!(new, [stored.join("qemu-aarch64-static"), stored.join("qemu-aarch64-static.json")]);
    for directory in WRITABLE.iter().map(Path::new).chain([temporary.as_path()]) {
        assert_eq!(fs::read_dir(directory).unwrap().count(), 0, "{}", directory.display());
    }
    assert_eq!((fs::read_to_string("/proc/self/mountinfo").unwrap(), lab.entries()), before);
}
