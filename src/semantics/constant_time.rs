//! Comparison of secrets.

use std::hint::black_box;

/// Returns whether two secrets are equal, in a time that depends on their lengths only.
///
/// ```
/// use vestibule::semantics::constant_time::is_equal;
///
/// assert!(is_equal(b"token", b"token"));
/// assert!(!is_equal(b"token", b"tokem") && !is_equal(b"token", b"toke"));
/// ```
pub fn is_equal(a: &[u8], b: &[u8]) -> bool {
    // `black_box` keeps the compiler from ending the loop early.
    let differs = a.iter().zip(b).fold(0, |differs, (a, b)| black_box(differs | (a ^ b)));
    a.len() == b.len() && differs == 0
}
