//! Converts bytes to hexadecimal digits and back.

use std::fmt;

/// Formats bytes as lowercase hexadecimal digits, two for each byte.
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// Returns the value of a hexadecimal digit in upper or lower case; `None` for any other byte.
#[must_use]
pub fn digit(letter: u8) -> Option<u8> {
    char::from(letter).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Returns the bytes that pairs of hexadecimal digits stand for; `None` if `digits` is not a sequence of such pairs.
#[must_use]
pub fn bytes(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = digits.as_chunks();
    let bytes =
        pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect::<Option<_>>()?;
    rest.is_empty().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes(Hex(&all).to_string().as_bytes()), Some(all));
        assert_eq!(bytes(b"Ff"), Some(vec![0xff]));
        for wrong in [&b"f"[..], b"fg", b"+f", b" f", b"0x"] {
            assert_eq!(bytes(wrong), None);
        }
    }
}
