//! Client certificates, judged by a TLS server that lets nobody in without one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum_server::tls_rustls::RustlsConfig;
use execution::Reply;
use provider::egress::{Egress, Rules};
use provider::secrets::{Declared, Kind, Secrets};
use provider::{Mistake, Outside};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::common::{Bound, Changing, NOW_MS, archetype, binding, call, to};

type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key, both PEM.
pub(crate) fn issue(authority: &Authority, name: &str) -> (String, String) {
    issued(authority, vec![name.to_owned()], "a common name")
}

fn issued(authority: &Authority, names: Vec<String>, subject: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    if !subject.is_empty() {
        params.distinguished_name.push(DnType::CommonName, subject);
    }
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// A server that asks for a certificate of `authority`, and how many requests it let in.
async fn server(authority: &Authority) -> (u16, Arc<AtomicUsize>) {
    let (certificate, key) = issue(authority, "bank.example");
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap())
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let let_in = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&let_in);
    let app = axum::Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async move { (axum::http::StatusCode::CREATED, r#"{"id":"p1"}"#) }
    });
    let config = RustlsConfig::from_config(Arc::new(config));
    tokio::spawn(axum_server::from_tcp_rustls(listener, config).unwrap().serve(app.into_make_service()));
    (port, let_in)
}

fn egress(authority: &Authority) -> Egress {
    let rules = Rules::parse::<&str>(&["127.0.0.1"], &[]).unwrap();
    let mut egress = Egress::with_lookup(rules, Changing::new(&[&["127.0.0.1"]]));
    egress.trust(authority.pem().as_bytes()).unwrap();
    egress
}

/// A secret `client` over two files in the folder, for these hosts.
pub(crate) fn declared(folder: &Path, hosts: &[String]) -> Declared {
    let (certificate, key) = (folder.join("client.pem"), folder.join("client.key"));
    Declared { name: "client".to_owned(), kind: Kind::Mtls { certificate, key }, hosts: hosts.to_vec() }
}

pub(crate) fn write(folder: &Path, (certificate, key): &(String, String)) {
    fs::write(folder.join("client.pem"), certificate).unwrap();
    fs::write(folder.join("client.key"), key).unwrap();
    fs::set_permissions(folder.join("client.key"), Permissions::from_mode(0o600)).unwrap();
}

fn compile(base: &str, auth: bool, egress: &Egress, secrets: &Secrets) -> Result<Bound, Vec<Mistake>> {
    let text = binding(base);
    let archetype =
        archetype(&if auth { text.replacen("timeout_ms", "auth = \"client\"\ntimeout_ms", 1) } else { text });
    let provider = provider::compile(&archetype, Outside { egress, secrets })?;
    Ok((archetype, provider))
}

#[tokio::test]
async fn whoever_shows_the_certificate_is_let_in_and_nobody_else() {
    let (ours, theirs) = (authority(), authority());
    let (port, let_in) = server(&ours).await;
    let base = format!("https://bank.example:{port}");
    let folder = tempfile::tempdir().unwrap();
    let load = |pair: &(String, String)| {
        write(folder.path(), pair);
        Secrets::load([declared(folder.path(), &[format!("bank.example:{port}")])]).unwrap()
    };
    let (right, wrong) = (load(&issue(&ours, "gateway")), load(&issue(&theirs, "gateway")));
    let egress = egress(&ours);
    // The order matters: a connection that was let in is no way in for a binding without a certificate.
    for (secrets, auth, fits) in [(&right, true, true), (&right, false, false), (&wrong, true, false)] {
        let (archetype, provider) = compile(&base, auth, &egress, secrets).unwrap();
        let before = let_in.load(Ordering::SeqCst);
        let reply = provider.call(&call(&archetype, to("acct-1")), NOW_MS).await;
        assert_eq!(matches!(reply, Reply::Confirmed(_)), fits, "{auth} {reply:?}");
        assert!(fits || matches!(reply, Reply::NotSent { .. } | Reply::Lost { .. }), "{reply:?}");
        assert_eq!(let_in.load(Ordering::SeqCst) - before, usize::from(fits), "{auth}");
    }
}

#[test]
fn a_renewed_certificate_is_the_same_provider_and_that_of_another_is_not() {
    let (ours, theirs) = (authority(), authority());
    let egress = egress(&ours);
    let identity = |pair: &(String, String)| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), pair);
        let secrets = Secrets::load([declared(folder.path(), &["bank.example".to_owned()])]).unwrap();
        let (_, provider) = compile("https://bank.example", true, &egress, &secrets).unwrap();
        provider.identity().to_owned()
    };
    let usual = identity(&issue(&ours, "gateway"));
    assert_eq!(
        usual, "d683077d0e06891c5ca34c6732bceac5c6c077a6a18328e3bd9aae49d73dcc15",
        "it outlives a release"
    );
    assert_eq!(identity(&issue(&ours, "gateway")), usual, "with a new key and a new serial number");
    assert_eq!(identity(&issue(&theirs, "gateway")), usual, "by another authority");
    assert_ne!(identity(&issue(&ours, "gateway-2")), usual, "for another name");
    assert_ne!(identity(&issued(&ours, Vec::new(), "gateway")), usual, "for a subject");
    assert_ne!(identity(&issued(&ours, Vec::new(), "")), identity(&issued(&ours, Vec::new(), "")));
}

#[test]
fn it_is_not_shown_to_another_host() {
    let ours = authority();
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), &issue(&ours, "gateway"));
    let secrets = Secrets::load([declared(folder.path(), &["bank.example".to_owned()])]).unwrap();
    let egress = egress(&ours);
    assert!(compile("https://bank.example/v1", true, &egress, &secrets).is_ok());
    let mistakes = compile("https://evil.example", true, &egress, &secrets).unwrap_err();
    assert_eq!(mistakes[0].pointer, "/auth");
    assert!(mistakes[0].message.contains("may not be sent to `evil.example:443`"), "{mistakes:?}");
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() {
    let ours = authority();
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (issue(&ours, "gateway"), issue(&ours, "gateway"));
    let hosts = ["bank.example".to_owned()];
    let error = || {
        let errors = Secrets::load([declared(folder.path(), &hosts)]).unwrap_err();
        let shown = format!("{errors:?} {}", errors[0]);
        assert!(shown.contains("`client`") && !shown.contains("PRIVATE KEY"), "{shown}");
        errors[0].to_string()
    };
    assert!(error().contains("client.pem"), "nothing is there yet");
    write(folder.path(), &one);
    assert!(Secrets::load([declared(folder.path(), &hosts)]).is_ok());

    let key = folder.path().join("client.key");
    for mode in [0o640, 0o604] {
        fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
        let told = error();
        assert!(told.contains("client.key") && told.contains("can be read by others"), "{told}");
        assert!(told.contains("chmod 600"), "{told}");
    }
    write(folder.path(), &(one.0.clone(), other.1.clone()));
    assert!(error().contains("does not belong to the certificate"), "{}", error());
    write(folder.path(), &(one.0.clone(), "no key".to_owned()));
    assert!(error().contains("client.key") && error().contains("no private key"), "{}", error());
    write(folder.path(), &("no certificate".to_owned(), one.1.clone()));
    assert!(error().contains("client.pem") && error().contains("no certificate"), "{}", error());
    fs::remove_file(&key).unwrap();
    write(folder.path(), &one);
    fs::remove_file(&key).unwrap();
    assert!(error().contains("client.key"), "{}", error());
}
