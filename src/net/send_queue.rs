//! The length of a socket's send queue, which shows the progress of a slow reader.

#![allow(unsafe_code, reason = "one system call that rustix has no safe form of")]

use std::os::fd::AsFd;

use rustix::ioctl::{Getter, Opcode, ioctl};

/// `SIOCOUTQ`, which is `TIOCOUTQ` (tcp(7), unix(7)).
const SIOCOUTQ: Opcode = 0x5411;

/// Whether `SIOCOUTQ` has this number here. The few architectures with another number are not supported.
const IS_KNOWN: bool = cfg!(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "arm",
    target_arch = "aarch64",
    target_arch = "riscv64",
    target_arch = "s390x",
    target_arch = "loongarch64",
));

/// Returns the number of bytes that were written and that the peer has not acknowledged (TCP) or not read (Unix
/// sockets). `None` if unknown.
pub(super) fn send_queue_len(socket: impl AsFd) -> Option<u64> {
    if !IS_KNOWN {
        return None;
    }
    // SAFETY: this request stores one `int` and reads nothing.
    let len = unsafe { ioctl(socket, Getter::<SIOCOUTQ, i32>::new()) };
    u64::try_from(len.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::send_queue_len;

    #[test]
    fn send_queue_len_falls_when_peer_reads() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        assert_eq!(send_queue_len(&a), Some(0));
        a.write_all(&[0; 1000]).unwrap();
        let queued = send_queue_len(&a).unwrap();
        assert!(queued >= 1000, "{queued}");
        b.read_exact(&mut [0; 1000]).unwrap();
        assert_eq!(send_queue_len(&a), Some(0));
    }
}
