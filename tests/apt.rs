//! Tests downloads through the machine's apt, from repositories that the tests create.
//!
//! The tests use no network, and change nothing of the machine's apt. Without apt they do nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stderr, clippy::print_stdout)]

#[allow(dead_code, reason = "the tests of packages need more of it")]
#[path = "support/packages.rs"]
mod build;

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use build::{Tree, ar};
use qus::package::{Apt, AptError, MemberFilter, Package, Sha256, debian_packages, fetch_with_apt};

/// A repository of packages that have one file each, and an [`Apt`] that uses only this repository.
struct Repository {
    directory: tempfile::TempDir,
}

impl Repository {
    /// Creates an empty repository. Returns `None` on a machine without apt.
    fn new() -> Option<Self> {
        if Command::new("apt-get").arg("--version").output().is_err() {
            eprintln!("skipped: apt-get is not installed");
            return None;
        }
        let repository = Self { directory: tempfile::tempdir().unwrap() };
        // apt's own user reads the repository and the cache.
        fs::set_permissions(repository.directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(repository.repository()).unwrap();
        repository.sources(&["repository"]);
        repository.publish(&[]);
        Some(repository)
    }

    fn repository(&self) -> PathBuf {
        self.directory.path().join("repository")
    }

    fn cache(&self) -> PathBuf {
        self.directory.path().join("cache of qus")
    }

    fn apt(&self) -> Apt {
        Apt::new(self.cache()).sources_list(self.directory.path().join("sources.list"))
    }

    /// Writes `sources.list` with a time of 90 minutes ago, so that lists made now are newer.
    fn sources(&self, directories: &[&str]) {
        let base = self.directory.path().display();
        let line = |directory: &&str| format!("deb [trusted=yes] copy:{base}/{directory} ./\n");
        let path = self.directory.path().join("sources.list");
        fs::write(&path, directories.iter().map(line).collect::<String>()).unwrap();
        age(&path, Duration::from_mins(90));
    }

    /// Puts packages into the repository. Each has a name and files.
    fn publish(&self, packages: &[(&str, &[&str])]) {
        let mut index = String::new();
        for (name, files) in packages {
            let file = format!("{name}.deb");
            let path = self.repository().join(&file);
            fs::write(&path, deb(name, files)).unwrap();
            let sum = Command::new("sha256sum").arg(&path).output().unwrap().stdout;
            let sum = String::from_utf8(sum).unwrap()[..64].to_owned();
            let size = fs::metadata(&path).unwrap().len();
            writeln!(index, "Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x").unwrap();
            writeln!(index, "Filename: ./{file}\nSize: {size}\nSHA256: {sum}\nDescription: x\n").unwrap();
        }
        fs::write(self.repository().join("Packages"), index).unwrap();
    }

    /// Returns the number of directories left in the cache of downloads.
    fn downloads(&self) -> usize {
        let names = fs::read_dir(self.cache()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_str().unwrap().starts_with("download-")).count()
    }
}

fn age(path: &Path, age: Duration) {
    of(path, SystemTime::now() - age);
}

/// Sets the time of a file or a directory.
fn of(path: &Path, time: SystemTime) {
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn deb(name: &str, files: &[&str]) -> Vec<u8> {
    let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\n");
    let control = Tree::new().file("./control", control.as_bytes()).done();
    let add =
        |tree: Tree, file: &&str| tree.file(&format!("./usr/bin/{file}"), format!("{name}'s").as_bytes());
    let data = files.iter().fold(Tree::new(), add).done();
    ar(&[("debian-binary", &b"2.0\n"[..]), ("control.tar", &control), ("data.tar", &data)])
}

struct ArchFilter(Vec<&'static str>);

impl MemberFilter for ArchFilter {
    fn want(&mut self, file_name: &[u8]) -> Option<String> {
        let name = std::str::from_utf8(file_name).ok()?;
        self.0.contains(&name).then(|| name.to_owned())
    }
    fn complete(&self) -> bool {
        self.0.is_empty()
    }
    fn accept(&mut self, stored_name: &str, _: &Path) -> Result<(), String> {
        self.0.retain(|name| *name != stored_name);
        Ok(())
    }
}

#[test]
fn a_download_is_there_as_long_as_its_guard() {
    let Some(repository) = Repository::new() else { return };
    repository.publish(&[("qemu-user", &["qemu-arm"])]);
    let download = repository.apt().download("qemu-user", &()).unwrap().unwrap();
    let path = download.path().to_owned();
    assert_eq!(Package::open(&path).unwrap().info().unwrap().name, "qemu-user");
    assert_eq!(repository.downloads(), 1);
    drop(download);
    assert_eq!(repository.downloads(), 0);
}

#[test]
fn an_unknown_package_is_no_error() {
    let Some(repository) = Repository::new() else { return };
    for name in ["qemu-user", "--help", "*", "a b", ""] {
        let result = repository.apt().download(name, &());
        assert!(matches!(result, Ok(None) | Err(AptError::Failed { .. })), "{name:?}: {result:?}");
    }
    assert!(repository.apt().download("qemu-user", &()).unwrap().is_none());
    assert_eq!(repository.downloads(), 0);
}

#[test]
fn lists_are_fetched_when_they_are_old_or_older_than_the_sources() {
    let Some(repository) = Repository::new() else { return };
    let known = || repository.apt().download("qemu-user", &()).unwrap().is_some();
    assert!(!known());
    repository.publish(&[("qemu-user", &[])]);
    assert!(!known(), "the lists are some seconds old");
    age(&repository.cache().join("updated"), Duration::from_mins(61));
    assert!(known());
    repository.publish(&[]);
    assert!(known());
    age(&repository.directory.path().join("sources.list"), Duration::ZERO);
    assert!(!known());
}

#[test]
fn a_package_that_is_gone_is_looked_up_again() {
    let Some(repository) = Repository::new() else { return };
    repository.publish(&[("qemu-user", &[])]);
    assert!(repository.apt().download("qemu-user", &()).unwrap().is_some());
    fs::remove_file(repository.repository().join("qemu-user.deb")).unwrap();
    repository.publish(&[]);
    assert!(repository.apt().download("qemu-user", &()).unwrap().is_none());
}

/// Tests that qus fetches new lists once after a failed download, and detects an unknown package by the exit status.
/// The messages of apt do not matter.
#[test]
fn the_words_of_apt_do_not_matter() {
    let Some(repository) = Repository::new() else { return };
    repository.publish(&[("qemu-user", &["qemu-arm"])]);
    assert!(repository.apt().download("qemu-user", &()).unwrap().is_some());
    let bin = repository.directory.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let wrapper = bin.join("apt-get");
    // An apt that prints other messages.
    let script =
        "#!/bin/sh\nPATH=/usr/bin:/bin\napt-get \"$@\" 2>/dev/null && exit\necho 'E: !' >&2; exit 100\n";
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).unwrap();
    let fetch = |package: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "download_of_another_process"])
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("QUS_TEST_CACHE", repository.cache())
            .env("QUS_TEST_SOURCES", repository.directory.path().join("sources.list"))
            .env("QUS_TEST_PACKAGE", package)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(fetch("absent").contains("result: unknown"));
    fs::remove_file(repository.repository().join("qemu-user.deb")).unwrap();
    repository.publish(&[]);
    let printed = fetch("qemu-user");
    assert!(printed.contains("result: unknown"), "{printed}");
}

/// Downloads in a process that [`the_words_of_apt_do_not_matter`] starts with another `PATH`. Does nothing in other
/// processes.
#[test]
fn download_of_another_process() {
    let Some(cache) = std::env::var_os("QUS_TEST_CACHE") else { return };
    let sources = std::env::var_os("QUS_TEST_SOURCES").unwrap();
    let apt = Apt::new(cache.into()).sources_list(sources.into());
    match apt.download(&std::env::var("QUS_TEST_PACKAGE").unwrap(), &()) {
        Ok(Some(_)) => println!("result: package"),
        Ok(None) => println!("result: unknown"),
        Err(error) => println!("result: {error}"),
    }
}

#[test]
fn a_package_that_differs_from_its_list_is_refused() {
    let Some(repository) = Repository::new() else { return };
    repository.publish(&[("qemu-user", &["qemu-arm"])]);
    let path = repository.repository().join("qemu-user.deb");
    let mut content = fs::read(&path).unwrap();
    content[200] ^= 1;
    fs::write(&path, content).unwrap();
    let error = repository.apt().download("qemu-user", &()).unwrap_err().to_string();
    assert!(error.starts_with("apt-get download qemu-user failed: E: "), "{error}");
    assert_eq!(repository.downloads(), 0);
}

#[test]
fn a_repository_that_fails_matters_only_for_what_is_not_found() {
    let Some(repository) = Repository::new() else { return };
    repository.sources(&["nowhere", "repository"]);
    repository.publish(&[("qemu-user", &[])]);
    assert!(repository.apt().download("qemu-user", &()).unwrap().is_some());
    let error = repository.apt().download("qemu-user-static", &()).unwrap_err().to_string();
    assert!(error.starts_with("apt-get update failed: "), "{error}");
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn unsigned_repositories_are_refused() {
    let Some(repository) = Repository::new() else { return };
    repository.publish(&[("qemu-user", &[])]);
    let list = repository.directory.path().join("sources.list");
    let text = fs::read_to_string(&list).unwrap().replace("[trusted=yes] ", "");
    fs::write(&list, text).unwrap();
    let error = repository.apt().download("qemu-user", &()).unwrap_err().to_string();
    assert!(error.contains("Release"), "{error}");
}

#[test]
fn several_at_once_do_not_disturb_each_other() {
    let Some(repository) = Repository::new() else { return };
    repository.publish(&[("qemu-user", &["qemu-arm"])]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let download = repository.apt().download("qemu-user", &()).unwrap().unwrap();
                Package::open(download.path()).unwrap();
            });
        }
    });
    assert_eq!(repository.downloads(), 0);
}

/// Tests leftovers of a process that was killed while the clock was wrong, by a process whose clock may also be wrong.
#[test]
fn leftovers_of_killed_processes_are_removed_whatever_the_time() {
    const YEARS: Duration = Duration::from_hours(24 * 365 * 30);
    let Some(repository) = Repository::new() else { return };
    repository.publish(&[("qemu-user", &["qemu-arm"])]);
    let download = || repository.apt().download("qemu-user", &()).unwrap().unwrap();
    let held = download();
    for (name, time) in [
        ("download-first", SystemTime::UNIX_EPOCH),
        ("download-later", SystemTime::now() + YEARS),
        ("download-young", SystemTime::now()),
    ] {
        let directory = repository.cache().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("half.deb"), "half").unwrap();
        of(&directory, time);
    }
    for time in [SystemTime::UNIX_EPOCH, SystemTime::now() + YEARS] {
        of(held.path().parent().unwrap(), time);
        drop(download());
        assert!(held.path().exists(), "a directory in use must stay");
    }
    // The new directory may belong to a process that could not lock it.
    assert!(repository.cache().join("download-young").exists());
    assert_eq!(repository.downloads(), 2);
    drop(held);
    assert_eq!(repository.downloads(), 1);
}

/// Tests that lists with a time in the future do not count as newer.
#[test]
fn lists_from_the_future_are_fetched_again() {
    let Some(repository) = Repository::new() else { return };
    let known = || repository.apt().download("qemu-user", &()).unwrap().is_some();
    assert!(!known());
    repository.publish(&[("qemu-user", &[])]);
    for time in [SystemTime::now() + Duration::from_hours(24 * 365), SystemTime::UNIX_EPOCH] {
        of(&repository.cache().join("updated"), time);
        assert!(known());
        let updated = fs::metadata(repository.cache().join("updated")).unwrap().modified().unwrap();
        assert!(
            updated.elapsed().unwrap() < Duration::from_mins(10),
            "the next download must need no update"
        );
    }
    // The sources have a time in the future, too: then no list counts as newer than the sources.
    of(&repository.directory.path().join("sources.list"), SystemTime::now() + Duration::from_hours(24 * 365));
    repository.publish(&[]);
    assert!(!known());
}

#[test]
fn packages_are_tried_in_order_until_all_is_found() {
    let Some(repository) = Repository::new() else { return };
    let dest = repository.directory.path().join("dest");
    let fetch = |names: &[&'static str]| {
        fetch_with_apt(&repository.apt(), &mut ArchFilter(names.to_vec()), &[], &dest, &()).unwrap()
    };
    let [first, second] = debian_packages() else { panic!("more packages to test") };
    repository.publish(&[(first, &["qemu-arm"]), (second, &["qemu-arm", "qemu-s390x"])]);

    let fetched = fetch(&["qemu-arm"]);
    assert_eq!(fetched.packages.len(), 1);
    assert_eq!(fs::read_to_string(dest.join("qemu-arm")).unwrap(), "qemu-user-static's");

    let fetched = fetch(&["qemu-arm", "qemu-s390x"]);
    let names: Vec<_> = fetched.packages.iter().map(|from| from.info.name.as_str()).collect();
    assert_eq!(names, ["qemu-user-static", "qemu-user"]);
    assert_eq!(fs::read_to_string(dest.join("qemu-s390x")).unwrap(), "qemu-user's");

    repository.publish(&[(second, &["qemu-arm"])]);
    age(&repository.cache().join("updated"), Duration::from_mins(61));
    let fetched = fetch(&["qemu-arm"]);
    assert_eq!(fetched.unknown, ["qemu-user-static"]);
    assert_eq!(fs::read_to_string(dest.join("qemu-arm")).unwrap(), "qemu-user's");
}

#[test]
fn a_package_of_a_known_digest_is_not_downloaded() {
    let Some(repository) = Repository::new() else { return };
    let dest = repository.directory.path().join("dest");
    repository.publish(&[("qemu-user-static", &["qemu-arm"])]);
    let fetch = |known: &[Sha256]| {
        fetch_with_apt(&repository.apt(), &mut ArchFilter(vec!["qemu-arm"]), known, &dest, &()).unwrap()
    };
    assert_eq!(repository.apt().candidate("qemu-user", &()).unwrap(), None);
    let digest = repository.apt().candidate("qemu-user-static", &()).unwrap().unwrap();
    let fetched = fetch(&["0".repeat(64).parse().unwrap()]);
    assert_eq!((fetched.packages[0].sha256, fetched.known), (digest, None));
    // No other source has the package now.
    fs::remove_file(repository.repository().join("qemu-user-static.deb")).unwrap();
    let fetched = fetch(std::slice::from_ref(&digest));
    assert_eq!((fetched.packages.len(), fetched.known), (0, Some(digest)));
}
