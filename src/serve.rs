//! `serve`: listener and service, and nothing else to say.
