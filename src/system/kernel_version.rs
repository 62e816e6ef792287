//! The running kernel: which version, and what that means for handlers.

use std::fmt;

use nix::sys::utsname::uname;

/// A version of Linux, major and minor.
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
        uname().map_or(Self { major: 0, minor: 0 }, |name| Self::parse(&name.release().to_string_lossy()))
    }

    /// The version at the beginning of a release, `6.1.0-13-amd64`.
    #[must_use]
    pub fn parse(release: &str) -> Self {
        let mut numbers =
            release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
        Self { major: numbers.next().unwrap_or(0), minor: numbers.next().unwrap_or(0) }
    }

    fn is_at_least(self, major: u32, minor: u32) -> bool {
        self >= Self { major, minor }
    }

    /// Reports whether it knows `F`, without which no container gets an interpreter.
    #[must_use]
    pub fn supports_fix_binary(self) -> bool {
        self.is_at_least(4, 8)
    }

    /// Reports whether interpreters learn from `AT_FLAGS` that `P` is set.
    #[must_use]
    pub fn supports_preserve_argv0(self) -> bool {
        self.is_at_least(5, 12)
    }

    /// Reports whether every user namespace may have an instance of its own (K64), and the last unmount of one removes
    /// its handlers (K67).
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

/// Reports whether this is Windows' subsystem for Linux, where all distributions share one kernel and one instance
/// (K79).
#[must_use]
pub fn is_wsl() -> bool {
    std::fs::read_to_string("/proc/version").is_ok_and(|text| text.to_lowercase().contains("microsoft"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_what_they_have() {
        let old = KernelVersion::parse("4.4.0-210-generic");
        assert!(!old.supports_fix_binary() && !old.supports_preserve_argv0());
        let debian = KernelVersion::parse("6.1.0-13-amd64");
        assert!(debian.supports_preserve_argv0() && !debian.has_per_userns_instances());
        assert!(KernelVersion::parse("6.18.44").has_per_userns_instances());
        assert!(KernelVersion::parse("10.0").has_per_userns_instances());
        assert_eq!(KernelVersion::parse("nonsense"), KernelVersion { major: 0, minor: 0 });
    }
}
