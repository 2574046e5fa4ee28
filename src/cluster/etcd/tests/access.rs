//! Who may: users with a right to a prefix, tokens that end, certificates of both sides.

use super::server::{Etcd as Server, base64};
use super::wait::until_some;
use super::{PATIENT, put, write};
use crate::cluster::etcd::{Etcd, EtcdError, EtcdSettings, EtcdTls, Txn, after_prefix};
use crate::test_directory::TestDirectory;
use mailrace_shards::settings::TlsFiles;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// etcd with a user `mailrace` who may do everything below `/mailrace/` and nothing else; tokens end soon.
fn guarded_server() -> Server {
    let server = Server::start_with(1, &["--auth-token-ttl=2", "--bcrypt-cost=4"]);
    let prefix = json!({ "permType": "READWRITE", "key": base64(b"/mailrace/"), "range_end": base64(b"/mailrace0") });
    for (path, request) in [
        ("/v3/auth/user/add", json!({ "name": "root", "password": "secret" })),
        ("/v3/auth/role/add", json!({ "name": "root" })),
        ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("/v3/auth/user/add", json!({ "name": "mailrace", "password": "open sesame" })),
        ("/v3/auth/role/add", json!({ "name": "mailrace" })),
        ("/v3/auth/role/grant", json!({ "name": "mailrace", "perm": prefix })),
        ("/v3/auth/user/grant", json!({ "user": "mailrace", "role": "mailrace" })),
        ("/v3/auth/enable", json!({})),
    ] {
        server.call(0, path, &request);
    }
    server
}

fn as_user(server: &Server, user: Option<(&str, &str)>) -> Etcd {
    let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
    Etcd::new(&EtcdSettings { endpoints: server.urls(), user, tls: None }).unwrap()
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, EtcdError>) -> String {
    match answer {
        Err(EtcdError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_user_has_its_prefix_and_a_new_token_when_the_old_one_has_ended() {
    let server = guarded_server();
    let etcd = as_user(&server, Some(("mailrace", "open sesame")));
    let first = write(&etcd, vec![put("/mailrace/a", b"1")]).header.revision;
    let end = after_prefix(b"/mailrace/");
    let mut watch = etcd.watch(b"/mailrace/", &end, first).unwrap();
    assert_eq!(watch.next(PATIENT).unwrap().unwrap().revision, first);
    // What is not its own.
    assert!(refusal(etcd.range(b"/other", b"", None, 0)).contains("permission denied"));
    let foreign = Txn { success: vec![put("/other", b"1")], ..Txn::default() };
    assert!(refusal(etcd.txn(&foreign, PATIENT)).contains("permission denied"));
    assert!(refusal(etcd.watch(b"/", &after_prefix(b"/"), 1).map(|_| ())).contains("permission denied"));
    // A lease needs no right of its own; and a token that has ended is replaced without a word.
    let (lease, _) = etcd.grant(Duration::from_secs(60), PATIENT).unwrap();
    super::wait::linger(Duration::from_secs(5));
    assert!(etcd.keep_alive(lease, PATIENT).unwrap().is_some());
    let second = write(&etcd, vec![put("/mailrace/a", b"2")]).header.revision;
    assert_eq!(watch.next(PATIENT).unwrap().unwrap().revision, second, "the watch that stands goes on");
    super::wait::linger(Duration::from_secs(5));
    let mut watch = etcd.watch(b"/mailrace/", &end, second).unwrap();
    assert_eq!(watch.next(PATIENT).unwrap().unwrap().revision, second);
    etcd.revoke(lease, PATIENT).unwrap();
}

#[test]
fn who_is_not_known_is_told_so() {
    let server = guarded_server();
    let read = |etcd: &Etcd| refusal(etcd.range(b"/mailrace/a", b"", None, 0));
    let why = read(&as_user(&server, Some(("mailrace", "wrong"))));
    assert!(why.contains("invalid user ID or password"), "{why}");
    let nobody = as_user(&server, None);
    assert!(read(&nobody).contains("it wants a user and a password"));
    let why = refusal(nobody.watch(b"/mailrace/", &after_prefix(b"/mailrace/"), 1).map(|_| ()));
    assert!(why.contains("it wants a user and a password") || why.contains("permission denied"), "{why}");
    // A right that is taken away while the token is good, and a user who is not asked for one.
    let etcd = as_user(&server, Some(("mailrace", "open sesame")));
    etcd.range(b"/mailrace/a", b"", None, 0).unwrap();
    let open = Server::start(1);
    write(&as_user(&open, Some(("mailrace", "open sesame"))), vec![put("/anything", b"1")]);
}

/// An authority and what it signs, in PEM files.
fn authority(directory: &Path, name: &str) -> (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>) {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
    (certificate, rcgen::Issuer::new(parameters, key))
}

fn signed(directory: &Path, name: &str, issuer: &rcgen::Issuer<'static, rcgen::KeyPair>) -> TlsFiles {
    let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
    parameters.extended_key_usages =
        vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let files =
        TlsFiles { certificate: directory.join(format!("{name}.crt")), key: directory.join(format!("{name}.key")) };
    std::fs::write(&files.certificate, parameters.signed_by(&key, issuer).unwrap().pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

#[test]
fn both_sides_prove_themselves_by_certificates() {
    let directory = TestDirectory::new("etcd-tls");
    let path = directory.path();
    let (_, ours) = authority(path, "ours");
    let (_, theirs) = authority(path, "theirs");
    let of_server = signed(path, "server", &ours);
    let of_client = signed(path, "client", &ours);
    let of_stranger = signed(path, "stranger", &theirs);
    let ca = path.join("ours.pem");
    let server = Server::start_with_tls(&of_server.certificate, &of_server.key, &ca);
    let with = |ca: &Path, own: Option<&TlsFiles>| {
        let tls = EtcdTls { ca: Some(ca.to_owned()), own: own.cloned() };
        Etcd::new(&EtcdSettings { endpoints: server.urls(), user: None, tls: Some(tls) })
    };
    let good = with(&ca, Some(&of_client)).unwrap();
    until_some("etcd is ready", || good.range(b"/a", b"", None, 0).ok());
    let revision = write(&good, vec![put("/a", b"1")]).header.revision;
    let mut watch = good.watch(b"/a", b"", revision).unwrap();
    assert_eq!(watch.next(PATIENT).unwrap().unwrap().revision, revision);
    let read = |etcd: Etcd| etcd.range(b"/a", b"", None, 0);
    for (case, etcd) in [
        ("no certificate of ours", with(&ca, None)),
        ("one that they do not trust", with(&ca, Some(&of_stranger))),
        ("one of theirs that we do not trust", with(&path.join("theirs.pem"), Some(&of_client))),
    ] {
        let answer = read(etcd.unwrap());
        assert!(matches!(answer, Err(EtcdError::Unreachable(_) | EtcdError::Unknown(_))), "{case}: {answer:?}");
    }
    let mixed = TlsFiles { certificate: of_client.certificate.clone(), key: of_stranger.key.clone() };
    let refused = |made: Result<Etcd, String>| made.err().expect("it is refused");
    assert!(refused(with(&ca, Some(&mixed))).contains("do not make"));
    assert!(refused(with(&of_client.key, None)).contains("holds no certificate"));
    assert!(refused(with(&path.join("none.pem"), None)).contains("cannot be opened"));
}

#[test]
fn an_endpoint_is_a_url_without_a_path() {
    for (endpoint, said) in [
        ("http://127.0.0.1:2379", ""),
        ("https://etcd.example:2379/", ""),
        ("http://[::1]:2379", ""),
        ("127.0.0.1:2379", "must begin with http"),
        ("etcd.example", "must begin with http"),
        ("ftp://etcd.example", "must begin with http"),
        ("http://etcd.example/v3", "has a path"),
        ("http://", ""),
        ("", ""),
    ] {
        let made = Etcd::new(&EtcdSettings { endpoints: vec![endpoint.to_owned()], ..EtcdSettings::default() });
        let good = ["http://127.0.0.1:2379", "https://etcd.example:2379/", "http://[::1]:2379"].contains(&endpoint);
        assert_eq!(made.is_ok(), good, "{endpoint}");
        let why = made.err().unwrap_or_default();
        assert!(why.contains(said) && (good || why.contains(&format!("{endpoint:?}"))), "{endpoint}: {why}");
    }
    assert!(Etcd::new(&EtcdSettings::default()).is_err());
}
