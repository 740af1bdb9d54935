mod clients;
mod early_data;
mod one_name;

use std::{fs, io, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{HandshakeKind, client::Resumption},
};

use self::one_name::OneName;
use super::{
    testing::{Authority, name},
    *,
};
use crate::{net::Io, peer::Tls};

type Served = Result<(MaybeTls<DuplexStream>, Tls), HandshakeError>;
type Connected = io::Result<TlsStream<DuplexStream>>;

/// A handshake of both sides. The server sends a byte, so that the client has read its tickets, too.
async fn shake(server: &Server, client: &TlsConnector, host: &str) -> (Served, Connected) {
    let (near, far) = duplex(64 << 10);
    let serve = async {
        let mut served = server.accept(far, Default::default(), true).await;
        if let Ok((stream, _)) = &mut served {
            stream.write_all(b"x").await.unwrap();
            stream.flush().await.unwrap();
        }
        served
    };
    let connect = async {
        let mut stream = client.connect(name(host), near).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(serve, connect)
}

/// The kind of the client's handshake, which must succeed.
async fn kind(server: &Server, client: &TlsConnector, host: &str) -> HandshakeKind {
    let (_, connected) = shake(server, client, host).await;
    connected.unwrap().get_ref().1.handshake_kind().unwrap()
}

/// The certificate that the client gets.
async fn certificate(server: &Server, client: &TlsConnector, host: &str) -> Vec<u8> {
    let (_, connected) = shake(server, client, host).await;
    connected.unwrap().get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn certificate_is_that_of_the_requested_name() {
    let ca = Authority::new();
    let [a, b] = [("a", ["a.example", "x.example"]), ("b", ["*.b.example", "x.example"])]
        .map(|(file, names)| ca.issue(file, &names));
    let host = |(chain, key): &(_, _)| Host::pem_files(chain, key);
    let tls = Server::builder().host(host(&a)).host(host(&b)).build().unwrap();
    let client = ca.client(&[]);
    let der = |(chain, _): &(std::path::PathBuf, _)| pem::certificates(chain).unwrap()[0].to_vec();
    for (requested, expected) in
        [("a.example", &a), ("x.example", &a), ("one.b.example", &b), ("A.Example", &a)]
    {
        assert_eq!(certificate(&tls, &client, requested).await, der(expected), "{requested}");
    }
    // The default certificate is not valid for this name, which the client sees.
    let (served, connected) = shake(&tls, &client, "c.example").await;
    assert!(connected.unwrap_err().to_string().contains("not valid for name"));
    assert!(matches!(served, Err(HandshakeError::Io(_))));
}

#[tokio::test]
async fn unknown_name_gets_an_alert_by_option() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let host = Host::pem_files(chain, key);
    let tls = Server::builder().host(host).unknown_name(UnknownName::Alert).build().unwrap();
    let (served, connected) = shake(&tls, &ca.client(&[]), "b.example").await;
    assert!(matches!(served, Err(HandshakeError::UnknownName(name)) if name == "b.example"));
    let error = connected.unwrap_err().to_string();
    assert!(error.contains("UnrecognizedName") || error.contains("UnrecognisedName"), "{error}");
    assert!(shake(&tls, &ca.client(&[]), "a.example").await.1.is_ok());
}

#[tokio::test]
async fn session_is_resumed_at_its_host_and_after_a_reload() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::pem_files(chain, key).unwrap();
    let client = ca.client(&[]);
    assert_eq!(kind(&tls, &client, "a.example").await, HandshakeKind::Full);
    assert_eq!(kind(&tls, &client, "a.example").await, HandshakeKind::Resumed);
    tls.reload().unwrap();
    assert_eq!(kind(&tls, &client, "a.example").await, HandshakeKind::Resumed);
}

#[tokio::test]
async fn t1_ticket_of_one_host_is_not_accepted_by_another() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("both", &["a.example", "admin.example"]);
    let staff = Authority::new();
    let open = Host::pem_files(&chain, &key).names(["a.example"]);
    let admin = Host::pem_files(&chain, &key).names(["admin.example"]);
    let admin = admin.require_client_certificate(staff.file());
    let tls = Server::builder().host(open).host(admin).build().unwrap();
    // A client that sends any ticket to any host, with and without tickets.
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let roots = pem::roots(&ca.file()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider());
        let config = config.with_protocol_versions(&[version]).unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::store(Arc::new(OneName::default()));
        let client = TlsConnector::from(Arc::new(config));
        assert_eq!(kind(&tls, &client, "a.example").await, HandshakeKind::Full);
        assert_eq!(kind(&tls, &client, "a.example").await, HandshakeKind::Resumed);
        let (served, _) = shake(&tls, &client, "admin.example").await;
        assert!(served.is_err(), "the ticket of the open host let a client without certificate in");
    }
    // rustls compares the names of a session, too, so the keys are compared apart from it.
    let [open, admin] = ["a.example", "admin.example"].map(|name| tls.config_for(Some(name), true));
    let (open, admin) = (open.unwrap(), admin.unwrap());
    let ticket = open.ticketer.encrypt(b"session").unwrap();
    assert_eq!(open.ticketer.decrypt(&ticket).as_deref(), Some(&b"session"[..]));
    assert_eq!(admin.ticketer.decrypt(&ticket), None);
    open.session_storage.put(b"id".to_vec(), b"session".to_vec());
    assert!(open.session_storage.get(b"id").is_some());
    assert_eq!(admin.session_storage.get(b"id"), None);

    let member = ca.client_with(&[], Some(&staff.issue("member", &["member"])));
    let (served, _) = shake(&tls, &member, "admin.example").await;
    let facts = served.unwrap().1;
    assert!(facts.client_certificate().is_some());
    let other = staff_of(&ca, "other");
    assert!(shake(&tls, &other, "admin.example").await.0.is_err(), "of another authority");
    assert!(
        !tls.is_authoritative(&Tls::new("TLSv1.3").with_server_name("a.example"), "ADMIN.example")
    );
    assert!(tls.is_authoritative(&facts, "admin.example"));
    assert!(tls.is_authoritative(&facts, "a.example"), "no certificate is needed there");
    assert!(tls.is_authoritative(&facts, "unknown.example"));
}

/// A client with a certificate of the server's own authority, which is not that of the staff.
fn staff_of(ca: &Authority, file: &str) -> TlsConnector {
    ca.client_with(&[], Some(&ca.issue(file, &["other"])))
}

#[tokio::test]
async fn client_certificate_is_optional_required_or_refused_when_expired() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let host = Host::pem_files(&chain, &key).request_client_certificate(ca.file());
    let optional = Server::builder().host(host).build().unwrap();
    let host = Host::pem_files(&chain, &key).require_client_certificate(ca.file());
    let required = Server::builder().host(host).build().unwrap();
    let valid = ca.issue("valid", &["client"]);
    let expired = ca.issue_until("expired", &["client"], 2001);
    for (certificate, at_optional, at_required) in
        [(None, true, false), (Some(&valid), true, true), (Some(&expired), false, false)]
    {
        for (tls, expected) in [(&optional, at_optional), (&required, at_required)] {
            let client = ca.client_with(&[], certificate);
            let (served, _) = shake(tls, &client, "a.example").await;
            assert_eq!(served.is_ok(), expected, "{certificate:?}");
            match served {
                Ok((_, facts)) => {
                    assert_eq!(facts.client_certificate().is_some(), certificate.is_some());
                }
                Err(e) => assert!(e.to_string().starts_with("TLS handshake failed: "), "{e}"),
            }
        }
    }
}

#[tokio::test]
async fn both_versions_are_supported_and_facts_name_them() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::builder().host(Host::pem_files(chain, key)).alpn(["one", "two"]);
    let tls = tls.build().unwrap();
    for (version, text) in
        [(&rustls::version::TLS12, "TLSv1.2"), (&rustls::version::TLS13, "TLSv1.3")]
    {
        let roots = pem::roots(&ca.file()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![b"two".to_vec(), b"one".to_vec()];
        let client = TlsConnector::from(Arc::new(config));
        let (served, _) = shake(&tls, &client, "a.example").await;
        let (stream, facts) = served.unwrap();
        assert_eq!(facts, Tls::new(text).with_server_name("a.example").with_alpn("one"));
        assert_eq!(stream.alpn(), Some(&b"one"[..]));
    }
    let (served, connected) = shake(&tls, &ca.client(&["three"]), "a.example").await;
    assert!(matches!(served, Err(HandshakeError::Io(e)) if e.to_string().contains("protocol")));
    assert!(connected.unwrap_err().to_string().contains("NoApplicationProtocol"));
}

#[tokio::test]
async fn reload_applies_all_files_or_none() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::pem_files(&chain, &key).unwrap();
    let client = ca.client(&[]);
    let first = certificate(&tls, &client, "a.example").await;
    let old_key = fs::read(&key).unwrap();
    assert!(!tls.have_files_changed());
    ca.issue("a", &["a.example"]);
    let new_key = fs::read(&key).unwrap();
    fs::write(&key, &old_key).unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("a.pem") && error.contains("a.key"), "{error}");
    assert_eq!(certificate(&tls, &ca.client(&[]), "a.example").await, first);
    assert!(tls.have_files_changed(), "a failed reload is repeated");
    fs::write(&key, &new_key).unwrap();
    tls.reload().unwrap();
    assert!(!tls.have_files_changed());
    assert_ne!(certificate(&tls, &ca.client(&[]), "a.example").await, first);
}

#[tokio::test]
async fn watch_reloads_when_a_file_changes_and_survives_a_half_written_one() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::pem_files(&chain, &key).unwrap();
    let first = certificate(&tls, &ca.client(&[]), "a.example").await;
    let watch = tokio::spawn(tls.clone().watch(Duration::from_millis(1)));
    let new_key = {
        let (old, _) = (fs::read(&key).unwrap(), ca.issue("a", &["a.example"]));
        let new = fs::read(&key).unwrap();
        fs::write(&key, old).unwrap();
        new
    };
    tokio::task::yield_now().await;
    fs::write(&key, new_key).unwrap();
    let changed = async { while certificate(&tls, &ca.client(&[]), "a.example").await == first {} };
    tokio::time::timeout(Duration::from_secs(60), changed).await.expect("it does not reload");
    watch.abort();
}

#[test]
fn build_error_names_the_invalid_file() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let (_, other) = ca.issue("b", &["b.example"]);
    let error = |chain: &std::path::Path, key: &std::path::Path| {
        Server::pem_files(chain, key).unwrap_err().to_string()
    };
    let missing = ca.folder().join("missing.pem");
    assert!(error(&missing, &key).contains("missing.pem"));
    assert!(error(&key, &key).contains("no `BEGIN CERTIFICATE`"));
    assert!(error(&chain, &chain).contains("no private key"));
    assert!(error(&chain, &other).ends_with("b.key: the key belongs to another certificate"));
    let none = Server::builder().build().unwrap_err().to_string();
    assert!(none.contains("needs a host"), "{none}");
    let none = Server::builder().host(Host::pem_files(chain, key)).handshakes(0).build();
    assert!(none.is_err());
}

#[tokio::test]
async fn client_hello_in_single_bytes_is_read() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::pem_files(chain, key).unwrap();
    let (near, relay_near) = duplex(64 << 10);
    let (relay_far, far) = duplex(64 << 10);
    let (mut from_client, mut to_client) = tokio::io::split(relay_near);
    let (mut from_server, mut to_server) = tokio::io::split(relay_far);
    tokio::spawn(async move {
        while let Ok(byte) = from_client.read_u8().await {
            to_server.write_u8(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
    });
    tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
    let client = ca.client(&[]);
    let (served, connected) = tokio::join!(
        tls.accept(far, Default::default(), true),
        client.connect(name("a.example"), near)
    );
    assert!(served.is_ok() && connected.is_ok());
}

#[tokio::test]
async fn bytes_other_than_a_handshake_have_typed_errors() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::pem_files(chain, key).unwrap();
    for (bytes, error, answer) in [
        (
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            "the client sent plain HTTP to a TLS port",
            "HTTP/1.1 400 ",
        ),
        (b"\x80\x2e\x01", "the client's first byte, 0x80, does not begin a TLS handshake", ""),
        (b"\x16\x03\x01\x00", "the client closed the connection during the TLS handshake", ""),
        (b"", "the client closed the connection during the TLS handshake", ""),
        (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01\x00", "TLS handshake failed: ", "\x15\x03"),
    ] {
        let (mut near, far) = duplex(64 << 10);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let failed = tls.accept(far, Default::default(), true).await.unwrap_err().to_string();
        assert!(failed.starts_with(error), "{failed}");
        let mut received = Vec::new();
        near.read_to_end(&mut received).await.unwrap();
        assert!(received.starts_with(answer.as_bytes()), "{received:?}");
        assert_eq!(received.is_empty(), answer.is_empty());
    }
}

#[test]
fn plain_http_response_has_its_content_length() {
    let (head, body) = handshake::USE_HTTPS.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
}

#[tokio::test]
async fn handshakes_above_their_bound_wait() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::builder().host(Host::pem_files(chain, key)).handshakes(1).build().unwrap();
    let client = ca.client(&[]);
    // A client whose ClientHello is complete, and that reads no answer.
    let (near, far) = duplex(4 << 10);
    let hello = client.connect(name("a.example"), near);
    let mut hello = Box::pin(hello);
    let mut first = Box::pin(tls.accept(far, Default::default(), true));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(hello.as_mut().poll(&mut cx).is_pending() && first.as_mut().poll(&mut cx).is_pending());
    assert_eq!(tls.handshakes().available_permits(), 0);
    // One that sends nothing holds no permit, and one that is complete waits for the first.
    let mut second = Box::pin(async { shake(&tls, &client, "a.example").await });
    for _ in 0..5 {
        assert!(second.as_mut().poll(&mut cx).is_pending());
    }
    drop((first, hello));
    assert!(second.await.1.is_ok());
    assert_eq!(tls.handshakes().available_permits(), 1);
}

#[tokio::test(start_paused = true)]
async fn handshakes_that_stop_do_not_keep_others_out() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::builder().host(Host::pem_files(chain, key)).handshakes(1).build().unwrap();
    let client = ca.client(&[]);
    let (near, far) = duplex(4 << 10);
    let mut hello = Box::pin(client.connect(name("a.example"), near));
    let mut stopped = Box::pin(tls.accept(far, Default::default(), true));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(hello.as_mut().poll(&mut cx).is_pending());
    assert!(stopped.as_mut().poll(&mut cx).is_pending());
    let began = tokio::time::Instant::now();
    let second = tokio::time::timeout(Duration::from_secs(60), shake(&tls, &client, "a.example"));
    tokio::select! {
        _ = &mut stopped => panic!("its client has stopped"),
        second = second => drop(second.expect("it is kept out").1.unwrap()),
    }
    assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
    let (first, _) = tokio::join!(stopped, hello);
    assert!(first.is_ok(), "it continues");
}

#[tokio::test]
async fn dropped_stream_sends_close_notify_unless_it_was_aborted() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::pem_files(chain, key).unwrap();
    for is_cut in [false, true] {
        let (served, connected) = shake(&tls, &ca.client(&[]), "a.example").await;
        let (mut stream, _) = served.unwrap();
        if is_cut {
            stream.reset_on_close();
        }
        drop(stream);
        let end = connected.unwrap().read_to_end(&mut Vec::new()).await;
        assert_eq!(end.is_err(), is_cut, "{end:?}");
    }
}
