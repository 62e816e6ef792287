//! Determines which handlers of the outer instance `qus run` can register again in its new instance, which hides the
//! outer one.

use nix::unistd::{AccessFlags, access};

use crate::base::escape::display_path;
use crate::binfmt::{Flags, Handler};
use crate::system::ownership::changeable_by_others;

/// Reports whether the handler works in every root directory. Without the flag `F`, the kernel looks up the interpreter
/// in the root directory of the program (K47).
pub(super) fn is_pinned(handler: &Handler) -> bool {
    handler.entry.flags.contains(Flags::FIX_BINARY)
}

/// Checks that the interpreter of `handler` can be registered again by its path. The error is the reason why it cannot.
///
/// The file at the path may differ from the file that the handler runs now. The new instance executes the file at the
/// path with the rights of the caller. So the interpreter is refused if a user other than root and the caller can
/// replace that file.
pub(super) fn can_take_over(handler: &Handler) -> Result<(), String> {
    let Some(path) = handler.entry.interpreter.as_deref().filter(|path| path.is_absolute()) else {
        return Err("its interpreter has no path".to_owned());
    };
    let cannot_open =
        |reason: &dyn std::fmt::Display| format!("{} cannot be opened here: {reason}", display_path(path));
    match changeable_by_others(path) {
        Ok(None) => {}
        Ok(Some(location)) => {
            return Err(format!(
                "other users can change {}, and thereby the interpreter",
                display_path(&location)
            ));
        }
        Err(error) => return Err(cannot_open(&error)),
    }
    access(path, AccessFlags::X_OK).map_err(|errno| cannot_open(&std::io::Error::from(errno)))?;
    let has_rule = handler.entry.enabled && handler.entry.to_rule(&handler.name).is_some();
    has_rule.then_some(()).ok_or_else(|| "qus cannot register such an entry".to_owned())
}
