use std::{fs::File, future::poll_fn, io::Write, sync::Arc, task::Waker};

use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf, duplex},
    net::TcpStream,
};

use super::*;
use crate::net::{Acceptor, Address, Listener, Stream};

fn file(len: usize) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&(0..len).map(|i| (i % 251) as u8).collect::<Vec<_>>()).unwrap();
    Arc::new(file)
}

/// Writes until the stream is full. Returns the number of bytes written.
fn write(output: &mut Output, io: &mut DuplexStream) -> u64 {
    let (mut moved, mut cx) = (0, Context::from_waker(Waker::noop()));
    if let Poll::Ready(result) =
        output.poll_write_all(io, &mut cx, Instant::now(), AfterFlush::Wait, &mut moved)
    {
        result.unwrap();
    }
    moved
}

#[tokio::test]
async fn file_bytes_count_as_sent_when_they_are_written() {
    const LEN: usize = 200_000;
    // A connection without `sendfile` that accepts 10,000 bytes at a time.
    let (mut io, mut peer) = duplex(10_000);
    let mut output = Output::default();
    output.head().extend_from_slice(b"head");
    output.push_file(FileSlice::new(file(LEN), 0, LEN as u64), b"tail");
    let (mut got, mut moved) = (Vec::new(), 0);
    while !output.is_empty() {
        moved += write(&mut output, &mut io);
        assert_eq!(moved, got.len() as u64 + 10_000.min(LEN as u64 + 8 - got.len() as u64));
        let mut piece = vec![0; 10_000];
        let n = peer.read(&mut piece).await.unwrap();
        got.extend_from_slice(&piece[..n]);
    }
    assert_eq!(moved, LEN as u64 + 8);
    assert!(got.starts_with(b"head\0\x01\x02") && got.ends_with(b"tail") && got.len() == LEN + 8);
}

#[tokio::test]
async fn file_that_has_shrunk_is_error_however_it_is_sent() {
    let (mut io, _peer) = duplex(1 << 20);
    let mut output = Output::default();
    output.push_file(FileSlice::new(file(100), 0, 200), b"");
    let (mut moved, mut cx) = (0, Context::from_waker(Waker::noop()));
    let result =
        output.poll_write_all(&mut io, &mut cx, Instant::now(), AfterFlush::Wait, &mut moved);
    let Poll::Ready(Err(error)) = result else { panic!("{result:?}") };
    assert_eq!((error.kind(), moved), (io::ErrorKind::UnexpectedEof, 100));
}

/// The way in which a body is sent to a slow reader.
#[derive(Clone, Copy, Debug)]
enum Sent {
    /// A file, by `sendfile`.
    File,
    /// A file, over a connection without `sendfile`.
    FileRead,
    /// Pieces of this many bytes, each pushed after the previous one is written.
    Pieces(usize),
}

/// A socket, with or without `sendfile`.
struct Slow(Stream, Sent);

impl Io for Slow {
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &FileSlice,
    ) -> Poll<io::Result<usize>> {
        match self.1 {
            Sent::File => self.0.poll_send_file(cx, file),
            _ => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    fn send_queue_len(&self) -> Option<u64> {
        self.0.send_queue_len()
    }
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Slow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Connects over loopback with segments of 1,448 bytes, as on Ethernet. The client has a small receive buffer.
async fn connect(sent: Sent) -> (Slow, TcpStream) {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap(), false).unwrap();
    let Address::Tcp(addr) = listener.local_addr().unwrap() else { panic!("not TCP") };
    let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    client.set_tcp_mss(1448).unwrap();
    client.set_recv_buffer_size(4 << 10).unwrap();
    client.connect(&addr.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    client.set_nonblocking(true).unwrap();
    let accepted = Acceptor::new(listener).unwrap().accept().await;
    (Slow(accepted.stream, sent), TcpStream::from_std(client.into()).unwrap())
}

/// A server that writes a body; `rest` is the number of bytes that are not yet in its output.
struct Model {
    io: Slow,
    output: Output,
    rest: usize,
}

impl Model {
    const RATE: MinRate = MinRate::new(240, Duration::from_secs(120));
    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Writes until the socket is full. Returns `false` once all is written.
    fn write(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        loop {
            if let Sent::Pieces(size) = self.io.1
                && self.output.is_empty()
                && self.rest > 0
            {
                let piece = vec![b'x'; size.min(self.rest)];
                self.rest -= piece.len();
                self.output.push(piece.into(), b"");
            }
            match self.output.poll_flush(&mut self.io, cx, now, Self::RATE, AfterFlush::Wait) {
                Poll::Pending => return true,
                Poll::Ready(result) => result.unwrap(),
            }
            if self.rest == 0 {
                return false;
            }
        }
    }

    fn is_expired(&mut self, now: Instant) -> bool {
        let has_passed = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        if has_passed(self.output.next_update(Self::TIMEOUT)) {
            self.output.update_progress(&self.io, now, Self::RATE);
        }
        has_passed(self.output.deadline(Self::TIMEOUT))
    }
}

/// Returns the second at which a client that reads `rate` bytes per second, of `len` bytes, is aborted;
/// `None` if it is not. Seconds are virtual: between two of them, the network delivers and acknowledges.
async fn aborted_after(sent: Sent, len: usize, rate: usize, seconds: u64) -> Option<u64> {
    let (io, mut client) = connect(sent).await;
    let mut server = Model { io, output: Output::default(), rest: len };
    if let Sent::File | Sent::FileRead = sent {
        server.rest = 0;
        server.output.push_file(FileSlice::new(file(len), 0, len as u64), b"");
    }
    let (start, mut buf) = (Instant::now(), vec![0; rate]);
    for second in 0..seconds {
        let now = start + Duration::from_secs(second);
        let mut left = rate;
        while left > 0 {
            // Woken when the client can read, or when the server can write.
            let read = poll_fn(|cx| {
                if !server.write(now, cx) {
                    return Poll::Ready(None);
                }
                let mut buf = ReadBuf::new(&mut buf[..left]);
                let result = ready!(Pin::new(&mut client).poll_read(cx, &mut buf));
                Poll::Ready(Some(result.map(|()| buf.filled().len())))
            });
            let n = read.await?.unwrap();
            left -= n;
        }
        tokio::task::yield_now().await; // the runtime learns that the socket is writable
        if server.is_expired(now + Duration::from_millis(999)) {
            return Some(second);
        }
    }
    None
}

const SENT: [Sent; 4] = [Sent::File, Sent::FileRead, Sent::Pieces(20_000), Sent::Pieces(100)];

#[tokio::test]
async fn reader_that_keeps_the_rate_is_never_aborted() {
    for sent in SENT {
        for rate in [260, 300, 500, 1000, 2000, 10_000] {
            let aborted = aborted_after(sent, 2_000_000, rate, 3000).await;
            assert_eq!(aborted, None, "{sent:?} at {rate} bytes per second");
        }
    }
}

#[tokio::test]
async fn reader_that_stays_below_the_rate_is_always_aborted() {
    for sent in SENT {
        for rate in [1, 100, 200, 220] {
            let aborted = aborted_after(sent, 2_000_000, rate, 8000).await;
            assert!(aborted.is_some(), "{sent:?} at {rate} bytes per second");
        }
    }
}
