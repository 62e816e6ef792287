//! Reads a container image in one tar archive. Supported formats are `docker save` and `podman save` (Docker's "Image
//! Specification v1.2", "Combined Image JSON + Filesystem Changeset Format") and OCI image layouts (image-layout.md,
//! image-index.md, manifest.md and layer.md of the OCI image specification 1.1).
//!
//! The layers of an image are read from the last to the first. The requested files are usually in the last layer. When
//! an earlier layer is read, it is already known which of its files a later layer removed or replaced.

mod layers;
mod manifest;

use std::cell::Cell;
use std::io::{self, Read};
use std::ops::ControlFlow;

use super::error::printable;
use super::extractor::{Extractor, Kind};
use super::file_slice::FileSlice;
use super::limit::{CONTROL_SIZE, Limit, MEMBERS, UNPACKED_SIZE};
use super::tarball::Tarball;
use super::{PackageError, Progress, Sha256};

use layers::Layers;

/// Maximum size of a manifest, an index or a configuration of an image, in bytes. Registries accept 4 MiB; real files
/// have some kilobytes.
const JSON_SIZE: u64 = CONTROL_SIZE;

/// Maximum number of layers in an image. Docker writes at most 127.
const LAYERS: usize = 512;

/// Reports whether a tar archive with the member `path` is a container image.
pub(super) fn is_image_marker(path: &[u8]) -> bool {
    matches!(normal(path), b"manifest.json" | b"oci-layout" | b"index.json")
}

/// Passes the files of the container image in `file` to the receiver `sink`. If there are several images, the one for
/// the host's architecture is used.
pub(super) fn members(
    file: &FileSlice,
    sink: &mut Extractor<'_>,
    progress: &dyn Progress,
) -> Result<(), PackageError> {
    let image = Image::read(file, sink)?;
    let mut layers = Layers::default();
    let parts = manifest::layers(&image)?;
    progress.total(parts.iter().map(|(_, part)| part.len()).sum());
    for (name, part) in parts.into_iter().rev() {
        if layers.read(&name, part, sink, progress)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Members of a tar archive that contains a container image, with their paths.
struct Image<'a> {
    path: &'a std::path::Path,
    members: Vec<(Vec<u8>, FileSlice)>,
}

impl<'a> Image<'a> {
    /// Records the position of every member of the archive `file`. Nothing is unpacked, because in such an archive only
    /// the layers are compressed.
    fn read(file: &FileSlice, sink: &mut Extractor<'a>) -> Result<Self, PackageError> {
        let path = sink.source();
        let tarball = Tarball { path, member: "the image", size: UNPACKED_SIZE, limit: Limit::UnpackedSize };
        let position = Cell::new(0);
        let mut members = Vec::new();
        let mut whole = file.clone();
        let mut content = OffsetReader { inner: &mut whole, position: &position };
        tarball.walk(&mut content, &mut |name, kind, size, _| {
            if members.len() as u64 > MEMBERS {
                return Err(tarball.over(Limit::Members));
            }
            if kind == Kind::Regular {
                let part = file.part(position.get(), size).ok_or_else(|| PackageError::Truncated {
                    path: path.to_owned(),
                    member: Some(printable(name)),
                })?;
                members.push((normal(name).to_vec(), part));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(Self { path, members })
    }

    fn member(&self, name: &str) -> Option<&FileSlice> {
        // If a name occurs several times, the last member counts, as in all tar archives.
        let name = normal(name.as_bytes());
        self.members.iter().rev().find(|(member, _)| member == name).map(|(_, content)| content)
    }

    /// Returns the member `name`, to which another member refers. Returns an error if the archive does not contain it.
    fn required(&self, name: &str) -> Result<&FileSlice, PackageError> {
        self.member(name).ok_or_else(|| self.malformed(&format!("it has no {}", printable(name.as_bytes()))))
    }

    /// Returns the member `name`. If this name contains a SHA-256, the content of the member must have this digest.
    fn verified(&self, name: &str) -> Result<&FileSlice, PackageError> {
        let member = self.required(name)?;
        let digest = name.strip_prefix("./").unwrap_or(name).strip_prefix("blobs/sha256/");
        let Some(requested) = digest.and_then(|digest| digest.parse::<Sha256>().ok()) else {
            return Ok(member);
        };
        let digest = Sha256::of(&mut member.clone())
            .map_err(|source| PackageError::Open { path: self.path.to_owned(), source })?;
        if digest != requested {
            return Err(self.malformed(&format!("{} has the SHA-256 {digest}", printable(name.as_bytes()))));
        }
        Ok(member)
    }

    /// Parses the content of the member `name` as JSON.
    fn json(&self, name: &str) -> Result<serde_json::Value, PackageError> {
        let section = self.verified(name)?.clone();
        let member = || printable(name.as_bytes());
        if section.len() > JSON_SIZE {
            let (path, member) = (self.path.to_owned(), member());
            return Err(PackageError::Limit { path, member, limit: Limit::ControlSize });
        }
        let mut bytes = Vec::new();
        let mut section = section;
        section
            .read_to_end(&mut bytes)
            .map_err(|source| PackageError::Open { path: self.path.to_owned(), source })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| self.malformed(&format!("{} is not JSON: {error}", member())))
    }

    fn malformed(&self, what: &str) -> PackageError {
        PackageError::Malformed { path: self.path.to_owned(), what: what.to_owned() }
    }
}

/// Returns `path` without the `./` at its beginning, if it has one.
fn normal(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"./").unwrap_or(path)
}

/// Reader that counts in `position` the bytes that were read.
struct OffsetReader<'a> {
    inner: &'a mut dyn Read,
    position: &'a Cell<u64>,
}

impl Read for OffsetReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.position.set(self.position.get() + length as u64);
        Ok(length)
    }
}
