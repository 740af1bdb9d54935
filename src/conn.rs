//! Drivers: a protocol core married to a socket.
