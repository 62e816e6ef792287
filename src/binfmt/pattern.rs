//! [`Pattern`]: the bytes that a file must have at its beginning, so that a handler matches it.

use crate::base::hex::Hex;
use std::fmt;
use std::ops::Range;

use thiserror::Error;

/// Number of bytes at the beginning of a file that the kernel reads to find a handler: `BINPRM_BUF_SIZE` (K10, K34).
///
/// Source: `include/uapi/linux/binfmts.h`.
pub const HEADER_LEN: usize = 256;

/// Condition for a range of bytes at the beginning of a file. The magic is the required value of the bytes, the mask
/// selects the bits that are compared, and the offset is the position of the range in the file.
///
/// A file meets the condition if `(file[offset + i] ^ magic[i]) & mask[i] == 0` for every `i`. Bytes after the end of a
/// short file count as zero (K33, K34; `search_binfmt_handler` in `fs/binfmt_misc.c`).
///
/// The magic has at least one byte, and the mask has the same length. The range is within the first [`HEADER_LEN`]
/// bytes of the file (K10).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    offset: usize,
    magic: Vec<u8>,
    mask: Option<Vec<u8>>,
}

/// A byte of a file whose value differs from the one that a [`Pattern`] requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Offset of the byte in the file.
    pub position: usize,
    /// Value of the byte in the file.
    pub file: u8,
    /// Required value of the compared bits. The other bits are zero.
    pub magic: u8,
    /// Mask that selects the compared bits.
    pub mask: u8,
}

/// Reason why an offset, a magic and a mask do not form a valid [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PatternError {
    /// The magic is empty (K15).
    #[error("the magic is empty")]
    EmptyMagic,
    /// Mask and magic have different lengths (K15).
    #[error("the mask has {mask} bytes, but the magic has {magic}")]
    MaskLength {
        /// Length of the mask, in bytes.
        mask: usize,
        /// Length of the magic, in bytes.
        magic: usize,
    },
    /// The magic extends beyond the first [`HEADER_LEN`] bytes of a file, which are all that the kernel reads (K10).
    #[error(
        "offset {offset} and {length} bytes of magic extend beyond the first {HEADER_LEN} bytes of a file"
    )]
    OutOfWindow {
        /// Offset of the magic in the file.
        offset: usize,
        /// Length of the magic, in bytes.
        length: usize,
    },
}

impl Pattern {
    /// Creates a pattern for files that have the bytes `magic` at `offset` bytes from their beginning. Only the bits in
    /// `mask` are compared, or all bits if `mask` is `None`.
    pub fn new(offset: usize, magic: Vec<u8>, mask: Option<Vec<u8>>) -> Result<Self, PatternError> {
        if magic.is_empty() {
            return Err(PatternError::EmptyMagic);
        }
        if let Some(mask) = &mask
            && mask.len() != magic.len()
        {
            return Err(PatternError::MaskLength { mask: mask.len(), magic: magic.len() });
        }
        if offset.checked_add(magic.len()).is_none_or(|end| end > HEADER_LEN) {
            return Err(PatternError::OutOfWindow { offset, length: magic.len() });
        }
        Ok(Self { offset, magic, mask })
    }

    /// Returns the offset of the magic in the file, in bytes.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the bytes with which a file is compared. Bits that are not in the mask have no meaning.
    #[must_use]
    pub fn magic(&self) -> &[u8] {
        &self.magic
    }

    /// Returns the mask that selects the compared bits; `None` if all bits are compared.
    #[must_use]
    pub fn mask(&self) -> Option<&[u8]> {
        self.mask.as_deref()
    }

    /// Returns the magic and the mask for the byte of a file at `position`. The mask is 0 if the pattern does not
    /// compare this byte.
    fn at(&self, position: usize) -> (u8, u8) {
        let Some(index) = position.checked_sub(self.offset) else { return (0, 0) };
        let Some(&magic) = self.magic.get(index) else { return (0, 0) };
        let mask = match &self.mask {
            Some(mask) => mask.get(index).copied().unwrap_or(0),
            None => 0xff,
        };
        (magic & mask, mask)
    }

    /// Returns the range of byte positions in a file that the pattern compares.
    fn window(&self) -> Range<usize> {
        self.offset..self.offset + self.magic.len()
    }

    /// Reports whether a file that begins with `header` matches the pattern. Only the first [`HEADER_LEN`] bytes are
    /// compared, as in the kernel.
    #[must_use]
    pub fn matches(&self, header: &[u8]) -> bool {
        let Some(window) = header.get(self.window()) else {
            return self.differences(header).is_empty();
        };
        let Some(mask) = &self.mask else { return window == self.magic };
        // Compared from the end: patterns for ELF programs differ at their end, in the machine.
        let mut bytes = window.iter().zip(&self.magic).zip(mask).rev();
        bytes.all(|((byte, magic), mask)| (byte ^ magic) & mask == 0)
    }

    /// Returns the bytes of a file that do not match the pattern. The file begins with `header`. The result is empty if
    /// the file matches.
    #[must_use]
    pub fn differences(&self, header: &[u8]) -> Vec<Difference> {
        self.window()
            .filter_map(|position| {
                let (magic, mask) = self.at(position);
                let file = header.get(position).copied().unwrap_or(0);
                (file & mask != magic).then_some(Difference { position, file, magic, mask })
            })
            .collect()
    }

    /// Reports whether a file can match both this pattern and `other`: they require the same values for all bits that
    /// both compare.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.window().all(|position| {
            let (magic, mask) = self.at(position);
            let (other_magic, other_mask) = other.at(position);
            (magic ^ other_magic) & mask & other_mask == 0
        })
    }

    /// Reports whether every file that matches `other` also matches this pattern.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        self.window().all(|position| {
            let (magic, mask) = self.at(position);
            let (other_magic, other_mask) = other.at(position);
            mask & !other_mask == 0 && (magic ^ other_magic) & mask == 0
        })
    }

    /// Reports whether this pattern and `other` match exactly the same files, even if their bytes differ.
    #[must_use]
    pub fn equivalent(&self, other: &Self) -> bool {
        self.covers(other) && other.covers(self)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Pattern(+{} {}", self.offset, Hex(&self.magic))?;
        if let Some(mask) = &self.mask {
            write!(formatter, "/{}", Hex(mask))?;
        }
        formatter.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn pattern(offset: usize, magic: &[u8], mask: Option<&[u8]>) -> Pattern {
        Pattern::new(offset, magic.to_vec(), mask.map(<[u8]>::to_vec)).unwrap()
    }

    #[test]
    fn window_ends_where_the_kernel_stops_reading() {
        assert!(Pattern::new(254, vec![1, 2], None).is_ok());
        let error = Pattern::new(255, vec![1, 2], None).unwrap_err();
        assert_eq!(error, PatternError::OutOfWindow { offset: 255, length: 2 });
        assert!(Pattern::new(usize::MAX, vec![1], None).is_err());
    }

    #[test]
    fn magic_and_mask_go_together() {
        assert_eq!(Pattern::new(0, vec![], None).unwrap_err(), PatternError::EmptyMagic);
        let error = Pattern::new(0, vec![1, 2], Some(vec![1])).unwrap_err();
        assert_eq!(error.to_string(), "the mask has 1 bytes, but the magic has 2");
    }

    #[test]
    fn bits_outside_the_mask_are_ignored_on_both_sides() {
        let low = pattern(0, &[0xf7], Some(&[0x0f]));
        assert!(low.matches(&[0x17]));
        assert!(low.matches(&[0xe7]));
        assert!(!low.matches(b"\x7fELF"));
        let difference = Difference { position: 0, file: 0x7f, magic: 0x07, mask: 0x0f };
        assert_eq!(low.differences(b"\x7fELF"), [difference]);
        assert_eq!(low.differences(&[0x17]), []);
    }

    #[test]
    fn a_short_file_continues_with_zeros() {
        assert!(pattern(3, &[0, 0], None).matches(b"ab"));
        assert!(!pattern(3, &[0, 1], None).matches(b"ab"));
        assert!(pattern(0, &[0], None).matches(b""));
    }

    proptest! {
        #[test]
        fn a_matching_file_has_no_differences(
            offset in 0_usize..4,
            bytes in vec((0_u8..4, 0_u8..4), 1..6),
            masked: bool,
            header in vec(0_u8..4, 0..12),
        ) {
            let (magic, mask): (Vec<u8>, Vec<u8>) = bytes.into_iter().unzip();
            let pattern = pattern(offset, &magic, masked.then_some(&mask));
            prop_assert_eq!(pattern.matches(&header), pattern.differences(&header).is_empty());
        }
    }

    #[test]
    fn overlap_and_cover_are_about_files() {
        let elf = pattern(0, b"\x7fELF", None);
        let elf64 = pattern(0, b"\x7fELF\x02", None);
        let class64 = pattern(4, &[2], None);
        let class32 = pattern(4, &[1], None);
        assert!(elf.covers(&elf64) && !elf64.covers(&elf));
        assert!(class64.covers(&elf64) && class64.overlaps(&elf) && !class64.covers(&elf));
        assert!(!class32.overlaps(&elf64) && class32.overlaps(&elf));
        assert!(pattern(0, &[0xff], Some(&[0])).equivalent(&pattern(200, &[7], Some(&[0]))));
    }
}
