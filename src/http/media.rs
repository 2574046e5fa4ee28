//! Media types of request bodies (RFC 9110 §8.3.1).

use super::{Headers, Refusal};

/// Type and subtype of the body, in lower case, without parameters; empty when none is named, or two.
#[must_use]
pub fn essence(headers: &Headers) -> String {
    let value = headers.get("content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim_matches([' ', '\t']).to_ascii_lowercase()
}

/// Whether it is `application/json` or `application/*+json`.
#[must_use]
pub fn is_json(essence: &str) -> bool {
    essence
        .strip_prefix("application/")
        .is_some_and(|subtype| subtype == "json" || subtype.strip_suffix("+json").is_some_and(|name| !name.is_empty()))
}

/// Whether it is a form.
#[must_use]
pub fn is_form(essence: &str) -> bool {
    essence == "application/x-www-form-urlencoded"
}

/// Whether it is JSON lines.
#[must_use]
pub fn is_ndjson(essence: &str) -> bool {
    matches!(essence, "application/x-ndjson" | "application/ndjson" | "application/jsonl")
}

/// Whether a page may send a body of this type anywhere without asking (the safelist of CORS, Fetch §2.2.2);
/// a body of no type is one, too.
#[must_use]
pub fn is_simple(essence: &str) -> bool {
    matches!(essence, "" | "text/plain" | "multipart/form-data" | "application/x-www-form-urlencoded")
}

/// 415 unless the body is JSON.
///
/// # Errors
/// The 415.
pub fn require_json(headers: &Headers) -> Result<(), Refusal> {
    if is_json(&essence(headers)) {
        return Ok(());
    }
    Err(Refusal::new(415, "Expected request with `Content-Type: application/json`"))
}

/// Whether the peer asks for JSON lines.
#[must_use]
pub fn wants_ndjson(headers: &Headers) -> bool {
    let accept = headers.get("accept").unwrap_or_default();
    accept.split(',').any(|range| {
        let essence = range.split(';').next().unwrap_or_default().trim_matches([' ', '\t']);
        is_ndjson(&essence.to_ascii_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::{Headers, essence, is_form, is_json, is_simple, require_json, wants_ndjson};

    #[test]
    fn types() {
        for (value, expected, json, form, simple) in [
            ("application/json", "application/json", true, false, false),
            ("Application/JSON ; charset=utf-8", "application/json", true, false, false),
            ("application/vnd.api+json", "application/vnd.api+json", true, false, false),
            ("application/+json", "application/+json", false, false, false),
            ("text/json", "text/json", false, false, false),
            ("application/jsonx", "application/jsonx", false, false, false),
            ("application/x-www-form-urlencoded;charset=UTF-8", "application/x-www-form-urlencoded", false, true, true),
            ("text/plain;a=application/json", "text/plain", false, false, true),
            ("", "", false, false, true),
        ] {
            let headers = Headers::of(&[("Content-Type", value)]);
            let found = essence(&headers);
            assert_eq!(found, expected);
            assert_eq!((is_json(&found), is_form(&found), is_simple(&found)), (json, form, simple), "{value}");
            assert_eq!(require_json(&headers).is_ok(), json);
        }
        let two = Headers::of(&[("Content-Type", "application/json"), ("content-type", "text/plain")]);
        assert_eq!(essence(&two), "", "of two, none is believed");
    }

    #[test]
    fn accepts() {
        for (value, expected) in [
            ("application/x-ndjson", true),
            ("text/html, Application/X-NDJSON;q=0.5", true),
            ("*/*", false),
            ("application/json", false),
        ] {
            assert_eq!(wants_ndjson(&Headers::of(&[("accept", value)])), expected, "{value}");
        }
    }
}
