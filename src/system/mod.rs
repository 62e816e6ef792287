//! Use of parts of Linux other than binfmt_misc: files, users, processes, signals and namespaces.

pub(crate) mod atomic_file;
pub mod dir;
pub mod directories;
pub mod file_id;
pub mod kernel_version;
pub mod managed_file;
pub mod namespace;
pub mod network;
pub mod output_file;
pub mod ownership;
pub mod process;
pub mod rights;
pub mod search_path;
pub mod secure_exec;
pub mod service_manager;
pub mod signals;
pub mod temp_dir;
pub mod users;
