//! How a release is linked: without the tables that only an unwinding program reads.
//!
//! A release aborts when it panics (`Cargo.toml`), so nothing unwinds; the tables of the standard library and of the C
//! library would be an eighth of the executable.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=src/no-unwinding.ld");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    if variable("PROFILE") != "release" || variable("CARGO_CFG_TARGET_OS") != "linux" {
        return;
    }
    // A C compiler passes on what is for the linker; where it is the linker that is called, it takes that as it is.
    let linker = variable("RUSTC_LINKER");
    let name = Path::new(&linker).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (through, between) = if name.ends_with("ld") { ("", "=") } else { ("-Wl,", ",") };
    let folder = variable("CARGO_MANIFEST_DIR");
    println!("cargo::rustc-link-arg-bins={through}--no-eh-frame-hdr");
    println!("cargo::rustc-link-arg-bins={through}--script{between}{folder}/src/no-unwinding.ld");
}
