//! `qus fetch` on other distributions. Scripts imitate their package managers: they accept the documented arguments,
//! and put a package where the real ones put it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[allow(dead_code, reason = "the tests of packages need more of it")]
#[path = "support/packages.rs"]
mod build;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use build::{Cpio, Tree, apk, pack, rpm};
use qus::arch::Arch;
use qus::probe::ProbeTarget;

/// A machine whose only programs are these scripts.
struct Machine {
    directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir(machine.path("bin")).unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn program(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        let log = self.path("log");
        let head = format!("#!/bin/sh\nPATH=/usr/bin:/bin\necho \"{name} $*\" >>{}\n", log.display());
        fs::write(&path, head + script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs `qus fetch`. Returns exit status, output, and the arguments of the scripts without names of directories.
    fn fetch(&self, arches: &str) -> (i32, String, Vec<String>) {
        let _ = fs::remove_file(self.path("log"));
        let output = Command::new(env!("CARGO_BIN_EXE_qus"))
            .args(["fetch", arches, "--dest"])
            .arg(self.path("dest"))
            .env("PATH", self.path("bin"))
            .env("TMPDIR", self.directory.path())
            .output()
            .unwrap();
        let printed = [output.stdout, output.stderr].concat();
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let plain = |word: &str| {
            let word = word.strip_prefix(self.directory.path().to_str().unwrap()).unwrap_or(word);
            if word.starts_with("/qus-tmp-") { "DIR".to_owned() } else { word.to_owned() }
        };
        let words = log.lines().map(|line| line.split(' ').map(plain).collect::<Vec<_>>().join(" "));
        let left = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.into_iter().all(|name| !name.to_str().unwrap().starts_with("qus-tmp-")));
        (output.status.code().unwrap(), String::from_utf8(printed).unwrap(), words.collect())
    }
}

/// Returns a static program of this host, which qus accepts as an interpreter. The executable of qus may be dynamically
/// linked, as distributions build it.
fn program() -> Vec<u8> {
    let header = fs::read(env!("CARGO_BIN_EXE_qus")).unwrap();
    let host = Arch::from_header(&header).unwrap();
    ProbeTarget::all_of(host).next().unwrap().image()
}

fn an_rpm(file: &str) -> Vec<u8> {
    rpm(&pack("", &Cpio::new().file(&format!("./usr/bin/{file}"), &program()).done()))
}

#[test]
fn dnf_gives_a_package_for_a_family_and_rpm_checks_it() {
    let machine = Machine::new();
    fs::write(machine.path("package"), an_rpm("qemu-arm-static")).unwrap();
    let script = format!(
        "case $* in *-arm) cp {} $5/x.rpm;; *) echo 'No package available.' >&2; exit 1;; esac\n",
        machine.path("package").display()
    );
    machine.program("dnf", &script);
    machine.program("rpmkeys", "echo \"$2: digests signatures OK\"\n");
    let (status, printed, words) = machine.fetch("arm,s390x");
    assert_eq!(status, 2, "{printed}");
    assert!(printed.contains("qemu-arm-static  from qemu-user-static-arm 2:9.1.0-2.fc41\n"), "{printed}");
    assert!(printed.contains("no static interpreter for s390x"), "{printed}");
    assert_eq!(words[0], "dnf --assumeyes --quiet download --destdir DIR qemu-user-static-arm");
    assert!(words[1].starts_with("rpmkeys --checksig "), "{words:?}");
    assert_eq!(words[2], "dnf --assumeyes --quiet download --destdir DIR qemu-user-static-s390x");

    fs::remove_dir_all(machine.path("dest")).unwrap();
    for script in ["echo \"$2: digests OK\"\n", "echo \"$2: digests SIGNATURES NOT OK\"; exit 1\n"] {
        machine.program("rpmkeys", script);
        let (status, printed, _) = machine.fetch("arm");
        assert_eq!(status, 2, "{printed}");
        assert!(printed.contains("x.rpm is not signed by a key that this machine trusts: "), "{printed}");
        assert!(printed.contains("rpmkeys --import "), "{printed}");
        assert!(!machine.path("dest").exists());
    }
    let (status, printed, _) = machine.fetch("s390x");
    assert_eq!(status, 2);
    assert!(
        printed.contains("dnf downloaded no package: qemu-user-static-s390x: No package available."),
        "{printed}"
    );
}

#[test]
fn zypper_gives_one_package_below_its_directory() {
    let machine = Machine::new();
    fs::write(machine.path("package"), an_rpm("qemu-arm")).unwrap();
    let script =
        format!("mkdir -p $4/oss/x86_64; cp {} $4/oss/x86_64/x.rpm\n", machine.path("package").display());
    machine.program("zypper", &script);
    let (status, printed, words) = machine.fetch("arm");
    assert_eq!(status, 0, "{printed}");
    let line = "zypper --non-interactive --quiet --pkg-cache-dir DIR download qemu-linux-user";
    assert_eq!(words, [line]);
}

#[test]
fn pacman_gives_one_package_with_a_database_of_its_own() {
    let machine = Machine::new();
    let info = b"pkgname = qemu-user-static\npkgver = 9.1.0-1\narch = x86_64\n";
    let tree = Tree::new().file(".PKGINFO", info).file("usr/bin/qemu-arm-static", &program()).done();
    fs::write(machine.path("package"), pack("", &tree)).unwrap();
    let copy = format!(
        "cp {} $6/q.pkg.tar.zst; echo signature >$6/q.pkg.tar.zst.sig\n",
        machine.path("package").display()
    );
    machine.program("pacman", &format!("[ -d $8 ] || exit 1; {copy}"));
    let (status, printed, words) = machine.fetch("all");
    assert_eq!(status, 0, "{printed}");
    assert!(printed.contains("from qemu-user-static 9.1.0-1"), "{printed}");
    let line = "pacman -Sywdd --noconfirm --logfile /dev/null --cachedir DIR --dbpath DIR qemu-user-static";
    assert_eq!(words.len(), 1);
    assert_eq!(words[0].replace("/database", ""), line);
}

#[test]
fn what_a_failed_check_leaves_behind_is_not_taken() {
    let machine = Machine::new();
    fs::write(machine.path("package"), an_rpm("qemu-arm")).unwrap();
    let copy = format!("cp {} $6/q.rpm\n", machine.path("package").display());
    machine.program("pacman", &format!("{copy}echo 'error: no signature' >&2; exit 1\n"));
    let (status, printed, _) = machine.fetch("arm");
    assert_eq!(status, 2);
    assert!(
        printed.contains("pacman downloaded no package: qemu-user-static: error: no signature"),
        "{printed}"
    );
    assert!(!machine.path("dest").exists());
}

#[test]
fn apk_gives_a_package_for_each_architecture() {
    let machine = Machine::new();
    let package = apk(&Tree::new().file("usr/bin/qemu-arm", &program()).done());
    fs::write(machine.path("package"), package).unwrap();
    machine.program("apk", &format!("cp {} $5/x.apk\n", machine.path("package").display()));
    let (status, printed, words) = machine.fetch("arm");
    assert_eq!(status, 0, "{printed}");
    assert!(printed.contains("from qemu-arm 9.1.0-r2"), "{printed}");
    assert_eq!(words, ["apk --no-cache --quiet fetch --output DIR qemu-arm"]);
    machine.program("apk", "echo 'ERROR: unable to select packages' >&2; exit 1\n");
    let (status, printed, _) = machine.fetch("arm");
    assert_eq!(status, 2);
    assert!(
        printed.contains("apk downloaded no package: qemu-arm: ERROR: unable to select packages"),
        "{printed}"
    );
}
