//! Interpreters and foreign programs for the tests, from Debian's packages, fetched once into `target/`.
//!
//! `qus fetch` gets the interpreters of the machine's own suite. Other suites have what that suite lacks: a newer QEMU,
//! and programs of architectures that are newer than the suite, or no longer in it. They are fetched from the machine's
//! own package sources, with the name of the suite replaced. Programs of other tools are unpacked and not installed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use qus::package::{Apt, MemberFilter, Package, debian_packages};

use crate::skip::skip;

/// Architectures for which Debian builds busybox-static: QEMU's name and Debian's.
pub(crate) const PROGRAMS: [(&str, &str); 10] = [
    ("aarch64", "arm64"),
    ("arm", "armhf"),
    ("armel", "armel"),
    ("i386", "i386"),
    ("loongarch64", "loong64"),
    ("mips64el", "mips64el"),
    ("mipsel", "mipsel"),
    ("ppc64le", "ppc64el"),
    ("riscv64", "riscv64"),
    ("s390x", "s390x"),
];

/// Suites that have what the machine's own suite may lack, oldest first.
const SUITES: [&str; 3] = ["bookworm", "trixie", "sid"];
/// Suite of the newer QEMU.
const NEWER: &str = "sid";
/// Packages of programs that the tests run, and that a machine may lack.
const TOOLS: [&str; 6] = ["arch-test", "binfmt-support", "libarchive-tools", "openrc", "rpm", "systemd"];
/// Number of the set of downloads. It increases with each new part.
const SET: &str = "3";

/// Returns the content of the file that marks complete downloads: the number of the set, and this distribution. The
/// programs of another distribution may not run here.
fn complete() -> String {
    format!("{SET}\n{}", fs::read_to_string("/etc/os-release").unwrap_or_default())
}

/// Returns the directory of all downloads.
fn directory() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("downloads")
}

/// Returns the path of a part of the downloads. Skips the test if that part could not be downloaded.
fn part(name: &str) -> PathBuf {
    if let Ok(reason) = fs::read_to_string(missing(name)) {
        skip(reason);
    }
    directory().join(name)
}

/// Returns the file that holds the reason why a part is missing.
fn missing(name: &str) -> PathBuf {
    directory().join(format!("missing-{}", name.replace('/', "-")))
}

/// Returns the directory of interpreters of the machine's own suite.
pub(crate) fn distribution() -> PathBuf {
    part("distribution")
}

/// Returns the interpreter for `arch` of the machine's own suite.
pub(crate) fn interpreter(arch: &str) -> PathBuf {
    distribution().join(format!("qemu-{arch}-static"))
}

/// Returns the directory of interpreters of a newer QEMU.
pub(crate) fn newer() -> PathBuf {
    part("newer")
}

/// Returns a static busybox for an architecture, by QEMU's or Debian's name.
pub(crate) fn busybox(name: &str) -> PathBuf {
    part(&format!("busybox/{name}"))
}

/// Returns the packages from which a part came: `distribution` or `newer`.
pub(crate) fn packages(name: &str) -> Vec<PathBuf> {
    part(name);
    let packages = fs::read_dir(directory().join("packages").join(name)).into_iter().flatten();
    let packages: Vec<PathBuf> = packages.map(|file| file.unwrap().path()).collect();
    if packages.is_empty() {
        skip(format!("{name} is from no Debian package"));
    }
    packages
}

/// Returns the root directory of the unpacked [`TOOLS`], and of their dependencies that the machine lacks.
pub(crate) fn tools() -> PathBuf {
    part("tools")
}

/// Returns a directory with a `sudo` that does nothing but start the command. The machine may have none.
pub(crate) fn with_sudo() -> PathBuf {
    directory().join("sudo")
}

/// Creates the directory of [`with_sudo`].
fn make_sudo() {
    let sudo = with_sudo().join("sudo");
    if sudo.exists() {
        return;
    }
    fs::create_dir_all(with_sudo()).unwrap();
    let new = tempfile::NamedTempFile::new_in(with_sudo()).unwrap();
    fs::write(new.path(), "#!/bin/sh\nexec \"$@\"\n").unwrap();
    fs::set_permissions(new.path(), fs::Permissions::from_mode(0o755)).unwrap();
    new.persist(sudo).unwrap();
}

/// Downloads every missing part. If several processes call it, one downloads and the others wait.
pub(crate) fn prepare() {
    make_sudo();
    let ready = directory().join("ready");
    let is_ready = || fs::read_to_string(&ready).is_ok_and(|text| text == complete());
    if is_ready() {
        return;
    }
    fs::create_dir_all(directory()).unwrap();
    let lock = fs::File::create(directory().join("lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
    if is_ready() {
        return;
    }
    eprintln!("fetching interpreters and foreign programs into {}", directory().display());
    let is_complete = std::thread::scope(|scope| {
        let mut parts = vec![
            scope.spawn(|| obtain("distribution", fetch_distribution)),
            scope.spawn(|| obtain("newer", fetch_newer)),
            scope.spawn(|| obtain("tools", fetch_tools)),
        ];
        for half in PROGRAMS.chunks(5) {
            let one = |(name, debian): &(&str, &str)| {
                obtain(&format!("busybox/{name}"), || fetch_busybox(name, debian))
            };
            // One failure does not stop the others.
            parts.push(scope.spawn(move || half.iter().map(one).fold(true, |all, is_there| all & is_there)));
        }
        parts.into_iter().map(|part| part.join().unwrap()).fold(true, |all, is_there| all & is_there)
    });
    if is_complete {
        fs::write(ready, complete()).unwrap();
    }
}

/// Downloads a part, and records the reason of a failure.
fn obtain(name: &str, download: impl FnOnce() -> Result<(), String>) -> bool {
    let result = download();
    match &result {
        Ok(()) => drop(fs::remove_file(missing(name))),
        Err(reason) => {
            fs::write(missing(name), format!("{name} is missing: {}", reason.replace('\n', " "))).unwrap();
        }
    }
    result.is_ok()
}

fn fetch(words: &[&str], dest: &Path) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qus"));
    let output = command.arg("fetch").args(words).arg("--dest").arg(dest).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn fetch_distribution() -> Result<(), String> {
    if Command::new("apt-get").arg("--version").output().is_err() {
        return fetch(&["all"], &directory().join("distribution"));
    }
    fetch_from_packages("distribution", &Apt::new(directory().join("apt/own")))
}

fn fetch_newer() -> Result<(), String> {
    fetch_from_packages("newer", &apt(NEWER, None)?)
}

/// Downloads and stores Debian's packages of interpreters, and fetches the interpreters from the first package that has
/// them. Each suite has at least one such package.
fn fetch_from_packages(name: &str, apt: &Apt) -> Result<(), String> {
    let packages = directory().join("packages").join(name);
    fs::create_dir_all(&packages).unwrap();
    let mut result = Err("the suite has no package of interpreters".to_owned());
    for package in debian_packages() {
        let Some(download) = apt.download(package, &()).map_err(|error| error.to_string())? else { continue };
        let path = packages.join(format!("{package}.deb"));
        fs::copy(download.path(), &path).unwrap();
        if result.is_err() {
            result = fetch(&["all", "--from", path.to_str().unwrap()], &directory().join(name));
        }
    }
    result
}

/// Unpacks the [`TOOLS`] and their dependencies. apt finds the packages that the machine lacks, without installing
/// them.
fn fetch_tools() -> Result<(), String> {
    let (cache, dest) = (directory().join("apt/tools"), directory().join("tools"));
    for name in ["lists/partial", "archives/partial"] {
        fs::create_dir_all(cache.join(name)).unwrap();
    }
    let _ = fs::remove_dir_all(&dest);
    fs::create_dir_all(&dest).unwrap();
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
        command.arg("-o").arg(format!("Dir::State::Lists={}", cache.join("lists").display()));
        command.arg("-o").arg(format!("Dir::Cache={}", cache.display()));
        output(command.args(words).current_dir(&cache))
    };
    apt(&["update"])?;
    let plan =
        apt(&[&["--simulate", "--no-install-recommends", "--no-upgrade", "install"], &TOOLS[..]].concat())?;
    let names: Vec<&str> =
        plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next()).collect();
    if !names.is_empty() {
        apt(&[&["download"], &names[..]].concat())?;
    }
    for file in fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|end| end == "deb") {
            output(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&dest))?;
            fs::remove_file(file).unwrap();
        }
    }
    Ok(())
}

/// Returns the standard output of a program, or its messages if it fails.
fn output(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("cannot start {name}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Returns apt with the machine's own sources, changed to another suite and, if given, another architecture.
fn apt(suite: &str, architecture: Option<&str>) -> Result<Apt, String> {
    let cache = directory().join("apt").join(format!("{suite}-{}", architecture.unwrap_or("own")));
    fs::create_dir_all(&cache).unwrap();
    let list = cache.join("sources.list");
    fs::write(&list, source(suite, architecture)?).unwrap();
    let apt = Apt::new(cache).sources_list(list);
    Ok(match architecture {
        Some(name) => apt.architecture(name.to_owned()),
        None => apt,
    })
}

/// Returns a line for apt's `sources.list`: the machine's first Debian archive, with its key, for another suite.
fn source(suite: &str, architecture: Option<&str>) -> Result<String, String> {
    let is_debian = |uri: &String| uri.trim_end_matches('/').ends_with("/debian");
    let uri = uris()?.into_iter().find(is_debian).ok_or("apt's sources have no Debian archive")?;
    let architecture = architecture.map(|name| format!("arch={name} ")).unwrap_or_default();
    Ok(format!(
        "deb [{architecture}signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {suite} main\n"
    ))
}

/// Returns the archives of apt's sources. It works without downloaded package lists.
fn uris() -> Result<Vec<String>, String> {
    let output = Command::new("apt-get").args(["--print-uris", "update"]).output();
    let output = output.map_err(|error| format!("cannot start apt-get: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let uri = |line: &str| Some(line.strip_prefix('\'')?.split_once("/dists/")?.0.to_owned());
    Ok(text.lines().filter_map(uri).collect())
}

fn fetch_busybox(name: &str, debian: &str) -> Result<(), String> {
    for suite in SUITES {
        if let Ok(Some(package)) = apt(suite, Some(debian))?.download("busybox-static", &()) {
            let mut selection = Busybox { name, done: false };
            let dest = directory().join("busybox");
            Package::open(package.path()).unwrap().extract(&mut selection, &dest, &()).unwrap();
            assert!(selection.done, "no busybox in the package for {debian}");
            return Ok(());
        }
    }
    Err(format!("none of the suites {SUITES:?} gives busybox-static for {debian}"))
}

/// Extracts `busybox` from a package, under another name.
struct Busybox<'a> {
    name: &'a str,
    done: bool,
}

impl MemberFilter for Busybox<'_> {
    fn want(&mut self, file_name: &[u8]) -> Option<String> {
        (file_name == b"busybox" && !self.done).then(|| self.name.to_owned())
    }

    fn complete(&self) -> bool {
        self.done
    }

    fn accept(&mut self, _: &str, _: &Path) -> Result<(), String> {
        self.done = true;
        Ok(())
    }
}

/// Returns the interpreters in a directory, by architecture.
pub(crate) fn interpreters(directory: &Path) -> BTreeMap<String, PathBuf> {
    fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let arch = name.strip_prefix("qemu-")?.strip_suffix("-static")?;
            Some((arch.to_owned(), path.clone()))
        })
        .collect()
}
