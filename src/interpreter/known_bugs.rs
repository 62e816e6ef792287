//! Table of known bugs in versions of QEMU's emulators. Each row cites a public bug report.

use super::QemuVersion;

/// Bug in some versions of QEMU's user-mode emulators.
#[derive(Debug)]
pub struct KnownBug {
    /// Architecture that the faulty emulator emulates.
    pub arch: &'static str,
    /// First and last QEMU version for which the bug was reported.
    pub versions: [Version; 2],
    /// Effect of the bug, as text for the user.
    pub what: &'static str,
    /// URL of the public bug report.
    pub source: &'static str,
}

/// QEMU version as its major, minor and micro number.
pub type Version = [u32; 3];

/// Known bugs. Every QEMU version between the first and the last reported version counts as affected.
pub static KNOWN_BUGS: &[KnownBug] = &[
    KnownBug {
        arch: "aarch64",
        versions: [[5, 1, 0], [5, 2, 0]],
        what: "small static programs crash now and then when they are started in a chroot",
        source: "https://github.com/docker/buildx/issues/542",
    },
    KnownBug {
        arch: "aarch64",
        versions: [[9, 2, 0], [9, 2, 2]],
        what: "ldconfig crashes, and with it the installation of libc-bin on Debian 11 and Ubuntu 22.04",
        source: "https://github.com/tonistiigi/binfmt/pull/244",
    },
];

/// Returns the known bugs of QEMU's emulator that emulates `arch` and has the version `version`.
pub fn of(arch: &str, version: &QemuVersion) -> impl Iterator<Item = &'static KnownBug> {
    let version = version.numbers();
    KNOWN_BUGS.iter().filter(move |defect| {
        let [first, last] = defect.versions;
        defect.arch == arch && (first..=last).contains(&version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_between_those_reported_count() {
        let count = |arch, version: &str| of(arch, &version.parse().unwrap()).count();
        assert_eq!(count("aarch64", "9.2.0"), 1);
        assert_eq!(count("aarch64", "9.2.2"), 1);
        assert_eq!(count("aarch64", "9.2.3"), 0);
        assert_eq!(count("aarch64", "5.2.0-rc1"), 1);
        assert_eq!(count("arm", "9.2.0"), 0);
    }

    #[test]
    fn every_row_has_its_source_and_an_architecture_of_the_table() {
        for defect in KNOWN_BUGS {
            assert!(defect.source.starts_with("https://"), "{defect:?}");
            assert!(crate::arch::Arch::from_qemu_target(defect.arch).is_some(), "{defect:?}");
            assert!(defect.versions[0] <= defect.versions[1], "{defect:?}");
        }
    }
}
