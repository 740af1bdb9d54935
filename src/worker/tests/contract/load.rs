//! `Load`: requests without a pause, while workers are replaced.

use tokio::{sync::watch, task::JoinSet};

use super::*;

/// Sends requests until it is ended; returns the errors.
pub(in super::super) struct Load {
    tasks: JoinSet<Vec<BoxError>>,
    stop: watch::Sender<bool>,
}

impl Load {
    pub(in super::super) fn start(pool: &impl Handle, request: fn() -> Request) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for _ in 0..8 {
            let (handle, stopped) = (pool.clone(), stopped.clone());
            tasks.spawn(async move {
                let mut errors = Vec::new();
                while !*stopped.borrow() {
                    match handle.clone().oneshot(request()).await {
                        Ok(response) => assert!(text(&response).starts_with("/load ")),
                        Err(error) => errors.push(error),
                    }
                }
                errors
            });
        }
        Self { tasks, stop }
    }

    pub(in super::super) async fn end(self) -> Vec<BoxError> {
        self.stop.send(true).unwrap();
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}
