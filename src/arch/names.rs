//! [`Names`]: the names that systems and tools use for an architecture.

/// The names of an architecture other than QEMU's, all in lowercase.
///
/// A name may be in several lists, but never means two architectures. If two sources disagree and the name is a QEMU
/// target, it means that target. Otherwise the name is left out, and a comment in the table gives the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Output of `uname -m` (`UTS_MACHINE` in Linux `arch/*/Makefile`).
    pub uname: &'static [&'static str],
    /// Debian's architecture names (`dpkg-architecture`).
    pub debian: &'static [&'static str],
    /// Architecture names of RPM (`rpmrc`) and Fedora.
    pub rpm: &'static [&'static str],
    /// Alpine's architecture names (`apk --print-arch`).
    pub alpine: &'static [&'static str],
    /// OCI platforms for Docker's `--platform`: `os/architecture` or `os/architecture/variant`.
    pub platforms: &'static [&'static str],
    /// Go's architecture names (`GOARCH`), including those that Go only reserves.
    pub goarch: &'static [&'static str],
    /// First components of target triples (Rust, LLVM, GNU).
    pub triples: &'static [&'static str],
    /// System names of Nix.
    pub nix: &'static [&'static str],
    /// Names that the command line of `dbhi/qus` accepts.
    pub dbhi: &'static [&'static str],
}

impl Names {
    /// Empty lists: the default for a row of the table.
    pub(super) const NONE: Self = Self {
        uname: &[],
        debian: &[],
        rpm: &[],
        alpine: &[],
        platforms: &[],
        goarch: &[],
        triples: &[],
        nix: &[],
        dbhi: &[],
    };

    /// Returns each list with its label for users, in a fixed order. A list may be empty.
    #[must_use]
    pub const fn kinds(&self) -> [(&'static str, &'static [&'static str]); 9] {
        [
            ("uname -m", self.uname),
            ("Debian", self.debian),
            ("RPM", self.rpm),
            ("Alpine", self.alpine),
            ("Docker/OCI", self.platforms),
            ("Go", self.goarch),
            ("target triple", self.triples),
            ("Nix", self.nix),
            ("dbhi/qus", self.dbhi),
        ]
    }

    /// Returns all names, list by list. A name that is in two lists occurs twice.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.kinds().into_iter().flat_map(|(_, names)| names.iter().copied())
    }
}
