//! Files on which another program holds a lease (fcntl(2)), as file servers do to delay writes.

use std::{
    env,
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::fs::fcntl_getfl;

use super::*;
use crate::files::backend::Content;

/// A program that takes a lease and reports it. When the file is opened, it writes to it and then releases
/// the lease.
const HOLDER: &str = "
import fcntl, os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
fd = os.open(sys.argv[1], os.O_RDWR)
while True:
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        break
    except BlockingIOError: # a process that is just being started has the file open too
        pass
os.write(1, b'!')
signal.sigwait([signal.SIGIO])
os.write(fd, b'written' * int(sys.argv[2]))
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
";

/// A process that holds a lease until the file is opened.
struct Holder(Child);

impl Holder {
    fn of(path: &Path, writes: usize) -> Self {
        let python = env::var("VESTIBULE_PYTHON").expect("VESTIBULE_PYTHON names a Python");
        let mut command = Command::new(python);
        command.args(["-c", HOLDER]).arg(path).arg(writes.to_string()).stdout(Stdio::piped());
        let mut holder = Self(command.spawn().unwrap());
        holder.0.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[cfg_attr(not(peer_django), ignore = "VESTIBULE_PYTHON=a python that takes a lease")]
fn leased_file_is_awaited_and_read_as_it_is_then() {
    let (outside, root) = tree();
    let path = outside.path().join("root/top.txt");
    for (before, writes) in [(3, 1), (3, 10_000), (70_000, 11_000)] {
        fs::write(&path, vec![b'-'; before]).unwrap();
        let holder = Holder::of(&path, writes);
        let Lookup::File(file) = root.lookup("top.txt").unwrap() else { panic!("{writes}") };
        drop(holder);
        let want = "written".repeat(writes);
        assert_eq!(file.content.len(), want.len() as u64);
        assert!(file.tag.starts_with(&format!("{:x}-", want.len())), "{}", file.tag);
        match file.content {
            Content::Bytes(bytes) => assert_eq!(bytes, want),
            Content::File(file, _) => assert_eq!(io::read_to_string(&*file).unwrap(), want),
        }
    }
}

#[test]
fn leased_files_are_opened_blocking_where_no_other_way_exists() {
    let (_outside, mut root) = tree();
    let waits = |root: &Root| {
        let file = root.open("top.txt").unwrap().unwrap().file;
        !fcntl_getfl(file).unwrap().contains(OFlags::NONBLOCK)
    };
    assert!(waits(&root));
    root.fd_dir = "/none";
    assert!(!waits(&root), "the path could name a FIFO by now");
}
