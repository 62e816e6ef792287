//! [`HandlerName`]: the name of a handler, checked by the rules of the kernel.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use thiserror::Error;

/// Longest name of a handler, in bytes (`NAME_MAX`; K7).
pub const NAME_MAX: usize = 255;

/// Name of a handler. The handler's file in the instance has the same name.
///
/// A name has 1 to [`NAME_MAX`] bytes, none of them NUL or `/`. It is not `.` or `..`, and not `register` or `status`,
/// the names of the instance's own files (K7). So code that removes a handler by its `HandlerName` can never write to
/// the file `status` (K78).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandlerName(Vec<u8>);

/// Reason why the kernel does not accept a name for a handler (K7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The name is empty, `.` or `..`, or contains a NUL or `/`. The kernel reports `EINVAL`.
    #[error("is empty, \".\" or \"..\", or contains a NUL or a \"/\"")]
    Malformed,
    /// The name is `register` or `status`, which are files of the instance itself. The kernel reports `EEXIST`.
    #[error("is a file of the instance itself")]
    Reserved,
    /// The name is longer than [`NAME_MAX`] bytes. The kernel reports `ENAMETOOLONG`.
    #[error("is longer than {NAME_MAX} bytes")]
    TooLong,
}

impl HandlerName {
    /// Checks whether the kernel accepts `name` as the name of a handler.
    pub fn new(name: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let name = name.into();
        match name.as_slice() {
            b"" | b"." | b".." => Err(NameError::Malformed),
            _ if name.iter().any(|byte| matches!(byte, 0 | b'/')) => Err(NameError::Malformed),
            b"register" | b"status" => Err(NameError::Reserved),
            _ if name.len() > NAME_MAX => Err(NameError::TooLong),
            _ => Ok(Self(name)),
        }
    }

    /// Returns the bytes of the name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the name as an `OsStr`, the type of file names.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Display for HandlerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for HandlerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "HandlerName({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cannot_be_a_file_of_the_instance() {
        assert_eq!(HandlerName::new("status"), Err(NameError::Reserved));
        assert_eq!(HandlerName::new("register"), Err(NameError::Reserved));
        for name in ["", ".", "..", "a/b", "a\0b"] {
            assert_eq!(HandlerName::new(name), Err(NameError::Malformed), "{name:?}");
        }
        assert_eq!(HandlerName::new(vec![b'a'; 256]), Err(NameError::TooLong));
    }

    #[test]
    fn is_bytes() {
        for name in [&b"..."[..], b"with space", b"\xff\n", b"Status"] {
            assert_eq!(HandlerName::new(name).unwrap().as_bytes(), name);
        }
        assert_eq!(HandlerName::new(b"a\n\xff".to_vec()).unwrap().to_string(), r"a\n\xff");
    }
}
