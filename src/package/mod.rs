//! Extraction of interpreters from packages, archives, images, directories and single files, and downloads with package
//! managers.
//!
//! [`Package::open`] recognises a source by its content. [`Package::extract`] copies the requested files into a
//! directory. Both treat their input as hostile. Sizes are limited ([`Limit`]), and names in an archive never become
//! paths. Either all requested files that were found are placed, or the directory stays unchanged.
//!
//! Every kind of source passes its members (the files in it) to the same receiver (`sink`), which stores the requested
//! members. A new format therefore only needs a reader for its members.

mod apt;
mod ar;
mod archive;
pub(crate) mod compression;
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
pub use manager::{Manager, ManagerError, has_package_manager};

use crate::system::file_id::open_without_waiting;
use archive::Archive;
use deb::Deb;
use directory::Directory;
use extractor::Extractor;
use file_slice::FileSlice;
use limit::STREAM_SIZE;
use rpm::Rpm;

/// Decides which members of a source are requested (a member is a file in it), and under which names they are stored.
pub trait MemberFilter {
    /// Returns the name under which a member is stored, or `None` if the member is not requested. `file_name` is the
    /// last component of the member's path. The returned name must be a single path component. This method is called
    /// only for regular files, because links cannot be interpreters.
    fn want(&mut self, file_name: &[u8]) -> Option<String>;

    /// Reports whether all requested files were found. If so, the rest of the source is not read.
    fn complete(&self) -> bool;

    /// Reports whether enough files were found, so that no further package must be searched.
    fn satisfied(&self) -> bool {
        self.complete()
    }

    /// Checks a requested file before it gets its final name. `file` is the path of a complete, executable and closed
    /// temporary file, so this method may execute it. The error is the reason why the file is refused.
    fn accept(&mut self, stored_name: &str, file: &Path) -> Result<(), String>;

    /// Returns the name of the subdirectory of the destination in which an accepted file is stored. It must be a single
    /// path component. `None` means the destination itself.
    fn directory(&self, _stored_name: &str, _file: &Path) -> Option<String> {
        None
    }
}

/// Receiver of progress reports. `()` ignores them.
pub trait Progress {
    /// Sets the total size of the current work to `bytes`.
    fn total(&self, bytes: u64);
    /// Reports that another `bytes` bytes of the work are done.
    fn advance(&self, bytes: u64);
    /// Reports what qus does at present, as a text for users.
    fn message(&self, text: &str);
}

impl Progress for () {
    fn total(&self, _: u64) {}
    fn advance(&self, _: u64) {}
    fn message(&self, _: &str) {}
}

/// Information about a package, as stated in the package itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageInfo {
    /// Package name, such as `qemu-user-static`.
    pub name: String,
    /// Package version, as the distribution writes it.
    pub version: String,
    /// Host architecture of the package, as the distribution names it.
    pub architecture: String,
}

/// Extracted file that has its final path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Name under which the file is stored.
    pub name: String,
    /// Final path of the file.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub size: u64,
    /// Fate of an earlier file of this name.
    pub outcome: Outcome,
}

/// Fate of an earlier file when an extracted file takes its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No file with this name existed.
    New,
    /// A file with this name and the same content existed, and was left in place.
    Same,
    /// The extracted file replaced another file with this name.
    Replaced,
}

/// Requested file that [`MemberFilter::accept`] refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Name under which the file would have been stored.
    pub name: String,
    /// Reason for the refusal.
    pub reason: String,
}

/// Result of the extraction from one source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extraction {
    /// Files that were placed at their final paths, in the order of the source.
    pub placed: Vec<Placed>,
    /// Requested files that were refused.
    pub refused: Vec<Refused>,
}

/// Opened source of interpreters: a package, archive, image, directory or single file.
#[derive(Debug)]
pub struct Package {
    path: PathBuf,
    /// All bytes of the source file; `None` for a directory.
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
    /// Opens the source at `path` and reads its package information. The content decides which kind of source it is.
    pub fn open(path: &Path) -> Result<Self, PackageError> {
        let cannot_open = |source| PackageError::Open { path: path.to_owned(), source };
        Self::of_file(open_without_waiting(path).map_err(cannot_open)?, path, None)
    }

    /// Opens the file at `path` as a source, if its SHA-256 is `sha256`.
    pub fn open_only(path: &Path, sha256: Sha256) -> Result<Self, PackageError> {
        let cannot_open = |source| PackageError::Open { path: path.to_owned(), source };
        Self::of_file(open_without_waiting(path).map_err(cannot_open)?, path, Some(sha256))
    }

    /// Copies `content`, such as standard input, into a temporary file and opens that file. `path` is used only in
    /// messages.
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
            PackageError::Limit { path, member: "the content".to_owned(), limit: Limit::StreamSize }
        })?;
        Self::of_section(section, path, sha256)
    }

    /// Opens a source from the open `file`, if its SHA-256 is `sha256` or `sha256` is `None`. `path` is used only in
    /// messages.
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

    /// Returns the SHA-256 of the whole source file. Returns an error for a directory.
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

    /// Extracts the requested files into the directory `dest`. If `dest` is missing, it is created with mode 0755.
    ///
    /// Files get their final names only when nothing more has to be read. An existing file is replaced by `rename`,
    /// never written in place (K50). If it is equal, it is left in place. If reading fails, `dest` stays unchanged.
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
