//! Models of public types that threads share: loom runs each in every order of its steps. Models of private
//! types stand beside them, in `models.rs` too.

mod budget;
mod channel;
mod drain;
