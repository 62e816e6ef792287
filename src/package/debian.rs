//! Debian packages that contain interpreters, and how they are fetched.

use std::path::Path;

use thiserror::Error;

use super::apt::{Apt, AptError};
use super::{Extraction, MemberFilter, Package, PackageError, PackageInfo, Progress, Sha256};

/// Returns the names of the packages with interpreters, in the order in which they are tried.
///
/// Up to Debian 12, `qemu-user-static` contains the static emulators. `qemu-user` contains dynamic ones, which
/// [`MemberFilter::accept`] refuses. Since Debian 13, the emulators in `qemu-user` are static, and `qemu-user-static`
/// is missing or contains only links to them.
#[must_use]
pub fn debian_packages() -> &'static [&'static str] {
    &["qemu-user-static", "qemu-user"]
}

/// Result of [`fetch_with_apt`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Packages that were searched for files.
    pub packages: Vec<FromPackage>,
    /// Packages that apt does not know.
    pub unknown: Vec<&'static str>,
    /// SHA-256 of a package that was not downloaded, because its files exist already.
    pub known: Option<Sha256>,
}

/// Result of one package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromPackage {
    /// Information about the package.
    pub info: PackageInfo,
    /// Files that were extracted.
    pub extraction: Extraction,
    /// SHA-256 of the package.
    pub sha256: Sha256,
}

/// Failure to fetch a package.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// apt could not download the package.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// The package could not be read or unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// Downloads the [`debian_packages`] in order and extracts the requested files into `dest`, until the selection is
/// satisfied.
///
/// If a package fails, the files of earlier packages stay. A package whose SHA-256 is in `known` is not downloaded,
/// because its files exist already.
pub fn fetch_with_apt(
    apt: &Apt,
    selection: &mut dyn MemberFilter,
    known: &[Sha256],
    dest: &Path,
    progress: &dyn Progress,
) -> Result<Fetched, FetchError> {
    let mut fetched = Fetched::default();
    for name in debian_packages() {
        if selection.satisfied() {
            break;
        }
        if !known.is_empty()
            && let Some(digest) = apt.candidate(name, progress)?.filter(|digest| known.contains(digest))
        {
            fetched.known = Some(digest);
            break;
        }
        let Some(download) = apt.download(name, progress)? else {
            fetched.unknown.push(name);
            continue;
        };
        let package = Package::open(download.path())?;
        let Some(info) = package.info().cloned() else {
            return Err(PackageError::Unknown { path: download.path().to_owned() }.into());
        };
        progress.message(&format!("unpacking {} {}", info.name, info.version));
        let sha256 = package.sha256()?;
        let extraction = package.extract(selection, dest, progress)?;
        fetched.packages.push(FromPackage { info, extraction, sha256 });
    }
    Ok(fetched)
}
