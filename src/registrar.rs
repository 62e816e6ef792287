//! Acting on an instance so that a handler is in place throughout, and what failed halfway is put back.
//!
//! There is no atomic replacement (K30). So new rules come first, in front of what is there; what they supersede is
//! removed only after they have been proven. A rule whose name is taken waits under an interim name meanwhile.

use thiserror::Error;

use crate::binfmt::{Entry, HandlerName, NameError, Rule, RuleError};
use crate::kernel::{HandlerError, Instance, RegisterError};
use crate::plan::{INTERIM, Registration};

/// Rules that are registered, and not yet final: either [`commit`](Staged::commit) or [`undo`](Staged::undo) them.
#[derive(Debug)]
#[must_use]
pub struct Staged {
    rules: Vec<StagedRule>,
    removes: Vec<HandlerName>,
}

#[derive(Debug)]
struct StagedRule {
    /// As it is to be in the end.
    rule: Rule,
    /// As it is called now.
    name: HandlerName,
    /// Whether another process was faster with the very same rule: then it is not ours to be removed.
    found: bool,
}

/// Why rules could not be registered. Whatever had been written is removed again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ActError {
    /// The kernel did not take a rule.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// An entry could not be read back or removed.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// A name or rule that only the interim needs cannot be.
    #[error("cannot register under an interim name: {0}")]
    Interim(#[from] RuleError),
    /// The entry is not what was asked for (K12, K14 say how that can be).
    #[error("the kernel has made something else of {name} than was asked for: {found:?}")]
    Different {
        /// Name of the handler.
        name: HandlerName,
        /// What the kernel has; nothing where it vanished at once.
        found: Option<Box<Entry>>,
    },
}

impl From<NameError> for ActError {
    fn from(error: NameError) -> Self {
        Self::Interim(error.into())
    }
}

impl Staged {
    /// Registers the new rules of `registration`, each read back and compared. Nothing is removed yet.
    pub fn stage(instance: &Instance, registration: &Registration) -> Result<Self, ActError> {
        let mut staged = Self { rules: Vec::new(), removes: registration.removes.clone() };
        for rule in &registration.rules {
            if let Err(error) = staged.add(instance, rule) {
                // The first error is the one to tell; a removal that fails would only repeat it.
                let _ = staged.undo(instance);
                return Err(error);
            }
        }
        Ok(staged)
    }

    fn add(&mut self, instance: &Instance, rule: &Rule) -> Result<(), ActError> {
        let taken = self.removes.contains(rule.name());
        let current = if taken { rule.renamed(interim_name(rule.name())?)? } else { rule.clone() };
        let found = register_or_find(instance, &current)?;
        self.rules.push(StagedRule { rule: rule.clone(), name: current.name().clone(), found });
        read_back(instance, &current)
    }

    /// Removes the new rules: everything is as it was.
    pub fn undo(self, instance: &Instance) -> Result<(), HandlerError> {
        let ours = self.rules.iter().rev().filter(|staged| !staged.found);
        let removals = ours.map(|staged| remove(instance, &staged.name));
        removals.fold(Ok(()), std::result::Result::and)
    }

    /// Registers the same rules with other flags in place of these, still not final.
    pub fn with_flags(self, instance: &Instance, flags: crate::binfmt::Flags) -> Result<Self, ActError> {
        let registration = Registration {
            rules: self.rules.iter().map(|staged| staged.rule.with_flags(flags)).collect::<Result<_, _>>()?,
            removes: self.removes.clone(),
            because: None,
            displaced: Vec::new(),
        };
        self.undo(instance)?;
        Self::stage(instance, &registration)
    }

    /// Whether some rule still has to be registered anew, under its final name.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.rules.iter().any(|staged| staged.name != *staged.rule.name())
    }

    /// Removes what the new rules supersede and gives them their final names.
    ///
    /// The interim rule goes last, so that a handler is in place throughout. If the final one cannot be registered, the
    /// one that had the name comes back.
    pub fn commit(self, instance: &Instance) -> Result<(), ActError> {
        for staged in &self.rules {
            let name = staged.rule.name();
            if staged.name == *name {
                continue;
            }
            let old = instance.entry(name)?.and_then(|entry| entry.to_rule(name));
            remove(instance, name)?;
            let renamed = register_or_find(instance, &staged.rule);
            if let Err(error) = renamed.and_then(|_| read_back(instance, &staged.rule)) {
                remove(instance, name)?;
                if let Some(old) = old {
                    instance.register(&old)?;
                }
                remove(instance, &staged.name)?;
                return Err(error);
            }
            remove(instance, &staged.name)?;
        }
        for name in &self.removes {
            if !self.rules.iter().any(|staged| staged.rule.name() == name) {
                remove(instance, name)?;
            }
        }
        Ok(())
    }
}

/// A name that no handler has for longer than a moment: two processes never share one.
fn interim_name(name: &HandlerName) -> Result<HandlerName, NameError> {
    let suffix = format!("{INTERIM}{}", std::process::id());
    HandlerName::new([name.as_bytes(), suffix.as_bytes()].concat())
}

/// Registers a rule, or finds that another process has just done so: whether it was found. Of several that try at once
/// the kernel lets one have the name (K42).
fn register_or_find(instance: &Instance, rule: &Rule) -> Result<bool, ActError> {
    match instance.register(rule) {
        Ok(()) => Ok(false),
        Err(RegisterError::NameTaken(name)) => match instance.entry(&name)? {
            Some(entry) if entry.is(rule) => Ok(true),
            _ => Err(RegisterError::NameTaken(name).into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Removes a handler; one that is gone already is removed.
fn remove(instance: &Instance, name: &HandlerName) -> Result<(), HandlerError> {
    match instance.remove(name) {
        Err(HandlerError::Missing(_)) => Ok(()),
        other => other,
    }
}

fn read_back(instance: &Instance, rule: &Rule) -> Result<(), ActError> {
    match instance.entry(rule.name())? {
        Some(entry) if entry.is(rule) => Ok(()),
        found => Err(ActError::Different { name: rule.name().clone(), found: found.map(Box::new) }),
    }
}
