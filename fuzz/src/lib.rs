//! What the fuzzers do with their input. Each function is one target: it takes any bytes, and panics where qus does not
//! do what it promises.
//!
//! `fuzz/run` has libFuzzer call them where that can be had, and the program `damage` where not.
#![allow(clippy::missing_panics_doc, reason = "a panic is what a target reports")]

mod archives;
mod files;
mod lines;
mod unpack;

pub use archives::{deb, gzip, image, rpm, tar, xz, zstd};
pub use files::{binfmt_d, bundle, elf};
pub use lines::{entry, pattern, rule};

/// A target: its name and what it does.
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
