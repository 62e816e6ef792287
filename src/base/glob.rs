//! Compares names with patterns such as `qemu-*`, exactly like the Go function `filepath.Match`, which
//! tonistiigi/binfmt uses.

use thiserror::Error;

/// Error for a malformed pattern. Its text is that of Go's `ErrBadPattern`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Pattern for names that contain no `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    parts: Vec<Token>,
}

/// Part of a pattern, such as `*` or a character.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `*`: any number of characters except `/`.
    Star,
    /// `?`: one character except `/`.
    Any,
    /// Character class. `[…]` matches one character that is in one of the ranges, `[^…]` one that is in none of them.
    Class { negated: bool, ranges: Vec<(char, char)> },
    /// Any other character, which matches only itself.
    Literal(char),
}

/// Reports whether `word` contains a character that has a meaning in patterns.
#[must_use]
pub fn is_pattern(word: &str) -> bool {
    word.contains(['*', '?', '[', '\\'])
}

impl Glob {
    /// Parses the text of a pattern.
    ///
    /// # Errors
    /// The pattern has an empty, unclosed or malformed character class, or ends in a single backslash.
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        let mut letters = pattern.chars().peekable();
        let mut parts = Vec::new();
        while let Some(letter) = letters.next() {
            parts.push(match letter {
                '*' => Token::Star,
                '?' => Token::Any,
                '[' => class(&mut letters)?,
                '\\' => Token::Literal(letters.next().ok_or(BadPattern)?),
                letter => Token::Literal(letter),
            });
        }
        Ok(Self { parts })
    }

    /// Reports whether the whole of `name` matches the pattern. The time grows at most with the product of the two
    /// lengths.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.matches_counting(name).0
    }

    /// Reports whether the whole of `name` matches the pattern, and returns the number of steps that the comparison
    /// took.
    fn matches_counting(&self, name: &str) -> (bool, usize) {
        let name: Vec<char> = name.chars().collect();
        let (mut part, mut letter, mut steps) = (0, 0, 0);
        // Index of the last star, and how much of the name it matches so far. Only the last star may match more. If an
        // earlier star matched more, less of the name would be left for the same rest of the pattern.
        let mut last_star: Option<(usize, usize)> = None;
        while part < self.parts.len() || letter < name.len() {
            steps += 1;
            match (self.parts.get(part), name.get(letter)) {
                (Some(Token::Star), _) => {
                    last_star = Some((part, letter));
                    part += 1;
                }
                (Some(one), Some(other)) if one.is(*other) => {
                    part += 1;
                    letter += 1;
                }
                _ => match last_star {
                    Some((star, taken)) if name.get(taken).is_some_and(|letter| *letter != '/') => {
                        last_star = Some((star, taken + 1));
                        (part, letter) = (star + 1, taken + 1);
                    }
                    _ => return (false, steps),
                },
            }
        }
        (true, steps)
    }
}

impl Token {
    /// Reports whether this part of a pattern matches the single character `letter`. A star, which is compared
    /// elsewhere, never does.
    fn is(&self, letter: char) -> bool {
        match self {
            Self::Star => false,
            Self::Any => letter != '/',
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&letter)) != *negated
            }
            Self::Literal(own) => *own == letter,
        }
    }
}

/// Parses the rest of a character class such as `[a-z]`. `letters` begins after its `[`.
fn class(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, BadPattern> {
    let negated = letters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if letters.peek() == Some(&']') && !ranges.is_empty() {
            letters.next();
            return Ok(Token::Class { negated, ranges });
        }
        let first = class_letter(letters)?;
        let last = if letters.next_if_eq(&'-').is_some() { class_letter(letters)? } else { first };
        ranges.push((first, last));
    }
}

/// Parses one character inside a character class. A backslash before the character makes it literal.
fn class_letter(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, BadPattern> {
    match letters.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => letters.next().ok_or(BadPattern),
        Some(letter) => Ok(letter),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Compares a pattern with a name in the simplest way: tries every length for every star.
    fn naive(parts: &[Token], name: &[char]) -> bool {
        match (parts, name) {
            ([], []) => true,
            ([Token::Star, rest @ ..], _) => {
                naive(rest, name)
                    || name.first().is_some_and(|letter| *letter != '/') && naive(parts, &name[1..])
            }
            ([part, parts @ ..], [letter, name @ ..]) => part.is(*letter) && naive(parts, name),
            _ => false,
        }
    }

    /// Checks the cases of the table in Go's `path/filepath/match_test.go`, except those with a `/` in the name.
    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, name, matches) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*b*c*d*e*", "axbxcxdxexxx", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("[a-ζ]*", "α", true),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[x\\-]", "z", false),
            ("*a", "aaa", true),
            ("qemu-[x]*", "qemu-xtensa", true),
            ("qemu-*", "python3.11", false),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(Glob::new(pattern).unwrap().matches(name), matches, "{pattern:?} {name:?}");
        }
        for pattern in
            ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\", "a\\", "[]", "[^]"]
        {
            assert_eq!(Glob::new(pattern), Err(BadPattern), "{pattern:?}");
        }
    }

    #[test]
    fn many_stars_take_few_steps() {
        for stars in [7, 60, 500] {
            let glob = Glob::new(&("*a".repeat(stars) + "b")).unwrap();
            let name = "a".repeat(60.max(stars));
            let (matches, steps) = glob.matches_counting(&name);
            assert!(!matches);
            assert!(steps <= (2 * stars + 2) * (name.len() + 2), "{stars} stars: {steps} steps");
        }
    }

    proptest! {
        #[test]
        fn matching_is_that_of_the_naive_way(pattern in "[ab*?\\[\\]^\\\\/-]{0,10}", name in "[ab/-]{0,10}") {
            if let Ok(glob) = Glob::new(&pattern) {
                let letters: Vec<char> = name.chars().collect();
                prop_assert_eq!(glob.matches(&name), naive(&glob.parts, &letters), "{} {}", pattern, name);
            }
        }
    }
}
