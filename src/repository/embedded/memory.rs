//! How much memory the server may take for its pages: a share of what this machine, or our container, has.

use std::fs;

/// One part in so many: the service, and whatever else a developer's machine does, need theirs.
const SHARE: u64 = 16;

/// Postgres's own default. Less helps nobody: the server starts with it everywhere that we know of.
const LEAST: u64 = 128 << 20;

/// Holds a month of the figures of 1,000 tenants: 780 MB of table and index. Who has more has a Postgres of his own.
const MOST: u64 = 1 << 30;

/// Where a container's limit stands, in bytes; `max` or an absurdly large number where there is none.
const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// A value for `shared_buffers`, in megabytes. Where the system does not tell, that is [`LEAST`].
pub(super) fn shared_buffers() -> String {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let limits = LIMITS.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    format!("{}MB", share(machine.into_iter().chain(limits).min()) >> 20)
}

fn share(memory: Option<u64>) -> u64 {
    memory.map_or(LEAST, |memory| (memory / SHARE).clamp(LEAST, MOST))
}

/// Reads `MemTotal:  12345 kB`.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::{LEAST, MOST, share, total};

    #[test]
    fn reads_what_the_machine_has() {
        assert_eq!(total("MemTotal:       24684096 kB\nMemFree:        23055648 kB\n"), Some(24_684_096 * 1024));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn is_a_share_within_bounds() {
        assert_eq!(share(None), LEAST);
        assert_eq!(share(Some(512 << 20)), LEAST);
        assert_eq!(share(Some(8 << 30)), 512 << 20);
        assert_eq!(share(Some(1 << 40)), MOST);
    }
}
