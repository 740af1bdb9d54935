//! The memory use of a process.

use std::fs;

/// Returns the resident memory of a process and its descendants in bytes, or 0 if it has ended. Shared pages are
/// counted for each process.
///
/// It reads files of proc(5), which does not block.
pub(crate) fn memory(pid: u32) -> u64 {
    let mut total = 0;
    let mut pids = vec![pid];
    while let Some(pid) = pids.pop() {
        total += resident(pid).unwrap_or(0);
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        pids.extend(
            children.unwrap_or_default().split(' ').filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    total
}

fn resident(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
