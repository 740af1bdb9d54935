//! `Lines`: captured log lines, for tests.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

/// The lines that a subscriber has written.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        let lines = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || lines.clone())
            .with_ansi(false)
            .without_time()
            .finish()
    }

    /// Returns the lines of `target`.
    pub(crate) fn of(&self, target: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let of = format!(" {target}: ");
        text.lines().filter(|line| line.contains(&of)).map(str::to_owned).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
