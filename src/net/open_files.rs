//! The limit of open files of this process (`RLIMIT_NOFILE`).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Other open files, 1,024: of listeners, workers, pipes and the program itself.
const OTHER_FILES: usize = 1024;

/// Raises the soft limit for so many files of connections, or to the hard limit if that is lower. Returns the soft limit
/// now, which may have been higher before.
///
/// The usual soft limit, 1,024, is that of programs that call select(2).
pub(crate) fn raise_open_files(files: usize) -> usize {
    let wanted = files.saturating_add(OTHER_FILES);
    let limit = getrlimit(Resource::Nofile);
    let new = raised(limit, wanted as u64);
    let now = if new != limit && setrlimit(Resource::Nofile, new).is_ok() { new } else { limit };
    now.current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Returns the limits with the raised soft limit. `None` is no limit.
fn raised(limit: Rlimit, wanted: u64) -> Rlimit {
    let wanted = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    Rlimit { current: limit.current.map(|current| current.max(wanted)), ..limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_raised_within_the_hard_limit_and_never_lowered() {
        for (current, maximum, raised_to) in [
            (Some(1024), Some(4096), Some(2000)),
            (Some(1024), Some(1500), Some(1500)),
            (Some(1024), None, Some(2000)),
            (Some(3000), Some(4096), Some(3000)),
            (None, None, None),
        ] {
            let limit = Rlimit { current, maximum };
            assert_eq!(raised(limit, 2000), Rlimit { current: raised_to, maximum }, "{limit:?}");
        }
    }
}
