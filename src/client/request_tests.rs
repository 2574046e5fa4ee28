//! What is typed, and the request that it becomes.

use super::{Method, Request, request};
use crate::cli::{Cli, Command};
use clap::Parser;
use mailrace_shards::time::Timestamp;

/// 2026-03-01 12:00:00 UTC.
const NOW: Timestamp = Timestamp(1_772_366_400_000);

/// The words after `mailrace`; a word with blanks stands between apostrophes.
fn typed(line: &str) -> Result<Option<Request>, clap::Error> {
    let pieces = line.split('\'').enumerate();
    let words = pieces.flat_map(|(at, piece)| if at % 2 == 1 { vec![piece] } else { piece.split(' ').collect() });
    let words: Vec<_> = ["mailrace"].into_iter().chain(words.filter(|word| !word.is_empty())).collect();
    let cli = Cli::try_parse_from(words)?;
    let Some(Command::Client(command)) = cli.command else { panic!("{line} is no client's command") };
    Ok(request(&command, NOW))
}

fn shown(request: &Request) -> String {
    let body = request.body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
    format!("{} {}{body}", request.method.as_str(), request.target())
}

/// MailerQ's dialect.
const BY_CRITERIA: &[(&str, &str)] = &[
    ("pause add", r#"POST /v1/pauses {}"#),
    ("pause add --domain a.example --tag t", r#"POST /v1/pauses {"domain":"a.example","tag":"t"}"#),
    ("pause add --ip 192.0.2.1 --pool p", r#"POST /v1/pauses {"ip":"192.0.2.1","pool":"p"}"#),
    ("pause add --for 2h", r#"POST /v1/pauses {"expire":"2026-03-01T14:00:00Z"}"#),
    (
        "pause add --for 1h --start '2026-03-02 00:00:00'",
        r#"POST /v1/pauses {"expire":"2026-03-02T01:00:00Z","start":"2026-03-02T00:00:00Z"}"#,
    ),
    // A beginning that is past is now.
    (
        "pause add --for 1h --start 2026-01-01T00:00:00Z",
        r#"POST /v1/pauses {"expire":"2026-03-01T13:00:00Z","start":"2026-01-01T00:00:00Z"}"#,
    ),
    (
        "pause add --until 2026-03-01T15:00:00+01:00 --cluster --dry-run",
        r#"POST /v1/pauses?dry_run=true {"cluster":true,"expire":"2026-03-01T14:00:00Z"}"#,
    ),
    (
        "pause add --window 'mon,fri 22:00-08:00 Europe/Amsterdam'",
        r#"POST /v1/pauses {"windows":[{"days":["mon","fri"],"from":"22:00","to":"08:00","tz":"Europe/Amsterdam"}]}"#,
    ),
    ("pause list", "GET /v1/pauses"),
    ("pause list --json --endpoint http://h:1 --token t", "GET /v1/pauses"),
    ("pause remove --domain a.example", r#"DELETE /v1/pauses {"domain":"a.example"}"#),
    ("pause remove --cluster", r#"DELETE /v1/pauses {"cluster":true}"#),
    ("pause remove --id a/b", "DELETE /v1/rules/a%2Fb?kind=pause"),
    ("error remove --id e", "DELETE /v1/rules/e?kind=error"),
    ("error add --tag spring", r#"POST /v1/errors {"code":550,"tag":"spring"}"#),
    (
        "error add --mta 192.0.2.1 --code 451 --extended 4.7.1 --description 'not now' --for 90s",
        r#"POST /v1/errors {"code":451,"description":"not now","expire":"2026-03-01T12:01:30Z","extended":"4.7.1","mta":"192.0.2.1"}"#,
    ),
    ("error add --everything", r#"POST /v1/errors {"code":550,"everything":true}"#),
    ("error list", "GET /v1/errors"),
    ("error remove --tag spring", r#"DELETE /v1/errors {"tag":"spring"}"#),
    ("suppress add a@b.example", r#"POST /v1/suppressions {"code":550,"type":"address","value":"a@b.example"}"#),
    (
        "suppress add b.example --code 551 --dry-run",
        r#"POST /v1/suppressions?dry_run=true {"code":551,"type":"domain","value":"b.example"}"#,
    ),
    ("suppress list", "GET /v1/suppressions"),
    ("suppress list --after a+b@c.example --limit 5", "GET /v1/suppressions?after=a%2Bb%40c.example&limit=5"),
    ("suppress remove a@b.example", r#"DELETE /v1/suppressions {"type":"address","value":"a@b.example"}"#),
];

/// KumoMTA's dialect, and what is neither's.
const BY_ID: &[(&str, &str)] = &[
    (
        "suspend add --reason r --campaign c --tenant t --for 1h",
        r#"POST /api/admin/suspend/v1 {"campaign":"c","duration":"1h","reason":"r","tenant":"t"}"#,
    ),
    (
        "suspend add --reason r --queue q1 --queue q2 --until 1772370000",
        r#"POST /api/admin/suspend/v1 {"expires":"2026-03-01T13:00:00Z","queue_names":["q1","q2"],"reason":"r"}"#,
    ),
    (
        "suspend add --reason r --ready-queue path --dry-run",
        r#"POST /api/admin/suspend-ready-q/v1?dry_run=true {"name":"path","reason":"r"}"#,
    ),
    ("suspend list", "GET /api/admin/suspend/v1"),
    ("suspend list --ready-queue", "GET /api/admin/suspend-ready-q/v1"),
    ("suspend remove i", r#"DELETE /api/admin/suspend/v1 {"id":"i"}"#),
    ("suspend remove i --ready-queue", r#"DELETE /api/admin/suspend-ready-q/v1 {"id":"i"}"#),
    (
        "bounce add --reason r --domain a.example --suppress-logging --cluster",
        r#"POST /api/admin/bounce/v1 {"cluster":true,"domain":"a.example","reason":"r","suppress_logging":true}"#,
    ),
    ("bounce add --reason r --everything", r#"POST /api/admin/bounce/v1 {"everything":true,"reason":"r"}"#),
    ("bounce list", "GET /api/admin/bounce/v1"),
    ("bounce remove i", r#"DELETE /api/admin/bounce/v1 {"id":"i"}"#),
    ("queue", "GET /v1/queues"),
    ("queue --limit 7 --json", "GET /v1/queues?limit=7"),
    ("message 0123", "GET /v1/messages/0123"),
    ("message 0123 retry", "POST /v1/messages/0123/retry"),
    ("message 0123 cancel --token t", "POST /v1/messages/0123/cancel"),
    ("rules", "GET /v1/rules"),
    ("rules i", "GET /v1/rules/i"),
    ("audit --after 3 --limit 2", "GET /v1/audit?after=3&limit=2"),
    ("cluster", "GET /v1/cluster"),
    ("cluster --json --endpoint http://h:1", "GET /v1/cluster"),
    ("cluster forget b/c --token t", "DELETE /v1/cluster/nodes/b%2Fc"),
];

#[test]
fn commands_become_requests() {
    for (line, expected) in BY_CRITERIA.iter().chain(BY_ID) {
        let found = typed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(found.as_ref().map(shown).as_deref(), Some(*expected), "{line}");
    }
    for line in
        ["suppress import f", "suppress import - --format csv --code 551", "suppress export", "suppress export f"]
    {
        assert_eq!(typed(line).unwrap(), None, "{line}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_before_anybody_is_asked() {
    for line in [
        "pause",
        "pause add --domain a.example --ip 192.0.2.1",
        "pause add --for 1h --until 1772370000",
        "pause add --for soon",
        "pause add --until tomorrow",
        "pause add --window 22:00-08:00",
        "pause remove --id i --domain a.example",
        "error add --code 199",
        "suppress add",
        "suspend add --domain a.example",
        "suspend add --reason r --ready-queue q --domain a.example",
        "message",
        "message i reset",
        "queue --limit many",
    ] {
        assert!(typed(line).is_err(), "{line}");
    }
}

#[test]
fn queries_are_encoded() {
    let request = Request { query: vec![("after", "ä &=%".to_owned())], ..Request::new(Method::Get, "/x") };
    assert_eq!(request.target(), "/x?after=%C3%A4%20%26%3D%25");
}
