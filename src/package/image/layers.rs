//! Passes on the files in the layers of an image, except those that a later layer removed or replaced ("Whiteouts" in
//! layer.md of the OCI image specification).

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::ControlFlow;

use super::{OffsetReader, normal};
use crate::package::compression::Compression;
use crate::package::error::printable;
use crate::package::extractor::{Extractor, Kind};
use crate::package::file_slice::FileSlice;
use crate::package::limit::{Limit, UNPACKED_SIZE};
use crate::package::tarball::Tarball;
use crate::package::{PackageError, Progress};

/// Prefix in the name of a marker file. The marker removes the file of earlier layers whose name follows the prefix.
const REMOVED: &[u8] = b".wh.";
/// Name of a marker file. It hides all files that earlier layers have in the directory of the marker file.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Paths of files that the later layers replaced or removed (hidden paths). A file of an earlier layer is not passed on
/// if its path is hidden.
///
/// Only keyed hashes of the paths are stored, so that the limit on the number of members also limits the memory.
#[derive(Default)]
pub(super) struct Layers {
    hasher: RandomState,
    /// Hash of each hidden path. The value is true if everything below the path is hidden as well.
    hidden: HashMap<u64, bool>,
    /// Number of bytes that were unpacked from all layers so far.
    unpacked: u64,
}

impl Layers {
    /// Passes the files of one layer to the receiver `sink`. The caller must read the last layer first.
    pub(super) fn read(
        &mut self,
        name: &str,
        layer: FileSlice,
        sink: &mut Extractor<'_>,
        progress: &dyn Progress,
    ) -> Result<ControlFlow<()>, PackageError> {
        let member = printable(name.as_bytes());
        let size = UNPACKED_SIZE.saturating_sub(self.unpacked);
        let tarball = Tarball { path: sink.source(), member: &member, size, limit: Limit::UnpackedSize };
        let mut header = [0; 6];
        let length = layer
            .peek(&mut header)
            .map_err(|source| PackageError::Open { path: tarball.path.to_owned(), source })?;
        let compression = Compression::from_content(header.get(..length).unwrap_or_default());
        let mut content = compression.unwrap_or(Compression::None).reader(layer, progress);
        let unpacked = Cell::new(0);
        let mut content = OffsetReader { inner: &mut content, position: &unpacked };
        let mut hidden = Vec::new();
        let mut flow = ControlFlow::Continue(());
        tarball.walk(&mut content, &mut |path, kind, size, content| {
            let plain = normal(path);
            let plain = plain.strip_suffix(b"/").unwrap_or(plain);
            let (directory, file) = split(plain);
            if file == OPAQUE {
                hidden.push((self.key(directory), true));
            } else if let Some(removed) = file.strip_prefix(REMOVED) {
                hidden.push((self.key(&join(directory, removed)), true));
            } else {
                hidden.push((self.key(plain), kind != Kind::Directory));
                let kind = if self.is_hidden(plain) { Kind::Other } else { kind };
                flow = sink.member(path, kind, size, content)?;
                return Ok(flow);
            }
            flow = sink.member(path, Kind::Other, size, content)?;
            Ok(flow)
        })?;
        for (key, below) in hidden {
            *self.hidden.entry(key).or_default() |= below;
        }
        self.unpacked = self.unpacked.saturating_add(unpacked.get());
        Ok(flow)
    }

    /// Reports whether a later layer replaced or removed `path` or a directory above it.
    fn is_hidden(&self, path: &[u8]) -> bool {
        let above = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut above = above.filter_map(|(at, _)| path.get(..at)).chain([&b""[..]]);
        self.hidden.contains_key(&self.key(path))
            || above.any(|directory| self.hidden.get(&self.key(directory)) == Some(&true))
    }

    fn key(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one(path)
    }
}

/// Splits `path` into the path of the directory and the file name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => {
            let (directory, file) = path.split_at(at);
            (directory, file.strip_prefix(b"/").unwrap_or(file))
        }
        None => (b"", path),
    }
}

fn join(directory: &[u8], file: &[u8]) -> Vec<u8> {
    if directory.is_empty() { file.to_vec() } else { [directory, b"/", file].concat() }
}
