//! [`Flags`]: flags of a handler, which determine how the kernel starts the interpreter.

use std::fmt;

use bitflags::bitflags;

bitflags! {
    /// Set of flags of a handler. `Documentation/admin-guide/binfmt-misc.rst` defines them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub struct Flags: u8 {
        /// `P`: the interpreter receives the program's `argv[0]` as an extra argument after the program's path (K58).
        /// Since Linux 5.12 an interpreter can read from `AT_FLAGS` whether this flag is set.
        const PRESERVE_ARGV0 = 1;
        /// `O`: the interpreter receives the program as an open file, so that it can run programs that the user may not
        /// read (K59).
        const OPEN_BINARY = 2;
        /// `C`: the interpreter gets the credentials that the program itself would get. For a setuid program, the
        /// *interpreter* runs as the program's owner (K60, K61). The kernel then sets the flag `O`, too.
        const CREDENTIALS = 4;
        /// `F`: the kernel opens the interpreter once, at registration, so that it works in every root directory (K47).
        const FIX_BINARY = 8;
    }
}

/// Letter of each flag, in the order in which the kernel prints the letters (K43).
const LETTERS: [(u8, Flags); 4] = [
    (b'P', Flags::PRESERVE_ARGV0),
    (b'O', Flags::OPEN_BINARY),
    (b'C', Flags::CREDENTIALS),
    (b'F', Flags::FIX_BINARY),
];

impl Flags {
    /// Returns the flag for `letter`; `None` for any other byte. For `C`, returns the flags `C` and `O`, as the kernel
    /// does.
    #[must_use]
    pub fn of_letter(letter: u8) -> Option<Self> {
        let (_, flag) = LETTERS.iter().find(|(known, _)| *known == letter)?;
        Some(flag.with_implied())
    }

    /// Returns this set of flags, with `O` added if it contains `C`.
    #[must_use]
    pub fn with_implied(self) -> Self {
        if self.contains(Self::CREDENTIALS) { self | Self::OPEN_BINARY } else { self }
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        LETTERS
            .iter()
            .filter(|(_, flag)| self.contains(*flag))
            .try_for_each(|(letter, _)| write!(formatter, "{}", char::from(*letter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_stand_in_the_kernels_order() {
        assert_eq!(Flags::all().to_string(), "POCF");
        assert_eq!(Flags::empty().to_string(), "");
    }

    #[test]
    fn credentials_imply_open_binary() {
        assert_eq!(Flags::of_letter(b'C').unwrap().to_string(), "OC");
        assert_eq!(Flags::of_letter(b'p'), None);
    }
}
