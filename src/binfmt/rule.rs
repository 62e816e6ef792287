//! [`Rule`]: a request to the kernel to register one handler. Its text form is the *register line*.
//!
//! The grammar of a register line is that of the function `create_entry` in `fs/binfmt_misc.c`: `D name D type D offset
//! D magic D mask D interpreter D flags`. `D` is the delimiter: any byte that the line begins with (K1). The parser of
//! this module accepts and refuses the same lines as the kernel. Tests compare it with the kernel.

mod fields;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::base::error::Advise;

use self::fields::{Fields, parse_offset};
use super::{Flags, HandlerName, NameError, Pattern, PatternError};

/// Longest register line, in bytes (`MAX_REGISTER_LENGTH`; K2).
pub const LINE_MAX: usize = 1920;
/// Shortest register line, in bytes (K2).
pub const LINE_MIN: usize = 11;

/// A request to register one handler. Every value of this type can be written as a valid register line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    name: HandlerName,
    matcher: Matcher,
    interpreter: PathBuf,
    flags: Flags,
}

/// Condition that a file must meet so that a handler matches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matcher {
    /// Type `M` of a rule: the file has certain bytes at its beginning.
    Magic(Pattern),
    /// Type `E` of a rule: the path that `execve(2)` received has this extension, which is the text after its last dot
    /// (K35).
    Extension(Extension),
}

/// File name extension without its dot: at least one byte, no NUL, no `/` (K18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension(Vec<u8>);

/// Reason why a [`Rule`] cannot be created, or why a text is not a register line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The name of the handler is invalid.
    #[error("the handler's name {0}")]
    Name(#[from] NameError),
    /// The pattern is invalid.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The extension is empty, or contains a NUL or a `/` (K18).
    #[error("the extension is empty, or contains a NUL or a \"/\"")]
    Extension,
    /// The path of the interpreter is empty or contains a NUL (K16).
    #[error("the path of the interpreter is empty, or contains a NUL")]
    Interpreter,
    /// The register line is too long for the kernel, even in its shortest notation.
    #[error(
        "the register line needs {needed} bytes, but the kernel accepts {LINE_MAX}: the path of the interpreter is too long"
    )]
    TooLong {
        /// Length of the shortest register line, in bytes.
        needed: usize,
    },
    /// Every usable delimiter occurs in the handler's name, the interpreter's path or the extension, so the register
    /// line has no delimiter.
    #[error("no delimiter is left for the register line: the name and the path contain every usable byte")]
    NoDelimiter,
    /// The register line is shorter than [`LINE_MIN`] or longer than [`LINE_MAX`].
    #[error("the register line has {length} bytes, but the kernel accepts {LINE_MIN} to {LINE_MAX}")]
    Length {
        /// Length of the register line, in bytes.
        length: usize,
    },
    /// The register line has fewer than seven delimiters.
    #[error("the register line ends too early: it needs seven delimiters")]
    Incomplete,
    /// A field of the register line does not follow the grammar.
    #[error("the field \"{field}\" of the register line is malformed")]
    Malformed {
        /// Name of the malformed field, such as `offset`.
        field: &'static str,
    },
}

impl Advise for RuleError {}

impl Extension {
    /// Creates an extension from `text`. The caller passes it without the dot.
    pub fn new(text: impl Into<Vec<u8>>) -> Result<Self, RuleError> {
        let text = text.into();
        if text.is_empty() || text.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(RuleError::Extension);
        }
        Ok(Self(text))
    }

    /// Returns the bytes of the extension, without the dot before it.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reports whether a file that is executed under the path `path` has this extension (K35).
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        let path = path.as_os_str().as_bytes();
        let dot = path.iter().rposition(|byte| *byte == b'.');
        dot.and_then(|dot| path.get(dot + 1..)).is_some_and(|extension| extension == self.0)
    }
}

impl Matcher {
    /// Reports whether a file meets the condition. The file begins with `header` and is executed under the path `path`.
    #[must_use]
    pub fn matches(&self, header: &[u8], path: &Path) -> bool {
        match self {
            Self::Magic(pattern) => pattern.matches(header),
            Self::Extension(extension) => extension.matches(path),
        }
    }

    /// Returns the pattern of bytes; `None` if the condition is an extension.
    #[must_use]
    pub fn pattern(&self) -> Option<&Pattern> {
        match self {
            Self::Magic(pattern) => Some(pattern),
            Self::Extension(_) => None,
        }
    }

    /// Reports whether this condition and `other` match exactly the same files, even if the bytes of their patterns
    /// differ.
    #[must_use]
    pub fn equivalent(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Magic(one), Self::Magic(two)) => one.equivalent(two),
            (Self::Extension(one), Self::Extension(two)) => one == two,
            _ => false,
        }
    }
}

impl Rule {
    /// Creates a rule for a handler called `name`: the kernel starts `interpreter` for all files that meet the
    /// condition `matcher`.
    ///
    /// If `flags` contains `C`, `O` is added, as the kernel does.
    pub fn new(
        name: HandlerName,
        matcher: Matcher,
        interpreter: impl Into<PathBuf>,
        flags: Flags,
    ) -> Result<Self, RuleError> {
        let interpreter = interpreter.into();
        let bytes = interpreter.as_os_str().as_bytes();
        if bytes.is_empty() || bytes.contains(&0) {
            return Err(RuleError::Interpreter);
        }
        let rule = Self { name, matcher, interpreter, flags: flags.with_implied() };
        rule.encode(|_| true)?;
        Ok(rule)
    }

    /// Returns the name of the handler.
    #[must_use]
    pub fn name(&self) -> &HandlerName {
        &self.name
    }

    /// Returns the condition that a file must meet so that the handler matches it.
    #[must_use]
    pub fn matcher(&self) -> &Matcher {
        &self.matcher
    }

    /// Returns the path of the interpreter, exactly as it is written to the kernel.
    #[must_use]
    pub fn interpreter(&self) -> &Path {
        &self.interpreter
    }

    /// Returns the flags of the handler, which determine how the kernel starts the interpreter.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Returns a copy of this rule with another name of the handler.
    pub fn renamed(&self, name: HandlerName) -> Result<Self, RuleError> {
        Self::new(name, self.matcher.clone(), self.interpreter.clone(), self.flags)
    }

    /// Returns a copy of this rule with `flags` instead of its own flags.
    pub fn with_flags(&self, flags: Flags) -> Result<Self, RuleError> {
        Self::new(self.name.clone(), self.matcher.clone(), self.interpreter.clone(), flags)
    }

    /// Returns the register line of this rule, to be written to the file `register` with one `write(2)`. The line has
    /// no newline at its end.
    ///
    /// Every byte of magic and mask is escaped, because an unescaped NUL would silently end the field (K14). If the
    /// line would be too long, only bytes with a special meaning are escaped, and the flag `O` is left out if the rule
    /// has the flag `C`, which implies `O`.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        // The constructor has checked that this succeeds.
        self.encode(|_| true).unwrap_or_default()
    }

    /// Returns the register line of this rule with a delimiter for which `usable` returns true. This is for
    /// configuration files that give a special meaning to certain bytes at the beginning of a line. The error
    /// [`RuleError::NoDelimiter`] means that no delimiter is possible.
    pub fn to_line_delimited(&self, usable: impl Fn(u8) -> bool) -> Result<Vec<u8>, RuleError> {
        self.encode(usable)
    }

    fn encode(&self, usable: impl Fn(u8) -> bool) -> Result<Vec<u8>, RuleError> {
        let mut shortest = None;
        for escape in [Escape::All, Escape::Needed] {
            for delimiter in delimiters().filter(|delimiter| usable(*delimiter)) {
                if self.name.as_bytes().contains(&delimiter)
                    || self.interpreter.as_os_str().as_bytes().contains(&delimiter)
                {
                    continue;
                }
                let Some(line) = self.encode_with(delimiter, escape) else { continue };
                if line.len() <= LINE_MAX {
                    return Ok(line);
                }
                shortest = Some(shortest.map_or(line.len(), |length: usize| length.min(line.len())));
                if escape == Escape::All {
                    // Another delimiter does not change the length of the line.
                    break;
                }
            }
        }
        Err(shortest.map_or(RuleError::NoDelimiter, |needed| RuleError::TooLong { needed }))
    }

    fn encode_with(&self, delimiter: u8, escape: Escape) -> Option<Vec<u8>> {
        let mut line = vec![delimiter];
        line.extend_from_slice(self.name.as_bytes());
        line.push(delimiter);
        match &self.matcher {
            Matcher::Magic(pattern) => {
                line.extend([b'M', delimiter]);
                if pattern.offset() != 0 {
                    line.extend_from_slice(pattern.offset().to_string().as_bytes());
                }
                line.push(delimiter);
                escape.write(&mut line, pattern.magic(), delimiter);
                line.push(delimiter);
                if let Some(mask) = pattern.mask() {
                    escape.write(&mut line, mask, delimiter);
                }
            }
            Matcher::Extension(extension) => {
                if extension.as_bytes().contains(&delimiter) {
                    return None;
                }
                line.extend([b'E', delimiter, delimiter]);
                line.extend_from_slice(extension.as_bytes());
                line.push(delimiter);
            }
        }
        line.push(delimiter);
        line.extend_from_slice(self.interpreter.as_os_str().as_bytes());
        line.push(delimiter);
        let flags = match escape {
            Escape::Needed if self.flags.contains(Flags::CREDENTIALS) => self.flags - Flags::OPEN_BINARY,
            _ => self.flags,
        };
        line.extend_from_slice(flags.to_string().as_bytes());
        Some(line)
    }

    /// Parses a register line exactly as the kernel's function `create_entry` does. The line may end in one newline.
    pub fn parse(line: &[u8]) -> Result<Self, RuleError> {
        let mut fields = Fields::new(line)?;
        let name = fields.text("name")?;
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(NameError::Malformed.into());
        }
        let name = name.to_vec();
        let matcher = if fields.kind()? == b'M' {
            let offset = parse_offset(fields.text("offset")?)?;
            let magic = fields.escaped("magic")?.ok_or(PatternError::EmptyMagic)?;
            let mask = fields.escaped("mask")?;
            Matcher::Magic(Pattern::new(offset, magic, mask)?)
        } else {
            fields.text("offset")?;
            let extension = Extension::new(fields.text("extension")?)?;
            fields.text("mask")?;
            Matcher::Extension(extension)
        };
        let interpreter = fields.text("interpreter")?;
        if interpreter.is_empty() {
            return Err(RuleError::Interpreter);
        }
        let interpreter = PathBuf::from(OsStr::from_bytes(interpreter));
        let flags = fields.flags()?;
        // The kernel looks up the name last (K19).
        Self::new(HandlerName::new(name)?, matcher, interpreter, flags)
    }
}

/// Returns all bytes that a register line may have as its delimiter, in the order of preference: common ones, other
/// punctuation, then any byte that the kernel accepts.
///
/// These bytes are left out: newline, which works only in a line that ends in a newline; flag letters (K3); and bytes
/// that could be read as part of a number, a type or an escape.
fn delimiters() -> impl Iterator<Item = u8> {
    let familiar = *b":,;|!#%&@^~=?*";
    let others = (1..=u8::MAX).filter(move |byte| {
        !familiar.contains(byte)
            && !byte.is_ascii_alphanumeric()
            && !matches!(byte, b'\n' | b'/' | b'\\' | b'+' | b'-')
    });
    familiar.into_iter().chain(others)
}

/// Notation of a magic or a mask in a register line: all bytes are escaped, or only those that need an escape.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    All,
    Needed,
}

impl Escape {
    fn write(self, line: &mut Vec<u8>, mut bytes: &[u8], delimiter: u8) {
        loop {
            bytes = match *bytes {
                [] => return,
                // A backslash at the end of the field begins no escape.
                [b'\\'] if self == Self::Needed => {
                    line.push(b'\\');
                    &[]
                }
                [b'\\', second, ref rest @ ..]
                    if self == Self::Needed && is_literal_pair(second, rest, delimiter) =>
                {
                    line.extend([b'\\', second]);
                    rest
                }
                [byte, ref rest @ ..] => {
                    // A NUL truncates (K14), a backslash may begin an escape (K12), and the delimiter ends the field
                    // (K13).
                    let special = byte == 0 || byte == b'\\' || byte == delimiter;
                    if self == Self::All || special {
                        let digit =
                            |value: u8| char::from_digit(value.into(), 16).map_or(b'0', |digit| digit as u8);
                        line.extend([b'\\', b'x', digit(byte >> 4), digit(byte & 15)]);
                    } else {
                        line.push(byte);
                    }
                    rest
                }
            };
        }
    }
}

/// Reports whether a backslash and the byte `second` after it stand for themselves in a field (K12). `rest` is what
/// follows in the field. The kernel first searches the end of the field, and during this search the second of two
/// backslashes can begin an escape.
fn is_literal_pair(second: u8, rest: &[u8], delimiter: u8) -> bool {
    match second {
        0 | b'x' => false,
        b'\\' => match *rest {
            [b'x', high, low, ..] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
            [b'x', ..] => false,
            _ => true,
        },
        second => second != delimiter,
    }
}

#[cfg(test)]
mod tests;
