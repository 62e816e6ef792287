//! Linux, without binfmt_misc: what every program of this kind needs from the system.

pub mod dir;
pub mod file_id;
pub mod output_file;
pub mod ownership;
pub mod rights;
pub mod signals;
pub mod temp_dir;
