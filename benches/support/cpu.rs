//! Processor time and memory, where Linux tells. They depend less on what else the machine does than rates do.

use std::path::Path;
use std::time::Duration;

/// The processor time that our threads of this name have had so far; `None` when there is none.
pub fn threads(name: &str) -> Option<Duration> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?.flatten().map(|task| task.path());
    let ours = tasks.filter(|task| is_named(task, name)).map(|task| spent(&task).unwrap_or_default());
    ours.reduce(|sum, more| sum + more)
}

/// Whether the thread or process of this directory has this name.
pub fn is_named(task: &Path, name: &str) -> bool {
    std::fs::read_to_string(task.join("comm")).is_ok_and(|found| found.trim_end() == name)
}

/// The processor time that it has had.
pub fn spent(task: &Path) -> Option<Duration> {
    let spent = std::fs::read_to_string(task.join("schedstat")).ok()?;
    Some(Duration::from_nanos(spent.split_whitespace().next()?.parse().ok()?))
}
