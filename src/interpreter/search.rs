//! The search for interpreters in directories, by their names.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{CheckError, Interpreter, VersionReq, store, version_in};
use crate::arch::Arch;
use crate::system::file_id::file_name;
use crate::system::temp_dir::TempDir;

/// The architecture whose programs a file of this name runs, by the names that distributions give to QEMU's emulators:
/// `qemu-ARCH-static`, `qemu-ARCH`, `ARCH-binfmt-P`, and the `buildkit-qemu-ARCH` of builders.
#[must_use]
pub fn arch_from_file_name(file_name: &[u8]) -> Option<&'static Arch> {
    scheme(file_name).map(|(_, arch)| arch)
}

/// Reports whether the file at `path` is called like one of QEMU's emulators: those can be asked for their version.
#[must_use]
pub fn is_qemu(path: &Path) -> bool {
    arch_from_file_name(file_name(path)).is_some()
}

/// Returns the rank of the naming scheme, best first, and the architecture. Names with `-static` come first. A plain
/// name may be dynamic, and `-binfmt-P` is a link to one of the others.
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

/// Result of a search for one architecture.
#[derive(Debug, Default)]
pub struct SearchResult {
    /// The first fit one.
    pub interpreter: Option<Interpreter>,
    /// Files of the right name that were passed over, in the order of the search.
    pub unfit: Vec<(PathBuf, CheckError)>,
}

/// Looks for interpreters in `search_dirs`, one after the other; the first fit one of an architecture is taken.
///
/// `requested` selects architectures and files. Every directory is listed once, and only selected files are opened. A
/// directory that does not exist or cannot be listed has none.
pub fn search(
    search_dirs: &[PathBuf],
    host: &[u8],
    mut requested: impl FnMut(&'static Arch, &Path) -> bool,
) -> BTreeMap<&'static str, SearchResult> {
    let mut found = BTreeMap::<_, SearchResult>::new();
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

/// Files of an interpreter's name in a directory, ordered by architecture, best naming scheme first.
fn candidates(location: &Path) -> Vec<(&'static Arch, PathBuf)> {
    let names = fs::read_dir(location).into_iter().flatten().flatten().map(|file| file.file_name());
    let mut candidates: Vec<_> =
        names.filter_map(|name| scheme(name.as_bytes()).map(|(rank, arch)| (arch, rank, name))).collect();
    candidates.sort_by_key(|(arch, rank, _)| (arch.name, *rank));
    candidates.into_iter().map(|(arch, _, name)| (arch, location.join(name))).collect()
}

/// Directories that are searched when none is named, in this order: what `QUS_INTERPRETER_DIR` and `QEMU_BIN_DIR` name,
/// what `qus fetch` fills, and where distributions put QEMU.
#[must_use]
pub fn default_search_dirs(fetched: &[PathBuf]) -> Vec<PathBuf> {
    let system = ["/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"].map(PathBuf::from);
    named_search_dirs().into_iter().chain(fetched.iter().cloned()).chain(system).collect()
}

/// Directories that `QUS_INTERPRETER_DIR` and `QEMU_BIN_DIR` name. They come first, in a bundle too.
#[must_use]
pub fn named_search_dirs() -> Vec<PathBuf> {
    let variables = ["QUS_INTERPRETER_DIR", "QEMU_BIN_DIR"];
    let named = variables.iter().filter_map(std::env::var_os);
    let paths = named.flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>());
    paths.filter(|path| !path.as_os_str().is_empty()).collect()
}

/// Directories that are searched without `--interpreter-dir`, with the unpacked interpreters of this bundle among them.
pub(crate) fn search_dirs(unpacked: Option<&TempDir>) -> Vec<PathBuf> {
    let unpacked = unpacked.map(|directory| directory.path().to_owned());
    default_search_dirs(&unpacked.into_iter().chain(store::all_fetched()).collect::<Vec<_>>())
}

/// Reports whether the file at `path` has the wanted version of QEMU; any will do where none is named.
pub(crate) fn is_of(requested: Option<&VersionReq>, arch: &Arch, path: &Path) -> bool {
    requested.is_none_or(|requested| {
        version_in(path, arch.name).is_some_and(|version| requested.matches(&version))
    })
}
