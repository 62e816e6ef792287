//! Selection of handlers by the words of a command line: architectures, names of handlers, and patterns for names.

use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::base::escape::escape;
use crate::base::glob::is_pattern;
use crate::base::shell::shell_word;
use crate::binfmt::{Handler, HandlerName};
use crate::commands::args::HandlerArg;
use crate::handler::classify::name_lossy;
use crate::handler::preset::Preset;

/// Handlers that the words of a command line select.
pub(crate) struct Selection<'a> {
    /// The selected handlers, in the order of the instance.
    pub(crate) handlers: Vec<&'a Handler>,
    /// Selected architectures without a selected handler, in the order of the words.
    pub(crate) unserved: Vec<&'static Arch>,
}

/// Selects the handlers that `words` name. No words, and the word `all`, select those for which `is_default` is true. An
/// architecture selects its handlers, those for which `is_of` is true. If it has none, a handler is selected whose name
/// is exactly the word.
///
/// # Errors
/// Fails if a word is no architecture, and no handler has this name or matches this pattern. The names in `known`, which
/// are not those of handlers, are permitted.
pub(crate) fn select<'a>(
    handlers: &'a [Handler],
    words: &[HandlerArg],
    known: &[HandlerName],
    is_default: impl Fn(&Handler) -> bool,
    is_of: impl Fn(&Handler, &'static Arch) -> bool,
) -> Result<Selection<'a>, Diagnostic> {
    let mut marks = Marks { handlers, is_marked: vec![false; handlers.len()] };
    let mut unserved = Vec::new();
    if words.is_empty() {
        marks.mark(&is_default);
    }
    for word in words {
        match word {
            HandlerArg::All => {
                marks.mark(&is_default);
            }
            HandlerArg::Arch(arch, name) => {
                let is_named = |handler: &Handler| name.as_ref() == Some(&handler.name);
                let is_served = marks.mark(&|handler| is_of(handler, arch)) || marks.mark(&is_named);
                if !is_served && !unserved.contains(arch) {
                    unserved.push(*arch);
                }
            }
            HandlerArg::Name(_) | HandlerArg::Pattern(..) => {
                let is_meant = |name: &HandlerName| is_meant_by(word, name);
                if !marks.mark(&|handler| is_meant(&handler.name)) && !known.iter().any(is_meant) {
                    return Err(none_of(word));
                }
            }
        }
    }
    Ok(Selection { handlers: marks.marked(), unserved })
}

/// Handlers, with a mark for each that is selected.
struct Marks<'a> {
    handlers: &'a [Handler],
    is_marked: Vec<bool>,
}

impl<'a> Marks<'a> {
    /// Marks the handlers for which `selects` is true. Reports whether there is one.
    fn mark(&mut self, selects: &dyn Fn(&Handler) -> bool) -> bool {
        let mut found = false;
        for (handler, is_marked) in self.handlers.iter().zip(&mut self.is_marked) {
            if selects(handler) {
                (found, *is_marked) = (true, true);
            }
        }
        found
    }

    fn marked(self) -> Vec<&'a Handler> {
        let handlers = self.handlers.iter().zip(self.is_marked);
        handlers.filter(|(_, is_marked)| *is_marked).map(|(handler, _)| handler).collect()
    }
}

/// Reports whether `word`, a name or a pattern, means a handler called `name`.
fn is_meant_by(word: &HandlerArg, name: &HandlerName) -> bool {
    match word {
        HandlerArg::Name(own) => own == name || is_of_preset(name, own),
        HandlerArg::Pattern(_, glob) => glob.matches(&name_lossy(name)),
        HandlerArg::All | HandlerArg::Arch(..) => false,
    }
}

/// Reports whether `words` select a rule or handler called `name` whose programs are those of `arches`. No words select
/// everything.
pub(crate) fn is_meant(words: &[HandlerArg], name: &HandlerName, arches: &[&Arch]) -> bool {
    let is_one = |word: &HandlerArg| match word {
        HandlerArg::All => true,
        HandlerArg::Arch(arch, _) => arches.contains(arch),
        HandlerArg::Name(_) | HandlerArg::Pattern(..) => is_meant_by(word, name),
    };
    words.is_empty() || words.iter().any(is_one)
}

/// Reports whether `word` names a preset that has a handler called `name`.
fn is_of_preset(name: &HandlerName, word: &HandlerName) -> bool {
    let preset = std::str::from_utf8(word.as_bytes()).ok().and_then(Preset::named);
    preset.is_some_and(|preset| preset.has_handler(name))
}

/// Returns the error that `word` selects no handler.
fn none_of(word: &HandlerArg) -> Diagnostic {
    let problem = match word {
        HandlerArg::Name(name) => {
            let name = name_lossy(name);
            let nearest = Arch::named(&name).err().and_then(|unknown| unknown.nearest);
            let nearest = nearest.map(|nearest| format!("; did you mean {nearest:?}?")).unwrap_or_default();
            format!("no handler or architecture is called \"{}\"{nearest}", escape(&name))
        }
        HandlerArg::Pattern(pattern, _) => format!("no handler has a name like {}", escape(pattern)),
        HandlerArg::All | HandlerArg::Arch(..) => "no handler is registered".to_owned(),
    };
    Diagnostic::new(problem).with_command("qus list")
}

/// Returns the word that selects exactly the handler called `name` on a command line. Returns `None` for a name that no
/// word can express: it is not UTF-8, or contains a comma or a control character.
pub(crate) fn word_for(name: &HandlerName) -> Option<String> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    if text.contains(',') || text.chars().any(char::is_control) || text.trim() != text {
        return None;
    }
    // The name of a preset selects all handlers of the preset.
    let is_preset = Preset::named(text).is_some_and(|preset| !preset.has_handler(name));
    let is_arch = text.eq_ignore_ascii_case("all") || Arch::named(text).is_ok() || is_preset;
    let is_option = text.starts_with('-');
    if !is_arch && !is_option && !is_pattern(text) {
        return Some(shell_word(text));
    }
    // A pattern never names an architecture. A class with one character matches only this character.
    let mut quoted = String::new();
    let last = text.chars().count().checked_sub(1)?;
    for (index, letter) in text.chars().enumerate() {
        match letter {
            '\\' | '*' | '?' | '[' | ']' => quoted.extend(['\\', letter]),
            '-' if index == 0 => quoted.push_str(r"\-"),
            letter if index == last && is_arch => quoted.extend(['[', letter, ']']),
            letter => quoted.push(letter),
        }
    }
    Some(shell_word(quoted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binfmt::Entry;
    use crate::commands::args::{Words, flat, parse_handlers};
    use crate::handler::classify::emulated_arch;

    fn handler(name: &str) -> Handler {
        let entry = Entry::parse(b"enabled\ninterpreter /x\nflags: \nextension .x\n").unwrap();
        Handler::new(HandlerName::new(name).unwrap(), entry)
    }

    /// Returns the names of the handlers that `words` select.
    fn selected(handlers: &[Handler], words: &[&str]) -> Result<Vec<String>, String> {
        let words: Vec<Words<HandlerArg>> = words.iter().map(|word| parse_handlers(word).unwrap()).collect();
        let words = flat(&words);
        let is_of = |handler: &Handler, arch| emulated_arch(handler) == Some(arch);
        let chosen = select(handlers, &words, &[], |handler| emulated_arch(handler).is_some(), is_of);
        let names = |selection: Selection<'_>| {
            selection.handlers.iter().map(|handler| handler.name.to_string()).collect()
        };
        chosen.map(names).map_err(|problem| problem.into_content().message)
    }

    #[test]
    fn a_word_selects_a_handler_by_its_name() {
        let handlers = ["jar", "qemu-arm", "python3.11", "python3.12"].map(handler);
        assert_eq!(selected(&handlers, &["jar"]).unwrap(), ["jar"]);
        assert_eq!(selected(&handlers, &["python*"]).unwrap(), ["python3.11", "python3.12"]);
        assert_eq!(selected(&handlers, &["python3.12", "jar", "j*"]).unwrap(), ["jar", "python3.12"]);
        // The architecture has no handler, so the word is the name of one.
        assert_eq!(selected(&handlers, &["qemu-arm"]).unwrap(), ["qemu-arm"]);
        assert!(selected(&handlers, &["arm"]).unwrap().is_empty());
        let unknown = r#"no handler or architecture is called "arm65"; did you mean "arm64"?"#;
        assert_eq!(selected(&handlers, &["jar", "arm65"]).unwrap_err(), unknown);
        assert_eq!(selected(&handlers, &["x*"]).unwrap_err(), "no handler has a name like x*");
        assert!(
            parse_handlers("[").is_err() && parse_handlers("").is_err() && parse_handlers("status").is_err()
        );
    }

    #[test]
    fn every_name_has_a_word() {
        let odd = [
            "jar",
            "ape",
            "APE",
            "qemu-arm",
            "arm",
            "all",
            "-x",
            "a*",
            "[a]",
            r"a\b",
            "it's",
            "a?",
            "with space",
            "ø",
        ];
        let handlers = odd.map(handler);
        for handler in &handlers {
            let word = word_for(&handler.name).unwrap();
            let word = shlex(&word);
            assert_eq!(selected(&handlers, &[&word]).unwrap(), [handler.name.to_string()], "{word}");
            assert!(!word.starts_with('-'));
        }
        for name in ["a,b", "a\nb", " a"] {
            assert_eq!(word_for(&HandlerName::new(name).unwrap()), None);
        }
    }

    /// Removes the quotes of a shell word.
    fn shlex(word: &str) -> String {
        word.replace(r"'\''", "\u{1}").replace('\'', "").replace('\u{1}', "'")
    }
}
