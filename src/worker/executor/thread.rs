//! Workers as threads of this process: each builds its application and runs one request at a time.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};

use tokio::runtime::Runtime;

use super::{
    super::{error::FactoryPanicked, pool::Pool},
    Executor,
    exchange::run_request,
};
use crate::{
    HttpService,
    error::{BoxError, panic_message},
    policy::restart::WorkerId,
};

/// Builds the application of a worker, on its thread.
pub(crate) type Factory<A> = dyn Fn() -> Result<A, BoxError> + Send + Sync;

/// Starts a thread for each worker. A thread cannot be interrupted, so an abandoned worker exits when
/// its request ends.
pub(crate) struct ThreadExecutor<A> {
    pool: Arc<Pool>,
    factory: Arc<Factory<A>>,
    threads: Vec<JoinHandle<()>>,
}

impl<A> ThreadExecutor<A> {
    pub(crate) fn new(pool: Arc<Pool>, factory: Arc<Factory<A>>) -> Self {
        Self { pool, factory, threads: Vec::new() }
    }
}

impl<A: HttpService + 'static> Executor for ThreadExecutor<A> {
    fn start(&mut self, id: WorkerId) -> io::Result<()> {
        let (pool, factory) = (self.pool.clone(), self.factory.clone());
        let name = format!("worker-{id}");
        let thread = thread::Builder::new().name(name.clone());
        let thread = thread.spawn(move || run(&pool, id, &*factory)).map_err(|e| {
            io::Error::new(e.kind(), format!("cannot start the thread {name}: {e}"))
        })?;
        self.threads.retain(|t| !t.is_finished());
        self.threads.push(thread);
        Ok(())
    }
}

impl<A> Drop for ThreadExecutor<A> {
    fn drop(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // its panic was reported when it happened
        }
    }
}

/// Reports the exit of a worker, also when its thread unwinds.
struct ExitGuard<'a> {
    pool: &'a Pool,
    id: WorkerId,
}

impl Drop for ExitGuard<'_> {
    fn drop(&mut self) {
        self.pool.on_exit(self.id);
    }
}

/// The life of worker `id`.
fn run<A: HttpService>(pool: &Pool, id: WorkerId, factory: &Factory<A>) {
    let _exit = ExitGuard { pool, id };
    match build(factory) {
        Ok((runtime, mut app)) => {
            pool.on_ready(id);
            runtime.block_on(serve(pool, id, &mut app));
            discard(runtime, app);
        }
        Err(error) => pool.on_failed(id, error),
    }
}

fn build<A>(factory: &Factory<A>) -> Result<(Runtime, A), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let app = catch_unwind(AssertUnwindSafe(factory))
        .map_err(|panic| FactoryPanicked { message: panic_message(&*panic).to_owned() })??;
    drop(guard);
    Ok((runtime, app))
}

/// The runtime is also driven between requests, so tasks that the application has spawned continue.
async fn serve<A: HttpService>(pool: &Pool, id: WorkerId, app: &mut A) {
    while let Some(work) = pool.next_on_thread(id).await {
        let outcome = run_request(app, work.request, &work.job, work.allowance).await;
        // The worker is free before its caller gets the result, so that the caller finds its capacity released.
        let may_continue = pool.done(id, outcome.is_err());
        drop(work.job.take_permit());
        outcome.map_or_else(|panicked| panicked.report(&work.job), |done| done.report(&work.job));
        if !may_continue {
            return;
        }
    }
}

/// Drops an application, which may panic, and the tasks that it has spawned.
fn discard<A>(runtime: Runtime, app: A) {
    let guard = runtime.enter();
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(app)));
    drop(guard);
    runtime.shutdown_background();
    if let Err(panic) = dropped {
        let message = panic_message(&*panic);
        tracing::error!(message, "an application panicked while it was dropped");
    }
}
