//! Early data (0-RTT), which is not accepted.

use std::io::Write;

use super::{testing::server_config, *};

#[tokio::test]
async fn bytes_behind_a_client_hello_are_not_lost() {
    let ca = Authority::new();
    let files = ca.issue("a", &["a.example"]);
    let roots = pem::roots(&ca.file()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.enable_early_data = true;
    let config = Arc::new(config);
    // A server that accepts early data issues the ticket, and this one continues in its place.
    let mut other = server_config(&files);
    other.max_early_data_size = 64 << 10;
    let other = Arc::new(other);
    for tls in [Server::pem_files(&files.0, &files.1).unwrap(), Server::from_config(other.clone())]
    {
        let (near, far) = duplex(64 << 10);
        let issue = async {
            let acceptor = tokio_rustls::TlsAcceptor::from(other.clone());
            acceptor.accept(far).await.unwrap().write_all(b"x").await.unwrap();
        };
        let connector = TlsConnector::from(config.clone());
        let receive = async {
            let mut stream = connector.connect(name("a.example"), near).await.unwrap();
            stream.read_u8().await.unwrap();
        };
        tokio::join!(issue, receive);
        let session = rustls::ClientConnection::new(config.clone(), name("a.example"));
        let mut session = session.unwrap();
        session.early_data().expect("it has a ticket").write_all(&[b'e'; 5_000]).unwrap();
        let mut received = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut received).unwrap();
        }
        assert!(received.len() > 5_000, "more than one read of rustls");
        let (mut near, far) = duplex(64 << 10);
        let served = tls.accept(far, received[..].into(), true);
        let client = async {
            while session.is_handshaking() || session.wants_write() {
                if session.wants_write() {
                    let mut out = Vec::new();
                    session.write_tls(&mut out).unwrap();
                    near.write_all(&out).await.unwrap();
                } else {
                    let mut input = [0; 4096];
                    let n = near.read(&mut input).await.unwrap();
                    assert_ne!(n, 0, "the server has closed");
                    session.read_tls(&mut &input[..n]).unwrap();
                    session.process_new_packets().unwrap();
                }
            }
            assert!(!session.is_early_data_accepted(), "nobody reads it");
            session.writer().write_all(b"later").unwrap();
            let mut out = Vec::new();
            session.write_tls(&mut out).unwrap();
            near.write_all(&out).await.unwrap();
            near
        };
        let both = async { tokio::join!(served, client) };
        let both = tokio::time::timeout(Duration::from_secs(60), both).await;
        let (served, _near) = both.expect("the server waits for bytes that were lost");
        let mut later = [0; 5];
        served.unwrap().0.read_exact(&mut later).await.unwrap();
        assert_eq!(&later, b"later");
    }
}
