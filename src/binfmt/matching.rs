//! Predicts which handler the kernel uses for a file.

use std::path::Path;

use super::Handler;

/// Returns the handler that the kernel uses when a file that begins with `header` is executed under the path `path`.
///
/// `handlers` are the handlers of an enabled instance, the newest first. The kernel uses the first enabled handler that
/// matches the file. If this handler fails, the kernel tries no other handler (K31, K39; `search_binfmt_handler` in
/// `fs/binfmt_misc.c`).
#[must_use]
pub fn first_match<'a>(handlers: &'a [Handler], header: &[u8], path: &Path) -> Option<&'a Handler> {
    handlers.iter().find(|handler| {
        handler.entry.enabled
            && handler.entry.matcher.as_ref().is_some_and(|matcher| matcher.matches(header, path))
    })
}
