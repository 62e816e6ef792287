//! Quotes words and command lines, so that a user can paste them into a shell.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

/// Quotes `word`, so that a POSIX shell which reads the result gets exactly the bytes of `word`.
///
/// The result is printable text on one line: a control character, or a byte that is not UTF-8, becomes an octal escape
/// of `printf(1)`. A word that ends in a newline is an exception, because `$(printf …)` would remove the newline at its
/// end. Such a word is put between single quotes, and each byte that is not UTF-8 is replaced.
#[must_use]
pub fn shell_word(word: impl AsRef<OsStr>) -> String {
    let bytes = word.as_ref().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./,=:+@%".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) || text.ends_with('\n') => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ if bytes.ends_with(b"\n") => {
            format!("'{}'", word.as_ref().to_string_lossy().replace('\'', r"'\''"))
        }
        _ => printf_word(bytes),
    }
}

/// Returns a shell word that runs `printf(1)` in a command substitution, which prints `bytes`.
fn printf_word(bytes: &[u8]) -> String {
    let mut word = String::from("\"$(printf '");
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            // `printf` would take a format with a leading hyphen for an option.
            b'-' if index == 0 => word.push_str("\\055"),
            b'%' => word.push_str("%%"),
            // A backslash would begin an escape, and a quote would end the word.
            b' '..=b'~' if !b"\\'".contains(&byte) => word.push(char::from(byte)),
            _ => {
                let _ = write!(word, "\\{byte:03o}");
            }
        }
    }
    word.push_str("')\"");
    word
}

/// Quotes each of `words` with [`shell_word`] and joins them with spaces.
pub fn shell_line<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> String {
    words.into_iter().map(shell_word).collect::<Vec<_>>().join(" ")
}

/// Removes `sudo` from each command of a shell command line, because root does not need it.
#[must_use]
pub fn without_sudo(line: &str) -> String {
    let line = line.strip_prefix("sudo ").unwrap_or(line);
    ["&& ", "| ", "\n"]
        .iter()
        .fold(line.to_owned(), |line, before| line.replace(&format!("{before}sudo "), before))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn root_types_no_sudo() {
        assert_eq!(without_sudo("sudo qus reset arm"), "qus reset arm");
        assert_eq!(without_sudo("sudo chown root x && sudo chmod 755 x"), "chown root x && chmod 755 x");
        assert_eq!(
            without_sudo("sudo qus reset arm\nsudo qus reset s390x"),
            "qus reset arm\nqus reset s390x"
        );
        assert_eq!(without_sudo("echo -1 | sudo tee '/a/sudo b'"), "echo -1 | tee '/a/sudo b'");
        assert_eq!(without_sudo("qus run sh"), "qus run sh");
    }

    #[test]
    fn plain_words_stay_readable() {
        assert_eq!(shell_word("linux/arm/v7"), "linux/arm/v7");
        assert_eq!(shell_word("it's; rm"), r"'it'\''s; rm'");
        assert_eq!(shell_word("Größe 5"), "'Größe 5'");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_line(["which", "a b"]), "which 'a b'");
    }

    #[test]
    fn other_bytes_are_escaped() {
        assert_eq!(shell_word(OsStr::from_bytes(b"d\xffx")), r#""$(printf 'd\377x')""#);
        assert_eq!(shell_word("\x1b[2J%'\\"), r#""$(printf '\033[2J%%\047\134')""#);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_shell_reads_the_same_bytes(mut bytes in prop::collection::vec(1..=255_u8, 0..40)) {
            if bytes.ends_with(b"\n") {
                bytes.push(b'.');
            }
            let word = OsString::from_vec(bytes.clone());
            let line = format!("printf %s {}", shell_word(&word));
            prop_assert!(!line.contains(char::is_control));
            let output = Command::new("sh").args(["-c", &line]).output().unwrap();
            prop_assert_eq!(output.stdout, bytes);
        }
    }
}
