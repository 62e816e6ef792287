//! Code without knowledge of binfmt_misc, architectures or packages.

pub mod shell;
