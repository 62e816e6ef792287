//! Acting on an instance so that a handler is in place throughout, and what failed halfway is put back.
//!
//! The kernel has no atomic replacement (K30). So new rules are registered first, in front of the others, and the
//! replaced handlers are removed after the new ones are verified. A rule whose name is taken has a staging name until
//! then.

use thiserror::Error;

use crate::base::error::Advise;
use crate::binfmt::instance::{HandlerError, Instance, RegisterError};
use crate::binfmt::{Entry, HandlerName, NameError, Rule, RuleError};
use crate::handler::classify::STAGING_SUFFIX;
use crate::handler::plan::Registration;

/// Rules that are registered, and not yet final: either [`commit`](Staged::commit) or [`rollback`](Staged::rollback)
/// them.
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
    /// True if another process was faster with the very same rule: then it is not ours to be removed.
    already_present: bool,
}

/// Failure to register rules. New rules are removed again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The kernel did not take a rule.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// An entry could not be read back or removed.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// A staging name, or the rule with it, is too long.
    #[error("cannot register under a staging name: {0}")]
    StagingName(#[from] RuleError),
    /// The entry differs from the rule (K12 and K14 explain how that happens).
    #[error("the kernel registered another rule for {name}: {already_present:?}")]
    Different {
        /// Name of the handler.
        name: HandlerName,
        /// The present entry; `None` if it was removed at once.
        already_present: Option<Box<Entry>>,
    },
}

impl Advise for TransactionError {}

impl From<NameError> for TransactionError {
    fn from(error: NameError) -> Self {
        Self::StagingName(error.into())
    }
}

impl Staged {
    /// Registers the new rules of `registration`, each read back and compared. Nothing is removed yet.
    pub fn stage(instance: &Instance, registration: &Registration) -> Result<Self, TransactionError> {
        let mut staged = Self { rules: Vec::new(), removes: registration.removes.clone() };
        for rule in &registration.rules {
            if let Err(error) = staged.add(instance, rule) {
                // The first error is reported. A failed removal would only repeat it.
                let _ = staged.rollback(instance);
                return Err(error);
            }
        }
        Ok(staged)
    }

    fn add(&mut self, instance: &Instance, rule: &Rule) -> Result<(), TransactionError> {
        let taken = self.removes.contains(rule.name());
        let current = if taken { rule.renamed(staging_name(rule.name())?)? } else { rule.clone() };
        let already_present = register_or_recognise(instance, &current)?;
        self.rules.push(StagedRule { rule: rule.clone(), name: current.name().clone(), already_present });
        read_back(instance, &current)
    }

    /// Removes the new rules: everything is as it was.
    pub fn rollback(self, instance: &Instance) -> Result<(), HandlerError> {
        let ours = self.rules.iter().rev().filter(|staged| !staged.already_present);
        let removals = ours.map(|staged| remove(instance, &staged.name));
        removals.fold(Ok(()), std::result::Result::and)
    }

    /// Registers the same rules with other flags in place of these, still not final.
    pub fn with_flags(
        self,
        instance: &Instance,
        flags: crate::binfmt::Flags,
    ) -> Result<Self, TransactionError> {
        let registration = Registration {
            rules: self.rules.iter().map(|staged| staged.rule.with_flags(flags)).collect::<Result<_, _>>()?,
            removes: self.removes.clone(),
            reason: None,
            displaced: Vec::new(),
        };
        self.rollback(instance)?;
        Self::stage(instance, &registration)
    }

    /// Reports whether some rule still has to be registered anew, under its final name.
    #[must_use]
    pub fn is_staging(&self) -> bool {
        self.rules.iter().any(StagedRule::is_staging)
    }

    /// Gives the new rules their final names, and removes the handlers that they replace. In between, `confirm` decides
    /// whether those under their final names work. Returns whether the change was made.
    ///
    /// Staging rules are removed last, so that a handler is registered throughout. If the final ones cannot be
    /// registered or are not confirmed, the previous state is restored; restored handlers come before their neighbours.
    pub fn commit(
        self,
        instance: &Instance,
        confirm: &mut dyn FnMut() -> bool,
    ) -> Result<bool, TransactionError> {
        let mut renamed = Vec::new();
        let mut done = self.rename(instance, &mut renamed);
        if done.is_ok() && !renamed.is_empty() && !confirm() {
            done = Ok(false);
        }
        if matches!(done, Ok(true)) {
            // From here on nothing is rolled back. A failed removal is reported, and the next run repeats it.
            let interim = self.rules.iter().filter(|staged| staged.is_staging()).map(|staged| &staged.name);
            let is_final = |name: &&HandlerName| !self.rules.iter().any(|staged| staged.rule.name() == *name);
            let superseded = self.removes.iter().filter(is_final);
            let removals = interim.chain(superseded).map(|name| remove(instance, name));
            removals.fold(Ok(()), std::result::Result::and)?;
            return Ok(true);
        }
        let mut back = Ok(());
        for one in renamed.into_iter().rev() {
            back = back.and(one.restore(instance));
        }
        if back.is_err() {
            // Only the staging rules of some handler are left.
            return back.map(|()| false);
        }
        self.rollback(instance)?;
        done
    }

    /// Registers rules with a staging name under their final names. `renamed` gets those that were registered, whatever
    /// the result.
    fn rename(&self, instance: &Instance, renamed: &mut Vec<Renamed>) -> Result<bool, TransactionError> {
        for staged in self.rules.iter().filter(|staged| staged.is_staging()) {
            let name = staged.rule.name();
            let old = instance.entry(name)?;
            remove(instance, name)?;
            let registered = register_or_recognise(instance, &staged.rule);
            let new = matches!(registered, Ok(false)).then(|| staged.rule.clone());
            renamed.push(Renamed { name: name.clone(), old, new });
            registered?;
            read_back(instance, &staged.rule)?;
        }
        Ok(true)
    }
}

impl StagedRule {
    fn is_staging(&self) -> bool {
        self.name != *self.rule.name()
    }
}

/// A name that was taken from the handler that had it.
struct Renamed {
    name: HandlerName,
    old: Option<Entry>,
    /// The rule that this process registered under it, if any.
    new: Option<Rule>,
}

impl Renamed {
    /// Restores the previous handler of the name, unless another process has changed it meanwhile.
    fn restore(self, instance: &Instance) -> Result<(), TransactionError> {
        if let Some(new) = &self.new {
            if instance.entry(&self.name)?.is_none_or(|entry| !entry.is(new)) {
                return Ok(());
            }
            remove(instance, &self.name)?;
        }
        let rule = self.old.as_ref().and_then(|old| old.to_rule(&self.name));
        let Some((old, rule)) = self.old.zip(rule) else { return Ok(()) };
        match instance.register(&rule) {
            Ok(()) if !old.enabled => Ok(instance.set_enabled(&self.name, false)?),
            Ok(()) | Err(RegisterError::NameTaken(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A name that no handler has for longer than a moment: two processes never share one.
fn staging_name(name: &HandlerName) -> Result<HandlerName, NameError> {
    let suffix = format!("{STAGING_SUFFIX}{}", std::process::id());
    HandlerName::new([name.as_bytes(), suffix.as_bytes()].concat())
}

/// Registers a rule, or finds that another process has just done so: whether it was found. Of several that try at once
/// the kernel lets one have the name (K42).
fn register_or_recognise(instance: &Instance, rule: &Rule) -> Result<bool, TransactionError> {
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
pub fn remove(instance: &Instance, name: &HandlerName) -> Result<(), HandlerError> {
    match instance.remove(name) {
        Err(HandlerError::Missing(_)) => Ok(()),
        other => other,
    }
}

fn read_back(instance: &Instance, rule: &Rule) -> Result<(), TransactionError> {
    match instance.entry(rule.name())? {
        Some(entry) if entry.is(rule) => Ok(()),
        already_present => Err(TransactionError::Different {
            name: rule.name().clone(),
            already_present: already_present.map(Box::new),
        }),
    }
}
