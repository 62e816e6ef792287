//! Plan of `qus apply`: the steps that make the registered handlers equal to the configuration. [`steps`] is a pure
//! function from rules and handlers to [`Step`]s.
//!
//! `qus apply` removes only handlers that have the name of a rule. In the kernel the newest handler wins (K31). In the
//! configuration the last rule wins. A correct handler is therefore registered again if an earlier rule of the
//! configuration would otherwise win over it.

use std::path::Path;

use crate::binfmt::{Flags, HEADER_LEN, Handler, HandlerName, Matcher, Rule};

/// A rule of the configuration, and the interpreter file that the rule names.
#[derive(Clone, Copy, Debug)]
pub struct ConfigLine<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// The regular file at the interpreter's path; `None` if the path has no regular file.
    pub interpreter: Option<&'a InterpreterFile>,
}

/// Facts about the interpreter file that a rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterpreterFile {
    /// The first bytes of the file.
    pub header: Vec<u8>,
    /// True if the file belongs to root and no other user may write to it.
    pub owned_by_root: bool,
    /// True if the file has a setuid or setgid bit.
    pub set_id: bool,
}

/// Step of `qus apply` for one rule of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The rule is registered and needs no change.
    Unchanged,
    /// Register the rule. The new handler replaces a handler with the same name.
    Register {
        /// True if a handler with the same name exists.
        replaces: bool,
    },
    /// A later rule has the same name. The value is the index of the later rule.
    Superseded(usize),
    /// The rule must not be registered on this host. The value is the reason.
    Refused(String),
}

/// Returns one step for each rule in `requested`. The rules have the order of the configuration. `handlers` begins with
/// the newest handler. `guarded` holds the file headers that no rule may match (K37).
#[must_use]
pub fn steps(requested: &[ConfigLine<'_>], handlers: &[Handler], guarded: &[Guarded]) -> Vec<Step> {
    let refusals: Vec<Option<String>> =
        requested.iter().map(|requested| refusal(requested, guarded)).collect();
    let is_fit = |index: usize| refusals.get(index).is_some_and(Option::is_none);
    // Names of the handlers after the steps so far, newest first.
    let mut order: Vec<&HandlerName> = handlers.iter().map(|handler| &handler.name).collect();
    let mut before: Vec<&Rule> = Vec::new();
    let mut steps = Vec::new();
    for (index, (one, refused)) in requested.iter().zip(&refusals).enumerate() {
        if let Some(reason) = refused {
            steps.push(Step::Refused(reason.clone()));
            continue;
        }
        let rule = one.rule;
        let mut later = requested.iter().enumerate().skip(index + 1);
        let same = later.find(|(later, other)| other.rule.name() == rule.name() && is_fit(*later));
        if let Some((later, _)) = same {
            steps.push(Step::Superseded(later));
            continue;
        }
        let location = order.iter().position(|name| *name == rule.name());
        let in_front = order.get(..location.unwrap_or_default()).unwrap_or_default();
        let is_behind = before.iter().any(|other| in_front.contains(&other.name()) && overlap(other, rule));
        let is_registered =
            handlers.iter().any(|handler| handler.name == *rule.name() && handler.entry.is(rule));
        before.push(rule);
        if is_registered && !is_behind {
            steps.push(Step::Unchanged);
            continue;
        }
        order.retain(|name| *name != rule.name());
        order.insert(0, rule.name());
        steps.push(Step::Register { replaces: location.is_some() });
    }
    steps
}

/// Reports whether there are files that both rules match. A magic rule and an extension rule never count as
/// overlapping.
fn overlap(one: &Rule, other: &Rule) -> bool {
    match (one.matcher(), other.matcher()) {
        (Matcher::Magic(one), Matcher::Magic(other)) => one.overlaps(other),
        (Matcher::Extension(one), Matcher::Extension(other)) => one == other,
        _ => false,
    }
}

/// File header that no rule may match, for example the header of native programs.
#[derive(Clone, Debug)]
pub struct Guarded {
    /// The first bytes of a file with this header.
    pub header: Vec<u8>,
    /// Reason why a rule that matches the header is refused; `None` for a native program of this host.
    pub reason: Option<String>,
}

impl Guarded {
    /// Returns a header that no rule may match, because this host certainly runs such files natively.
    #[must_use]
    pub fn certain(header: Vec<u8>) -> Self {
        Self { header, reason: None }
    }

    /// Reports whether `rule` matches files with this header. The header is padded with zeros, as in the kernel's
    /// buffer.
    fn is_taken_by(&self, rule: &Rule) -> bool {
        let mut header = self.header.clone();
        header.resize(header.len().max(HEADER_LEN), 0);
        rule.matcher().matches(&header, Path::new(""))
    }
}

/// Returns the reason why the rule in `requested` must not be registered, or `None` if the rule is safe.
pub(super) fn refusal(requested: &ConfigLine<'_>, guarded: &[Guarded]) -> Option<String> {
    let rule = requested.rule;
    let path = rule.interpreter();
    if let Some(guarded) = guarded.iter().find(|guarded| guarded.is_taken_by(rule)) {
        let certain = "it matches this host's own programs, which would all fail";
        return Some(guarded.reason.clone().unwrap_or_else(|| certain.to_owned()));
    }
    let file = requested.interpreter?;
    if rule.matcher().matches(&file.header, path) {
        return Some(format!("it matches its own interpreter, {}", path.display()));
    }
    if rule.flags().contains(Flags::CREDENTIALS) && !file.owned_by_root {
        return Some(format!(
            "with the flag C {} runs as root, but users other than root may write to it",
            path.display()
        ));
    }
    file.set_id.then(|| {
        format!(
            "{} has a setuid or setgid bit: all programs would get the rights of its owner",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binfmt::Entry;

    fn rule(line: &str) -> Rule {
        Rule::parse(line.as_bytes()).unwrap()
    }

    fn handler(line: &str) -> Handler {
        let rule = rule(line);
        let entry = Entry {
            enabled: true,
            interpreter: Some(rule.interpreter().to_owned()),
            flags: rule.flags(),
            unknown_flags: String::new(),
            matcher: Some(rule.matcher().clone()),
            unknown_lines: Vec::new(),
        };
        Handler::new(rule.name().clone(), entry)
    }

    /// Returns the steps for the configuration `lines`. `handlers` are the register lines of the handlers, newest
    /// first.
    fn plan(lines: &[&str], handlers: &[&str]) -> Vec<Step> {
        let rules: Vec<Rule> = lines.iter().map(|line| rule(line)).collect();
        let requested: Vec<ConfigLine<'_>> =
            rules.iter().map(|rule| ConfigLine { rule, interpreter: None }).collect();
        let handlers: Vec<Handler> = handlers.iter().map(|line| handler(line)).collect();
        steps(&requested, &handlers, &[Guarded::certain(b"NATIVE".to_vec())])
    }

    const NEW: Step = Step::Register { replaces: false };
    const REPLACED: Step = Step::Register { replaces: true };
    const A: &str = ":a:M::MAGIC::/a:";
    const B: &str = ":b:M::MAGIC::/b:";
    const C: &str = ":c:M::OTHER::/c:";

    #[test]
    fn a_current_handler_is_unchanged() {
        assert_eq!(plan(&[A, C], &[]), [NEW, NEW]);
        assert_eq!(plan(&[A, C], &[A, C]), [Step::Unchanged, Step::Unchanged]);
        assert_eq!(plan(&[A], &[":a:M::MAGIC::/other:"]), [REPLACED]);
        assert_eq!(plan(&[A], &[":a:M::MAGIC::/a:F"]), [REPLACED]);
        // A handler without a rule does not matter.
        assert_eq!(plan(&[A], &[B, A]), [Step::Unchanged]);
    }

    #[test]
    fn the_last_rule_wins() {
        // Both rules match the same files, so B has to be the newer one.
        assert_eq!(plan(&[A, B], &[B, A]), [Step::Unchanged, Step::Unchanged]);
        assert_eq!(plan(&[A, B], &[A, B]), [Step::Unchanged, REPLACED]);
        assert_eq!(plan(&[A, B], &[B]), [NEW, REPLACED]);
        assert_eq!(plan(&[A, C, B], &[C, B]), [NEW, Step::Unchanged, REPLACED]);
        let extension = ":e:E::x::/e:";
        assert_eq!(plan(&[extension, ":f:E::x::/f:"], &[":f:E::x::/f:"]), [NEW, REPLACED]);
        assert_eq!(plan(&[extension, A], &[A]), [NEW, Step::Unchanged]);
    }

    #[test]
    fn the_last_rule_of_a_name_counts() {
        let other = ":a:M::MAGIC::/later:";
        assert_eq!(plan(&[A, C, other], &[]), [Step::Superseded(2), NEW, NEW]);
        // A refused rule supersedes no earlier rule.
        let refused = ":a:M::NATIVE::/later:";
        let steps = plan(&[A, refused], &[]);
        assert_eq!(steps[0], NEW);
        assert!(matches!(steps[1], Step::Refused(_)));
    }

    #[test]
    fn no_rule_matches_native_programs() {
        for line in [":x:M::N::/x:", r":x:M::\xff:\x00:/x:", ":x:M:1:A::/x:"] {
            assert!(matches!(plan(&[line], &[])[0], Step::Refused(_)), "{line}");
        }
        assert_eq!(plan(&[":x:M::NATIVF::/x:"], &[]), [NEW]);
    }

    #[test]
    fn unsafe_interpreters_are_refused() {
        let safe = InterpreterFile { header: b"ELF".to_vec(), owned_by_root: true, set_id: false };
        let verdict = |line: &str, file: InterpreterFile| {
            let rule = rule(line);
            steps(&[ConfigLine { rule: &rule, interpreter: Some(&file) }], &[], &[]).remove(0)
        };
        let refused = |step: Step, part: &str| {
            let Step::Refused(reason) = step else { panic!("{step:?}") };
            assert!(reason.contains(part), "{reason}");
        };
        assert_eq!(verdict(":x:M::MAGIC::/x:OC", safe.clone()), NEW);
        refused(verdict(":x:M::EL::/x:", safe.clone()), "it matches its own interpreter, /x");
        refused(verdict(":x:E::sh::/x.sh:", safe.clone()), "it matches its own interpreter, /x.sh");
        let writable = InterpreterFile { owned_by_root: false, ..safe.clone() };
        refused(verdict(":x:M::MAGIC::/x:C", writable.clone()), "users other than root may write to it");
        assert_eq!(verdict(":x:M::MAGIC::/x:OF", writable), NEW);
        refused(verdict(":x:M::MAGIC::/x:", InterpreterFile { set_id: true, ..safe }), "setuid");
    }
}
