//! Reads the fields of a register line in the same way as the kernel's function `create_entry` in `fs/binfmt_misc.c`.

use std::cmp::Ordering;

use super::{LINE_MAX, LINE_MIN, RuleError};
use crate::base::hex;
use crate::binfmt::Flags;

/// Number of delimiters that the kernel appends to a register line before it parses the line.
const PADDING: usize = 8;

/// Reader of a register line. It returns the fields of the line in order.
pub(super) struct Fields {
    padded: Vec<u8>,
    length: usize,
    delimiter: u8,
    position: usize,
}

impl Fields {
    pub(super) fn new(line: &[u8]) -> Result<Self, RuleError> {
        let &delimiter = line.first().ok_or(RuleError::Length { length: 0 })?;
        if !(LINE_MIN..=LINE_MAX).contains(&line.len()) {
            return Err(RuleError::Length { length: line.len() });
        }
        if Flags::of_letter(delimiter).is_some() {
            return Err(RuleError::Malformed { field: "delimiter" });
        }
        let mut padded = line.to_vec();
        padded.extend([delimiter; PADDING]);
        Ok(Self { padded, length: line.len(), delimiter, position: 1 })
    }

    fn rest(&self) -> &[u8] {
        self.padded.get(self.position..).unwrap_or_default()
    }

    /// Reads an unescaped field up to the next delimiter. Like `strchr(3)` in the kernel, it fails if a NUL comes
    /// before the delimiter.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&[u8], RuleError> {
        let start = self.position;
        let malformed = RuleError::Malformed { field };
        let end = self
            .rest()
            .iter()
            .position(|byte| *byte == self.delimiter || *byte == 0)
            .filter(|end| self.rest().get(*end) == Some(&self.delimiter))
            .ok_or_else(|| malformed.clone())?;
        self.position += end + 1;
        self.padded.get(start..start + end).ok_or(malformed)
    }

    pub(super) fn kind(&mut self) -> Result<u8, RuleError> {
        let malformed = RuleError::Malformed { field: "type" };
        match *self.rest() {
            [kind @ (b'M' | b'E'), delimiter, ..] if delimiter == self.delimiter => {
                self.position += 2;
                Ok(kind)
            }
            _ => Err(malformed),
        }
    }

    /// Reads a field with escapes, like the kernel's functions `scanarg` and `string_unescape_inplace(…,
    /// UNESCAPE_HEX)`. Returns its bytes without escapes, or `None` if there are none.
    pub(super) fn escaped(&mut self, field: &'static str) -> Result<Option<Vec<u8>>, RuleError> {
        let malformed = RuleError::Malformed { field };
        let rest = self.rest();
        let mut end = 0;
        loop {
            match *rest.get(end..).unwrap_or_default() {
                [byte, ..] if byte == self.delimiter => break,
                [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    end += 4;
                }
                [] | [b'\\', b'x', ..] => return Err(malformed),
                _ => end += 1,
            }
        }
        let raw = rest.get(..end).unwrap_or_default();
        // The kernel treats the field as a C string, which ends at a NUL (K14).
        let string = raw.split(|byte| *byte == 0).next().unwrap_or_default();
        let bytes = unescape(string);
        self.position += end + 1;
        Ok((!bytes.is_empty()).then_some(bytes))
    }

    pub(super) fn flags(&mut self) -> Result<Flags, RuleError> {
        let mut flags = Flags::empty();
        while let Some(flag) = self.rest().first().and_then(|letter| Flags::of_letter(*letter)) {
            flags |= flag;
            self.position += 1;
        }
        if self.rest().first() == Some(&b'\n') {
            self.position += 1;
        }
        match self.position.cmp(&self.length) {
            Ordering::Equal => Ok(flags),
            // A field ended at one of the delimiters that were appended.
            Ordering::Greater => Err(RuleError::Incomplete),
            Ordering::Less => Err(RuleError::Malformed { field: "flags" }),
        }
    }
}

/// Replaces the escapes in a field by their bytes, like the kernel's function `string_unescape` with `UNESCAPE_HEX`
/// (`lib/string_helpers.c`). A backslash that begins no escape is kept, together with the byte after it, so `\\x41` is
/// five bytes (K12).
fn unescape(mut string: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(string.len());
    loop {
        string = match *string {
            [] => return bytes,
            [b'\\', b'x', high, ref rest @ ..] if high.is_ascii_hexdigit() => {
                let (value, rest) = match *rest {
                    [low, ref rest @ ..] if low.is_ascii_hexdigit() => (
                        hex::digit(high).unwrap_or_default() << 4 | hex::digit(low).unwrap_or_default(),
                        rest,
                    ),
                    _ => (hex::digit(high).unwrap_or_default(), rest),
                };
                bytes.push(value);
                rest
            }
            [b'\\', second, ref rest @ ..] => {
                bytes.extend([b'\\', second]);
                rest
            }
            [byte, ref rest @ ..] => {
                bytes.push(byte);
                rest
            }
        };
    }
}

/// Parses the field `offset` like the kernel's `kstrtoint(…, 10, …)`: an optional sign, digits, and an optional
/// newline. A negative number is an error (K9), and an empty field is 0.
pub(super) fn parse_offset(text: &[u8]) -> Result<usize, RuleError> {
    let malformed = RuleError::Malformed { field: "offset" };
    if text.is_empty() {
        return Ok(0);
    }
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let digits = text.strip_prefix(b"+").or_else(|| text.strip_prefix(b"-")).unwrap_or(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed);
    }
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<i32>().ok());
    number.and_then(|number| usize::try_from(number).ok()).ok_or(malformed)
}
