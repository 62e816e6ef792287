//! [`Flags`]: how the kernel starts an interpreter.

use std::fmt;

use bitflags::bitflags;

bitflags! {
    /// The flags of a handler, as `Documentation/admin-guide/binfmt-misc.rst` names them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
    pub struct Flags: u8 {
        /// `P`: the program's `argv[0]` is passed on, behind its path (K58); interpreters learn of it from `AT_FLAGS`
        /// since Linux 5.12.
        const PRESERVE_ARGV0 = 1;
        /// `O`: the interpreter gets the program as an open file, so that unreadable programs run (K59).
        const OPEN_BINARY = 2;
        /// `C`: credentials come from the program: a setuid program makes the *interpreter* run as its owner (K60,
        /// K61). The kernel sets `O` with it.
        const CREDENTIALS = 4;
        /// `F`: the interpreter is opened once, at registration, and serves every root directory (K47).
        const FIX_BINARY = 8;
    }
}

/// Letter of each flag, in the order in which the kernel prints them (K43).
const LETTERS: [(u8, Flags); 4] = [
    (b'P', Flags::PRESERVE_ARGV0),
    (b'O', Flags::OPEN_BINARY),
    (b'C', Flags::CREDENTIALS),
    (b'F', Flags::FIX_BINARY),
];

impl Flags {
    /// The flag that `letter` stands for; with `C` comes `O`, as in the kernel. `None` for any other byte.
    #[must_use]
    pub fn of_letter(letter: u8) -> Option<Self> {
        let (_, flag) = LETTERS.iter().find(|(known, _)| *known == letter)?;
        Some(flag.with_implied())
    }

    /// These flags, with `O` where `C` implies it.
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
