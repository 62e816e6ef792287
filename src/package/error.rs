//! [`PackageError`]: failure to extract files from a package.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{Limit, Sha256};

/// Failure to extract files from a source. Member names are escaped in messages, because they come from the package.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The source could not be opened or inspected.
    #[error("cannot open {}", path.display())]
    Open {
        /// The source, or a file of the directory that is the source.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The file has no bytes.
    #[error("{} is empty", path.display())]
    Empty {
        /// The source.
        path: PathBuf,
    },
    /// The file has no supported format.
    #[error("{} is not a package, archive, image, directory or ELF program", path.display())]
    Unknown {
        /// The source.
        path: PathBuf,
    },
    /// The source is a single file whose name is not that of a requested interpreter.
    #[error("{} does not have the name of a requested interpreter", path.display())]
    NotWanted {
        /// The source.
        path: PathBuf,
    },
    /// The file is truncated.
    #[error("{} ends too early{}", path.display(), within(member.as_deref()))]
    Truncated {
        /// The source.
        path: PathBuf,
        /// The truncated member, if known.
        member: Option<String>,
    },
    /// The package violates its format.
    #[error("{} is damaged: {what}", path.display())]
    Malformed {
        /// The source.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// The package lacks a required part.
    #[error("{} has no {member}", path.display())]
    Missing {
        /// The source.
        path: PathBuf,
        /// Name of the part.
        member: &'static str,
    },
    /// The package format is newer than this program.
    #[error("{} has package format {version}, not 2", path.display())]
    Version {
        /// The source.
        path: PathBuf,
        /// Format version of the package.
        version: String,
    },
    /// The compression of a member is not supported.
    #[error("{}: {member} has an unknown compression; xz, zstd and gzip are supported", path.display())]
    Compression {
        /// The source.
        path: PathBuf,
        /// The compressed member.
        member: String,
    },
    /// A member's name leads outside the target directory.
    #[error("{} is hostile: the name {member} points outside of the package", path.display())]
    Hostile {
        /// The source.
        path: PathBuf,
        /// The name.
        member: String,
    },
    /// The member is a sparse file, which packages normally do not contain.
    #[error("{}: {member} is a sparse file, which is not supported", path.display())]
    Sparse {
        /// The source.
        path: PathBuf,
        /// The member.
        member: String,
    },
    /// The source exceeds a limit.
    #[error("{}: {member} exceeds a limit: {limit}", path.display())]
    Limit {
        /// The source.
        path: PathBuf,
        /// The member that exceeds the limit.
        member: String,
        /// The limit.
        limit: Limit,
    },
    /// The compressed data or the archive in it is not valid.
    #[error("cannot unpack {member} of {}", path.display())]
    Unpack {
        /// The source.
        path: PathBuf,
        /// The member.
        member: String,
        /// Error of the decoder.
        source: io::Error,
    },
    /// The SHA-256 of the file is not the required one.
    #[error("{} is another file: its SHA-256 is {digest}, not {requested}", path.display())]
    Digest {
        /// The source.
        path: PathBuf,
        /// SHA-256 of the file.
        digest: Sha256,
        /// Required SHA-256.
        requested: Sha256,
    },
    /// The source is a directory, for which no digest can be checked.
    #[error("{} is a directory, which has no SHA-256", path.display())]
    NoDigest {
        /// The source.
        path: PathBuf,
    },
    /// A file could not be written or renamed.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The selection returned a name that is not a valid file name.
    #[error("{name:?} is not a file name")]
    StoredName {
        /// The name.
        name: String,
    },
}

fn within(member: Option<&str>) -> String {
    member.map(|member| format!(", in {member}")).unwrap_or_default()
}

/// Escapes a member's name for a message. Bytes other than printable ASCII are escaped.
pub(super) fn printable(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}
