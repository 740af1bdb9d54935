//! Models of public types that threads share. Loom runs each in every order of its steps (`VESTIBULE_LOOM=1`);
//! otherwise they run some times with threads of std. Models of private types are in a `models.rs` beside them.

mod budget;
mod channel;
mod drain;
