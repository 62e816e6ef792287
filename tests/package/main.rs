//! Interpreters out of packages and folders, and hostile ones that give nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../support/packages.rs"]
mod build;
mod damage;
mod good;
mod hostile;
mod scene;
mod shapes;
