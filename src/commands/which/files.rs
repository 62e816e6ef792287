//! The files about which `qus which` gives answers.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::Which;
use crate::base::error::Diagnostic;
use crate::system::search_path;

/// Names of the files about which `qus which` gives answers.
pub(super) enum Files<'a> {
    Typed(Vec<Cow<'a, Path>>),
    /// Names from a list, each followed by a NUL, as `find -print0` writes them.
    Listed(Vec<u8>),
}

impl<'a> Files<'a> {
    /// Reads the list of `--files0-from`. Without this option, uses the file names on the command line.
    pub(super) fn of(args: &'a Which) -> Result<Self, Diagnostic> {
        let Some(list) = &args.files0_from else {
            return Ok(Self::Typed(args.files.iter().map(|file| in_path(file)).collect()));
        };
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

    /// Returns the arguments that are names of programs in `PATH`, each with the file that was found for it.
    pub(super) fn found_in_path(&self, args: &'a Which) -> impl Iterator<Item = (&'a Path, &Path)> {
        let typed: &[Cow<'a, Path>] = if let Self::Typed(typed) = self { typed } else { &[] };
        let pairs = args.files.iter().zip(typed).map(|(name, file)| (name.as_path(), file.as_ref()));
        pairs.filter(|(name, file)| name != file)
    }

    /// Reports whether it takes longer to look at these files than to execute a few programs. The files of a list are
    /// not counted.
    pub(super) fn are_many(&self) -> bool {
        match self {
            Self::Typed(typed) => typed.len() > 64,
            Self::Listed(_) => true,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Path> {
        let (typed, listed): (&[Cow<'a, Path>], &[u8]) = match self {
            Self::Typed(typed) => (typed, &[]),
            Self::Listed(listed) => (&[], listed),
        };
        let listed = listed.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let listed = listed.map(|name| Path::new(OsStr::from_bytes(name)));
        typed.iter().map(Cow::as_ref).chain(listed)
    }
}

/// Returns `file`. If it is a name without a slash and no such file exists, returns the program of this name in `PATH`.
fn in_path(file: &Path) -> Cow<'_, Path> {
    if !search_path::is_bare(file) || file.symlink_metadata().is_ok() {
        return Cow::Borrowed(file);
    }
    search_path::find(file.as_os_str()).map_or(Cow::Borrowed(file), Cow::Owned)
}
