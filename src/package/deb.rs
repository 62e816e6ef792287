//! Debian package: an `ar` archive with `debian-binary`, `control.tar` and `data.tar` (deb(5)).

use std::io::{self, Read};
use std::ops::ControlFlow;
use std::path::Path;

use super::ar::{Ar, Member};
use super::compression::Compression;
use super::error::printable;
use super::extractor::{Extractor, Kind};
use super::file_slice::FileSlice;
use super::limit::{CONTROL_SIZE, CONTROL_UNPACKED_SIZE, Limit, UNPACKED_SIZE};
use super::tarball::Tarball;
use super::{PackageError, PackageInfo, Progress};

/// Maximum number of bytes that are read from the member `debian-binary`. At present this member contains `2.0` and a
/// line feed.
const FORMAT_SIZE: u64 = 64;

#[derive(Debug)]
pub(super) struct Deb {
    info: PackageInfo,
    data: Member,
    compression: Compression,
}

impl Deb {
    pub(super) fn open(path: &Path, file: &FileSlice) -> Result<Self, PackageError> {
        let mut archive = Ar::new(path, file);
        let format = archive.next()?.filter(|member| member.name == b"debian-binary");
        let format = format.ok_or_else(|| missing(path, "debian-binary at its beginning"))?;
        check_format(path, format)?;
        let mut info = None;
        while let Some(member) = archive.next()? {
            if let Some(suffix) = member.name.strip_prefix(b"control.tar")
                && info.is_none()
            {
                let compression = compression(path, &member, suffix)?;
                info = Some(control(path, member, compression)?);
            } else if let Some(suffix) = member.name.strip_prefix(b"data.tar") {
                // Members after `data.tar` belong to later formats (deb(5)).
                let info = info.ok_or_else(|| missing(path, "control.tar"))?;
                let compression = compression(path, &member, suffix)?;
                return Ok(Self { info, data: member, compression });
            }
        }
        Err(missing(path, if info.is_some() { "data.tar" } else { "control.tar" }))
    }

    pub(super) fn info(&self) -> &PackageInfo {
        &self.info
    }

    /// Passes the files in `data.tar` to the receiver `sink`.
    pub(super) fn members(
        self,
        sink: &mut Extractor<'_>,
        progress: &dyn Progress,
    ) -> Result<(), PackageError> {
        progress.total(self.data.content.len());
        let member = printable(&self.data.name);
        let tarball =
            Tarball { path: sink.source(), member: &member, size: UNPACKED_SIZE, limit: Limit::UnpackedSize };
        let mut content = self.compression.reader(self.data.content, progress);
        tarball.walk(&mut content, &mut |path, kind, size, content| sink.member(path, kind, size, content))
    }
}

fn missing(path: &Path, member: &'static str) -> PackageError {
    PackageError::Missing { path: path.to_owned(), member }
}

fn compression(path: &Path, member: &Member, suffix: &[u8]) -> Result<Compression, PackageError> {
    Compression::from_suffix(suffix)
        .ok_or_else(|| PackageError::Compression { path: path.to_owned(), member: printable(&member.name) })
}

fn check_format(path: &Path, format: Member) -> Result<(), PackageError> {
    let mut text = Vec::new();
    format
        .content
        .take(FORMAT_SIZE)
        .read_to_end(&mut text)
        .map_err(|source| PackageError::Open { path: path.to_owned(), source })?;
    if text.starts_with(b"2.") {
        return Ok(());
    }
    let version = printable(text.trim_ascii_end());
    Err(PackageError::Version { path: path.to_owned(), version })
}

/// Reads the package information from the file `control` in the member `control.tar`.
fn control(path: &Path, member: Member, compression: Compression) -> Result<PackageInfo, PackageError> {
    let name = printable(&member.name);
    let tarball =
        Tarball { path, member: &name, size: CONTROL_UNPACKED_SIZE, limit: Limit::ControlUnpackedSize };
    let mut text = None;
    tarball.walk(&mut compression.reader(member.content, &()), &mut |path, kind, size, content| {
        if kind != Kind::Regular || !matches!(path, b"./control" | b"control") {
            return Ok(ControlFlow::Continue(()));
        }
        if size > CONTROL_SIZE {
            let (path, member) = (tarball.path.to_owned(), "control".to_owned());
            return Err(PackageError::Limit { path, member, limit: Limit::ControlSize });
        }
        let mut bytes = Vec::new();
        let read = content.read_to_end(&mut bytes).map_err(|error| unpack(&tarball, error))?;
        if read as u64 != size {
            return Err(PackageError::Truncated {
                path: tarball.path.to_owned(),
                member: Some(tarball.member.to_owned()),
            });
        }
        text = Some(bytes);
        Ok(ControlFlow::Break(()))
    })?;
    let text = text.ok_or_else(|| missing(path, "control file"))?;
    let text = String::from_utf8_lossy(&text);
    let field = |name: &'static str| {
        field(&text, name).map(str::to_owned).ok_or_else(|| PackageError::Malformed {
            path: path.to_owned(),
            what: format!("the control file has no field {name}"),
        })
    };
    Ok(PackageInfo {
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture")?,
    })
}

fn unpack(tarball: &Tarball<'_>, source: io::Error) -> PackageError {
    PackageError::Unpack { path: tarball.path.to_owned(), member: tarball.member.to_owned(), source }
}

/// Returns the value of the single-line field `name` in the control file `text`. Field names are case-insensitive
/// (deb-control(5)).
fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        let value = value.trim();
        (field.eq_ignore_ascii_case(name) && !value.is_empty()).then_some(value)
    })
}
