//! Which Debian packages have interpreters, and getting them out.

use std::path::Path;

use thiserror::Error;

use super::apt::{Apt, AptError};
use super::{Extraction, MemberFilter, Package, PackageError, PackageInfo, Progress, Sha256};

/// The packages with interpreters, in the order to try them.
///
/// Until Debian 12 `qemu-user-static` has them, and the emulators of `qemu-user` are not static, which
/// [`MemberFilter::accept`] finds. Since Debian 13 `qemu-user` is static itself, and `qemu-user-static` is gone or has
/// only links into it.
#[must_use]
pub fn debian_packages() -> &'static [&'static str] {
    &["qemu-user-static", "qemu-user"]
}

/// Results of [`fetch_with_apt`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// The packages that were looked into.
    pub packages: Vec<FromPackage>,
    /// The packages that apt does not know.
    pub unknown: Vec<&'static str>,
    /// The digest of a package that has nothing new; it was not downloaded.
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

/// Failure to fetch.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// apt did not give the package.
    #[error(transparent)]
    Apt(#[from] AptError),
    /// Nothing could be got out of the package.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// Downloads [`debian_packages`] one after the other and puts what is wanted into `dest`, until nothing more is.
///
/// Files of earlier packages stay if a later one fails. A package whose SHA-256 is in `known` is not downloaded, as its
/// files are present.
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
