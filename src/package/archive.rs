//! Reads tar archives with any supported compression: plain archives, Arch or Alpine packages, and container images.
//!
//! An Alpine package (`apk-v2(5)`) consists of two or three gzip streams with a tar archive in each: signature, control
//! and data. Only the last tar archive has an end marker, so the unpacked streams form one tar archive. An Arch package
//! (`PKGBUILD(5)`, `makepkg(8)`) is a single tar archive. Both formats store the package information in `.PKGINFO`
//! before all other files.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use super::compression::Compression;
use super::extractor::{Extractor, Kind};
use super::file_slice::FileSlice;
use super::image;
use super::limit::{CONTROL_SIZE, Limit, UNPACKED_SIZE};
use super::tarball::Tarball;
use super::{PackageError, PackageInfo, Progress};

/// Words that stand for the archive in error messages.
const MEMBER: &str = "the archive";

/// Size of a tar header in bytes. The next two constants are the offset and the value of its magic (tar(5)).
const BLOCK: usize = 512;
const MAGIC_AT: usize = 257;
const MAGIC: &[u8] = b"ustar";

/// Maximum size of the file `.PKGINFO`, in bytes. Real files have at most a few kilobytes.
const INFO_SIZE: u64 = CONTROL_SIZE;

#[derive(Debug)]
pub(super) struct Archive {
    info: Option<PackageInfo>,
    file: FileSlice,
    compression: Compression,
}

impl Archive {
    /// Opens the tar archive in `file`. Returns `None` if `file` is not a tar archive.
    pub(super) fn open(path: &Path, file: &FileSlice) -> Result<Option<Self>, PackageError> {
        let mut header = [0; BLOCK];
        let cannot_open = |source| PackageError::Open { path: path.to_owned(), source };
        let length = file.peek(&mut header).map_err(cannot_open)?;
        let header = header.get(..length).unwrap_or_default();
        let compression = Compression::from_content(header).unwrap_or(Compression::None);
        let unpacked = if compression == Compression::None {
            header.to_vec()
        } else {
            let mut unpacked = Vec::new();
            let read = compression.reader(file.clone(), &()).take(BLOCK as u64).read_to_end(&mut unpacked);
            read.map_err(|error| tarball(path).unpack(error))?;
            unpacked
        };
        if unpacked.get(MAGIC_AT..).is_none_or(|rest| !rest.starts_with(MAGIC)) {
            return Ok(None);
        }
        // An Arch or Alpine package begins with a file whose name begins with a dot.
        let info = if unpacked.starts_with(b".") && !unpacked.starts_with(b"./") {
            info(path, &mut compression.reader(file.clone(), &()))?
        } else {
            None
        };
        Ok(Some(Self { info, file: file.clone(), compression }))
    }

    pub(super) fn info(&self) -> Option<&PackageInfo> {
        self.info.as_ref()
    }

    /// Passes the members of the archive to `sink`. If the manifest of a container image comes before any requested
    /// file, the archive is treated as an image, and the files in the image are passed instead.
    pub(super) fn members(
        self,
        sink: &mut Extractor<'_>,
        progress: &dyn Progress,
    ) -> Result<(), PackageError> {
        progress.total(self.file.len());
        let path = sink.source();
        let mut image = false;
        let mut content = self.compression.reader(self.file.clone(), progress);
        tarball(path).walk(&mut content, &mut |name, kind, size, content| {
            if self.info.is_none() && kind == Kind::Regular && image::is_image_marker(name) && !sink.found() {
                image = true;
                return Ok(ControlFlow::Break(()));
            }
            sink.member(name, kind, size, content)
        })?;
        if !image {
            return Ok(());
        }
        let file = match self.compression {
            Compression::None => self.file,
            // The order of the layers may differ from the order in the archive, so they need random access.
            compression => {
                FileSlice::spool(&mut compression.reader(self.file, &()), UNPACKED_SIZE).map_err(|error| {
                    error.map_or_else(
                        || tarball(path).over(Limit::UnpackedSize),
                        |error| tarball(path).unpack(error),
                    )
                })?
            }
        };
        image::members(&file, sink, progress)
    }
}

fn tarball(path: &Path) -> Tarball<'_> {
    Tarball { path, member: MEMBER, size: UNPACKED_SIZE, limit: Limit::UnpackedSize }
}

/// Reads the package information in `.PKGINFO`. Returns `None` if the archive does not have `.PKGINFO` before the files
/// of the package.
fn info(path: &Path, content: &mut dyn Read) -> Result<Option<PackageInfo>, PackageError> {
    let tarball = tarball(path);
    let mut text = None;
    tarball.walk(content, &mut |name, kind, size, content| {
        if !name.starts_with(b".") || name.contains(&b'/') {
            return Ok(ControlFlow::Break(()));
        }
        if name != b".PKGINFO" || kind != Kind::Regular {
            return Ok(ControlFlow::Continue(()));
        }
        if size > INFO_SIZE {
            let (path, member) = (path.to_owned(), ".PKGINFO".to_owned());
            return Err(PackageError::Limit { path, member, limit: Limit::ControlSize });
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|error| tarball.unpack(error))?;
        text = Some(bytes);
        Ok(ControlFlow::Break(()))
    })?;
    let Some(text) = text else { return Ok(None) };
    let text = String::from_utf8_lossy(&text);
    let field = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once('='));
        let value = lines.find_map(|(key, value)| (key.trim() == name).then(|| value.trim().to_owned()));
        value.filter(|value| !value.is_empty()).ok_or_else(|| PackageError::Malformed {
            path: path.to_owned(),
            what: format!(".PKGINFO has no {name}"),
        })
    };
    Ok(Some(PackageInfo { name: field("pkgname")?, version: field("pkgver")?, architecture: field("arch")? }))
}
