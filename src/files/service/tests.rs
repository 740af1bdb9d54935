use rustix::io::Errno;

use super::*;

#[test]
fn lack_of_descriptors_is_distinguished_from_failing_disk() {
    assert_eq!(kind(&Errno::MFILE.into()), Kind::Overloaded);
    let no_thread = io::Error::new(Errno::AGAIN.kind(), "cannot start a thread");
    assert_eq!(kind(&no_thread), Kind::Overloaded);
    assert_eq!(kind(&Errno::IO.into()), Kind::Internal);
}

#[test]
fn future_is_little_larger_than_its_response() {
    let (future, response) = (size_of::<ResponseFuture>(), size_of::<Response<Body>>());
    assert!(future <= response + 16, "{future} {response}");
}
