//! Makes programs from Debian's packages available in `/usr` of a test, without installing them.

use std::path::Path;
use std::process::Command;

use nix::mount::{MsFlags, mount};

use crate::downloads;

/// Directories below `/usr` in which the programs and their files appear. `/usr/bin` is not one of them, because
/// [`cover`] may have mounted an overlay on it already, and the kernel stacks only two overlays.
///
/// [`cover`]: crate::cover
const DIRECTORIES: [&str; 3] = ["lib", "sbin", "share"];

/// Makes the programs available to this test.
pub(crate) fn install() {
    let tools = downloads::tools();
    for name in DIRECTORIES {
        let usr = Path::new("/usr").join(name);
        // Packages of older suites have files in `/lib` and `/sbin`, which are links to these directories.
        let layers = [tools.join(name), tools.join("usr").join(name)];
        let layers = layers.iter().filter(|layer| layer.is_dir()).chain([&usr]);
        let layers: Vec<String> = layers.map(|layer| layer.display().to_string()).collect();
        // An overlay needs two layers.
        if layers.len() > 1 {
            let options = format!("lowerdir={}", layers.join(":"));
            mount(Some("none"), &usr, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
        }
    }
    // The overlay has made this directory visible again.
    let configuration = "/usr/lib/binfmt.d";
    if Path::new(configuration).is_dir() {
        mount(Some("none"), configuration, Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
    }
}

/// Returns a command that runs a program, possibly one in `/usr/bin` of the packages.
pub(crate) fn command(program: &str) -> Command {
    let path = format!("{}/usr/bin:/usr/sbin:/usr/bin:/sbin:/bin", downloads::tools().display());
    let mut command = Command::new("env");
    command.env_clear().env("PATH", path).arg(program);
    command
}
