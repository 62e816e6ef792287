//! The `qus` command.
fn main() {}
