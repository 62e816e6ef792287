//! Reads the version of a QEMU emulator from the bytes of its file. The emulator is not executed, because it may have
//! just been downloaded.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use memchr::memmem::Finder;

use super::arch_from_file_name;
use super::check::WHOLE_MAX;
use crate::base::order;
use crate::base::parallel;
use crate::system::file_id::{file_name, open_regular};

/// Size of the chunks in which an emulator's file is read, in bytes.
const CHUNK: usize = 256 << 10;
/// Maximum length of a QEMU version such as `10.0.0-rc1`, in bytes.
const LONGEST: usize = 32;

/// Returns the QEMU versions of the files at `paths`. Files that do not have the name of a QEMU emulator, or that
/// contain no version, are left out.
///
/// The version is read from the bytes of the file. The file is never executed, because the path may lead to a program
/// of another user.
#[must_use]
pub fn versions_of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> BTreeMap<PathBuf, QemuVersion> {
    versions_of_all(paths.into_iter().collect())
}

fn versions_of_all(mut paths: Vec<&Path>) -> BTreeMap<PathBuf, QemuVersion> {
    order::sort(&mut paths);
    paths.dedup();
    let versions = parallel::map(&paths, |path| version_in(path, arch_from_file_name(file_name(path))?.name));
    let named = paths.into_iter().zip(versions);
    order::map(named.filter_map(|(path, version)| Some((path.to_owned(), version?))))
}

/// Returns the version of the QEMU emulator at `path`, as the emulator would print it for `--version`. `target` is the
/// architecture in QEMU's notation.
///
/// Every QEMU emulator contains its name and version in one string: `qemu-arm version 7.2.22 (…)` (QEMU's
/// `linux-user/main.c`: `version()`). Returns `None` if the file has no such string or cannot be read.
#[must_use]
pub fn version_in(path: &Path, target: &str) -> Option<QemuVersion> {
    version_of(&mut open_regular(path).ok()?.take(WHOLE_MAX), target).ok().flatten()
}

/// Beginnings of the directories in which QEMU emulators search the files of programs without `QEMU_LD_PREFIX`: of
/// Debian's build, and of QEMU's own. The name of the architecture follows.
pub const PREFIXES: [&str; 2] = ["/etc/qemu-binfmt/", "/usr/gnemul/qemu-"];

/// Returns the directory in which the QEMU emulator at `path` searches the files of programs without `QEMU_LD_PREFIX`
/// (QEMU's `linux-user/main.c`: `CONFIG_QEMU_INTERP_PREFIX`).
#[must_use]
pub fn prefix_in(path: &Path) -> Option<PathBuf> {
    let mut content = Vec::new();
    open_regular(path).ok()?.take(WHOLE_MAX).read_to_end(&mut content).ok()?;
    PREFIXES.iter().find_map(|start| {
        let at = Finder::new(start.as_bytes()).find(&content)?;
        let rest = content.get(at..)?;
        let end = rest.iter().take(LONGEST).position(|byte| *byte == 0)?;
        let text = std::str::from_utf8(rest.get(..end)?).ok()?;
        (!text.contains(['%', ' '])).then(|| PathBuf::from(text))
    })
}

fn version_of(content: &mut impl Read, target: &str) -> io::Result<Option<QemuVersion>> {
    let words = format!("qemu-{target} version ");
    let finder = Finder::new(words.as_bytes());
    let mut buffer = Vec::with_capacity(CHUNK + words.len() + LONGEST);
    loop {
        let read = content.by_ref().take(CHUNK as u64).read_to_end(&mut buffer)?;
        for found in finder.find_iter(&buffer) {
            let rest = buffer.get(found + words.len()..).unwrap_or_default();
            // A version that ends outside the buffer is read again with the next chunk.
            if rest.len() < LONGEST && read > 0 {
                continue;
            }
            if let Some(version) = version_at(rest) {
                return Ok(Some(version));
            }
        }
        if read == 0 {
            return Ok(None);
        }
        let surplus = buffer.len().saturating_sub(words.len() + LONGEST);
        buffer.drain(..surplus);
    }
}

/// Parses the QEMU version at the beginning of `text`. Only characters that are safe in a path are accepted.
fn version_at(text: &[u8]) -> Option<QemuVersion> {
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
    let version: Vec<u8> = text.iter().take(LONGEST).take_while(is_part).copied().collect();
    std::str::from_utf8(&version).ok()?.parse().ok()
}

/// QEMU version in the notation of an emulator's output, for example `7.2.22` or `10.0.0-rc1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuVersion(String);

impl QemuVersion {
    /// Returns the major, minor and micro number of the version. A number that is missing or does not fit into 32 bits
    /// is 0.
    #[must_use]
    pub fn numbers(&self) -> [u32; 3] {
        let (numbers, _) = self.parts();
        let mut parts = numbers.split('.').map(|part| part.parse().unwrap_or(0));
        std::array::from_fn(|_| parts.next().unwrap_or(0))
    }

    /// Splits the version into its numbers, such as `10.0.0`, and the text after the first `-`, such as `rc1`.
    fn parts(&self) -> (&str, Option<&str>) {
        self.0.split_once('-').map_or((self.0.as_str(), None), |(numbers, more)| (numbers, Some(more)))
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for QemuVersion {
    type Err = &'static str;

    /// Parses a QEMU version, which starts with a digit, contains a dot, and has only characters that are safe in a
    /// path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+');
        let is_version = text.len() < LONGEST
            && text.bytes().all(allowed)
            && text.contains('.')
            && text.starts_with(|letter: char| letter.is_ascii_digit())
            && text.split('.').all(|part| !part.is_empty());
        is_version.then(|| Self(text.to_owned())).ok_or("a QEMU version looks like 7.2 or 7.2.22")
    }
}

impl Ord for QemuVersion {
    /// Compares two versions number by number. A release candidate such as `10.0.0-rc1` comes before its release
    /// `10.0.0`.
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |version: &Self| {
            let (numbers, more) = version.parts();
            let numbers: Vec<u64> = numbers.split('.').map(|part| part.parse().unwrap_or(0)).collect();
            (numbers, more.is_none(), more.unwrap_or_default().to_owned())
        };
        // Different texts such as `7.2` and `7.02` must not compare as equal.
        key(self).cmp(&key(other)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for QemuVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// QEMU version that the user requests. The request `7.2` also matches every version `7.2.x`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionReq(String);

impl VersionReq {
    /// Reports whether `version` is a version that the user requested.
    #[must_use]
    pub fn matches(&self, version: &QemuVersion) -> bool {
        version.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }
}

impl fmt::Display for VersionReq {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for VersionReq {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number {
            return Ok(Self(text.to_owned()));
        }
        text.parse::<QemuVersion>().map(|version| Self(version.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_at_any_offset() {
        let printed = b"qemu-arm version 7.2.22 (Debian 1:7.2+dfsg)\n\0";
        let close = CHUNK - 20..CHUNK + 3;
        for before in (0..3).chain(close) {
            let mut content = vec![b'q'; before];
            content.extend_from_slice(printed);
            assert_eq!(
                version_of(&mut &*content, "arm").unwrap(),
                Some("7.2.22".parse().unwrap()),
                "{before}"
            );
            assert_eq!(version_of(&mut &*content, "armeb").unwrap(), None);
        }
        let end = b"qemu-arm version 11.1.3";
        assert_eq!(version_of(&mut &end[..], "arm").unwrap(), Some("11.1.3".parse().unwrap()));
        for wrong in ["qemu-arm version ../../etc", "qemu-arm version %s", "qemu-arm version 7", "", "7.2.22"]
        {
            assert_eq!(version_of(&mut wrong.as_bytes(), "arm").unwrap(), None, "{wrong}");
        }
        let second = b"qemu-arm version %s and qemu-arm version 8.0.0\0";
        assert_eq!(version_of(&mut &second[..], "arm").unwrap(), Some("8.0.0".parse().unwrap()));
    }

    #[test]
    fn versions_have_an_order() {
        let sorted = ["7.2.9", "7.2.22", "8.0.0-rc1", "8.0.0", "10.0.2", "11.1.3"];
        assert!(sorted.windows(2).all(|pair| version(pair[0]) < version(pair[1])));
        assert_eq!(version("10.0.0-rc1").numbers(), [10, 0, 0]);
        for wrong in ["7", "x.2", "7..2", "7.2/", "../7.2", ""] {
            assert!(wrong.parse::<QemuVersion>().is_err(), "{wrong}");
        }
    }

    fn version(text: &str) -> QemuVersion {
        text.parse().unwrap()
    }

    #[test]
    fn a_requested_version_may_be_short() {
        let requested: VersionReq = "7.2".parse().unwrap();
        assert!(["7.2.22", "7.2"].iter().all(|text| requested.matches(&version(text))));
        assert!(!["7.20.1", "7.1.2"].iter().any(|text| requested.matches(&version(text))));
        assert!("8".parse::<VersionReq>().unwrap().matches(&version("8.2.1")));
        for wrong in ["", "x", "../7.2", "7..2", "7.2/"] {
            assert!(wrong.parse::<VersionReq>().is_err(), "{wrong}");
        }
    }
}
