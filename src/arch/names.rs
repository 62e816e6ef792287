//! [`Names`]: the names that systems and tools use for an architecture.

/// The names that systems and tools other than QEMU use for an architecture, all in lowercase.
///
/// A name may be in several of these lists, but never means two architectures. If two sources give the same name to
/// different architectures, a name that is a QEMU target means that target. Any other such name is left out, and a
/// comment in the table `ARCHES` gives the reason.
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
    /// Go's architecture names (`GOARCH`), including names that Go only reserves.
    pub goarch: &'static [&'static str],
    /// First components of the target triples of Rust, LLVM and GNU.
    pub triples: &'static [&'static str],
    /// System names of Nix, such as `aarch64-linux`.
    pub nix: &'static [&'static str],
    /// Names that the command line of `dbhi/qus` accepts.
    pub dbhi: &'static [&'static str],
}

impl Names {
    /// Names with empty lists only. A row of the table `ARCHES` replaces the lists for which it has names.
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

    /// Returns each list of names with a label that users see, in a fixed order. A list may be empty.
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

    /// Returns all names, list by list. A name that is in two lists is returned twice.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.kinds().into_iter().flat_map(|(_, names)| names.iter().copied())
    }
}
