//! [`Entry`]: a handler as described by the text of its file in a binfmt_misc instance.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use thiserror::Error;

use super::{Extension, Flags, HandlerName, Matcher, Pattern, Rule};
use crate::base::hex;

/// Description of a handler, parsed from the text of the handler's file in the instance (`entry_status` in
/// `fs/binfmt_misc.c`; K43).
///
/// Newer kernels print flags and lines that this version of qus does not know. Such flags and lines are stored, not
/// dropped (K44).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// True if the handler is enabled. The kernel still ignores it if the whole instance is disabled (K27).
    pub enabled: bool,
    /// Path of the interpreter, as it was registered. `None` if the handler has a BPF program instead (Linux 7.3).
    pub interpreter: Option<PathBuf>,
    /// Flags of the handler that qus knows.
    pub flags: Flags,
    /// Letters of the handler's flags that qus does not know.
    pub unknown_flags: String,
    /// Condition that a file must meet so that the handler matches it; `None` if qus cannot parse the condition.
    pub matcher: Option<Matcher>,
    /// Lines of the text that qus does not know, each without its newline.
    pub unknown_lines: Vec<Vec<u8>>,
}

/// Handler of an instance: its name, and the content of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    /// Name of the handler, which is the name of its file in the instance.
    pub name: HandlerName,
    /// Parsed content of the handler's file.
    pub entry: Entry,
    /// File to which the interpreter's path leads, if the last part of the path is a symbolic link. The file may be
    /// missing. `None` if the path is no link, or was not looked up.
    pub target: Option<PathBuf>,
}

impl Handler {
    /// Creates the description of a handler without looking up its interpreter.
    #[must_use]
    pub const fn new(name: HandlerName, entry: Entry) -> Self {
        Self { name, entry, target: None }
    }
}

/// Reason why the text of a handler's file cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The first line is neither `enabled` nor `disabled`.
    #[error("it does not begin with \"enabled\" or \"disabled\"")]
    State,
    /// A line of a known kind has an invalid value. The value here is the first word of that line.
    #[error("its line \"{0}\" cannot be read")]
    Value(&'static str),
}

impl Entry {
    /// Parses the text of a handler's file in an instance.
    pub fn parse(text: &[u8]) -> Result<Self, EntryError> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let (state, rest) = split_line(text);
        let enabled = match state {
            b"enabled" => true,
            b"disabled" => false,
            _ => return Err(EntryError::State),
        };
        let (interpreter, rest) = split_interpreter(rest);
        let mut entry = Self {
            enabled,
            interpreter: interpreter.map(|path| PathBuf::from(OsStr::from_bytes(path))),
            flags: Flags::empty(),
            unknown_flags: String::new(),
            matcher: None,
            unknown_lines: Vec::new(),
        };
        let mut window = Window::default();
        let mut rest = rest;
        while !rest.is_empty() {
            if let Some(extension) = rest.strip_prefix(b"extension .") {
                // The extension is the last line and may contain newlines (K18), so it contains all remaining text.
                let extension = Extension::new(extension).map_err(|_| EntryError::Value("extension"))?;
                entry.matcher = Some(Matcher::Extension(extension));
                break;
            }
            let line;
            (line, rest) = split_line(rest);
            if let Some(letters) = line.strip_prefix(b"flags: ") {
                entry.read_flags(letters);
            } else if let Some(number) = line.strip_prefix(b"offset ") {
                let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
                window.offset = Some(number.ok_or(EntryError::Value("offset"))?);
            } else if let Some(digits) = line.strip_prefix(b"magic ") {
                window.magic = Some(hex::bytes(digits).ok_or(EntryError::Value("magic"))?);
            } else if let Some(digits) = line.strip_prefix(b"mask ") {
                window.mask = Some(hex::bytes(digits).ok_or(EntryError::Value("mask"))?);
            } else if !line.is_empty() {
                entry.unknown_lines.push(line.to_vec());
            }
        }
        if let Some(pattern) = window.pattern()? {
            entry.matcher = Some(Matcher::Magic(pattern));
        }
        Ok(entry)
    }

    fn read_flags(&mut self, letters: &[u8]) {
        for &letter in letters {
            match Flags::of_letter(letter) {
                Some(flag) => self.flags |= flag,
                None => self.unknown_flags.extend(letter.escape_ascii().map(char::from)),
            }
        }
    }

    /// Returns the letters of all flags of the handler: the known ones in the kernel's order, then the unknown ones.
    #[must_use]
    pub fn flag_letters(&self) -> String {
        format!("{}{}", self.flags, self.unknown_flags)
    }

    /// Returns the pattern of bytes that the handler matches; `None` if the handler matches file name extensions.
    #[must_use]
    pub fn pattern(&self) -> Option<&Pattern> {
        self.matcher.as_ref().and_then(Matcher::pattern)
    }

    /// Reports whether the handler is exactly the one that `rule` registers: it is enabled, has the same interpreter
    /// and flags, and matches the same files.
    #[must_use]
    pub fn is(&self, rule: &Rule) -> bool {
        self.enabled
            && self.interpreter.as_deref() == Some(rule.interpreter())
            && self.flags == rule.flags()
            && self.unknown_flags.is_empty()
            && self.unknown_lines.is_empty()
            && self.matcher.as_ref().is_some_and(|matcher| matcher.equivalent(rule.matcher()))
    }

    /// Returns the rule that would register this handler again under `name`; `None` if the handler has a property that
    /// a [`Rule`] cannot express.
    #[must_use]
    pub fn to_rule(&self, name: &HandlerName) -> Option<Rule> {
        if !self.unknown_flags.is_empty() || !self.unknown_lines.is_empty() {
            return None;
        }
        Rule::new(name.clone(), self.matcher.clone()?, self.interpreter.clone()?, self.flags).ok()
    }
}

/// Values of the lines `offset`, `magic` and `mask`, which together form a pattern.
#[derive(Default)]
struct Window {
    offset: Option<usize>,
    magic: Option<Vec<u8>>,
    mask: Option<Vec<u8>>,
}

impl Window {
    fn pattern(self) -> Result<Option<Pattern>, EntryError> {
        let Some(magic) = self.magic else { return Ok(None) };
        let pattern = Pattern::new(self.offset.unwrap_or(0), magic, self.mask);
        pattern.map(Some).map_err(|_| EntryError::Value("magic"))
    }
}

fn split_line(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
    let (line, rest) = text.split_at_checked(end).unwrap_or((text, &[]));
    (line, rest.get(1..).unwrap_or_default())
}

/// Splits the text after the first line of a handler's file into the interpreter's path and the lines after the path. A
/// path may contain newlines (K16), so it ends before the line `flags: …`, which the kernel always prints. If several
/// lines have this form, the last one counts, because the others belong to the path.
fn split_interpreter(text: &[u8]) -> (Option<&[u8]>, &[u8]) {
    const FLAGS: &[u8] = b"\nflags: ";
    let Some(path) = text.strip_prefix(b"interpreter ") else { return (None, text) };
    let end = path.windows(FLAGS.len()).rposition(|window| window == FLAGS);
    let (path, rest) = path.split_at_checked(end.unwrap_or(path.len())).unwrap_or((path, &[]));
    (Some(path), rest.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_linux_6_18_prints() {
        let text = b"enabled\ninterpreter /usr/bin/qemu-arm\nflags: POCF\noffset 0\nmagic 7f45\nmask fff0\n";
        let entry = Entry::parse(text).unwrap();
        assert_eq!(entry.flags, Flags::all());
        assert_eq!(entry.interpreter, Some("/usr/bin/qemu-arm".into()));
        assert_eq!(
            entry.pattern(),
            Some(&Pattern::new(0, vec![0x7f, 0x45], Some(vec![0xff, 0xf0])).unwrap())
        );
        assert!(entry.unknown_lines.is_empty());
    }

    #[test]
    fn reads_extensions_and_empty_flags() {
        let entry = Entry::parse(b"disabled\ninterpreter /usr/bin/jexec\nflags: \nextension .jar\n").unwrap();
        assert!(!entry.enabled);
        assert_eq!(entry.matcher, Some(Matcher::Extension(Extension::new("jar").unwrap())));
        assert_eq!(entry.flag_letters(), "");
    }

    #[test]
    fn an_extension_may_hold_lines_that_look_like_the_kernels() {
        let entry = Entry::parse(b"enabled\ninterpreter /i\nflags: \nextension .a\nmagic 7f45\n\n").unwrap();
        let extension = Extension::new("a\nmagic 7f45\n").unwrap();
        assert_eq!(entry.matcher, Some(Matcher::Extension(extension)));
        assert!(entry.unknown_lines.is_empty());
    }

    #[test]
    fn keeps_what_newer_kernels_print() {
        let entry = Entry::parse(b"enabled\nbpf mine\nbpf-interpreter a /b\nflags: PFTL\n").unwrap();
        assert_eq!(entry.interpreter, None);
        assert_eq!(entry.flag_letters(), "PFTL");
        assert_eq!(entry.unknown_lines, [b"bpf mine".to_vec(), b"bpf-interpreter a /b".to_vec()]);
        assert_eq!(entry.to_rule(&HandlerName::new("a").unwrap()), None);
    }

    #[test]
    fn a_path_may_hold_lines_that_look_like_the_kernels() {
        let text = b"enabled\ninterpreter /a\nflags: C\nmagic 00\nflags: F\noffset 2\nmagic 41\n";
        let entry = Entry::parse(text).unwrap();
        assert_eq!(entry.interpreter, Some("/a\nflags: C\nmagic 00".into()));
        assert_eq!(entry.flags, Flags::FIX_BINARY);
        assert_eq!(entry.pattern(), Some(&Pattern::new(2, vec![0x41], None).unwrap()));
    }

    #[test]
    fn reports_what_it_cannot_read() {
        assert_eq!(Entry::parse(b"on\n"), Err(EntryError::State));
        assert_eq!(Entry::parse(b"enabled\nflags: \noffset x\n"), Err(EntryError::Value("offset")));
        assert_eq!(Entry::parse(b"enabled\nflags: \nmagic 123\n"), Err(EntryError::Value("magic")));
        assert_eq!(Entry::parse(b"enabled\nmagic aa\nmask aabb\n"), Err(EntryError::Value("magic")));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(
            text in "(enabled|disabled)?(\n(interpreter |flags: |offset |magic |mask |extension .|x)[ -~]{0,9}){0,6}"
        ) {
            let _verdict = Entry::parse(text.as_bytes());
        }
    }
}
