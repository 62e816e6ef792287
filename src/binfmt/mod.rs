//! Types for binfmt_misc: rules, which register handlers; entries, which describe registered handlers; and the
//! prediction of the handler for a file. Only [`crate::binfmt::instance`] reads and writes the files of binfmt_misc.

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
