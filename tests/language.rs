//! Compares every text that qus prints with the files in `tests/language/`, which show each change of words.
//!
//! `QUS_UPDATE_LANGUAGE=1 cargo test --test language` updates the files.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory;
use qus::cli::Cli;

const QUS: &str = env!("CARGO_BIN_EXE_qus");

/// Phrases that qus does not use, each with a better word.
const AVOIDED: &[(&str, &str)] = &[
    ("cure", "try, hint"),
    ("in vain", "failed, broken"),
    ("to be had", "available"),
    ("at hand", "available"),
    ("folder", "directory"),
    ("mends", "fixes"),
    ("mended", "fixed"),
    ("proven", "verified"),
    ("furnished", "populated"),
    ("somebody", "another tool, another user"),
    ("nobody's", "no other tool's"),
    ("stranger", "another user"),
    ("whoever", "passive"),
    ("promised", "configured"),
    ("drifted", "differs"),
    ("round and round", "infinite loop"),
];

#[test]
fn messages_are_those_of_the_file() {
    let mut text = String::new();
    for path in sources() {
        let literals = literals(&production(&fs::read_to_string(root().join(&path)).unwrap()));
        let sentences: Vec<&String> = literals.iter().filter(|literal| is_language(literal)).collect();
        if !sentences.is_empty() {
            writeln!(text, "{path}").unwrap();
            for sentence in sentences {
                writeln!(text, "    {sentence}").unwrap();
            }
        }
    }
    assert!(text.lines().count() > 300, "too few messages:\n{text}");
    held("messages.txt", &text);
}

#[test]
fn help_is_that_of_the_file() {
    let mut text = String::new();
    let commands = Cli::command().disable_help_subcommand(true);
    let names = commands.get_subcommands().map(|command| vec![command.get_name().to_owned()]);
    for words in std::iter::once(Vec::new()).chain(names) {
        for option in ["-h", "--help"] {
            let output = Command::new(QUS).args(&words).arg(option).output().unwrap();
            let line = [words.as_slice(), &[option.to_owned()]].concat().join(" ");
            writeln!(text, "$ qus {line}\n{}", String::from_utf8(output.stdout).unwrap()).unwrap();
        }
    }
    held("help.txt", &text);
}

#[test]
fn no_text_has_an_avoided_word() {
    let mut found = Vec::new();
    let mut texts: Vec<(String, String)> = ["messages.txt", "help.txt"]
        .map(|name| (name.to_owned(), fs::read_to_string(directory().join(name)).unwrap()))
        .into();
    texts.extend(documents());
    for (name, text) in &texts {
        for (number, line) in text.lines().enumerate() {
            for (phrase, better) in AVOIDED {
                if has_phrase(line, phrase) {
                    found.push(format!(
                        "{name}:{}: {phrase:?}, better {better}: {}",
                        number + 1,
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Checks that errors of the system are printed by `std::io::Error`, because `Errno` prints a different text.
#[test]
fn errors_of_the_system_have_one_form() {
    const OTHERS: [&str; 4] = [".desc()", "{errno}", "source: Errno,", "#[source] Errno"];
    let mut found = Vec::new();
    for name in sources() {
        let source = production(&fs::read_to_string(root().join(&name)).unwrap());
        let lines = source.lines().filter(|line| OTHERS.iter().any(|other| line.contains(other)));
        found.extend(lines.map(|line| format!("{name}: {}", line.trim())));
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// A doc comment begins with a verb or a noun.
#[test]
fn no_doc_comment_begins_with_a_question_word() {
    const WORDS: [&str; 6] = ["What ", "Whether ", "How ", "Where ", "Who ", "Whose "];
    let mut found = Vec::new();
    for name in sources() {
        let source = production(&fs::read_to_string(root().join(&name)).unwrap());
        let mut is_first = true;
        for line in source.lines().map(str::trim_start) {
            let text = line.strip_prefix("/// ").or_else(|| line.strip_prefix("//! "));
            if text.is_some_and(|text| is_first && WORDS.iter().any(|word| text.starts_with(word))) {
                found.push(format!("{name}: {line}"));
            }
            is_first = !line.starts_with("//");
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn literals_are_found() {
    let source = r##"
        // "a comment"
        #[error("an {0} error")] fn f<'a>() { g('"', "two \" words", r#"raw "words" here"#); }
    "##;
    assert_eq!(literals(source), ["an {0} error", r#"two \" words"#, r#"raw "words" here"#]);
    assert_eq!(production("a\n#[cfg(test)]\nmod tests { \"x y\" }"), "a\n");
    assert!(is_language("cannot open {path}") && !is_language("--flag") && !is_language("a/b c/d"));
    assert!(has_phrase("It was In vain.", "in vain") && !has_phrase("secure", "cure"));
}

/// Compares a text with its file, or updates the file.
fn held(name: &str, text: &str) {
    let path = directory().join(name);
    if std::env::var_os("QUS_UPDATE_LANGUAGE").is_some() {
        return fs::write(path, text).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    let differing = |one: &str, other: &str| {
        let lines: Vec<&str> = other.lines().collect();
        one.lines().filter(|line| !lines.contains(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(
        expected == text,
        "{} differs; QUS_UPDATE_LANGUAGE=1 updates it\nno longer: {:#?}\nnew: {:#?}",
        path.display(),
        differing(&expected, text),
        differing(text, &expected)
    );
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn directory() -> PathBuf {
    root().join("tests/language")
}

/// Returns the paths of the source files, sorted, without tests.
fn sources() -> Vec<String> {
    let mut waiting = vec![root().join("src")];
    let mut sources = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            // The help has its own file.
            if !name.ends_with("/tests.rs") && !name.ends_with("/help.rs") && !name.contains("/invariants") {
                sources.push(name);
            }
        }
    }
    sources.sort();
    sources
}

/// Returns the documents for users, with their names.
fn documents() -> Vec<(String, String)> {
    let mut paths = vec![root().join("README.md")];
    for directory in ["docs", ".github"] {
        let files = fs::read_dir(root().join(directory)).unwrap().map(|file| file.unwrap().path());
        paths.extend(files.filter(|file| file.extension().is_some_and(|extension| extension == "md")));
    }
    let named = |path: &PathBuf| (path.display().to_string(), fs::read_to_string(path).unwrap());
    paths.iter().filter(|path| Path::exists(path)).map(named).collect()
}

/// Returns a source file without its tests.
fn production(source: &str) -> String {
    source.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned()
}

/// Reports whether a literal is a sentence and not a path, an option or a format: it has at least two words.
fn is_language(literal: &str) -> bool {
    let words = literal.split_whitespace().filter(|word| {
        let word = word.trim_matches(|letter: char| !letter.is_alphabetic());
        word.len() > 1 && word.chars().all(|letter| letter.is_alphabetic() || matches!(letter, '\'' | '-'))
    });
    literal.contains(' ') && words.count() >= 2
}

fn has_phrase(line: &str, phrase: &str) -> bool {
    let line = line.to_lowercase();
    // Part of an identifier does not count.
    let is_letter =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphabetic() || letter == '_');
    line.match_indices(phrase).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + phrase.len()..].chars().next());
        // The plural also counts.
        !is_letter(before) && (!is_letter(after) || line[at + phrase.len()..].starts_with("s "))
    })
}

/// Returns the string literals of Rust source in their order, with escapes.
fn literals(source: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'', 'r']) {
        let (before, from) = rest.split_at(at);
        let is_word =
            before.chars().next_back().is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
        rest = if from.starts_with("//") {
            from.split_once('\n').map_or("", |(_, rest)| rest)
        } else if let Some(text) = from.strip_prefix('"') {
            let (text, rest) = text.split_at(end_of_string(text));
            // A line break after a backslash continues the text.
            literals.push(text.split("\\\n").map(str::trim_start).collect::<Vec<_>>().concat());
            &rest[1..]
        } else if from.starts_with('\'') {
            // A character literal. A lifetime has no second quote at this position.
            let character = ["'\"'", "'\\''", "'\\\"'"].iter().find(|quoted| from.starts_with(**quoted));
            &from[character.map_or(1, |quoted| quoted.len())..]
        } else if let (false, Some((hashes, text))) = (is_word, raw(from)) {
            literals.push(text.to_owned());
            &from[2 * hashes + text.len() + 3..]
        } else {
            &from[1..]
        };
    }
    literals
}

/// Returns the index of the quote that ends a string.
fn end_of_string(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at
}

/// Parses a raw string at the beginning of a text. Returns the number of `#`, and the content.
fn raw(text: &str) -> Option<(usize, &str)> {
    let hashes = text.strip_prefix('r')?.bytes().take_while(|byte| *byte == b'#').count();
    let content = text[1 + hashes..].strip_prefix('"')?;
    let end = content.find(&format!("\"{}", "#".repeat(hashes)))?;
    Some((hashes, &content[..end]))
}
