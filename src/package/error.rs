//! [`PackageError`]: failure to extract files from a package.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{Limit, Sha256};

/// Failure to extract files from a source: a package, archive, image, directory or single file. Member names are
/// escaped in messages, because they come from the package.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The source could not be opened or inspected.
    #[error("cannot open {}", path.display())]
    Open {
        /// Path of the source, or of a file in it if the source is a directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The source is an empty file.
    #[error("{} is empty", path.display())]
    Empty {
        /// Path of the source.
        path: PathBuf,
    },
    /// The source is a file of no supported format.
    #[error("{} is not a package, archive, image, directory or ELF program", path.display())]
    Unknown {
        /// Path of the source.
        path: PathBuf,
    },
    /// The source is a single file whose name is not that of a requested interpreter.
    #[error("{} does not have the name of a requested interpreter", path.display())]
    NotWanted {
        /// Path of the source.
        path: PathBuf,
    },
    /// The source is a truncated file.
    #[error("{} ends too early{}", path.display(), within(member.as_deref()))]
    Truncated {
        /// Path of the source.
        path: PathBuf,
        /// Name of the truncated member, if it is known.
        member: Option<String>,
    },
    /// The package violates its format.
    #[error("{} is damaged: {what}", path.display())]
    Malformed {
        /// Path of the source.
        path: PathBuf,
        /// Description of the fault.
        what: String,
    },
    /// The package lacks a required part.
    #[error("{} has no {member}", path.display())]
    Missing {
        /// Path of the source.
        path: PathBuf,
        /// Name of the missing part.
        member: &'static str,
    },
    /// The source is a Debian package with a format version that qus does not support.
    #[error("{} has package format {version}, not 2", path.display())]
    Version {
        /// Path of the source.
        path: PathBuf,
        /// Format version of the package.
        version: String,
    },
    /// The compression of a member is not supported.
    #[error("{}: {member} has an unknown compression; xz, zstd and gzip are supported", path.display())]
    Compression {
        /// Path of the source.
        path: PathBuf,
        /// Name of the compressed member.
        member: String,
    },
    /// The name of a member is a path that leads outside the target directory.
    #[error("{} is hostile: the name {member} points outside of the package", path.display())]
    Hostile {
        /// Path of the source.
        path: PathBuf,
        /// Name of the member.
        member: String,
    },
    /// A member is a sparse file. Packages normally contain no sparse files.
    #[error("{}: {member} is a sparse file, which is not supported", path.display())]
    Sparse {
        /// Path of the source.
        path: PathBuf,
        /// Name of the sparse member.
        member: String,
    },
    /// The source exceeds a limit.
    #[error("{}: {member} exceeds a limit: {limit}", path.display())]
    Limit {
        /// Path of the source.
        path: PathBuf,
        /// Name of the member that exceeds the limit.
        member: String,
        /// The exceeded limit.
        limit: Limit,
    },
    /// A member cannot be unpacked, because its compressed data or the archive in it is not valid.
    #[error("cannot unpack {member} of {}", path.display())]
    Unpack {
        /// Path of the source.
        path: PathBuf,
        /// Name of the member that cannot be unpacked.
        member: String,
        /// Error of the decoder.
        source: io::Error,
    },
    /// The SHA-256 of the source is not the required one.
    #[error("{} is another file: its SHA-256 is {digest}, not {requested}", path.display())]
    Digest {
        /// Path of the source.
        path: PathBuf,
        /// SHA-256 of the source.
        digest: Sha256,
        /// Required SHA-256.
        requested: Sha256,
    },
    /// The source is a directory, for which no digest can be checked.
    #[error("{} is a directory, which has no SHA-256", path.display())]
    NoDigest {
        /// Path of the source.
        path: PathBuf,
    },
    /// A file or directory at the destination could not be written or renamed.
    #[error("cannot write {}", path.display())]
    Write {
        /// Path of the file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The caller's `MemberFilter` returned a name that is not a valid file name.
    #[error("{name:?} is not a file name")]
    StoredName {
        /// The invalid name.
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
