//! Sockets (listening, accepting, connecting, `sendfile`), child processes, and the clock.

mod accept;
mod async_fd;
pub(crate) mod blocking_pool;
pub mod clock;
mod connect;
mod drain;
mod exhausted;
pub(crate) mod file_slice;
mod gate;
mod io;
mod keep_alive;
mod listen;
mod open_files;
pub(crate) mod page_cache;
#[cfg(feature = "process")]
pub mod process;
mod process_budget;
pub(crate) mod reclaim;
mod refuse;
mod send_queue;
#[cfg(feature = "process")]
pub(crate) mod seqpacket;
pub(crate) mod serving;
pub(crate) mod splice;
mod stream;
#[cfg(feature = "tls")]
pub mod tls;
#[cfg(not(feature = "tls"))]
#[path = "net/no_tls.rs"]
pub(crate) mod tls;

pub use accept::{Accepted, Acceptor};
pub use drain::{Drain, DrainWatch};
pub(crate) use exhausted::is_exhausted;
pub use gate::{Capacity, Gate, GateWaiter};
pub use io::Io;
pub use keep_alive::{KEEP_ALIVE_IDLE, KEEP_ALIVE_INTERVAL, KEEP_ALIVE_PROBES, KeepAlive};
pub(crate) use listen::BACKLOG;
pub use listen::{Address, Listener};
pub(crate) use open_files::raise_open_files;
pub use process_budget::process_budget;
pub(crate) use refuse::refuse;
pub use stream::Stream;
