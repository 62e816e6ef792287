//! What binfmt_misc understands, as values: no IO here.

mod pattern;

pub use pattern::{HEAD, Pattern, PatternError};
