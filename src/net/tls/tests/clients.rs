//! Tests of [`Client`] with [`Server`].

use super::*;

/// A handshake of a [`Client`], after which the server sends a byte.
async fn connect(tls: &Server, client: &Client) -> (Served, io::Result<MaybeTls<DuplexStream>>) {
    let (near, far) = duplex(64 << 10);
    let serve = async {
        let (mut stream, facts) = tls.accept(far, Default::default(), true).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        Ok((stream, facts))
    };
    let connect = async {
        let mut stream = client.connect(near).await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    tokio::join!(serve, connect)
}

#[tokio::test]
async fn client_verifies_the_server_and_resumes_sessions() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let tls = Server::builder().host(Host::pem_files(chain, key)).alpn(["http/1.1"]);
    let tls = tls.build().unwrap();
    let trusting = Client::builder().roots(ca.file()).build().unwrap();
    let client = trusting.for_server("a.example", &[b"http/1.1"]).unwrap();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (served, connected) = connect(&tls, &client).await;
        assert_eq!(served.unwrap().1.server_name(), Some("a.example"));
        let connected = connected.unwrap();
        assert_eq!(connected.alpn(), Some(&b"http/1.1"[..]));
        assert_eq!(connected.handshake_kind(), Some(kind));
    }
    let wrong_name = trusting.for_server("b.example", &[]).unwrap();
    assert!(connect(&tls, &wrong_name).await.1.is_err());
    let named = Client::builder().roots(ca.file()).server_name("a.example").build().unwrap();
    assert!(connect(&tls, &named.for_server("10.0.0.1", &[]).unwrap()).await.1.is_ok());
    let other = Client::builder().roots(Authority::new().file()).build().unwrap();
    let other = other.for_server("a.example", &[]).unwrap();
    assert!(connect(&tls, &other).await.1.is_err(), "an unknown authority is refused");
}

#[tokio::test]
async fn client_sends_its_certificate_to_a_server_that_asks_for_one() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let host = Host::pem_files(&chain, &key).require_client_certificate(ca.file());
    let tls = Server::builder().host(host).build().unwrap();
    let (member, member_key) = ca.issue("member", &["member"]);
    let client = || Client::builder().roots(ca.file());
    let with = client().certificate(&member, &member_key).build().unwrap();
    let (served, connected) = connect(&tls, &with.for_server("a.example", &[]).unwrap()).await;
    connected.unwrap();
    let facts = served.unwrap().1;
    let sent = facts.client_certificate().expect("it was sent");
    assert_eq!(sent, &pem::certificates(&member).unwrap()[0][..]);
    let without = client().build().unwrap().for_server("a.example", &[]).unwrap();
    let (served, connected) = connect(&tls, &without).await;
    assert!(served.is_err() && connected.is_err());
    let error = client().certificate(&member, &key).build().unwrap_err().to_string();
    assert!(error.contains("member.pem"), "{error}");
}

#[tokio::test]
async fn configurations_of_rustls_are_used() {
    let ca = Authority::new();
    let (chain, key) = ca.issue("a", &["a.example"]);
    let (certificates, private) = (pem::certificates(&chain), pem::private_key(&key));
    let server = rustls::ServerConfig::builder_with_provider(provider());
    let server = server.with_protocol_versions(&[&rustls::version::TLS12]).unwrap();
    let server = server.with_no_client_auth();
    let mut server = server.with_single_cert(certificates.unwrap(), private.unwrap()).unwrap();
    server.alpn_protocols = vec![b"custom".to_vec()];
    let tls = Server::from_config(server);
    tls.reload().unwrap(); // it has no files
    let client = rustls::ClientConfig::builder_with_provider(provider());
    let client = client.with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(pem::roots(&ca.file()).unwrap());
    let client = Client::from_config(client.with_no_client_auth());
    let client = client.for_server("a.example", &[b"custom"]).unwrap();
    let (served, connected) = connect(&tls, &client).await;
    assert_eq!(connected.unwrap().alpn(), Some(&b"custom"[..]));
    let facts = served.unwrap().1;
    assert_eq!(facts, Tls::new("TLSv1.2").with_server_name("a.example").with_alpn("custom"));
}

#[cfg(feature = "self-signed")]
#[tokio::test]
async fn self_signed_certificate_serves_its_names_to_a_client_that_trusts_it() {
    let tls = self_signed(["localhost", "127.0.0.1"]).unwrap();
    let (served, connected) = {
        // As `curl --insecure`, the first client takes any certificate, which the others then trust.
        let seen = Arc::new(AnyCertificate::default());
        let config = rustls::ClientConfig::builder_with_provider(provider());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.dangerous().with_custom_certificate_verifier(seen.clone());
        let client = Client::from_config(config.with_no_client_auth());
        let (served, _) = connect(&tls, &client.for_server("localhost", &[]).unwrap()).await;
        served.unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(seen.0.lock().unwrap().take().unwrap()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(provider());
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let trusting = Client::from_config(config);
        let by_address = trusting.for_server("127.0.0.1", &[]).unwrap();
        assert!(connect(&tls, &by_address).await.1.is_ok());
        let other = trusting.for_server("other.example", &[]).unwrap();
        assert!(connect(&tls, &other).await.1.is_err());
        connect(&tls, &trusting.for_server("localhost", &[]).unwrap()).await
    };
    assert!(connected.is_ok());
    assert_eq!(served.unwrap().1.server_name(), Some("localhost"));
}

/// Accepts any certificate, and keeps it.
#[cfg(feature = "self-signed")]
#[derive(Debug, Default)]
struct AnyCertificate(std::sync::Mutex<Option<rustls::pki_types::CertificateDer<'static>>>);

#[cfg(feature = "self-signed")]
mod any_certificate {
    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    use super::*;

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            certificate: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            *self.0.lock().unwrap() = Some(certificate.clone().into_owned());
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            provider().signature_verification_algorithms.supported_schemes()
        }
    }
}

/// The folder with the certificate of a server, in the environment of a process of this test.
const FOLDER: &str = "VESTIBULE_TEST_TLS_FOLDER";

#[tokio::test]
async fn client_trusts_the_roots_of_the_system() {
    if let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) {
        let tls = Server::pem_files(folder.join("a.pem"), folder.join("a.key")).unwrap();
        let client = Client::new().map(|client| client.for_server("a.example", &[]).unwrap());
        match client {
            Ok(client) => connect(&tls, &client).await.1.map(drop).unwrap(),
            Err(e) => assert!(e.to_string().contains("install ca-certificates"), "{e}"),
        }
        println!("roots: {}", Client::new().is_ok());
        return;
    }
    let ca = Authority::new();
    ca.issue("a", &["a.example"]);
    let none = ca.folder().join("none.pem");
    fs::write(&none, "").unwrap();
    // The roots are read from the environment of a process, which a test must not change.
    for (roots, has_roots) in [(ca.file(), true), (none, false)] {
        let mut test = tokio::process::Command::new(std::env::current_exe().unwrap());
        let test = test
            .args(["--exact", "net::tls::tests::clients::client_trusts_the_roots_of_the_system"])
            .arg("--nocapture")
            .env(FOLDER, ca.folder())
            .env("SSL_CERT_FILE", &roots)
            .env_remove("SSL_CERT_DIR");
        let out = test.output().await.unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{text}");
        assert!(text.contains(&format!("roots: {has_roots}")), "{text}");
    }
}
