//! Interpreters out of packages and folders, and hostile ones that give nothing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod build;
mod damage;
mod good;
mod hostile;
mod lab;
mod shapes;
