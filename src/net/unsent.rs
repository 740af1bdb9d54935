//! The length of a socket's send queue, which shows the progress of a slow reader.

#![allow(unsafe_code, reason = "one system call that rustix has no safe form of")]

use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ`, which is `TIOCOUTQ` (tcp(7), unix(7)).
const SIOCOUTQ: Opcode = 0x5411;

/// Whether the request has this number. A few architectures that number it differently are unsupported.
const IS_KNOWN: bool = cfg!(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "arm",
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "s390x",
    target_arch = "loongarch64",
));

/// Returns the bytes that were written and not acknowledged (TCP) or not read (Unix sockets) by the peer;
/// `None` if unknown.
pub(super) fn unsent(socket: impl AsFd) -> Option<u64> {
    if !IS_KNOWN {
        return None;
    }
    // SAFETY: this request stores one `int` and reads nothing.
    let unsent = unsafe { ioctl(socket, Getter::<SIOCOUTQ, i32>::new()) };
    u64::try_from(unsent.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::unsent;

    #[test]
    fn bytes_read_by_peer_are_no_longer_unsent() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        assert_eq!(unsent(&a), Some(0));
        a.write_all(&[0; 1000]).unwrap();
        let held = unsent(&a).unwrap();
        assert!(held >= 1000, "{held}");
        b.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(unsent(&a), Some(0));
    }
}
