//! Escapes control characters in untrusted text, so that the text cannot control a terminal.

use std::borrow::Cow;
use std::path::Path;

/// Formats a path for one line of text. Control characters, which a terminal would obey, are escaped.
#[must_use]
pub fn display_path(path: &Path) -> String {
    escape(&path.to_string_lossy())
}

/// Escapes the characters of untrusted text that could control a terminal, for output on one line.
#[must_use]
pub fn escape(text: &str) -> String {
    escaped(text).into_owned()
}

/// Escapes text like [`escape`], but copies the text only if it contains a character that must be escaped.
#[must_use]
pub fn escaped(text: &str) -> Cow<'_, str> {
    escape_where(text, needs_escape, |character| character.escape_default().to_string())
}

/// Escapes a text of several lines like [`escape`], but keeps its line feeds.
#[must_use]
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    let is_escaped = |character| character != '\n' && needs_escape(character);
    escape_where(text, is_escaped, |character| character.escape_default().to_string())
}

/// Escapes all control characters in a JSON text as `\u` sequences. The JSON standard requires this only for characters
/// below U+0020.
#[must_use]
pub fn escape_json(text: &str) -> Cow<'_, str> {
    let is_escaped = |character| character != '\n' && needs_escape(character);
    escape_where(text, is_escaped, |character| format!("\\u{:04x}", u32::from(character)))
}

fn escape_where(
    text: &str,
    is_escaped: impl Fn(char) -> bool,
    escaped: impl Fn(char) -> String,
) -> Cow<'_, str> {
    // Almost all text is plain. A check of its bytes is faster than a check of its characters.
    let is_plain = |byte| matches!(byte, b' '..=b'~') || byte == b'\n' && !is_escaped('\n');
    if text.bytes().all(is_plain) || !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_escaped(character) {
            safe.push_str(&escaped(character));
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// Reports whether `character` could control a terminal or mislead a reader. Such characters are the control characters
/// C0, DEL and C1. Others are the Unicode characters that change the writing direction, which could make one name look
/// like another.
pub(crate) fn needs_escape(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_command_a_terminal() {
        assert_eq!(escape("a\x1b[2Jb\nc\u{9b}ü"), "a\\u{1b}[2Jb\\nc\\u{9b}ü");
        assert_eq!(escape_lines("a\u{202e}b\nc\u{7f}\n"), "a\\u{202e}b\nc\\u{7f}\n");
    }
}
