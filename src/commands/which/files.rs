//! The files that `qus which` is asked about.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Which;
use crate::base::error::Diagnostic;

/// The files to explain, by name.
pub(super) enum Files<'a> {
    Typed(&'a [PathBuf]),
    /// Each ends in a NUL, as `find -print0` writes them.
    Listed(Vec<u8>),
}

impl<'a> Files<'a> {
    /// Reads the list, where one is named.
    pub(super) fn of(args: &'a Which) -> Result<Self, Diagnostic> {
        let Some(list) = &args.files0_from else { return Ok(Self::Typed(&args.files)) };
        let failed =
            |error: std::io::Error| Diagnostic::new(format!("cannot read {}: {error}", list.display()));
        let mut bytes = Vec::new();
        if list == Path::new("-") {
            std::io::stdin().lock().read_to_end(&mut bytes).map_err(failed)?;
        } else {
            bytes = std::fs::read(list).map_err(failed)?;
        }
        Ok(Self::Listed(bytes))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Path> {
        let (typed, listed): (&[PathBuf], &[u8]) = match self {
            Self::Typed(typed) => (typed, &[]),
            Self::Listed(listed) => (&[], listed),
        };
        let listed = listed.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let listed = listed.map(|name| Path::new(OsStr::from_bytes(name)));
        typed.iter().map(PathBuf::as_path).chain(listed)
    }
}
