//! Faults of a handler that show without executing its interpreter.

use crate::binfmt::{Flags, Handler, Matcher};
use crate::handler::exec_target::{AccessError, ExecTarget};

/// Returns the reason why the kernel cannot open the interpreter of `handler` when a program is started. Returns `None`
/// for a handler with the flag `F`, because the kernel has opened its interpreter at registration (K47).
#[must_use]
pub fn unusable_interpreter(handler: &Handler) -> Option<AccessError> {
    if handler.entry.flags.contains(Flags::FIX_BINARY) {
        return None;
    }
    // A relative path depends on the directory of each program.
    let path = handler.entry.interpreter.as_deref().filter(|path| path.is_absolute())?;
    ExecTarget::inspect(path).denied
}

/// Returns the enabled handler that takes all files of `handler` before it, if there is one. `handlers` are the handlers
/// of the instance, newest first (K31).
#[must_use]
pub fn covered_by<'a>(handler: &Handler, handlers: &'a [Handler]) -> Option<&'a Handler> {
    let matcher = handler.entry.matcher.as_ref()?;
    let mut newer = handlers.iter().take_while(|other| other.name != handler.name);
    newer.find(|other| {
        other.entry.enabled
            && match (&other.entry.matcher, matcher) {
                (Some(Matcher::Magic(newer)), Matcher::Magic(older)) => newer.covers(older),
                (Some(newer), older) => newer.equivalent(older),
                (None, _) => false,
            }
    })
}
