//! Sockets: listening, accepting, connecting, `sendfile`.
