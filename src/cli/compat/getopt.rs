//! Parses command lines in the syntax of `getopt(1)` and also in that of Go's package `flag`.

/// Description of an option: its letter, if it has one; its name; and true if it takes a value.
pub(super) type OptSpec = (Option<char>, &'static str, bool);

/// Parsed command line of a tool.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ParsedArgs {
    /// Name and value of each option, in the order of the command line. The value is empty if the option takes none.
    pub(super) options: Vec<(&'static str, String)>,
    /// All words that are neither options nor their values.
    pub(super) others: Vec<String>,
}

/// Parses the command line `words` with the options `known`. Options may come after other words, and the word `--` ends
/// the options. The name of an option may be shortened if it stays unique. Before a complete name, one dash is enough.
/// The error is a message that names the invalid option.
pub(super) fn read(words: &[String], known: &[OptSpec]) -> Result<ParsedArgs, String> {
    let mut parsed = ParsedArgs::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.others.extend(words.cloned());
            break;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word.as_str(), None),
        };
        let named = |name: &str| known.iter().find(|(_, long, _)| *long == name);
        let (found, value) = if let Some(long) = name.strip_prefix("--") {
            let mut like = known.iter().filter(|(_, known, _)| known.starts_with(long));
            let only = match (like.next(), like.next()) {
                (Some(only), None) => Some(only),
                _ => None,
            };
            (named(long).or(only), value)
        } else if let Some(rest) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) {
            if let Some(found) = named(name.trim_start_matches('-')) {
                (Some(found), value)
            } else {
                parsed.read_letters(rest, known, &mut words)?;
                continue;
            }
        } else {
            parsed.others.push(word.clone());
            continue;
        };
        let Some((_, name, takes_value)) = found else { return Err(format!("unknown option {word}")) };
        let value = match (takes_value, value) {
            (true, Some(value)) => value.to_owned(),
            (true, None) => words.next().ok_or_else(|| format!("{word} needs a value"))?.clone(),
            (false, None) => String::new(),
            (false, Some(_)) => return Err(format!("{word}: this option takes no value")),
        };
        parsed.options.push((name, value));
    }
    Ok(parsed)
}

impl ParsedArgs {
    /// Parses a word of option letters, given without its dash. The value of a letter that takes one is the rest of the
    /// word. If nothing is left of the word, the value is the next word.
    fn read_letters<'a>(
        &mut self,
        letters: &str,
        known: &[OptSpec],
        words: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        for (at, letter) in letters.char_indices() {
            let found = known.iter().find(|(short, ..)| *short == Some(letter));
            let Some((_, name, takes_value)) = found else {
                return Err(format!("unknown option -{letter}"));
            };
            if !takes_value {
                self.options.push((name, String::new()));
                continue;
            }
            let rest = letters.get(at + letter.len_utf8()..).unwrap_or_default();
            let value = if rest.is_empty() {
                words.next().ok_or_else(|| format!("-{letter} needs a value"))?.clone()
            } else {
                rest.to_owned()
            };
            self.options.push((name, value));
            break;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[OptSpec] = &[
        (Some('h'), "help", false),
        (Some('p'), "persistent", true),
        (None, "preserve-argv0", true),
        (Some('s'), "static", false),
    ];

    fn read_line(line: &str) -> Result<ParsedArgs, String> {
        read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), KNOWN)
    }

    #[test]
    fn options_are_read_however_they_are_written() {
        for line in [
            "-s -p yes arm",
            "-sp yes arm",
            "-spyes arm",
            "arm --static --persistent=yes",
            "-static -persistent yes -- arm",
            "--stat arm --pers yes",
        ] {
            let parsed = read_line(line).unwrap();
            assert_eq!(parsed.others, ["arm"], "{line}");
            assert_eq!(parsed.options, [("static", String::new()), ("persistent", "yes".into())], "{line}");
        }
        assert_eq!(read_line("-- -s").unwrap().others, ["-s"]);
        assert_eq!(read_line("-").unwrap().others, ["-"]);
    }

    #[test]
    fn unknown_options_are_named() {
        for (line, message) in [
            ("-x", "unknown option -x"),
            ("-sx", "unknown option -x"),
            ("--nonsense", "unknown option --nonsense"),
            // Two options begin with `--p`.
            ("--pr=yes --p yes", "unknown option --p"),
            ("-p", "-p needs a value"),
            ("--persistent", "--persistent needs a value"),
            ("--help=yes", "--help=yes: this option takes no value"),
        ] {
            assert_eq!(read_line(line).unwrap_err(), message, "{line}");
        }
    }
}
