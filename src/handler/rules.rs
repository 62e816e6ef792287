//! Decision whether qus registers rules that the user wrote or that a preset has: a pure function from facts to a
//! [`Decision`].

use super::apply::{ConfigLine, Guarded, InterpreterFile, refusal};
use super::classify::is_staging;
use super::plan::{Decision, Registration};
use crate::base::error::Advice;
use crate::binfmt::{Entry, Handler, Matcher, Rule};

/// Facts from which [`decide_rules`] decides.
#[derive(Debug)]
pub struct RuleFacts<'a> {
    /// All handlers, newest first.
    pub handlers: &'a [Handler],
    /// Headers of files that no rule may match (K37).
    pub guarded: &'a [Guarded],
    /// The interpreter of the rules.
    pub interpreter: &'a InterpreterFile,
    /// True if the rules may take the place of other handlers.
    pub replace: bool,
    /// Reason why registered handlers of the same rules do not work, if an execution showed that.
    pub broken: Option<String>,
}

/// Decides whether to register `rules`, which have the same interpreter.
#[must_use]
pub fn decide_rules(rules: &[Rule], facts: &RuleFacts<'_>) -> Decision {
    for rule in rules {
        let line = ConfigLine { rule, interpreter: Some(facts.interpreter) };
        if let Some(reason) = refusal(&line, facts.guarded) {
            return Decision::Refused { reason, advice: Advice::default() };
        }
    }
    let handlers: Vec<&Handler> =
        facts.handlers.iter().filter(|handler| !is_staging(&handler.name)).collect();
    let is_unchanged = facts.broken.is_none() && rules.iter().all(|rule| is_in_force(rule, rules, &handlers));
    if is_unchanged {
        return Decision::Unchanged(rules.iter().map(|rule| rule.name().clone()).collect());
    }
    let others: Vec<&Handler> =
        handlers.iter().copied().filter(|handler| is_in_the_way(handler, rules)).collect();
    if !facts.replace
        && let Some(first) = others.first()
    {
        // Another tool registered the same interpreter for these files.
        let has_interpreter = |handler: &&Handler| {
            let path = handler.entry.interpreter.as_deref();
            handler.entry.enabled && rules.iter().any(|rule| Some(rule.interpreter()) == path)
        };
        if others.iter().all(has_interpreter) && others.iter().all(|other| matches_all(other, rules)) {
            return Decision::LeaveExisting(first.name.clone());
        }
        return Decision::Conflict { with: others.iter().map(|handler| handler.name.clone()).collect() };
    }
    Decision::Register(registration(rules, &handlers, &others, facts.broken.clone()))
}

fn registration(
    rules: &[Rule],
    handlers: &[&Handler],
    others: &[&Handler],
    broken: Option<String>,
) -> Registration {
    let has_name = |handler: &Handler| rules.iter().any(|rule| *rule.name() == handler.name);
    let removes: Vec<_> =
        handlers.iter().filter(|handler| has_name(handler)).map(|handler| handler.name.clone()).collect();
    let displaced = others.iter().filter(|handler| !has_name(handler));
    let is_narrowed = |handler: &&&Handler| {
        handler.entry.enabled
            && !has_name(handler)
            && others.iter().all(|other| other.name != handler.name)
            && rules.iter().any(|rule| overlaps(handler, rule))
    };
    let is_disabled = handlers.iter().any(|handler| has_name(handler) && !handler.entry.enabled);
    let reason = removes.first().map(|name| match broken {
        Some(broken) => format!("{name} failed: {broken}"),
        None if is_disabled => format!("{name} was disabled"),
        None => format!("in place of {name}"),
    });
    Registration {
        rules: rules.to_vec(),
        reason,
        displaced: displaced.map(|handler| handler.name.clone()).collect(),
        narrowed: handlers.iter().filter(is_narrowed).map(|handler| handler.name.clone()).collect(),
        removes,
    }
}

/// Reports whether `rule` is registered, and whether the kernel uses its handler before every other handler that is not
/// for special files among those of the rule. `rules` are all requested rules.
fn is_in_force(rule: &Rule, rules: &[Rule], handlers: &[&Handler]) -> bool {
    let Some(at) = handlers.iter().position(|handler| handler.name == *rule.name()) else { return false };
    let is_ours = |handler: &Handler| rules.iter().any(|rule| *rule.name() == handler.name);
    let is_shadowing = |handler: &&Handler| {
        handler.entry.enabled
            && !is_ours(handler)
            && overlaps(handler, rule)
            && (!covers(rule, handler) || is_equivalent(handler, rule))
    };
    let (in_front, rest) = handlers.split_at(at);
    rest.first().is_some_and(|handler| handler.entry.is(rule)) && !in_front.iter().any(is_shadowing)
}

/// Reports whether a registration of `rules` would replace `handler`, or leave it no file.
fn is_in_the_way(handler: &Handler, rules: &[Rule]) -> bool {
    match rules.iter().find(|rule| *rule.name() == handler.name) {
        // A disabled handler of the same rule is only registered again.
        Some(rule) => !Entry { enabled: true, ..handler.entry.clone() }.is(rule),
        None => handler.entry.enabled && rules.iter().any(|rule| covers(rule, handler)),
    }
}

/// Reports whether `handler` matches all files of one of `rules`.
fn matches_all(handler: &Handler, rules: &[Rule]) -> bool {
    rules.iter().any(|rule| match (handler.entry.matcher.as_ref(), rule.matcher()) {
        (Some(Matcher::Magic(one)), Matcher::Magic(two)) => one.covers(two),
        _ => is_equivalent(handler, rule),
    })
}

fn is_equivalent(handler: &Handler, rule: &Rule) -> bool {
    handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.equivalent(rule.matcher()))
}

/// Reports whether `rule` matches every file that `handler` matches. A magic and an extension are never compared.
fn covers(rule: &Rule, handler: &Handler) -> bool {
    match (rule.matcher(), handler.entry.matcher.as_ref()) {
        (Matcher::Magic(one), Some(Matcher::Magic(two))) => one.covers(two),
        _ => is_equivalent(handler, rule),
    }
}

/// Reports whether there are files that both match. A magic and an extension are never compared.
fn overlaps(handler: &Handler, rule: &Rule) -> bool {
    match (handler.entry.matcher.as_ref(), rule.matcher()) {
        (Some(Matcher::Magic(one)), Matcher::Magic(two)) => one.overlaps(two),
        _ => is_equivalent(handler, rule),
    }
}
