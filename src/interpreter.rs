//! Interpreters: where they are found, and whether one can be trusted to serve every container.
//!
//! A check reads the first kilobytes of a file, never the whole (DESIGN §3.5). What it finds wrong is an [`Unfit`]; what
//! it finds fit is an [`Interpreter`], which can be had in no other way.

pub mod bundle;
pub mod known_bugs;
pub mod memfd;
pub mod provenance;
mod version;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use thiserror::Error;

pub use version::{WantedVersion, compare, is_version, version_in, versions_of};

use crate::arch::Arch;
use crate::arch::elf::{self, ElfError, Executable};
use crate::base::shell::shell_word;
use crate::system::file_id::FileId;
use crate::system::ownership::is_roots_alone;

/// A file that was checked: a static ELF program of this host, executable, on a file system that lets it run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// Its absolute path.
    pub path: PathBuf,
    /// Which file that was.
    pub id: FileId,
    /// Its first bytes: a rule must not match them (K37).
    pub head: Vec<u8>,
    /// Whether it belongs to root and nobody else may write to it: with the flag `C` it will run as root (K61).
    pub owned_by_root: bool,
}

/// Why a file cannot be the interpreter of a handler. Displayed behind the file's path.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unfit {
    /// No such file.
    #[error("does not exist")]
    Missing,
    /// A directory.
    #[error("is a directory")]
    Directory,
    /// A device, a pipe, a socket.
    #[error("is not an ordinary file")]
    Special,
    /// It could not be opened or looked at.
    #[error("cannot be opened: {0}")]
    Open(#[source] io::Error),
    /// Not an ELF program.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// A program of another machine than this host; what it is.
    #[error("is a program for {0}, not for this host")]
    OtherHost(String),
    /// It needs a loader, which the root directory of a container does not have (K52).
    #[error(
        "is not static: it needs {}, which containers do not have.\n\
         They would fail with \"No such file or directory\", naming a file that exists.",
        .0.escape_ascii()
    )]
    Dynamic(Vec<u8>),
    /// No `x` bit in its mode.
    #[error("is not executable")]
    NotExecutable,
    /// On a file system that is mounted `noexec` (K55).
    #[error("lies on a file system that is mounted noexec")]
    NoExec,
    /// A setuid or setgid bit: every foreign program would run with its owner's rights (K60).
    #[error("has a setuid or setgid bit: every program that it runs would get the rights of its owner")]
    SetId,
}

impl Unfit {
    /// What to do with the file itself, where that can mend it.
    #[must_use]
    pub fn cure(&self, path: &Path) -> Option<String> {
        let word = || shell_word(path);
        match self {
            Self::NotExecutable => Some(format!("chmod 755 {}", word())),
            Self::SetId => Some(format!("chmod ug-s {}", word())),
            Self::NoExec => Some(format!("cp {} /usr/local/bin/", word())),
            _ => None,
        }
    }
}

impl Interpreter {
    /// Checks the file at `path` for a host whose own programs begin with `host`.
    pub fn check(path: &Path, host: &[u8]) -> Result<Self, Unfit> {
        let path = std::path::absolute(path).map_err(Unfit::Open)?;
        // Non-blocking, as the path may be that of a pipe.
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Unfit::Missing,
            _ => Unfit::Open(error),
        })?;
        let metadata = file.metadata().map_err(Unfit::Open)?;
        if metadata.is_dir() {
            return Err(Unfit::Directory);
        }
        if !metadata.is_file() {
            return Err(Unfit::Special);
        }
        let executable = Executable::read(&file)?;
        if !elf::same_machine(&executable.head, host) {
            let machine = Arch::of_head(&executable.head).map_or("an unknown machine", |arch| arch.name);
            return Err(Unfit::OtherHost(machine.to_owned()));
        }
        if let Some(loader) = executable.loader {
            return Err(Unfit::Dynamic(loader));
        }
        if metadata.mode() & 0o111 == 0 {
            return Err(Unfit::NotExecutable);
        }
        if metadata.mode() & 0o6000 != 0 {
            return Err(Unfit::SetId);
        }
        if is_noexec(&file)? {
            return Err(Unfit::NoExec);
        }
        Ok(Self {
            path,
            id: FileId::of(&metadata),
            head: executable.head,
            owned_by_root: is_roots_alone(&metadata),
        })
    }
}

/// Largest interpreter that is read, in bytes, as in a package.
const WHOLE_MAX: u64 = 128 << 20;

impl Interpreter {
    /// All of it, if its path still leads to the file that was checked.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let file = open_ordinary(&self.path)?;
        if FileId::of(&file.metadata()?) != self.id {
            return Err(io::Error::other("it is not the file any more that was checked"));
        }
        let mut content = Vec::new();
        file.take(WHOLE_MAX + 1).read_to_end(&mut content)?;
        if content.len() as u64 > WHOLE_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(content)
    }
}

/// Opens an ordinary file for reading: a pipe in its place would never end to be opened, a device never to be read.
pub(crate) fn open_ordinary(path: &Path) -> io::Result<File> {
    let file = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not an ordinary file")) }
}

fn is_noexec(file: &File) -> Result<bool, Unfit> {
    let filesystem = fstatvfs(file).map_err(|errno| Unfit::Open(errno.into()))?;
    Ok(filesystem.flags().contains(FsFlags::ST_NOEXEC))
}

/// The architecture whose programs a file of this name runs, by the names that distributions give to QEMU's emulators
/// (U23): `qemu-ARCH-static`, `qemu-ARCH`, `ARCH-binfmt-P`, and the `buildkit-qemu-ARCH` of builders.
#[must_use]
pub fn emulated_by(file_name: &[u8]) -> Option<&'static Arch> {
    scheme(file_name).map(|(_, arch)| arch)
}

/// Whether the file at `path` is called like one of QEMU's emulators: those can be asked for their version.
#[must_use]
pub fn is_qemu(path: &Path) -> bool {
    emulated_by(file_name(path)).is_some()
}

/// Rank of the naming scheme, best first, and the architecture. `-static` says what is wanted; a plain name may be
/// dynamic, and `-binfmt-P` is a link to one of the others.
fn scheme(file_name: &[u8]) -> Option<(u8, &'static Arch)> {
    let name = std::str::from_utf8(file_name).ok()?;
    let (rank, target) = if let Some(target) = name.strip_suffix("-binfmt-P") {
        (2, target)
    } else {
        let target = name.strip_prefix("buildkit-").unwrap_or(name).strip_prefix("qemu-")?;
        target.strip_suffix("-static").map_or((1, target), |target| (0, target))
    };
    Some((rank, Arch::by_target(target)?))
}

/// What a search found for one architecture.
#[derive(Debug, Default)]
pub struct Found {
    /// The first fit one.
    pub interpreter: Option<Interpreter>,
    /// Files of the right name that were passed over, in the order of the search.
    pub unfit: Vec<(PathBuf, Unfit)>,
}

/// Looks for interpreters in `places`, one after the other; the first fit one of an architecture is taken.
///
/// `wanted` says for which architectures, and which files. Every directory is listed once; only wanted files are opened.
/// A place that does not exist, or cannot be listed, has none.
pub fn search(
    places: &[PathBuf],
    host: &[u8],
    mut wanted: impl FnMut(&'static Arch, &Path) -> bool,
) -> BTreeMap<&'static str, Found> {
    let mut found = BTreeMap::<_, Found>::new();
    for place in places {
        for (arch, path) in candidates(place) {
            if found.get(arch.name).is_some_and(|found| found.interpreter.is_some()) || !wanted(arch, &path) {
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
fn candidates(place: &Path) -> Vec<(&'static Arch, PathBuf)> {
    let names = fs::read_dir(place).into_iter().flatten().flatten().map(|file| file.file_name());
    let mut candidates: Vec<_> =
        names.filter_map(|name| scheme(name.as_bytes()).map(|(rank, arch)| (arch, rank, name))).collect();
    candidates.sort_by_key(|(arch, rank, _)| (arch.name, *rank));
    candidates.into_iter().map(|(arch, _, name)| (arch, place.join(name))).collect()
}

/// Directories that are searched when none is named, in this order: what `QUS_INTERPRETER_DIR` and `QEMU_BIN_DIR` name,
/// what `qus fetch` fills, and where distributions put QEMU.
#[must_use]
pub fn default_places(fetched: &[PathBuf]) -> Vec<PathBuf> {
    let system = ["/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt"].map(PathBuf::from);
    named_places().into_iter().chain(fetched.iter().cloned()).chain(system).collect()
}

/// Directories that `QUS_INTERPRETER_DIR` and `QEMU_BIN_DIR` name. They come first, in a bundle too.
#[must_use]
pub fn named_places() -> Vec<PathBuf> {
    let variables = ["QUS_INTERPRETER_DIR", "QEMU_BIN_DIR"];
    let named = variables.iter().filter_map(std::env::var_os);
    let paths = named.flat_map(|value| std::env::split_paths(&value).collect::<Vec<_>>());
    paths.filter(|path| !path.as_os_str().is_empty()).collect()
}

/// The file name of a path, as bytes; empty where it has none.
#[must_use]
pub fn file_name(path: &Path) -> &[u8] {
    path.file_name().map(OsStr::as_bytes).unwrap_or_default()
}
