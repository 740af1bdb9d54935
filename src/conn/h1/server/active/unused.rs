//! A thread's unused states, for reuse: each would cost four allocations for each request.

use std::{cell::RefCell, sync::Arc};

use super::{Active, Idle, Limits};

/// States that a thread keeps, 512: at most 3.2 MiB. A proxy may have that many requests under way on a thread.
const MAX_KEPT: usize = 512;

thread_local! {
    // Boxed, since they are moved to and from connections.
    #[expect(clippy::vec_box, reason = "the allocation is what is kept")]
    static UNUSED: RefCell<Vec<Box<Active>>> = const { RefCell::new(Vec::new()) };
}

/// Returns the state for a connection that has been idle.
pub(super) fn acquire(limits: &Arc<Limits>, idle: Idle) -> Box<Active> {
    // The stack may be destroyed already when the thread ends.
    match UNUSED.try_with(|unused| unused.borrow_mut().pop()).ok().flatten() {
        Some(mut active) => {
            active.resume(limits, idle);
            active
        }
        None => Box::new(Active::new(limits, idle)),
    }
}

/// Keeps a state whose connection is idle.
pub(super) fn release(mut active: Box<Active>) {
    active.clear();
    let _ = UNUSED.try_with(|unused| {
        let mut unused = unused.borrow_mut();
        if unused.len() < MAX_KEPT {
            unused.push(active);
        }
    });
}
