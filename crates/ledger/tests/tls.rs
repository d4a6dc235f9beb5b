//! TLS with the database: it is spoken where it should be, and only with a server that is who it should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

extern crate countersign_ledger as ledger;

mod common;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use common::NOW;
use common::postgres::{binaries, server};
use ledger::{Access, Postgres};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;
use testkit::postgres::Cluster;

/// What its certificate is for, beside its address.
const NAME: &str = "db.example";

#[test]
fn a_server_is_spoken_to_by_tls_if_it_is_who_it_should_be() {
    let Some(house) = House::new() else { return };
    let (own, others) = (house.file("own.pem"), house.file("others.pem"));
    for mode in ["require", "verify-ca", "verify-full"] {
        let by_tls = |host: &str, roots: &str| house.url(host, &format!("sslmode={mode}{roots}"));
        for host in [NAME, &house.address] {
            let gateway = open(&by_tls(host, &format!("&sslrootcert={own}"))).unwrap();
            assert_eq!(house.connections(), ["t"], "{mode} {host}");
            drop(gateway);
        }
        let unknown = "invalid peer certificate: UnknownIssuer";
        refused(&by_tls(NAME, ""), unknown);
        refused(&by_tls(NAME, &format!("&sslrootcert={others}")), unknown);
        let another = by_tls("other.example", &format!("&sslrootcert={own}"));
        refused(&another, "certificate not valid for name \"other.example\"");
    }
}

#[test]
fn nothing_is_said_in_the_clear_to_a_server_without_tls_unless_that_was_asked_for() {
    let Some(house) = House::new() else { return };
    // A server on this machine is near enough, whether TLS is left open or not mentioned.
    for mode in ["sslmode=disable", "sslmode=prefer", ""] {
        let gateway = open(&house.url("localhost", mode)).unwrap();
        assert_eq!(house.connections(), ["f"], "{mode}");
        drop(gateway);
    }
    // One with the name of another machine is not, also where the address that it is at is near.
    for mode in ["sslmode=prefer", ""] {
        refused(&house.url(NAME, mode), "invalid peer certificate: UnknownIssuer");
    }
    house.speaks_tls(false);
    for mode in ["sslmode=require", "sslmode=verify-full", "sslmode=prefer", ""] {
        refused(&house.url(NAME, mode), "server does not support TLS");
    }
    drop(open(&house.url(NAME, "sslmode=disable")).unwrap());
}

/// As in a container that holds nothing but the program.
#[test]
fn where_no_tls_is_spoken_a_machine_needs_no_certificates_to_trust() {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "a_server_is_reached_over_its_socket"]);
    let again = again.env("SSL_CERT_FILE", "/none").env("SSL_CERT_DIR", "/none").output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
}

#[test]
fn a_server_is_reached_over_its_socket() {
    let Some(server) = server() else { return };
    drop(open(&server.url("postgres")).unwrap());
}

fn open(url: &str) -> Result<Postgres, ledger::Error> {
    Postgres::open(Access::new(url, "replica", "chain", NOW))
}

fn refused(url: &str, why: &str) {
    let error = open(url).err().unwrap_or_else(|| panic!("{url} is taken"));
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    assert!(said.contains(why), "{url}: {said}");
}

/// A server that speaks TLS, with the certificates of who vouches for it and of somebody who does not.
struct House {
    cluster: Cluster,
    address: String,
    folder: TempDir,
}

impl House {
    fn new() -> Option<House> {
        // Says so where there is none.
        server()?;
        let folder = tempfile::Builder::new().prefix("countersign-pg").tempdir().unwrap();
        // All of them listen at the same port, after which their sockets are named, so that each needs an address of its own.
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = format!("127.{}.{b}.{c}", a * 4 + NEXT.fetch_add(1, Ordering::Relaxed));
        let (own, others) = (authority("own"), authority("others"));
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new(vec![NAME.to_owned(), address.clone()]).unwrap();
        let certificate = names.signed_by(&key, &own).unwrap();
        let write = |name: &str, text: String| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        write("own.pem", own.pem());
        write("others.pem", others.pem());
        let certificate = write("server.pem", certificate.pem());
        let key = write("server.key", key.serialize_pem());
        for_the_server_only(&key);
        let settings = [
            format!("listen_addresses={address}"),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
        ];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let cluster = Cluster::start(&binaries()?, folder.path(), &settings).unwrap();
        let house = House { cluster, address, folder };
        house.speaks_tls(true);
        Some(house)
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Where it is, by whichever name.
    fn url(&self, host: &str, query: &str) -> String {
        format!("postgres://postgres@{host}/postgres?hostaddr={}&{query}", self.address)
    }

    fn speaks_tls(&self, does: bool) {
        let word = if does { "on" } else { "off" };
        let sql = |statement: &str| self.cluster.sql("postgres", statement).unwrap();
        sql(&format!("ALTER SYSTEM SET ssl = {word}"));
        sql("SELECT pg_reload_conf()");
        testkit::wait_until("the server has heard whether it speaks TLS", || sql("SHOW ssl") == word);
    }

    /// Whether its connections from gateways are encrypted, each answer once.
    fn connections(&self) -> Vec<String> {
        let sql = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                   WHERE application_name = 'countersign'";
        self.cluster.sql("postgres", sql).unwrap().lines().map(str::to_owned).collect()
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server takes no key that others may read, and where we are root it is somebody else.
fn for_the_server_only(key: &Path) {
    std::fs::set_permissions(key, PermissionsExt::from_mode(0o600)).unwrap();
    if std::fs::metadata(key).unwrap().uid() == 0 {
        assert!(Command::new("chown").arg("postgres").arg(key).status().unwrap().success());
    }
}
