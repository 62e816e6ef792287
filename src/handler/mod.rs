//! Handlers as values: whose they are, the decision what to register, registering it, and predicting what the kernel does.

pub mod apply;
pub mod classify;
pub mod exec_target;
pub mod owner;
pub mod plan;
pub mod predict;
pub mod transaction;
