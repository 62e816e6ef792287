//! Origin of an interpreter, stored as a JSON file next to the interpreter's file, for example `qemu-arm-static.json`
//! for `qemu-arm-static`.
//!
//! A record is valid for one content of the interpreter's file. It contains the file's size and modification time for a
//! quick comparison, and the file's SHA-256 for a reliable one. An interpreter has no known origin if it has no record,
//! or if its file has changed since the record was written.

use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::package::Sha256;
use crate::system::atomic_file;
use crate::system::file_id::{open_no_follow, open_regular};

/// Maximum size of the JSON file that stores a record, in bytes.
const RECORD_MAX: u64 = 64 << 10;

/// Record of a fetched interpreter and its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Version of the format of this record, currently 1.
    version: u32,
    /// Source that the interpreter was fetched from: a path, a URL, or the name of a package manager.
    pub source: String,
    /// SHA-256 of the whole source, for example of a package file; `None` if it is not known.
    pub source_sha256: Option<Sha256>,
    /// Name of the package that contained the interpreter; `None` if the source is not a package.
    pub package: Option<String>,
    /// Version of that package, in the notation of its distribution.
    pub package_version: Option<String>,
    /// QEMU version that was read from the interpreter's file.
    pub qemu_version: Option<String>,
    /// SHA-256 of the interpreter's file.
    pub sha256: Sha256,
    /// Size of the interpreter's file, in bytes.
    pub size: u64,
    /// Time at which the interpreter was fetched (RFC 3339, UTC).
    pub date: String,
    /// Number of interpreters in the source, if all of them were fetched together; otherwise `None`.
    pub all: Option<usize>,
    /// Modification time of the interpreter's file: seconds since 1970, and nanoseconds.
    modified: (i64, i64),
}

/// Origin of an interpreter: the source that it was fetched from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// See [`Provenance::source`].
    pub source: String,
    /// See [`Provenance::source_sha256`].
    pub source_sha256: Option<Sha256>,
    /// Name and version of the package that contained the interpreter; `None` if the source is not a package.
    pub package: Option<(String, String)>,
    /// See [`Provenance::all`].
    pub all: Option<usize>,
}

impl Provenance {
    /// Returns the record of the interpreter at `path`. Returns `None` if the interpreter has no record, or if its size
    /// or modification time has changed since the record was written.
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        let record = Self::beside(path)?;
        let metadata = std::fs::metadata(path).ok()?;
        (record.size == metadata.len() && record.modified == modified(&metadata)).then_some(record)
    }

    /// Returns the record next to the interpreter at `path`, even if the interpreter has changed since the record was
    /// written.
    #[must_use]
    pub fn beside(path: &Path) -> Option<Self> {
        let file = open_no_follow(&record_path(path)).ok()?;
        let mut text = Vec::new();
        file.metadata().ok().filter(Metadata::is_file)?;
        file.take(RECORD_MAX).read_to_end(&mut text).ok()?;
        let record: Self = serde_json::from_slice(&text).ok()?;
        (record.version == 1).then_some(record)
    }

    /// Writes a record that the interpreter at `path` came from `origin`, and returns the record.
    ///
    /// A valid record with the same origin is kept. Otherwise a new record replaces it atomically.
    pub fn record(path: &Path, qemu_version: Option<String>, origin: Origin) -> io::Result<Self> {
        if let Some(known) = Self::of(path).filter(|known| known.is_from(&origin)) {
            return Ok(known);
        }
        let mut file = open_regular(path)?;
        let metadata = file.metadata()?;
        let (package, package_version) = origin.package.unzip();
        let record = Self {
            version: 1,
            source: origin.source,
            source_sha256: origin.source_sha256,
            package,
            package_version,
            qemu_version,
            sha256: Sha256::of(&mut file)?,
            size: metadata.len(),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            all: origin.all,
            modified: modified(&metadata),
        };
        let mut text = serde_json::to_vec_pretty(&record)?;
        text.push(b'\n');
        let written = atomic_file::write_atomic(&record_path(path), &text, 0o644)?;
        // The record must belong to the same user as the file. The check reads the written record, because some file
        // systems assign all files to one user.
        if written.uid() != metadata.uid() {
            let _ignored = std::fs::remove_file(record_path(path));
            return Err(io::Error::other("the file was replaced after it was fetched"));
        }
        Ok(record)
    }

    fn is_from(&self, origin: &Origin) -> bool {
        let package = self.package.as_ref().zip(self.package_version.as_ref());
        self.source == origin.source
            && self.source_sha256 == origin.source_sha256
            && self.all == origin.all
            && package == origin.package.as_ref().map(|(name, version)| (name, version))
    }

    /// Reports whether the file at `path` has the SHA-256 that this record contains.
    #[must_use]
    pub fn is_of(&self, path: &Path) -> bool {
        let digest = open_regular(path).and_then(|mut file| Sha256::of(&mut file));
        digest.is_ok_and(|digest| digest == self.sha256)
    }

    /// Returns a short text for the origin: `PACKAGE=VERSION` if the interpreter came from a package, otherwise the
    /// source.
    #[must_use]
    pub fn short(&self) -> String {
        match (&self.package, &self.package_version) {
            (Some(package), Some(version)) => format!("{package}={version}"),
            _ => self.source.clone(),
        }
    }
}

/// Returns the path of the record that belongs to the interpreter at `path`.
#[must_use]
pub fn record_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

fn modified(metadata: &Metadata) -> (i64, i64) {
    (metadata.mtime(), metadata.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        let package = Some(("qemu-user-static".to_owned(), "1:7.2".to_owned()));
        Origin { source: "apt".to_owned(), source_sha256: None, package, all: None }
    }

    #[test]
    fn a_record_describes_one_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qemu-arm-static");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(Provenance::of(&path), None);
        let record = Provenance::record(&path, Some("7.2.22".to_owned()), origin()).unwrap();
        assert_eq!(
            record.sha256.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(record.short(), "qemu-user-static=1:7.2");
        assert_eq!(Provenance::of(&path), Some(record.clone()));
        assert!(record.is_of(&path));
        assert!(humantime::parse_rfc3339(&record.date).unwrap() <= SystemTime::now());
        // The same origin keeps the record. Another origin replaces it.
        assert_eq!(Provenance::record(&path, None, origin()).unwrap(), record);
        let elsewhere = Origin { source: "./some.deb".to_owned(), ..Origin::default() };
        let second = Provenance::record(&path, None, elsewhere).unwrap();
        assert_eq!((second.short().as_str(), second.package), ("./some.deb", None));
        // A changed file at the same path has no record.
        std::fs::write(&path, "abd").unwrap();
        assert_eq!(Provenance::of(&path), None);
        assert!(!Provenance::beside(&path).unwrap().is_of(&path));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn an_invalid_record_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qemu-arm-static");
        std::fs::write(&path, "abc").unwrap();
        let record = record_path(&path);
        for text in ["", "{}", "null", "[", "\u{0}", "{\"version\": 2}"] {
            std::fs::write(&record, text).unwrap();
            assert_eq!(Provenance::of(&path), None, "{text}");
        }
        std::fs::remove_file(&record).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &record).unwrap();
        assert_eq!(Provenance::of(&path), None);
        std::fs::remove_file(&record).unwrap();
        nix::unistd::mkfifo(&record, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(Provenance::of(&path), None);
    }
}
