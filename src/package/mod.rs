//! Interpreters out of packages, archives, images, directories and single files, and packages through package managers.
//!
//! [`Package::open`] recognises sources by content, and [`Package::extract`] puts the requested files into a directory.
//! Both treat their input as hostile: sizes have limits ([`Limit`]), names inside an archive never become paths, and
//! either all files that were requested and found are placed, or the directory stays unchanged.
//!
//! A source hands its members, one after the other, to one place (`sink`) that knows what is wanted, so another
//! format needs nothing but a reader of its members.

mod apt;
mod ar;
mod archive;
mod compression;
mod cpio;
mod deb;
mod debian;
mod digest;
mod directory;
mod download;
mod error;
mod extractor;
mod file_slice;
mod image;
mod limit;
mod manager;
mod rpm;
mod staging;
mod tarball;

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use apt::{Apt, AptError, Download};
pub use debian::{FetchError, Fetched, FromPackage, debian_packages, fetch_with_apt};
pub use digest::Sha256;
pub use download::{Downloader, WebError, scheme};
pub use error::PackageError;
pub use limit::Limit;
pub use manager::{Manager, ManagerError};

use crate::system::file_id::open_without_waiting;
use archive::Archive;
use deb::Deb;
use directory::Directory;
use extractor::Extractor;
use file_slice::FileSlice;
use limit::STREAM_SIZE;
use rpm::Rpm;

/// Which members of a source are wanted, and under which name they are stored.
pub trait MemberFilter {
    /// Reports whether the member is wanted whose last path component is `file_name`: the name to store it under, which
    /// is a single path component. Called for regular files only; links are no interpreters.
    fn want(&mut self, file_name: &[u8]) -> Option<String>;

    /// Reports whether nothing more is wanted. Reading stops then.
    fn complete(&self) -> bool;

    /// Reports whether another package need not be looked into.
    fn satisfied(&self) -> bool {
        self.complete()
    }

    /// Looks at a wanted file before it gets its name. `file` is complete, executable and not open for writing, so
    /// it may be started. `Err` gives the reason why it is dropped.
    fn accept(&mut self, stored_name: &str, file: &Path) -> Result<(), String>;

    /// Returns a directory below the destination for an accepted file: a single path component. `None` is the
    /// destination itself.
    fn directory(&self, _stored_name: &str, _file: &Path) -> Option<String> {
        None
    }
}

/// Receiver of the progress of the work. `()` ignores it.
pub trait Progress {
    /// The work is `bytes` long.
    fn total(&self, bytes: u64);
    /// `bytes` more of the total are done.
    fn advance(&self, bytes: u64);
    /// Names the present step for a person.
    fn message(&self, text: &str);
}

impl Progress for () {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn message(&self, _: &str) {}
}

/// Information that a package has about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageInfo {
    /// Its name, such as `qemu-user-static`.
    pub name: String,
    /// Its version, as the distribution writes it.
    pub version: String,
    /// The host architecture it is for, as the distribution names it.
    pub architecture: String,
}

/// A file that is in its place now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The stored name.
    pub name: String,
    /// Where the file is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Outcome.
    pub outcome: Outcome,
}

/// Outcome of placing a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There was no such file.
    New,
    /// An equal file existed and was not touched.
    Same,
    /// Something else had this name and is gone.
    Replaced,
}

/// A wanted file that [`MemberFilter::accept`] turned down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The name it would have been stored under.
    pub name: String,
    /// Reason for the rejection.
    pub reason: String,
}

/// Results of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extraction {
    /// The files in their places, in the order of the source.
    pub placed: Vec<Placed>,
    /// The files that were wanted and turned down.
    pub refused: Vec<Refused>,
}

/// An opened source of interpreters.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    /// All bytes of the source; a directory has none.
    whole: Option<FileSlice>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Deb(Deb),
    Rpm(Rpm),
    Archive(Archive),
    Directory(Directory),
    Program(FileSlice),
}

impl Package {
    /// Opens the source at `path` and reads its information. The type of the source does not depend on its name.
    pub fn open(path: &Path) -> Result<Self, PackageError> {
        let cannot_open = |source| PackageError::Open { path: path.to_owned(), source };
        Self::of_file(open_without_waiting(path).map_err(cannot_open)?, path, None)
    }

    /// Opens a file that must have this digest, which is compared before anything else is read.
    pub fn open_only(path: &Path, sha256: Sha256) -> Result<Self, PackageError> {
        let cannot_open = |source| PackageError::Open { path: path.to_owned(), source };
        Self::of_file(open_without_waiting(path).map_err(cannot_open)?, path, Some(sha256))
    }

    /// Reads all of `content`, such as standard input, into a temporary file and opens that. `path` names the source.
    pub fn of_stream(
        content: &mut dyn Read,
        path: &Path,
        sha256: Option<Sha256>,
    ) -> Result<Self, PackageError> {
        let section = FileSlice::spool(content, STREAM_SIZE).map_err(|error| {
            let path = path.to_owned();
            if let Some(source) = error {
                return PackageError::Open { path, source };
            }
            PackageError::Limit { path, member: "all of it".to_owned(), limit: Limit::StreamSize }
        })?;
        Self::of_section(section, path, sha256)
    }

    /// Opens a file that is open already. `path` names the source.
    pub fn of_file(file: File, path: &Path, sha256: Option<Sha256>) -> Result<Self, PackageError> {
        let cannot_open = |source| PackageError::Open { path: path.to_owned(), source };
        let metadata = file.metadata().map_err(cannot_open)?;
        if metadata.is_dir() {
            if sha256.is_some() {
                return Err(PackageError::NoDigest { path: path.to_owned() });
            }
            let source = Source::Directory(Directory::new(path));
            return Ok(Self { path: path.to_owned(), whole: None, source });
        }
        if !metadata.is_file() {
            return Err(PackageError::Unknown { path: path.to_owned() });
        }
        Self::of_section(FileSlice::whole(file, metadata.len()), path, sha256)
    }

    fn of_section(section: FileSlice, path: &Path, sha256: Option<Sha256>) -> Result<Self, PackageError> {
        let cannot_open = |source| PackageError::Open { path: path.to_owned(), source };
        if section.len() == 0 {
            return Err(PackageError::Empty { path: path.to_owned() });
        }
        if let Some(requested) = sha256 {
            let digest = Sha256::of(&mut section.clone()).map_err(cannot_open)?;
            if digest != requested {
                return Err(PackageError::Digest { path: path.to_owned(), digest, requested });
            }
        }
        let mut magic = [0; 8];
        let length = section.peek(&mut magic).map_err(cannot_open)?;
        let header = magic.get(..length).unwrap_or_default();
        let source = if header == ar::MAGIC {
            Source::Deb(Deb::open(path, &section)?)
        } else if header.starts_with(b"\x7fELF") {
            Source::Program(section.clone())
        } else if header.starts_with(rpm::MAGIC) {
            Source::Rpm(Rpm::open(path, &section)?)
        } else if let Some(archive) = Archive::open(path, &section)? {
            Source::Archive(archive)
        } else if !header.is_empty() && ar::MAGIC.starts_with(header) {
            return Err(PackageError::Truncated { path: path.to_owned(), member: None });
        } else {
            return Err(PackageError::Unknown { path: path.to_owned() });
        };
        Ok(Self { path: path.to_owned(), whole: Some(section), source })
    }

    /// The digest of the whole file. A directory has none.
    pub fn sha256(&self) -> Result<Sha256, PackageError> {
        let failed = |source| PackageError::Open { path: self.path.clone(), source };
        let mut whole =
            self.whole.clone().ok_or_else(|| PackageError::NoDigest { path: self.path.clone() })?;
        Sha256::of(&mut whole).map_err(failed)
    }

    /// Returns information about the package; `None` for a directory or a single file.
    #[must_use]
    pub fn info(&self) -> Option<&PackageInfo> {
        match &self.source {
            Source::Deb(deb) => Some(deb.info()),
            Source::Rpm(rpm) => Some(rpm.info()),
            Source::Archive(archive) => archive.info(),
            Source::Directory(_) | Source::Program(_) => None,
        }
    }

    /// Puts the wanted files into the directory `dest`, which is made when it is missing (mode 0755).
    ///
    /// Nothing gets its final name before everything was read and accepted. A file is replaced by `rename`, never
    /// written in place (K50), and one that is the same already is left alone. On an error `dest` is as it was.
    pub fn extract(
        self,
        selection: &mut dyn MemberFilter,
        dest: &Path,
        progress: &dyn Progress,
    ) -> Result<Extraction, PackageError> {
        let mut sink = Extractor::new(&self.path, selection, dest);
        if sink.complete() {
            return Ok(Extraction::default());
        }
        match self.source {
            Source::Deb(deb) => deb.members(&mut sink, progress)?,
            Source::Rpm(rpm) => rpm.members(&mut sink, progress)?,
            Source::Archive(archive) => archive.members(&mut sink, progress)?,
            Source::Directory(directory) => directory.members(&mut sink, progress)?,
            Source::Program(mut section) => {
                let name = self.path.file_name().map(OsStr::as_bytes).unwrap_or_default();
                let size = section.len();
                progress.total(size);
                let _only_one = sink.file(name, size, &mut section)?;
                progress.advance(size);
                if !sink.found() {
                    return Err(PackageError::NotWanted { path: self.path });
                }
            }
        }
        sink.finish()
    }
}
