//! Network devices of this process.

use std::fs;

/// Reports whether the network namespace of this process has a device other than the loopback device. It counts as
/// having one if that cannot be read.
#[must_use]
pub fn has_network_device() -> bool {
    fs::read_to_string("/proc/self/net/dev").map_or(true, |table| names_a_device(&table))
}

/// Reports whether `table`, the content of `/proc/PID/net/dev` (`proc_pid_net(5)`), has a line for a device other than
/// the loopback device.
fn names_a_device(table: &str) -> bool {
    let mut devices = table.lines().filter_map(|line| line.split_once(':'));
    devices.any(|(name, _)| name.trim() != "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_no_network() {
        let header =
            "Inter-|   Receive      |  Transmit\n face |bytes    packets errs|bytes    packets errs\n";
        let lo = "    lo:   12345      12    0    12345      12    0\n";
        let eth = "  eth0: 9054321     999    0   654321     888    0\n";
        assert!(!names_a_device(header));
        assert!(!names_a_device(&format!("{header}{lo}")));
        assert!(names_a_device(&format!("{header}{lo}{eth}")));
        assert!(names_a_device(&format!("{header}{eth}")));
    }
}
