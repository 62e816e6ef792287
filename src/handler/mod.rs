//! Facts and decisions about handlers: their owners, the rules to register, the registration, and predictions of
//! `execve(2)`.

pub mod apply;
pub mod classify;
pub mod condition;
pub mod exec_target;
pub mod owner;
pub mod plan;
pub mod predict;
pub mod preset;
pub mod rules;
pub mod table;
pub mod transaction;
