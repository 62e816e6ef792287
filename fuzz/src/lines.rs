//! Targets for register lines, texts of entries, and patterns.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

use qus::binfmt::{Entry, HEADER_LEN, HandlerName, LINE_MAX, Matcher, Pattern, Rule};

/// Tests any bytes as a register line. A valid line can be written and parsed again, and its entry has the same rule.
pub fn rule(input: &[u8]) {
    let Ok(rule) = Rule::parse(input) else { return };
    let line = rule.to_line();
    assert!(line.len() <= LINE_MAX, "{} bytes", line.len());
    assert_eq!(Rule::parse(&line).as_ref(), Ok(&rule), "{}", line.escape_ascii());
    // Such an extension makes the text ambiguous: another rule has the same text.
    let text = entry_text(&rule);
    if matches!(rule.matcher(), Matcher::Extension(extension) if has(extension.as_bytes(), b"\nflags: ")) {
        return;
    }
    let entry = Entry::parse(&text).unwrap_or_else(|error| panic!("{error}: {}", text.escape_ascii()));
    assert!(entry.is(&rule), "{entry:?} is not {rule:?}");
    let again = entry.to_rule(rule.name()).expect("the entry of a rule is a rule");
    assert!(entry.is(&again), "{entry:?} is not {again:?}");
    if let Ok(name) = HandlerName::new(input) {
        let renamed = rule.renamed(name.clone());
        assert!(
            renamed.is_err() || renamed.is_ok_and(|renamed| *renamed.name() == name && entry.is(&renamed))
        );
    }
}

/// Returns the text of a rule's entry (`entry_status` in `fs/binfmt_misc.c`).
pub(crate) fn entry_text(rule: &Rule) -> Vec<u8> {
    let interpreter = rule.interpreter().as_os_str().as_bytes();
    let flags = rule.flags().to_string();
    let mut text = [b"enabled\ninterpreter ", interpreter, b"\nflags: ", flags.as_bytes(), b"\n"].concat();
    match rule.matcher() {
        Matcher::Extension(extension) => {
            text.extend([b"extension .", extension.as_bytes(), b"\n"].concat());
        }
        Matcher::Magic(pattern) => {
            let mask = pattern.mask().map(|mask| format!("mask {}\n", hex(mask))).unwrap_or_default();
            let lines = format!("offset {}\nmagic {}\n{mask}", pattern.offset(), hex(pattern.magic()));
            text.extend(lines.bytes());
        }
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _never_fails = write!(text, "{byte:02x}");
        text
    })
}

fn has(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Tests any bytes as the text of an entry. If the entry is a rule, the entry of that rule is the same.
pub fn entry(input: &[u8]) {
    let Ok(entry) = Entry::parse(input) else { return };
    assert!(entry.flag_letters().bytes().all(|letter| letter.is_ascii_graphic() || letter == b' '));
    let Some(rule) = HandlerName::new("name").ok().and_then(|name| entry.to_rule(&name)) else { return };
    assert!(entry.is(&rule) || !entry.enabled, "{entry:?} is not {rule:?}");
    let text = entry_text(&rule);
    if let Ok(again) = Entry::parse(&text)
        && !matches!(rule.matcher(), Matcher::Extension(extension) if has(extension.as_bytes(), b"\nflags: "))
    {
        assert!(again.is(&rule), "{again:?} is not {rule:?}");
    }
}

/// Tests two patterns and the header of a file. Lengths and offsets come first, then the bytes.
pub fn pattern(input: &[u8]) {
    let Some((&[offset_1, length_1, offset_2, length_2, masks], rest)) = input.split_first_chunk() else {
        return;
    };
    let (one, rest) = take_pattern(offset_1, length_1, masks & 1 != 0, rest);
    let (two, header) = take_pattern(offset_2, length_2, masks & 2 != 0, rest);
    let (Some(one), Some(two)) = (one, two) else { return };
    for (one, two) in [(&one, &two), (&two, &one)] {
        laws(one, two, header);
    }
}

fn take_pattern(offset: u8, length: u8, has_mask: bool, bytes: &[u8]) -> (Option<Pattern>, &[u8]) {
    let (magic, rest) = bytes.split_at(usize::from(length).min(bytes.len()));
    let (mask, rest) = if has_mask { rest.split_at(magic.len().min(rest.len())) } else { (&[][..], rest) };
    let mask = has_mask.then(|| mask.to_vec());
    (Pattern::new(usize::from(offset), magic.to_vec(), mask).ok(), rest)
}

fn laws(one: &Pattern, two: &Pattern, header: &[u8]) {
    assert_eq!(one.matches(header), one.differences(header).is_empty());
    assert!(one.covers(one) && one.overlaps(one) && one.matches(&file_of(one)));
    assert_eq!(one.overlaps(two), two.overlaps(one));
    assert_eq!(one.equivalent(two), one.covers(two) && two.covers(one));
    assert!(!(one.matches(header) && two.matches(header)) || one.overlaps(two));
    assert!(!(one.covers(two) && two.matches(header)) || one.matches(header));
    // A file that matches both patterns, if there is one.
    let (first, second) = (file_of(one), file_of(two));
    let both: Vec<u8> = first.iter().zip(&second).map(|(first, second)| first | second).collect();
    assert_eq!(one.overlaps(two), one.matches(&both) && two.matches(&both), "{one:?} {two:?}");
    // A file that matches `two` but not `one`, unless `one` covers `two`.
    let exception = (0..HEADER_LEN).map(|at| {
        let (ones, twos) = (mask_at(one, at), mask_at(two, at));
        // Inverts every bit that only `one` compares.
        second[at] | (!first[at] & ones & !twos)
    });
    let exception: Vec<u8> = exception.collect();
    assert!(two.matches(&exception));
    assert_eq!(one.covers(two), one.matches(&exception), "{one:?} {two:?}");
}

/// Returns a file that has only the bits that the pattern requires.
fn file_of(pattern: &Pattern) -> Vec<u8> {
    let mut file = vec![0; HEADER_LEN];
    for (index, magic) in pattern.magic().iter().enumerate() {
        let at = pattern.offset() + index;
        file[at] = magic & mask_at(pattern, at);
    }
    file
}

fn mask_at(pattern: &Pattern, at: usize) -> u8 {
    let index = at.checked_sub(pattern.offset()).filter(|index| *index < pattern.magic().len());
    index.map_or(0, |index| pattern.mask().map_or(0xff, |mask| mask[index]))
}
