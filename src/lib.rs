//! qus registers interpreters of foreign architectures with the kernel's `binfmt_misc`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod binfmt;
pub mod elf;
pub mod kernel;
