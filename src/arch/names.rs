//! [`Names`]: what an architecture is called, and by whom.

/// The names of an architecture besides QEMU's own, all in lowercase.
///
/// One name may occur in several kinds, but never means two architectures. If sources contradict each other, QEMU's
/// name for a target means that target, and other names are left out. The table has a comment there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Output of `uname -m` on such a machine (`UTS_MACHINE` in Linux `arch/*/Makefile`).
    pub uname: &'static [&'static str],
    /// Debian's architecture names (`dpkg-architecture`).
    pub debian: &'static [&'static str],
    /// Architecture names of RPM (`rpmrc`), and so of Fedora.
    pub rpm: &'static [&'static str],
    /// Alpine's architecture names (`apk --print-arch`).
    pub alpine: &'static [&'static str],
    /// OCI platforms as `os/architecture` or `os/architecture/variant`, for Docker's `--platform`.
    pub platforms: &'static [&'static str],
    /// Go's architecture names (`GOARCH`), including those that Go only reserves.
    pub goarch: &'static [&'static str],
    /// First components of target triples (Rust, LLVM, GNU).
    pub triples: &'static [&'static str],
    /// Systems of Nix.
    pub nix: &'static [&'static str],
    /// Names which the command line of `dbhi/qus` takes.
    pub dbhi: &'static [&'static str],
}

impl Names {
    /// No names at all: what a row of the table begins with.
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

    /// Every kind of name with its label for people, in a fixed order; kinds without names have an empty list.
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

    /// All names, kind after kind; a name that stands under two kinds comes twice.
    pub fn iter(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.kinds().into_iter().flat_map(|(_, names)| names.iter().copied())
    }
}
