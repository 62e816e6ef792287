//! Identity of files: a path can lead to another file at any moment.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

/// Identity of a file, which stays when its path leads to another one. An open interpreter is recognised by it (K49).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId {
    /// Device number of the file system, `st_dev`.
    pub device: u64,
    /// Number of the file in it, `st_ino`.
    pub inode: u64,
}

impl FileId {
    /// The identity of the file that `metadata` describes.
    #[must_use]
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}
