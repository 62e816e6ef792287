//! Searches directories for interpreters, which are recognised by their file names.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{CheckError, Interpreter, VersionReq, store, version_in};
use crate::arch::Arch;
use crate::base::escape::display_path;
use crate::base::order::{self, ByArch};
use crate::system::file_id::file_name;
use crate::system::temp_dir::TempDir;

/// Returns the architecture that the emulator called `file_name` emulates. The known names are `qemu-ARCH-static`,
/// `qemu-ARCH` and `ARCH-binfmt-P` (distributions), and `buildkit-qemu-ARCH` (BuildKit).
#[must_use]
pub fn arch_from_file_name(file_name: &[u8]) -> Option<&'static Arch> {
    scheme(file_name).map(|(_, arch)| arch)
}

/// Returns the architecture that a program called `file_name` emulates with QEMU. Besides the names that a search
/// accepts, these are the names of programs that start one of QEMU's emulators: `qemu-ARCH-binfmt-P` (`NixOS`) and
/// `qemu-ARCH-binfmt` (Open Build Service). A search does not accept them, because they need the other file.
#[must_use]
pub fn emulated_by(file_name: &[u8]) -> Option<&'static Arch> {
    let started = |suffix: &[u8]| {
        let name = file_name.strip_suffix(suffix)?;
        name.starts_with(b"qemu-").then(|| arch_from_file_name(name)).flatten()
    };
    arch_from_file_name(file_name).or_else(|| started(b"-binfmt-P")).or_else(|| started(b"-binfmt"))
}

/// Reports whether the last component of `path` is a file name that QEMU's emulators have.
#[must_use]
pub fn is_qemu(path: &Path) -> bool {
    arch_from_file_name(file_name(path)).is_some()
}

/// Returns the rank of an emulator's file name (0 is best) and the architecture in it. Names with `-static` rank first.
/// A file with a plain name may be dynamically linked, and a file with `-binfmt-P` is a link to another emulator.
fn scheme(file_name: &[u8]) -> Option<(u8, &'static Arch)> {
    let name = std::str::from_utf8(file_name).ok()?;
    let (rank, target) = if let Some(target) = name.strip_suffix("-binfmt-P") {
        (2, target)
    } else {
        let target = name.strip_prefix("buildkit-").unwrap_or(name).strip_prefix("qemu-")?;
        target.strip_suffix("-static").map_or((1, target), |target| (0, target))
    };
    Some((rank, Arch::from_qemu_target(target)?))
}

/// Interpreters of one architecture that a search found.
#[derive(Debug, Default)]
pub struct SearchResult {
    /// The first suitable interpreter; `None` if no file is suitable.
    pub interpreter: Option<Interpreter>,
    /// Files with the name of an interpreter that the check rejected, in the order of the search.
    pub unfit: Vec<(PathBuf, CheckError)>,
}

/// Searches the directories `search_dirs`, in this order, for interpreters. The first suitable file for an architecture
/// becomes its interpreter. `host` is the beginning of a program that this host runs natively.
///
/// `requested` returns true for an architecture and a path that are wanted. Each directory is read once, and only
/// wanted files are opened. A directory that is missing or cannot be read counts as empty.
pub fn search(
    search_dirs: &[PathBuf],
    host: &[u8],
    mut requested: impl FnMut(&'static Arch, &Path) -> bool,
) -> ByArch<SearchResult> {
    let mut found = ByArch::<SearchResult>::new();
    for location in search_dirs {
        tracing::debug!("search {}", location.display());
        for (arch, path) in candidates(location) {
            if found.get(arch.name).is_some_and(|found| found.interpreter.is_some())
                || !requested(arch, &path)
            {
                continue;
            }
            let found = found.entry(arch.name).or_default();
            match Interpreter::check(&path, host) {
                Ok(interpreter) => found.interpreter = Some(interpreter),
                Err(unfit) => found.unfit.push((path, unfit)),
            }
        }
    }
    found
}

/// Returns the names of the directories that were searched, as text for a message. Directories that `--interpreter-dir`
/// names (`are_named`) have the reason after their name if they cannot be searched.
pub(crate) fn describe_dirs(search_dirs: &[PathBuf], are_named: bool) -> String {
    let describe = |directory: &PathBuf| {
        let obstacle = if are_named { obstacle(directory) } else { None };
        display_path(directory) + &obstacle.map(|reason| format!(" ({reason})")).unwrap_or_default()
    };
    search_dirs.iter().map(describe).collect::<Vec<_>>().join(", ")
}

/// Returns the reason why a directory cannot be searched; `None` if it can be.
fn obstacle(directory: &Path) -> Option<String> {
    let error = fs::read_dir(directory).err()?;
    Some(match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::NotADirectory => "is not a directory".to_owned(),
        _ => format!("cannot be read: {error}"),
    })
}

/// Returns the interpreters in the results of a search, each with the name of its architecture.
pub(crate) fn usable(found: ByArch<SearchResult>) -> ByArch<PathBuf> {
    order::by_arch(found.into_iter().filter_map(|(arch, found)| Some((arch, found.interpreter?.path))))
}

/// Returns the files of a directory that have the name of an emulator, each with its architecture. They are sorted by
/// architecture, and then by the rank of their name, the best first.
fn candidates(location: &Path) -> Vec<(&'static Arch, PathBuf)> {
    let names = fs::read_dir(location).into_iter().flatten().flatten().map(|file| file.file_name());
    let mut candidates: Vec<_> =
        names.filter_map(|name| scheme(name.as_bytes()).map(|(rank, arch)| (arch, rank, name))).collect();
    order::sort_by_key(&mut candidates, |(arch, rank, _)| (arch.name, *rank));
    candidates.into_iter().map(|(arch, _, name)| (arch, location.join(name))).collect()
}

/// Returns the directories that are searched by default, in this order: those in the environment variables
/// `QUS_INTERPRETER_DIR` and `QEMU_BIN_DIR`, those in `fetched`, and the usual directories of distributions.
#[must_use]
pub fn default_search_dirs(fetched: &[PathBuf]) -> Vec<PathBuf> {
    let system = ["/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"].map(PathBuf::from);
    named_search_dirs().into_iter().chain(fetched.iter().cloned()).chain(system).collect()
}

/// Returns the directories in the environment variables `QUS_INTERPRETER_DIR` and `QEMU_BIN_DIR`. They are searched
/// before all others, even before the interpreters of a bundle.
#[must_use]
pub fn named_search_dirs() -> Vec<PathBuf> {
    let variables = ["QUS_INTERPRETER_DIR", "QEMU_BIN_DIR"];
    let named = variables.iter().filter_map(std::env::var_os);
    let paths = named.flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>());
    paths.filter(|path| !path.as_os_str().is_empty()).collect()
}

/// Returns the directories that are searched if the option `--interpreter-dir` is not given. `unpacked` is the
/// directory with the interpreters of this bundle, if qus is a bundle.
pub(crate) fn search_dirs(unpacked: Option<&TempDir>) -> Vec<PathBuf> {
    let unpacked = unpacked.map(|directory| directory.path().to_owned());
    default_search_dirs(&unpacked.into_iter().chain(store::all_fetched()).collect::<Vec<_>>())
}

/// Reports whether the interpreter of `arch` at `path` has the requested QEMU version. If `requested` is `None`, every
/// file is accepted.
pub(crate) fn is_of(requested: Option<&VersionReq>, arch: &Arch, path: &Path) -> bool {
    requested.is_none_or(|requested| {
        version_in(path, arch.name).is_some_and(|version| requested.matches(&version))
    })
}
