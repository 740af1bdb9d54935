//! Models of callers that join a lookup while another thread runs or drops it.

use super::*;
use crate::sync::model::{block_on, model, thread};

type Answered = oneshot::Receiver<io::Result<u32>>;

/// A caller, which runs the lookup if it is the first one.
fn call(table: &Arc<Table<u32, ()>>, found: u32) -> Answered {
    let (answered, flight) = table.join("/a", (), |()| true, || move || Ok(found));
    if let Some(mut flight) = flight
        && flight.is_wanted()
    {
        flight.run();
    }
    answered
}

#[test]
fn caller_that_joins_during_lookup_gets_result() {
    model(|| {
        let table = Arc::new(Table(Mutex::default()));
        let other = table.clone();
        let first = thread::spawn(move || block_on(call(&other, 1)).unwrap().unwrap());
        let second = block_on(call(&table, 2)).unwrap().unwrap();
        let first = first.join().unwrap();
        assert!([(1, 1), (2, 2), (1, 2)].contains(&(first, second)), "{first} and {second}");
        assert!(table.lock().is_empty());
    });
}

#[test]
fn caller_that_joins_unwanted_lookup_starts_another() {
    model(|| {
        let table = Arc::new(Table(Mutex::default()));
        let (gone, flight) = table.join("/a", (), |()| true, || || Ok(1));
        drop(gone);
        let pool = thread::spawn(move || {
            let mut flight = flight.unwrap();
            if flight.is_wanted() {
                flight.run();
            }
        });
        block_on(call(&table, 2)).unwrap().unwrap();
        pool.join().unwrap();
        assert!(table.lock().is_empty());
    });
}
