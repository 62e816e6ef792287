//! Compares the machine before and after the tests: no test may change it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::namespace::INSTANCE;

/// Directories in which every file is compared.
const WHOLE: [&str; 5] = ["/etc", "/usr/local", "/var/lib/binfmts", "/var/cache/qus", "/run/binfmt.d"];
/// Time that temporary changes of other programs may last, and that processes of the tests may take to end.
const MOMENT: Duration = Duration::from_secs(3);
/// Directories that other programs use as well. Only names that qus may use are compared in them.
const SHARED: [&str; 4] = ["/dev/shm", "/run", "/tmp", "/var/tmp"];
/// Files that the system itself rewrites.
const VOLATILE: [&str; 4] = ["/etc/mtab", "/etc/resolv.conf", "/etc/hosts", "/etc/ld.so.cache"];

/// Everything that is compared, by name.
#[derive(PartialEq, Eq)]
pub(crate) struct Machine(BTreeMap<String, String>);

impl Machine {
    /// Records the state of the machine.
    pub(crate) fn inspect() -> Self {
        let mut seen = BTreeMap::new();
        for directory in WHOLE {
            walk(Path::new(directory), &mut seen);
        }
        for directory in SHARED {
            for path in children(Path::new(directory)) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if (name.starts_with("qus") || name.starts_with(".qus")) && !is_held(&path) {
                    seen.insert(format!("leftover {}", path.display()), "there".to_owned());
                }
            }
        }
        for (at, mount) in fs::read_to_string("/proc/self/mounts").unwrap().lines().enumerate() {
            seen.insert(format!("mount {at}"), mount.to_owned());
        }
        if fs::read_to_string("/proc/self/mounts").unwrap().contains(" binfmt_misc ") {
            for path in children(Path::new(INSTANCE)) {
                if let Ok(text) = fs::read_to_string(&path) {
                    seen.insert(path.display().to_string(), text);
                }
            }
        }
        Self(seen)
    }

    /// Returns leftovers of the tests, one line each: processes, or if there are none, differences to the recorded
    /// state.
    pub(crate) fn left_behind(&self) -> Vec<String> {
        let processes = surviving_processes();
        if processes.is_empty() { self.differences_now() } else { processes }
    }

    /// Returns every lasting difference to the recorded state, one line each.
    fn differences_now(&self) -> Vec<String> {
        let mut differences = self.differences(&Self::inspect());
        if !differences.is_empty() {
            sleep(MOMENT);
            let later = self.differences(&Self::inspect());
            differences.retain(|name, _| later.contains_key(name));
        }
        differences.into_values().collect()
    }

    /// Returns every difference, by its name.
    fn differences(&self, later: &Self) -> BTreeMap<String, String> {
        let names: BTreeSet<_> = self.0.keys().chain(later.0.keys()).collect();
        let differs = names.into_iter().filter(|name| self.0.get(*name) != later.0.get(*name));
        // Every run of qus removes leftover files, so a missing one is no difference.
        let differs = differs.filter(|name| !name.starts_with("leftover ") || later.0.contains_key(*name));
        let line = |name: &String| format!("{name}: {:?}, now {:?}", self.0.get(name), later.0.get(name));
        differs.map(|name| (name.clone(), line(name))).collect()
    }
}

/// Makes this process the parent of the tests' orphans.
pub(crate) fn adopt_orphans() {
    set_child_subreaper(true).unwrap();
}

/// Returns the command lines of processes that the tests have left behind.
fn surviving_processes() -> Vec<String> {
    let deadline = Instant::now() + MOMENT;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(_no_child) => return Vec::new(),
            Ok(WaitStatus::StillAlive) if Instant::now() < deadline => sleep(Duration::from_millis(50)),
            Ok(WaitStatus::StillAlive) => break,
            Ok(_ended) => {}
        }
    }
    let tasks = children(Path::new("/proc/self/task"));
    let lists = tasks.iter().filter_map(|task| fs::read_to_string(task.join("children")).ok());
    let ids: Vec<String> =
        lists.flat_map(|list| list.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect();
    let line = |id: &String| {
        let line = fs::read(format!("/proc/{id}/cmdline")).ok()?;
        Some(format!("process {id}: {}", String::from_utf8_lossy(&line).replace('\0', " ")))
    };
    ids.iter().filter_map(line).collect()
}

/// Reports whether a process uses this file or directory: qus locks its temporary files while it runs.
/// [`surviving_processes`] finds processes of the tests; other processes do not concern the tests.
fn is_held(path: &Path) -> bool {
    fs::File::open(path).is_ok_and(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock).is_err())
}

fn children(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|file| file.path()).collect()
}

fn walk(directory: &Path, seen: &mut BTreeMap<String, String>) {
    for path in children(directory) {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let name = path.display().to_string();
        if metadata.is_dir() {
            walk(&path, seen);
        }
        if VOLATILE.contains(&name.as_str()) {
            continue;
        }
        let times = if metadata.is_dir() { 0 } else { metadata.mtime() };
        let mode = metadata.permissions().mode();
        let size = if metadata.is_dir() { 0 } else { metadata.len() };
        seen.insert(name, format!("mode {mode:o}, {size} bytes, changed at {times}"));
    }
}

kernel_test!(a_changed_machine_is_noticed);
pub(crate) fn a_changed_machine_is_noticed(lab: &crate::lab::Lab) {
    use nix::mount::{MsFlags, mount};
    for directory in ["/etc", "/dev/shm"] {
        mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    }
    let before = Machine::inspect();
    assert_eq!(before.differences_now(), [""; 0]);
    fs::write("/etc/new", "").unwrap();
    lab.register(b":new:E::new::/bin/true:").unwrap();
    mount(Some("none"), "/mnt", Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    fs::write("/dev/shm/qus-left", "").unwrap();
    let found = before.differences_now().join("\n");
    for name in ["/etc/new: None", "binfmt_misc/new: None", "tmpfs", "leftover /dev/shm/qus-left: None"] {
        assert!(found.contains(name), "no {name} in {found}");
    }
}
