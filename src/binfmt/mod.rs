//! Values of binfmt_misc: rules and their register lines, entries and their text, and the choice of a handler for a
//! file. Only [`crate::binfmt::instance`] does IO on binfmt_misc.

mod entry;
mod flags;
pub mod instance;
mod matching;
mod name;
mod pattern;
mod rule;

pub use entry::{Entry, EntryError, Handler};
pub use flags::Flags;
pub use matching::first_match;
pub use name::{HandlerName, NAME_MAX, NameError};
pub use pattern::{Difference, HEADER_LEN, Pattern, PatternError};
pub use rule::{Extension, LINE_MAX, LINE_MIN, Matcher, Rule, RuleError};
