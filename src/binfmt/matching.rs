//! Which handler the kernel takes for a file.

use std::path::Path;

use super::Handler;

/// The handler that the kernel takes for a file which begins with `header` and is started as `path`.
///
/// `handlers` are those of an instance that is on, newest first: the first enabled one that matches is taken, whatever
/// becomes of it; no other is tried after it (K31, K39; `search_binfmt_handler` in `fs/binfmt_misc.c`).
#[must_use]
pub fn first_match<'a>(handlers: &'a [Handler], header: &[u8], path: &Path) -> Option<&'a Handler> {
    handlers.iter().find(|handler| {
        handler.entry.enabled
            && handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.matches(header, path))
    })
}
