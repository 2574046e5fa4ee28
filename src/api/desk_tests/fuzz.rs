//! Hostile input to every call that changes rules: whatever it says, it is answered with words of its own, and what was
//! taken is listed and can be removed. An input is a request line without its version, a media type, and a body.

use super::{Busy, World};
use crate::json::{self, Json};
use crate::mutation::{Target, fuzz};

const WORDS: &[&[u8]] = &[
    b"\"domain\":",
    b"\"tag\":",
    b"\"ip\":",
    b"\"pool\":",
    b"\"mta\":",
    b"\"campaign\":",
    b"\"tenant\":",
    b"\"queue_names\":",
    b"\"duration\":",
    b"\"expires\":",
    b"\"reason\":",
    b"\"code\":",
    b"\"extended\":",
    b"\"value\":",
    b"\"type\":",
    b"\"window\":",
    b"\"everything\":true",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"\"*\"",
    b"550",
    b"-1",
    b"1e3",
    b"\"2h\"",
    b"\"9999999999999999h\"",
    b"\"2026-02-30 25:00:00\"",
    b"\"mon 22:00-08:00 Europe/Amsterdam\"",
    b"\"::1\"",
    b"\"a@b.example\"",
    b"\"\xc3\xa9.example\"",
    b"?dry_run=true",
    b"&",
    b"=",
    b",",
    b"\\u0000",
    b"%00",
    b"\n",
];

const PATHS: [&str; 11] = [
    "/v1/pauses",
    "/v1/errors",
    "/v1/suppressions",
    "/v1/pools",
    "/v1/poolips",
    "/v1/externalmtas",
    "/v1/rules",
    "/v1/audit",
    "/api/admin/suspend/v1",
    "/api/admin/bounce/v1",
    "/api/admin/suspend-ready-q/v1",
];

thread_local! {
    // To make one takes longer than a hundred inputs.
    static WORLD: World = World::new("api-fuzz", Box::new(Busy));
}

#[test]
fn whatever_a_call_says() {
    fuzz(&Target { name: "api", words: WORDS, check: |input| WORLD.with(|world| check(world, input)) });
}

fn check(world: &World, input: &[u8]) {
    let mut parts = input.splitn(3, |octet| *octet == b'\n');
    let mut line = || parts.next().map(std::str::from_utf8);
    let (Some(Ok(request)), Some(Ok(content_type))) = (line(), line()) else { return };
    let body = parts.next().unwrap_or_default();
    let Some((method, target)) = request.split_once(' ') else { return };
    let path = target.split('?').next().unwrap_or_default();
    let known = PATHS.contains(&path) || path.strip_prefix("/v1/rules/").is_some_and(|id| !id.is_empty());
    let changes = !matches!(path, "/v1/rules" | "/v1/audit");
    let possible = method == "GET" || matches!(method, "POST" | "DELETE") && changes && !path.starts_with("/v1/rules/");
    // What leads nowhere, or holds what no target may, never comes as far as here.
    if !known || !possible || !target.bytes().all(|octet| octet.is_ascii_graphic()) || !content_type.is_ascii() {
        return;
    }
    let (status, kind, answer) = world.ask(request, content_type, body);
    let answer = String::from_utf8(answer).unwrap();
    assert!((200..500).contains(&status), "{request}: {status} {answer}");
    assert!(status == 200 || !answer.is_empty(), "{request}: {status} without a word");
    if kind == "application/json" {
        let read = serde_json::from_str::<serde_json::Value>(&answer);
        assert!(read.is_ok(), "{request}: {answer}: {read:?}");
    }
    if method == "POST" && status == 200 {
        clear(world);
    }
}

/// Removes every rule, as it is listed.
fn clear(world: &World) {
    let (status, _, list) = world.ask("GET /v1/rules", "application/json", b"");
    assert_eq!(status, 200);
    let Ok(Json::Array(rules)) = json::parse(&list) else { panic!("no list: {}", list.escape_ascii()) };
    for rule in &rules {
        let id = rule.get("id").and_then(Json::text).unwrap_or_else(|| panic!("a rule without an id: {rule:?}"));
        let (status, _, answer) = world.ask(&format!("DELETE /v1/rules/{id}"), "application/json", b"");
        assert_eq!(status, 200, "{id}: {}", answer.escape_ascii());
    }
    assert_eq!(world.ask("GET /v1/rules", "application/json", b"").2.trim_ascii(), b"[]");
}
