//! Version of the running kernel, and features of binfmt_misc that the kernel supports.

use std::fmt;
use std::sync::OnceLock;

use nix::sys::utsname::uname;

/// A version of Linux: major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

impl KernelVersion {
    /// Returns the version of the running kernel; 0.0 if it cannot be parsed.
    #[must_use]
    pub fn running() -> Self {
        static RUNNING: OnceLock<KernelVersion> = OnceLock::new();
        let asked = || {
            uname().map_or(Self { major: 0, minor: 0 }, |name| Self::parse(&name.release().to_string_lossy()))
        };
        *RUNNING.get_or_init(asked)
    }

    /// Parses the version at the beginning of a release such as `6.1.0-13-amd64`; a missing number is 0.
    #[must_use]
    pub fn parse(release: &str) -> Self {
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
        Self { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
    }

    /// Parses a whole word such as `5.10` as a version.
    ///
    /// # Errors
    /// The word is not a version: two numbers with a dot between them.
    pub fn from_word(word: &str) -> Result<Self, &'static str> {
        let number = |digits: &str| digits.parse().ok().filter(|_| !digits.starts_with('+'));
        let numbers = word.split_once('.').and_then(|(major, minor)| number(major).zip(number(minor)));
        let (major, minor) = numbers.ok_or("a kernel version has two numbers, such as 5.10")?;
        Ok(Self { major, minor })
    }

    fn is_at_least(self, major: u32, minor: u32) -> bool {
        self >= Self { major, minor }
    }

    /// Reports whether the kernel supports flag `F`. Without this flag, handlers do not work in containers.
    #[must_use]
    pub fn supports_fix_binary(self) -> bool {
        self.is_at_least(4, 8)
    }

    /// Reports whether the kernel shows an interpreter whether its handler has flag `P` (in `AT_FLAGS`,
    /// `getauxval(3)`).
    #[must_use]
    pub fn supports_preserve_argv0(self) -> bool {
        self.is_at_least(5, 12)
    }

    /// Reports whether each user namespace can have its own binfmt_misc instance (K64). The handlers of such an
    /// instance disappear when its last mount is removed (K67).
    #[must_use]
    pub fn has_per_userns_instances(self) -> bool {
        self.is_at_least(6, 7)
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major, self.minor)
    }
}

/// Reports whether qus runs in the Windows Subsystem for Linux, where all distributions share one kernel and one
/// binfmt_misc instance (K79).
#[must_use]
pub fn is_wsl() -> bool {
    std::fs::read_to_string("/proc/version").is_ok_and(|text| text.to_lowercase().contains("microsoft"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_support_their_features() {
        let old = KernelVersion::parse("4.4.0-210-generic");
        assert!(!old.supports_fix_binary() && !old.supports_preserve_argv0());
        let debian = KernelVersion::parse("6.1.0-13-amd64");
        assert!(debian.supports_preserve_argv0() && !debian.has_per_userns_instances());
        assert!(KernelVersion::parse("6.18.44").has_per_userns_instances());
        assert!(KernelVersion::parse("10.0").has_per_userns_instances());
        assert_eq!(KernelVersion::from_word("5.10"), Ok(KernelVersion { major: 5, minor: 10 }));
        for word in ["", "5", "5.", ".10", "5.10.1", "5.10-rc1", "+5.1", "v5.10"] {
            assert!(KernelVersion::from_word(word).is_err(), "{word}");
        }
        assert_eq!(KernelVersion::parse("nonsense"), KernelVersion { major: 0, minor: 0 });
    }
}
