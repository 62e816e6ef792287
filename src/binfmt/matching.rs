//! Finds the handler that the kernel uses for a file.

use std::path::Path;

use super::Handler;

/// Returns the handler that the kernel uses for a file that begins with `header` and is executed as `path`.
///
/// `handlers` are those of an enabled instance, newest first. The kernel uses the first enabled handler that matches,
/// and tries no other one if this one fails (K31, K39; `search_binfmt_handler` in `fs/binfmt_misc.c`).
#[must_use]
pub fn first_match<'a>(handlers: &'a [Handler], header: &[u8], path: &Path) -> Option<&'a Handler> {
    handlers.iter().find(|handler| {
        handler.entry.enabled
            && handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.matches(header, path))
    })
}
