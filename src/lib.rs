//! qus makes foreign-architecture programs and containers run on a Linux host.
//!
//! It registers interpreters (QEMU's user-mode emulators, or others) with the kernel's binfmt_misc, with the flag `F`, so
//! that each is opened once and serves every container. The way through the code is that of every command:
//!
//! * **gather**: [`kernel`] reads the instance, [`interpreter`] finds and checks files with the help of [`elf`],
//!   [`package`] gets them where there are none, [`provenance`] knows where from, [`bundle`] has them inside this
//!   executable; [`namespace`] and [`host`] tell where this is, [`owner`] who put a handler there, [`binfmt_d`] what is
//!   configured, [`file`](mod@file) what somebody wants to start;
//! * **decide**: [`plan`] is a pure function from those facts to what is to be done, [`apply`] one for a configuration,
//!   [`prediction`] one to what the kernel will do;
//! * **act**: [`registrar`] registers through [`kernel`] and puts back what failed halfway; [`memory`] keeps interpreters
//!   that have no file; [`export`] writes rules for others who register at boot, [`own_file`] into their folders,
//!   and [`persist`] knows who they are;
//! * **prove**: [`probe`] makes the kernel execute a tiny program of each architecture.
//!
//! Below them lie values without IO: [`arch`] is the table of architectures, [`binfmt`] what the kernel understands,
//! [`defects`] what is known of emulators. Above them [`cli`] is the command line, [`cmd`] has a file for each command
//! ([`cmd::peers`]: for other tools' command lines), [`output`] and [`log`] are how they speak; a [`problem`] is what went
//! wrong, with its cure; [`folders`] says where things lie, and [`caller`] whether there is anything to do for this one.
//! [`system`] is Linux itself: signals, for now.
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
