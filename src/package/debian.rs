//! Debian packages that contain interpreters: their names, and how qus downloads and unpacks them with apt.

use std::path::Path;

use thiserror::Error;

use super::apt::{Apt, AptError};
use super::{Extraction, MemberFilter, Package, PackageError, PackageInfo, Progress, Sha256};

/// Returns the names of the Debian packages that contain interpreters, in the order in which qus tries them.
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
    /// Packages that were downloaded and searched for the requested files.
    pub packages: Vec<FromPackage>,
    /// Packages that apt does not know.
    pub unknown: Vec<&'static str>,
    /// SHA-256 of a package that was not downloaded, because the caller already has its files.
    pub known: Option<Sha256>,
}

/// Downloaded package, and what was extracted from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromPackage {
    /// Name, version and architecture of the package.
    pub info: PackageInfo,
    /// Files that were extracted from the package or refused.
    pub extraction: Extraction,
    /// SHA-256 of the package file.
    pub sha256: Sha256,
}

/// Failure to download a Debian package or to extract files from it.
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

/// Downloads the [`debian_packages`] in order and extracts the requested files into `dest`, until `selection` needs no
/// further package.
///
/// If a package cannot be downloaded or unpacked, the files of the packages before it stay in `dest`. `known` contains
/// the SHA-256 of packages whose files the caller already has. The function does not download such a package, and ends
/// there.
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
