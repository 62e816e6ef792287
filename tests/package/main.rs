//! Interpreters from packages and directories, and hostile packages, from which nothing is extracted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../support/packages.rs"]
mod build;
mod damage;
mod good;
mod hostile;
mod scene;
mod shapes;
