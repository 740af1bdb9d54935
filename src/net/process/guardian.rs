//! `Guardian`: kills the process groups of children when this process has ended.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Reads lines with the ids of process groups, and kills the groups of the last line at the end of the pipe.
const SCRIPT: &str = "trap '' HUP INT QUIT TERM\n\
    while read -r line; do groups=$line; done\n\
    for group in $groups; do kill -s KILL -- \"-$group\"; done";

/// A small process that reads a pipe whose other end only this process has. When this process ends, for any
/// reason, the pipe ends, and the guardian kills the registered process groups.
///
/// `PR_SET_PDEATHSIG` ends a child, but not the children of the child, for example the workers of a server
/// that forks.
#[derive(Debug)]
pub(crate) struct Guardian {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shell: Child,
    groups: BTreeSet<u32>,
}

impl Guardian {
    /// Starts the guardian.
    ///
    /// # Errors
    /// There is no `/bin/sh`, or a process cannot be started.
    pub(crate) fn start() -> io::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "vestibule-guardian"]).current_dir("/").process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let state = State { shell: shell.spawn()?, groups: BTreeSet::new() };
        Ok(Self { state: Mutex::new(state) })
    }

    /// Registers a process group, by the id of its leader. The leader must not be reaped before the returned
    /// value is dropped, since its number is free then.
    pub(super) fn register(self: &Arc<Self>, group: u32) -> Registration {
        let mut state = self.lock();
        state.groups.insert(group);
        state.send_groups();
        Registration { guardian: self.clone(), group }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A process group that is killed when this process ends, until this value is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    guardian: Arc<Guardian>,
    group: u32,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut state = self.guardian.lock();
        state.groups.remove(&self.group);
        state.send_groups();
    }
}

impl State {
    fn send_groups(&mut self) {
        let mut line = String::new();
        for group in &self.groups {
            line.push_str(&group.to_string());
            line.push(' ');
        }
        line.push('\n');
        if let Some(pipe) = &mut self.shell.stdin
            && let Err(error) = pipe.write_all(line.as_bytes())
        {
            tracing::error!(%error, "the guardian process has ended: if this process is killed, children of workers may survive it");
            self.shell.stdin = None;
        }
    }
}

#[cfg(test)]
impl Guardian {
    /// Closes the pipe, as the end of this process does.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        drop(state.shell.stdin.take());
        let _ = state.shell.wait();
    }

    /// Returns the number of registered groups.
    pub(super) fn registered(&self) -> usize {
        self.lock().groups.len()
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        let mut state = self.lock();
        state.groups.clear();
        state.send_groups();
        drop(state.shell.stdin.take());
        let _ = state.shell.wait();
    }
}
