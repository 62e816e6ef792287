//! [`Manager`]: downloads packages with dnf, zypper, pacman or apk into a private directory, without installing them.
//!
//! The sources, proxies, keys and signature checks are those of the host. The options are those of dnf(8) with its
//! plugin dnf-download(8), zypper(8), pacman(8) and apk(8). The package names are those of each distribution.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use thiserror::Error;

use super::{FromPackage, MemberFilter, Package, PackageError, Progress};
use crate::base::order;
use crate::system::process;
use crate::system::temp_dir::TempDir;

/// Maximum depth to which the private directory is searched for downloaded packages. zypper creates a directory per
/// repository, and in each of them a directory per architecture.
const DEPTH: usize = 3;

/// Package manager other than apt, with the arguments that make it download a package.
#[derive(Debug)]
pub struct Manager {
    /// Name of the program.
    pub program: &'static str,
    /// Arguments before the path of the private directory. `after` holds the arguments between this path and the
    /// package name.
    before: &'static [&'static str],
    after: &'static [&'static str],
    packages: Packages,
    /// True if qus verifies the signature of a downloaded package itself, because dnf-download compares only digests.
    check: bool,
}

/// Division of the emulators into packages by a distribution, and the names of these packages.
#[derive(Debug)]
enum Packages {
    /// One package contains all emulators. The value is the package name.
    One(&'static str),
    /// Each package contains one emulator. The value is the part of the package name before the architecture.
    Each(&'static str),
    /// Each package contains the emulators for a family of architectures. The value is the part of the package name
    /// before the name of the family.
    Families(&'static str),
}

/// Families of architectures for which Fedora has packages. Each family includes the architectures whose names begin
/// with one of the listed prefixes.
const FAMILIES: [(&str, &[&str]); 17] = [
    ("aarch64", &["aarch64"]),
    ("alpha", &["alpha"]),
    ("arm", &["arm"]),
    ("hexagon", &["hexagon"]),
    ("hppa", &["hppa"]),
    ("loongarch64", &["loongarch64"]),
    ("m68k", &["m68k"]),
    ("microblaze", &["microblaze"]),
    ("mips", &["mips"]),
    ("or1k", &["or1k"]),
    ("ppc", &["ppc"]),
    ("riscv", &["riscv"]),
    ("s390x", &["s390x"]),
    ("sh4", &["sh4"]),
    ("sparc", &["sparc"]),
    ("x86", &["i386", "x86_64"]),
    ("xtensa", &["xtensa"]),
];

static MANAGERS: [Manager; 4] = [
    Manager {
        program: "dnf",
        before: &["--assumeyes", "--quiet", "download", "--destdir"],
        after: &[],
        packages: Packages::Families("qemu-user-static-"),
        check: true,
    },
    Manager {
        program: "zypper",
        before: &["--non-interactive", "--quiet", "--pkg-cache-dir"],
        after: &["download"],
        packages: Packages::One("qemu-linux-user"),
        check: false,
    },
    Manager {
        program: "pacman",
        // Dependencies are not downloaded, and nothing is written to the host's log. The database is private as well: a
        // database that is newer than the installed packages would break the next installation.
        before: &["-Sywdd", "--noconfirm", "--logfile", "/dev/null", "--cachedir"],
        after: &["--dbpath"],
        packages: Packages::One("qemu-user-static"),
        check: false,
    },
    Manager {
        program: "apk",
        before: &["--no-cache", "--quiet", "fetch", "--output"],
        after: &[],
        packages: Packages::Each("qemu-"),
        check: false,
    },
];

/// Failure to fetch packages with a package manager.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManagerError {
    /// The package manager could not be started, or its download directory could not be used.
    #[error("cannot download with {0}")]
    Io(&'static str, #[source] io::Error),
    /// The package manager downloaded no package.
    #[error("{program} downloaded no package: {messages}")]
    Nothing {
        /// Name of the package manager.
        program: &'static str,
        /// Messages of the package manager for each package.
        messages: String,
    },
    /// A package is not signed by a key that the host trusts.
    #[error("{} is not signed by a key that this machine trusts: {messages}", path.display())]
    Unsigned {
        /// Path of the package file.
        path: PathBuf,
        /// Output of rpmkeys about the package.
        messages: String,
    },
    /// A package could not be read or unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
}

impl Manager {
    /// Returns the package manager of this host's distribution. If the distribution is unknown or its package manager
    /// is not installed, returns the first installed one of dnf, zypper, pacman and apk. Returns `None` if the host
    /// uses apt, or if none of these four is installed.
    #[must_use]
    pub fn of_this_machine() -> Option<&'static Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if is_installed("apt-get") && family(&release).is_none() {
            return None;
        }
        let distributions = MANAGERS.iter().filter(|manager| family(&release) == Some(manager.program));
        distributions.chain(&MANAGERS).find(|manager| is_installed(manager.program))
    }

    /// Downloads the packages with emulators for `arches` and extracts the requested files into `dest`.
    ///
    /// A missing package is an error only if all of these packages are missing.
    pub fn fetch(
        &self,
        arches: &[&str],
        selection: &mut dyn MemberFilter,
        dest: &Path,
        progress: &dyn Progress,
    ) -> Result<Vec<FromPackage>, ManagerError> {
        let (mut fetched, mut messages) = (Vec::new(), Vec::new());
        for name in self.names(arches) {
            if selection.satisfied() {
                break;
            }
            progress.message(&format!("downloading {name}"));
            let directory = TempDir::create(false)
                .map_err(|reasons| ManagerError::Io(self.program, std::io::Error::other(reasons)))?;
            let output = self.download(&directory, &name)?;
            // A failed download may leave unverified files.
            let files = if output.status.success() { packages(directory.path()) } else { Vec::new() };
            if files.is_empty() {
                messages.push(format!("{name}: {}", last_messages(&output)));
            }
            for file in files {
                if self.check {
                    Self::check(&file)?;
                }
                let package = Package::open(&file)?;
                let Some(info) = package.info().cloned() else {
                    return Err(PackageError::Unknown { path: file }.into());
                };
                progress.message(&format!("unpacking {} {}", info.name, info.version));
                let sha256 = package.sha256()?;
                let extraction = package.extract(selection, dest, progress)?;
                fetched.push(FromPackage { info, extraction, sha256 });
            }
        }
        if fetched.is_empty() && !messages.is_empty() {
            return Err(ManagerError::Nothing { program: self.program, messages: messages.join("; ") });
        }
        Ok(fetched)
    }

    /// Returns the names of the distribution's packages that contain emulators for `arches`.
    fn names(&self, arches: &[&str]) -> Vec<String> {
        match self.packages {
            Packages::One(name) => vec![name.to_owned()],
            Packages::Each(before) => arches.iter().map(|arch| format!("{before}{arch}")).collect(),
            Packages::Families(before) => FAMILIES
                .iter()
                .filter(|(_, begins)| {
                    arches.iter().any(|arch| begins.iter().any(|begin| arch.starts_with(begin)))
                })
                .map(|(family, _)| format!("{before}{family}"))
                .collect(),
        }
    }

    fn download(&self, directory: &TempDir, name: &str) -> Result<Output, ManagerError> {
        let mut words: Vec<OsString> = self.before.iter().map(OsString::from).collect();
        words.push(directory.path().into());
        words.extend(self.after.iter().map(OsString::from));
        if self.after.last().is_some_and(|word| word.starts_with("--")) {
            let database = directory.path().join("database");
            fs::create_dir(&database).map_err(|error| ManagerError::Io(self.program, error))?;
            words.push(database.into());
        }
        words.push(name.into());
        run(self.program, &words).map_err(|error| ManagerError::Io(self.program, error))
    }

    /// Verifies the signature of the package `file` with rpmkeys(8). rpmkeys prints "digests signatures OK" for a
    /// signed package, and "digests OK" for an unsigned one.
    fn check(file: &Path) -> Result<(), ManagerError> {
        let words = ["--checksig".into(), file.into()];
        let output = run("rpmkeys", &words).map_err(|error| ManagerError::Io("rpmkeys", error))?;
        let printed = String::from_utf8_lossy(&output.stdout);
        if output.status.success() && printed.contains("signatures OK") {
            return Ok(());
        }
        Err(ManagerError::Unsigned { path: file.to_owned(), messages: printed.trim().to_owned() })
    }
}

/// Returns the name of the package manager of a distribution. `release` is the content of the distribution's
/// os-release(5). The result is `None` for Debian, its derivatives and unknown distributions.
fn family(release: &str) -> Option<&'static str> {
    let value = |line: &str| {
        let value = line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE="))?;
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    let ids: Vec<String> = release.lines().filter_map(value).collect();
    ids.iter().flat_map(|ids| ids.split_whitespace()).find_map(|id| match id {
        "fedora" | "rhel" | "centos" => Some("dnf"),
        "suse" | "opensuse" | "sles" => Some("zypper"),
        "arch" => Some("pacman"),
        "alpine" => Some("apk"),
        _ => None,
    })
}

/// Reports whether a package manager that qus knows is installed. The answer is determined once.
#[must_use]
pub fn has_package_manager() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| is_installed("apt-get") || Manager::of_this_machine().is_some())
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn run(program: &str, words: &[OsString]) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE");
    process::output(&mut command)
}

/// Returns the error messages in the `output` of a program, or its standard output if it printed no errors.
fn last_messages(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', "; ");
    let (errors, rest) = (text(&output.stderr), text(&output.stdout));
    let printed = if errors.is_empty() { rest } else { errors };
    if printed.is_empty() { output.status.to_string() } else { printed }
}

/// Returns the paths of the package files in `directory` and its subdirectories.
fn packages(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![(directory.to_owned(), 0)];
    while let Some((directory, depth)) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            if kind.as_ref().is_ok_and(fs::FileType::is_dir) && depth < DEPTH {
                directories.push((path, depth + 1));
            } else if kind.is_ok_and(|kind| kind.is_file()) && is_package(&path) {
                found.push(path);
            }
        }
    }
    order::sort(&mut found);
    found
}

/// Reports whether `path` has the file name of a package. The searched directories also contain signatures and
/// databases.
fn is_package(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
    let archive = path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with(".pkg.tar"));
    matches!(extension, "rpm" | "apk") || archive && matches!(extension, "zst" | "xz" | "gz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_distribution_has_its_own_names() {
        let names = |at: usize, arches: &[&str]| MANAGERS[at].names(arches);
        let arches = ["arm", "armeb", "x86_64", "i386", "sparc64"];
        let before =
            |names: &[&str]| names.iter().map(|name| format!("qemu-user-static-{name}")).collect::<Vec<_>>();
        assert_eq!(names(0, &arches), before(&["arm", "sparc", "x86"]));
        assert_eq!(names(1, &arches), ["qemu-linux-user"]);
        assert_eq!(names(2, &arches), ["qemu-user-static"]);
        assert_eq!(names(3, &["arm", "s390x"]), ["qemu-arm", "qemu-s390x"]);
    }

    #[test]
    fn the_distribution_decides_the_package_manager() {
        assert_eq!(family("NAME=x\nID=fedora\n"), Some("dnf"));
        assert_eq!(family("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n"), Some("dnf"));
        assert_eq!(family("ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n"), Some("zypper"));
        assert_eq!((family("ID=arch"), family("ID=alpine")), (Some("pacman"), Some("apk")));
        assert_eq!(family("ID=ubuntu\nID_LIKE=debian\n"), None);
    }
}
