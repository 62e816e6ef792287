//! Code without knowledge of binfmt_misc, architectures or packages.

pub mod parallel;
pub mod shell;
