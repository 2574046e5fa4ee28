//! Hostile input to what the control core reads: forms, JSON and the configuration. The HTTP parser's and the API's are
//! beside them.

use crate::config::{self, Overrides};
use crate::http::form;
use crate::json::{self, Json};
use crate::machine::Machine;
use crate::mutation::{Target, fuzz};
use std::path::Path;

#[test]
fn whatever_a_form_says() {
    let words: &[&[u8]] = &[b"&", b"=", b"%", b"%00", b"%26", b"%3d", b"+", b"%2B", b"%c3%a9", b"%ed%a0%80", b"a=1"];
    fuzz(&Target { name: "form", words, check: check_form });
}

/// What is read can be written, and is read again as the same.
fn check_form(input: &[u8]) {
    let Ok(fields) = form::parse_octets(input) else { return };
    let mut text = String::new();
    for (name, value) in &fields.0 {
        assert!(!name.is_empty() && name.len() + value.len() <= input.len());
        if !text.is_empty() {
            text.push('&');
        }
        text.push_str(&format!("{}={}", escaped(name), escaped(value)));
    }
    assert_eq!(form::parse(&text).as_ref(), Ok(&fields), "{text}");
}

fn escaped(text: &str) -> String {
    text.bytes().map(|octet| format!("%{octet:02X}")).collect()
}

#[test]
fn whatever_a_json_body_says() {
    let words: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\"",
        b"\\",
        b"\"a\":",
        b"null",
        b"true",
        b"-0.0",
        b"1e400",
        b"1e-400",
        b"9223372036854775808",
        b"18446744073709551616",
        b"0.1",
        b"\\ud800",
        b"\\udc00",
        b"\\u0000",
        b"\xc3\xa9",
        b"\xed\xa0\x80",
        b"\xff",
        b"[[[[[[[[",
        b"\x7f",
    ];
    fuzz(&Target { name: "json", words, check: check_json });
}

/// What is read is what another parser reads, and is the same when it is written and read again.
fn check_json(input: &[u8]) {
    let Ok(value) = json::parse(input) else { return };
    let text = value.to_text();
    assert_eq!(json::parse(text.as_bytes()).as_ref(), Ok(&value), "{text}");
    let other: serde_json::Value = serde_json::from_slice(input)
        .unwrap_or_else(|error| panic!("taken as {text}, but {error} in {}", input.escape_ascii()));
    assert!(agree(&value, &other), "{text} and {other}");
}

fn agree(ours: &Json, other: &serde_json::Value) -> bool {
    match (ours, other) {
        (Json::Null, serde_json::Value::Null) => true,
        (Json::Bool(value), other) => other.as_bool() == Some(*value),
        // Of a zero with a sign the one makes a whole number, the other does not.
        (Json::Integer(0), other) => other.as_f64() == Some(0.0),
        (Json::Integer(value), other) => other.as_i64() == Some(*value),
        (Json::Large(value), other) => other.as_u64() == Some(*value),
        // The last bit may be rounded either way. What is as good as zero, simd-json wraps below an exponent of -2^32.
        (Json::Float(value), other) => {
            other.as_f64().is_some_and(|other| other == 0.0 || (value - other).abs() <= value.abs() * 1e-15)
        }
        (Json::Text(value), other) => other.as_str() == Some(value),
        (Json::Array(items), serde_json::Value::Array(others)) => {
            items.len() == others.len() && items.iter().zip(others).all(|(item, other)| agree(item, other))
        }
        (Json::Object(members), serde_json::Value::Object(others)) => {
            let same = |(name, value): &(String, Json)| others.get(name).is_some_and(|other| agree(value, other));
            members.len() == others.len() && members.iter().all(same)
        }
        _ => false,
    }
}

#[test]
fn whatever_a_configuration_says() {
    let words: &[&[u8]] = &[
        b"[smtp]\n",
        b"[[route]]\n",
        b"[[limit]]\n",
        b"[[source]]\n",
        b"[[pool]]\n",
        b"[server]\n",
        b"domain = \"*\"\n",
        b"listen = [\"127.0.0.1:2525\"]\n",
        b"\"1h\"",
        b"\"0s\"",
        b"\"999999999999w\"",
        b"\"10/s\"",
        b"-1",
        b"nan",
        b"1979-05-27",
        b"9223372036854775808",
        b"{}",
        b"[]",
        b"=",
        b"\n",
        b"\"",
        b"'''",
        b"#",
        b"\xc3\xa9",
        b".",
    ];
    fuzz(&Target { name: "config", words, check: check_config });
}

/// A configuration, or mistakes that each stand at a place of the file.
fn check_config(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let machine = Machine {
        hostname: "host.example".into(),
        cpus: vec![0, 1],
        quota: false,
        memory_bytes: 1 << 30,
        open_files: 20_000,
        resolvers: vec![([192, 0, 2, 53], 53).into()],
    };
    let read = || config::parse(Path::new("mailrace.toml"), text, &Overrides::default(), &machine);
    match read() {
        Ok(config) => {
            let again = read().map(|config| format!("{config:?}"));
            assert_eq!(again, Ok(format!("{config:?}")), "the same text means the same");
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "a refusal says why");
            let lines = text.split('\n').count();
            for problem in problems {
                let (line, column) = problem.position.expect("a mistake stands at a place of the file");
                assert!((1..=lines).contains(&line) && column >= 1, "{problem}: of {lines} lines");
                let width = text.split('\n').nth(line - 1).map_or(0, |line| line.chars().count());
                assert!(column <= width + 1, "{problem}: line {line} has {width} characters");
                assert!(!problem.text.is_empty());
            }
        }
    }
}
