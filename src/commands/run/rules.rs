//! Rules that `qus run` registers in the instance that it creates.

use std::path::Path;

use super::Run;
use super::interpreters::{Interpreters, has_interpreter};
use super::takeover::{can_take_over, is_pinned};
use crate::arch::Arch;
use crate::base::error::Diagnostic;
use crate::binfmt::instance::{DEFAULT_PATH, Instance};
use crate::binfmt::{Handler, Rule};
use crate::handler::classify::{self, default_flags};
use crate::handler::table;
use crate::interpreter::Interpreter;
use crate::system::kernel_version::KernelVersion;

/// Returns the rules of the new instance in the order of registration. The kernel first tries the rule that was
/// registered last.
///
/// The result has rules for the interpreters in `found`. It also has the rules of the outer instance, which the new
/// instance hides (K66), if their interpreters can be opened again. The rules for `found` take precedence if the
/// command line names the interpreters. Otherwise the rules of the outer instance take precedence.
pub(super) fn rules(found: &Interpreters, args: &Run) -> Result<Vec<Rule>, Diagnostic> {
    let hidden = match Instance::open(Path::new(DEFAULT_PATH)) {
        Ok(instance) if instance.is_enabled().unwrap_or(false) => table::handlers(&instance)?,
        _ => Vec::new(),
    };
    let explicit = args.source.is_named() || args.source.required.qemu_version.is_some();
    let own = own_rules(found, &hidden, explicit)?;
    let mut inherited = inherited_rules(found, &hidden);
    inherited.retain(|rule| own.iter().all(|own| own.name() != rule.name()));
    let (first, last) = if explicit { (inherited, own) } else { (own, inherited) };
    Ok(first.into_iter().chain(last).collect())
}

/// Returns rules for the interpreters in `found`. `hidden` are the handlers of the outer instance, which the new
/// instance hides. Unless `explicit` says that the command line names the interpreters, leaves out architectures with a
/// usable handler in `hidden`.
fn own_rules(found: &Interpreters, hidden: &[Handler], explicit: bool) -> Result<Vec<Rule>, Diagnostic> {
    let flags = default_flags(KernelVersion::running());
    let mut rules = Vec::new();
    for (name, found) in found {
        let (Some(arch), Some(Interpreter { path, .. })) = (Arch::from_qemu_target(name), &found.interpreter)
        else {
            continue;
        };
        let is_served = classify::active_handler(arch, hidden)
            .is_some_and(|handler| is_pinned(handler) && can_take_over(handler).is_ok());
        if explicit || !is_served {
            let own = classify::rules(arch, path, flags);
            rules.extend(own.map_err(|error| Diagnostic::new(format!("{name}: {error}")))?);
        }
    }
    Ok(rules)
}

/// Returns the rules of `hidden`, the handlers of the outer instance, oldest first. Leaves out a handler without the
/// flag `F` if `found` has an interpreter for its architecture. Leaves out a handler whose interpreter cannot be opened
/// again, and logs a warning if `found` has no interpreter in its place.
fn inherited_rules(found: &Interpreters, hidden: &[Handler]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for handler in hidden.iter().rev().filter(|handler| handler.entry.enabled) {
        let is_replaced = classify::emulated_arch(handler).is_some_and(|arch| has_interpreter(found, arch));
        match can_take_over(handler) {
            Err(reason) if !is_replaced => {
                tracing::warn!("the handler {} is left out: {reason}", handler.name);
            }
            Ok(()) if !is_replaced || is_pinned(handler) => {
                rules.extend(handler.entry.to_rule(&handler.name));
            }
            _ => {}
        }
    }
    rules
}
