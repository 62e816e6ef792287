//! qus makes programs and containers of other CPU architectures run on a Linux host.
//!
//! It registers interpreters (QEMU's user-mode emulators, or others) with the kernel's binfmt_misc. The flag `F` has the
//! kernel open an interpreter once, at registration, so that it serves every container.
//!
//! The rooms, from the top down; each uses only those below it, which `tests/layers.rs` checks:
//!
//! * [`cli`]: the command line, and those of other tools ([`cli::compat`]).
//! * [`commands`]: a file or a directory for each command, with its arguments. A command gathers, decides, executes, and
//!   reports.
//! * [`handler`]: handlers as values. [`handler::classify`] tells the architecture of one, [`handler::owner`] who registered
//!   it, [`handler::plan`] decides what to register, [`handler::transaction`] registers it and rolls back what failed,
//!   [`handler::predict`] tells what the kernel does with a file.
//! * [`boot`]: what is registered at boot, by whom.
//! * [`probe`]: tiny programs of each architecture that the kernel executes, and what is concluded from it.
//! * [`interpreter`]: the check and the search of interpreters, fetching and storing them, what is known of their faults.
//! * [`package`]: packages, archives, images, package managers, downloads.
//! * [`arch`]: the table of architectures, and ELF files.
//! * [`binfmt`]: what binfmt_misc understands, as values; [`binfmt::instance`] is the only code that reads and writes it.
//! * [`system`]: Linux, without binfmt_misc.
//! * [`base`]: errors with hints, output, logging, shell quoting.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub mod arch;
pub mod base;
pub mod binfmt;
pub mod boot;
pub mod cli;
pub mod commands;
pub mod handler;
pub mod interpreter;
pub mod package;
pub mod probe;
pub mod system;
