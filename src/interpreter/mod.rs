//! Interpreters, the programs that execute foreign programs. qus searches for them, checks and fetches them, records
//! their origin, and knows bugs of some versions.

mod arch_filter;
pub mod bundle;
mod check;
pub(crate) mod fetch;
pub mod known_bugs;
pub mod memfd;
pub(crate) mod progress;
pub mod provenance;
mod search;
pub mod store;
mod version;

pub(crate) use arch_filter::ArchFilter;
pub use check::{CheckError, Executor, Interpreter, self_exe_header};
pub use search::{
    SearchResult, arch_from_file_name, default_search_dirs, emulated_by, is_qemu, named_search_dirs, search,
};
pub(crate) use search::{describe_dirs, is_of, search_dirs, usable};
pub use version::{PREFIXES, QemuVersion, VersionReq, prefix_in, version_in, versions_of};
