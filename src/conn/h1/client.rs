//! The client's driver.
