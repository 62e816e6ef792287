//! [`PackageError`]: why nothing came out of a package.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::{Limit, Sha256};

/// Failure to extract files from a source. Names of members are escaped: they come from the package.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PackageError {
    /// The source cannot be opened or looked at.
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
    /// The content is nothing that interpreters can be got out of.
    #[error("{} is not a package, archive, image, directory or ELF program", path.display())]
    Unknown {
        /// The source.
        path: PathBuf,
    },
    /// The single file given has not the name of a wanted interpreter.
    #[error("{} does not have the name of a requested interpreter", path.display())]
    NotWanted {
        /// The source.
        path: PathBuf,
    },
    /// The file ends too early.
    #[error("{} ends too early{}", path.display(), within(member.as_deref()))]
    Truncated {
        /// The source.
        path: PathBuf,
        /// In which member, where that is known.
        member: Option<String>,
    },
    /// The package breaks the rules of its format.
    #[error("{} is damaged: {what}", path.display())]
    Malformed {
        /// The source.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// A part that every package has is not there.
    #[error("{} has no {member}", path.display())]
    Missing {
        /// The source.
        path: PathBuf,
        /// The name of the part.
        member: &'static str,
    },
    /// The package has a format that came after this program.
    #[error("{} has package format {version}, not 2", path.display())]
    Version {
        /// The source.
        path: PathBuf,
        /// The format it claims.
        version: String,
    },
    /// The content is compressed in a way that is not supported.
    #[error("{}: {member} has an unknown compression; xz, zstd and gzip are supported", path.display())]
    Compression {
        /// The source.
        path: PathBuf,
        /// The compressed member.
        member: String,
    },
    /// A member's name leads out of the directory that a package is unpacked to.
    #[error("{} is hostile: the name {member} points outside of the package", path.display())]
    Hostile {
        /// The source.
        path: PathBuf,
        /// The name.
        member: String,
    },
    /// A sparse file, which no package has a reason to contain.
    #[error("{}: {member} is a sparse file, which is not supported", path.display())]
    Sparse {
        /// The source.
        path: PathBuf,
        /// The member.
        member: String,
    },
    /// Too much of something.
    #[error("{}: {member} exceeds a limit: {limit}", path.display())]
    Limit {
        /// The source.
        path: PathBuf,
        /// The member that is too large.
        member: String,
        /// The limit.
        limit: Limit,
    },
    /// The compressed data or the archive within does not make sense.
    #[error("cannot unpack {member} of {}", path.display())]
    Unpack {
        /// The source.
        path: PathBuf,
        /// The member.
        member: String,
        /// Error of the decoder.
        source: io::Error,
    },
    /// The file is another one than was wanted.
    #[error("{} is another file: its SHA-256 is {digest}, not {requested}", path.display())]
    Digest {
        /// The source.
        path: PathBuf,
        /// SHA-256 of the file.
        digest: Sha256,
        /// Required SHA-256.
        requested: Sha256,
    },
    /// A directory was given together with a digest.
    #[error("{} is a directory, which has no SHA-256", path.display())]
    NoDigest {
        /// The source.
        path: PathBuf,
    },
    /// A file cannot be written or get its name.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The selection asked for a stored name that is no file name.
    #[error("{name:?} is not a file name")]
    StoredName {
        /// The name.
        name: String,
    },
}

fn within(member: Option<&str>) -> String {
    member.map(|member| format!(", in {member}")).unwrap_or_default()
}

/// A member's name for a message: bytes that are not printable ASCII are escaped.
pub(super) fn printable(name: &[u8]) -> String {
    name.escape_ascii().to_string()
}
