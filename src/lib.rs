//! qus makes programs and containers of other CPU architectures run on a Linux host.
//!
//! qus registers interpreters (QEMU's user-mode emulators, or others) with the kernel's binfmt_misc. With the flag `F`
//! the kernel opens an interpreter once, at registration. All containers then use that open file.
//!
//! The list shows the modules from the top layer down. Each module uses only the modules below it; `tests/layers.rs`
//! checks this:
//!
//! * [`cli`]: the command line of qus, and the command lines of other tools ([`cli::compat`]).
//! * [`commands`]: one file or directory for each command of qus. It also contains the arguments of the command. A
//!   command gathers facts, decides, executes, and reports.
//! * [`handler`]: facts and decisions about handlers. [`handler::classify`] finds the architecture of a handler,
//!   [`handler::owner`] finds the tool that registered it, [`handler::plan`] decides what to register,
//!   [`handler::transaction`] registers rules and rolls back failed steps, and [`handler::predict`] predicts what the
//!   kernel does with a file.
//! * [`boot`]: the rules that are registered at boot, and the services that register them.
//! * [`probe`]: tiny test programs, one or more for each architecture. The kernel executes them, and the results give a
//!   verdict about a handler.
//! * [`interpreter`]: finding, checking, fetching and storing interpreters, and the known bugs of interpreters.
//! * [`package`]: downloads and package managers, and the packages, archives and container images that contain
//!   interpreters.
//! * [`arch`]: the table of all architectures that qus knows, and a parser of ELF files.
//! * [`binfmt`]: types for the names, patterns, rules and entries of binfmt_misc. Only [`binfmt::instance`] reads and
//!   writes binfmt_misc.
//! * [`system`]: Linux interfaces other than binfmt_misc.
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
