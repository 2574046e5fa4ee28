//! Who is let in: tokens, trusted peers, and what pages in browsers could send.

use super::super::Current;
use super::{Denied, identify};
use crate::http::{Body, Headers, Method, Request, Version, test_request};
use crate::token::{Scope, Token, TokenSet, hash};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mailrace_shards::settings::Network;
use mailrace_shards::time::Timestamp;

fn current() -> Current {
    let token = |name: &str, scope| Token { name: name.into(), scope, digest: hash(name), created: Timestamp(0) };
    Current {
        tokens: TokenSet::new(vec![token("root", Scope::Admin), token("watch", Scope::Read)]),
        trusted_hosts: vec![
            Network { address: [192, 0, 2, 0].into(), prefix: 24 },
            Network { address: "2001:db8::".parse().unwrap(), prefix: 32 },
        ],
        hostname: "mx1.example.net".into(),
        ..Current::default()
    }
}

const STRANGER: &str = "198.51.100.1:1";
const TRUSTED: &str = "192.0.2.9:1";

/// Name and scope, or why not.
fn judged(request: &Request) -> String {
    match identify(&current(), request) {
        Ok(identity) => {
            assert_eq!(identity.peer, request.peer);
            format!("{} {}", identity.name, identity.scope)
        }
        Err(Denied::Missing) => "missing".to_owned(),
        Err(Denied::Wrong) => "wrong".to_owned(),
        Err(Denied::Browser(refusal)) => refusal.status.to_string(),
    }
}

fn request(peer: &str, method: Method, host: &str, fields: &[(&str, &str)]) -> Request {
    let mut request = test_request(method, "/v1/pauses", Body::of(""));
    request.peer = peer.parse().unwrap();
    request.head.host = host.into();
    request.head.headers = Headers::of(fields);
    request
}

#[test]
fn tokens_open() {
    let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
    for (value, expected) in [
        ("Bearer root", "root admin"),
        ("bearer  watch ", "watch read"),
        ("Bearer watch", "watch read"),
        ("Bearer nobody", "wrong"),
        ("Bearer", "wrong"),
        ("Bearer ", "wrong"),
        ("root", "wrong"),
        ("Digest root", "wrong"),
        ("Bearer Root", "wrong"),
        ("Bearer root,Bearer root", "wrong"),
        (&basic("root:root"), "root admin"),
        (&basic("root:root").replace("Basic", "bAsIc"), "root admin"),
        (&basic("watch:root"), "wrong"),
        (&basic(":root"), "wrong"),
        (&basic("root:"), "wrong"),
        (&basic("root"), "wrong"),
        (&basic("root:root:"), "wrong"),
        ("Basic cm9vdDpyb290!", "wrong"),
        ("Basic ", "wrong"),
        ("Basic /w==", "wrong"),
        (&format!("Bearer {}", "x".repeat(2000)), "wrong"),
    ] {
        for peer in [STRANGER, TRUSTED] {
            let request = request(peer, Method::Post, "evil.example", &[("Authorization", value)]);
            assert_eq!(judged(&request), expected, "{value} from {peer}");
        }
    }
    let twice = [("Authorization", "Bearer root"), ("authorization", "Bearer root")];
    assert_eq!(judged(&request(TRUSTED, Method::Get, "localhost", &twice)), "wrong");
    assert_eq!(judged(&request(STRANGER, Method::Get, "localhost", &[])), "missing");
}

#[test]
fn trusted_peers_need_none() {
    let trusted = "(trusted host) admin";
    for (peer, expected) in [
        ("192.0.2.0:1", trusted),
        ("[::ffff:192.0.2.1]:1", trusted),
        ("192.0.3.0:1", "missing"),
        ("[2001:db8:1::1]:1", trusted),
        ("[2001:db9::1]:1", "missing"),
        ("127.0.0.1:1", "missing"),
    ] {
        assert_eq!(judged(&request(peer, Method::Get, "localhost", &[])), expected, "{peer}");
    }
    // A name of somebody else that resolves to us is how a page gets here (DNS rebinding).
    for (host, expected) in [
        ("localhost", trusted),
        ("LOCALHOST.:8000", trusted),
        ("127.0.0.1:8000", trusted),
        ("[::1]:8000", trusted),
        ("[::1]", trusted),
        ("mx1.example.net:8000", trusted),
        ("MX1.example.net.", trusted),
        ("evil.example", "403"),
        ("evil.example:8000", "403"),
        ("localhost.evil.example", "403"),
        ("127.0.0.1.evil.example", "403"),
        ("mx1.example.net.evil.example", "403"),
        ("example.net", "403"),
        ("127.1", "403"),
        ("[::1", "403"),
        ("", "403"),
    ] {
        assert_eq!(judged(&request(TRUSTED, Method::Get, host, &[])), expected, "{host:?}");
    }
    let mut old = request(TRUSTED, Method::Get, "", &[]);
    old.head.version = Version::Http10;
    assert_eq!(judged(&old), trusted);
}

/// What a page in a browser on a trusted machine could send.
#[test]
fn pages_are_refused() {
    let trusted = "(trusted host) admin";
    let json = ("Content-Type", "application/json");
    for (method, fields, expected) in [
        (Method::Post, &[json][..], trusted),
        (Method::Post, &[json, ("Origin", "http://localhost:8000")], trusted),
        (Method::Post, &[json, ("Origin", "https://LOCALHOST:8000")], trusted),
        (Method::Post, &[json, ("Origin", "http://localhost")], "403"),
        (Method::Post, &[json, ("Origin", "http://localhost:8001")], "403"),
        (Method::Post, &[json, ("Origin", "http://evil.example")], "403"),
        (Method::Post, &[json, ("Origin", "null")], "403"),
        (Method::Post, &[json, ("Origin", "")], "403"),
        (Method::Post, &[json, ("Origin", "http://localhost:8000"), ("Origin", "http://evil.example")], "403"),
        (Method::Post, &[json, ("Sec-Fetch-Site", "same-origin")], trusted),
        (Method::Post, &[json, ("Sec-Fetch-Site", "none")], trusted),
        (Method::Post, &[json, ("Sec-Fetch-Site", "same-site")], "403"),
        (Method::Post, &[json, ("Sec-Fetch-Site", "cross-site")], "403"),
        (Method::Get, &[("Sec-Fetch-Site", "cross-site")], "403"),
        (Method::Get, &[("Origin", "http://evil.example")], "403"),
        (Method::Delete, &[("Origin", "http://evil.example")], "403"),
        (Method::Delete, &[], trusted),
        (Method::Get, &[], trusted),
        (Method::Post, &[], "415"),
        (Method::Post, &[("Content-Type", "text/plain")], "415"),
        (Method::Post, &[("Content-Type", "Text/Plain; a=application/json")], "415"),
        (Method::Post, &[("Content-Type", "application/x-www-form-urlencoded")], "415"),
        (Method::Post, &[("Content-Type", "multipart/form-data; boundary=x")], "415"),
        (Method::Post, &[json, ("Content-Type", "text/plain")], "415"),
    ] {
        assert_eq!(judged(&request(TRUSTED, method, "localhost:8000", fields)), expected, "{method} {fields:?}");
    }
    // Browsers send Basic along once they know it; a Bearer token they never do.
    let basic = ("Authorization", "Basic cm9vdDpyb290");
    let bearer = ("Authorization", "Bearer root");
    let evil = ("Origin", "http://evil.example");
    for (fields, expected) in [
        (&[basic][..], "root admin"),
        (&[basic, evil], "403"),
        (&[basic, ("Sec-Fetch-Site", "cross-site")], "403"),
        (&[bearer, evil], "root admin"),
    ] {
        assert_eq!(judged(&request(STRANGER, Method::Post, "mail.example", fields)), expected, "{fields:?}");
    }
}
