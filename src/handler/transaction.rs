//! Transactional registration: a working handler stays registered throughout, and failed steps are rolled back.
//!
//! The kernel cannot replace a handler atomically (K30). New rules are therefore registered first and win over the old
//! handlers. The old handlers are removed after the new handlers are verified. If an old handler has the name of a new
//! rule, the new rule is registered under a temporary staging name until then.

use thiserror::Error;

use crate::base::error::Advise;
use crate::binfmt::instance::{HandlerError, Instance, RegisterError};
use crate::binfmt::{Entry, HandlerName, NameError, Rule, RuleError};
use crate::handler::classify::STAGING_SUFFIX;
use crate::handler::plan::Registration;

/// New rules that are registered, but can still be rolled back. The caller must [`commit`](Staged::commit) or
/// [`rollback`](Staged::rollback) them.
#[derive(Debug)]
#[must_use]
pub struct Staged {
    rules: Vec<StagedRule>,
    removes: Vec<HandlerName>,
}

#[derive(Debug)]
struct StagedRule {
    /// The rule with its final name.
    rule: Rule,
    /// The name under which the rule is registered now.
    name: HandlerName,
    /// True if another process registered the same rule first. Such a rule is not removed on rollback.
    already_present: bool,
}

/// Failure to register rules. The new rules have been removed again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The kernel refused a rule.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A registered entry could not be read back or removed.
    #[error(transparent)]
    Handler(#[from] HandlerError),
    /// The temporary staging name, or the rule with this name, is too long.
    #[error("cannot register under a staging name: {0}")]
    StagingName(#[from] RuleError),
    /// The registered entry differs from the rule (possible causes: K12 and K14).
    #[error("the kernel registered another rule for {name}: {already_present:?}")]
    Different {
        /// Name of the handler.
        name: HandlerName,
        /// The registered entry; `None` if another process already removed it.
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
    /// Registers the new rules of `registration`. Reads each entry back and compares it with its rule. The old handlers
    /// stay registered.
    pub fn stage(instance: &Instance, registration: &Registration) -> Result<Self, TransactionError> {
        let mut staged = Self { rules: Vec::new(), removes: registration.removes.clone() };
        for rule in &registration.rules {
            if let Err(error) = staged.add(instance, rule) {
                // Only the first error is reported. A failed removal usually has the same cause.
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

    /// Removes the new rules, which restores the previous state.
    pub fn rollback(self, instance: &Instance) -> Result<(), HandlerError> {
        let ours = self.rules.iter().rev().filter(|staged| !staged.already_present);
        let removals = ours.map(|staged| remove(instance, &staged.name));
        removals.fold(Ok(()), std::result::Result::and)
    }

    /// Removes the staged rules, and stages the same rules with `flags` instead. The new rules can be rolled back, too.
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
            narrowed: Vec::new(),
        };
        self.rollback(instance)?;
        Self::stage(instance, &registration)
    }

    /// Reports whether a rule still has a staging name.
    #[must_use]
    pub fn is_staging(&self) -> bool {
        self.rules.iter().any(StagedRule::is_staging)
    }

    /// Gives the new rules their final names and removes the handlers that they replace. Between these two steps,
    /// `confirm` reports whether the handlers work under their final names. Returns true if the old handlers were
    /// replaced.
    ///
    /// The rules under staging names are removed after `confirm`, so that a handler is always registered. If a rule
    /// cannot be registered under its final name, or `confirm` returns false, the previous state is restored. A
    /// restored handler becomes the newest handler.
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
            // From here on, nothing is rolled back. A failed removal is reported, and the next run tries it again.
            let staging = self.rules.iter().filter(|staged| staged.is_staging()).map(|staged| &staged.name);
            let is_final = |name: &&HandlerName| !self.rules.iter().any(|staged| staged.rule.name() == *name);
            let superseded = self.removes.iter().filter(is_final);
            let removals = staging.chain(superseded).map(|name| remove(instance, name));
            removals.fold(Ok(()), std::result::Result::and)?;
            return Ok(true);
        }
        let mut back = Ok(());
        for one in renamed.into_iter().rev() {
            back = back.and(one.restore(instance));
        }
        if back.is_err() {
            // The staging rules stay, so that the programs still have a handler.
            return back.map(|()| false);
        }
        self.rollback(instance)?;
        done
    }

    /// Registers rules that have a staging name again, under their final names. Adds each name that was changed to
    /// `renamed`, also on failure.
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

/// A handler name under which [`Staged::commit`] removed the previous handler.
struct Renamed {
    name: HandlerName,
    old: Option<Entry>,
    /// The rule that this process registered under the name, if any.
    new: Option<Rule>,
}

impl Renamed {
    /// Restores the previous handler, unless another process has changed the handler with this name in the meantime.
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

/// Returns a staging name for the handler `name`. The staging name contains the process ID, so no two processes use the
/// same staging name.
fn staging_name(name: &HandlerName) -> Result<HandlerName, NameError> {
    let suffix = format!("{STAGING_SUFFIX}{}", std::process::id());
    HandlerName::new([name.as_bytes(), suffix.as_bytes()].concat())
}

/// Registers a rule. Returns true if another process has already registered the same rule. If several processes
/// register a handler with the same name at once, the kernel accepts only one of them (K42).
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

/// Removes a handler. A missing handler is not an error.
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
