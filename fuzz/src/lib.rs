//! The fuzz targets. Each target is a function that accepts any bytes, and panics if qus behaves incorrectly.
//!
//! `fuzz/run` runs the targets with libFuzzer if it is available, or else with the program `damage`.
#![allow(clippy::missing_panics_doc, reason = "a panic is what a target reports")]

mod archives;
mod files;
mod lines;
mod unpack;

pub use archives::{deb, gzip, image, rpm, tar, xz, zstd};
pub use files::{binfmt_d, bundle, elf};
pub use lines::{entry, pattern, rule};

/// A target: its name and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 13] = [
    ("binfmt_d", binfmt_d),
    ("bundle", bundle),
    ("deb", deb),
    ("elf", elf),
    ("entry", entry),
    ("gzip", gzip),
    ("image", image),
    ("pattern", pattern),
    ("rpm", rpm),
    ("rule", rule),
    ("tar", tar),
    ("xz", xz),
    ("zstd", zstd),
];
