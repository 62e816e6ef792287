//! General code that does not depend on binfmt_misc, architectures or packages.

pub mod count;
pub mod error;
pub mod escape;
pub mod glob;
pub mod hex;
pub mod log;
pub mod order;
pub mod output;
pub mod parallel;
pub mod reader;
pub mod shell;
pub mod table;
pub mod terminal;
