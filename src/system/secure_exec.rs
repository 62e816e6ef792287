//! Detects rights that qus has but its caller does not have. Such rights come from a setuid or setgid bit, or from
//! capabilities of the executable file.
//!
//! qus refuses to run with such rights, because its caller could misuse them. The caller controls the arguments of qus,
//! which name files to write, and the environment, which names directories and programs (`PATH`, `TMPDIR`,
//! `QUS_INTERPRETER_DIR`, `XDG_…`). Tools that are designed for such rights, for example `sudo`, decide which variables
//! they keep.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{getresgid, getresuid};

use crate::base::error::Diagnostic;
use crate::base::shell::shell_word;

/// Type number of the entry `AT_SECURE` in the auxiliary vector (`getauxval(3)`).
const AT_SECURE: usize = 23;

/// Returns an error if qus has rights that come from its executable file and not from its caller.
///
/// Different real and effective ids show such rights. Capabilities show them only together with `AT_SECURE`: a user may
/// have ambient capabilities (`capabilities(7)`), and SELinux sets `AT_SECURE` for any program that enters another
/// domain.
pub fn check() -> Result<(), Diagnostic> {
    let unknown = |errno: Errno| {
        let cause = io::Error::from(errno);
        Diagnostic::new(format!("cannot determine the ids of this process: {cause}"))
    };
    let (users, groups) = (getresuid().map_err(unknown)?, getresgid().map_err(unknown)?);
    if users.real != users.effective || groups.real != groups.effective {
        return Err(refusal("chmod ug-s"));
    }
    if !users.effective.is_root() && is_secure(&begin("/proc/self/auxv")) {
        let status = begin("/proc/self/status");
        if has_capabilities(&String::from_utf8_lossy(&status)) {
            return Err(refusal("setcap -r"));
        }
    }
    Ok(())
}

fn refusal(taking: &str) -> Diagnostic {
    let message = "refusing to run with more rights than the caller (setuid, setgid or file capabilities), \
                   because the caller controls arguments and environment";
    let file = std::env::current_exe().unwrap_or_default();
    Diagnostic::new(message)
        .with_command(format!("sudo {taking} {}", path_word(&file)))
        .with_hint("then start qus with sudo")
}

fn path_word(path: &Path) -> String {
    shell_word(path)
}

/// Returns the beginning of a procfs file: the bytes that one `read(2)` returns, at most 8 KiB.
fn begin(path: &str) -> Vec<u8> {
    let mut text = vec![0; 8 << 10];
    let length = File::open(path).and_then(|mut file| file.read(&mut text)).unwrap_or(0);
    text.truncate(length);
    text
}

/// Reports whether `AT_SECURE` is set in the auxiliary vector `vector`. The vector is a list of pairs of machine words:
/// type and value.
fn is_secure(vector: &[u8]) -> bool {
    const WORD: usize = size_of::<usize>();
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, usize::from_ne_bytes);
    vector.chunks_exact(2 * WORD).any(|pair| {
        let (kind, value) = pair.split_at(WORD);
        word(kind) == AT_SECURE && word(value) != 0
    })
}

/// Reports whether a process has any permitted capability. `status` is the text of the file `/proc/PID/status`
/// (`proc_pid_status(5)`).
fn has_capabilities(status: &str) -> bool {
    let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    permitted.is_some_and(|digits| digits.trim().bytes().any(|digit| digit != b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_has_the_rights_of_its_caller() {
        assert_eq!(check(), Ok(()));
        assert!(!is_secure(&begin("/proc/self/auxv")));
    }

    #[test]
    fn the_vector_is_read_by_words() {
        let vector = |words: &[usize]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>();
        assert!(is_secure(&vector(&[6, 4096, AT_SECURE, 1, 0, 0])));
        assert!(!is_secure(&vector(&[6, 4096, AT_SECURE, 0, 0, 0])));
        assert!(!is_secure(&vector(&[6, AT_SECURE, 7, 1, 0, 0])));
        assert!(!is_secure(b""));
        assert!(has_capabilities("Name:\tqus\nCapInh:\t0000000000000000\nCapPrm:\t0000000000200000\n"));
        assert!(!has_capabilities("CapInh:\t0000000000200000\nCapPrm:\t0000000000000000\n"));
        assert!(!has_capabilities(""));
    }
}
