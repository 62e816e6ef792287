//! Rules that are registered at boot: files of other software, init systems, and persistence.

pub mod binfmt_d;
pub mod configuration;
pub mod formats;
pub mod persist;
