//! Rules as rows hold them: scope, decree and windows as JSON. Reading is strict: a row that is not understood is
//! named, because a rule that silently did nothing would let mail out.

use super::entry::{Collection, Decree, Verdict, scope_json, windows_json};
use super::schedule::{Schedule, Window};
use crate::json::{self, Json};
use mailrace_shards::outcome::EnhancedCode;
use mailrace_shards::rules::Scope;
use std::net::IpAddr;
use std::sync::Arc;

/// A scope as text.
#[must_use]
pub fn write_scope(scope: &Scope) -> String {
    scope_json(scope).to_text()
}

/// And back.
///
/// # Errors
/// What is not understood.
pub fn read_scope(text: &str) -> Result<Scope, String> {
    let mut scope = Scope::default();
    for (name, value) in members(text)? {
        let wrong = || format!("scope: {name} is {}", value.to_text());
        let word = || value.text().map(Arc::<str>::from).ok_or_else(wrong);
        let ip = || value.text().and_then(|text| text.parse::<IpAddr>().ok()).ok_or_else(wrong);
        match name.as_str() {
            "pool" => scope.pool = Some(word()?),
            "mta" => scope.source_ip = Some(ip()?),
            "domain" => scope.domain = Some(word()?),
            "ip" => scope.remote_ip = Some(ip()?),
            "tag" => scope.tag = Some(word()?),
            "campaign" => scope.campaign = Some(word()?),
            "tenant" => scope.tenant = Some(word()?),
            "routing_domain" => scope.routing_domain = Some(word()?),
            "queue_names" => {
                let Json::Array(names) = &value else { return Err(wrong()) };
                let names = names.iter().map(|name| name.text().map(Arc::from).ok_or_else(wrong));
                scope.queues = names.collect::<Result<_, _>>()?;
            }
            "path" => scope.path = Some(word()?),
            "address" => scope.address = Some(word()?),
            _ => return Err(wrong()),
        }
    }
    Ok(scope)
}

/// A decree as text. Which one it is, its collection tells.
#[must_use]
pub fn write_decree(decree: &Decree) -> String {
    let json = match decree {
        Decree::Pause => Json::object([]),
        Decree::Error(verdict) => Json::object(verdict.members()),
        Decree::Suspend { reason } => Json::object([("reason", Some(reason.into()))]),
        Decree::Bounce { reason, suppress_logging } => {
            Json::object([("reason", Some(reason.into())), ("suppress_logging", Some((*suppress_logging).into()))])
        }
    };
    json.to_text()
}

/// And back.
///
/// # Errors
/// What is not understood.
pub fn read_decree(collection: Collection, text: &str) -> Result<Decree, String> {
    let json = Json::Object(members(text)?);
    let wrong = || format!("action: {text}");
    let reason = || json.get("reason").and_then(Json::text).map(Arc::<str>::from).ok_or_else(wrong);
    Ok(match collection {
        Collection::Pauses => Decree::Pause,
        Collection::Errors => {
            let code = json.get("code").and_then(Json::integer).and_then(|code| u16::try_from(code).ok());
            let extended = match json.get("extended") {
                None => None,
                Some(value) => Some(value.text().and_then(enhanced_code).ok_or_else(wrong)?),
            };
            let description = json.get("description").and_then(Json::text).map(Arc::from);
            let code = code.filter(|code| (200..600).contains(code)).ok_or_else(wrong)?;
            Decree::Error(Verdict { code, extended, description })
        }
        Collection::Suspensions | Collection::PathSuspensions => Decree::Suspend { reason: reason()? },
        Collection::Bounces => {
            let Some(Json::Bool(suppress_logging)) = json.get("suppress_logging") else { return Err(wrong()) };
            Decree::Bounce { reason: reason()?, suppress_logging: *suppress_logging }
        }
    })
}

/// Windows as text; nothing for none.
#[must_use]
pub fn write_windows(schedule: &Schedule) -> Option<String> {
    schedule.recurs().then(|| windows_json(&schedule.windows).to_text())
}

/// And back.
///
/// # Errors
/// What is not understood.
pub fn read_windows(text: Option<&str>) -> Result<Vec<Window>, String> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let Ok(Json::Array(windows)) = json::parse(text.as_bytes()) else { return Err(format!("windows: {text}")) };
    windows.iter().map(|window| Window::from_json(window).map_err(|why| format!("windows: {text} {why}"))).collect()
}

/// `5.7.1` (RFC 3463 §2: class 2, 4 or 5, then two numbers of up to three digits).
#[must_use]
pub fn enhanced_code(text: &str) -> Option<EnhancedCode> {
    let mut parts = text.split('.');
    let mut number = |most: usize| {
        let part = parts.next()?;
        let fits = (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| fits)
    };
    let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
    let class = u8::try_from(class).ok().filter(|class| matches!(class, 2 | 4 | 5))?;
    parts.next().is_none().then_some(EnhancedCode { class, subject, detail })
}

fn members(text: &str) -> Result<Vec<(String, Json)>, String> {
    match json::parse(text.as_bytes()) {
        Ok(Json::Object(members)) => Ok(members),
        Ok(_) => Err(format!("{text} is no object")),
        Err(error) => Err(format!("{text}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{enhanced_code, read_decree, read_scope, write_decree, write_scope};
    use crate::rules::entry::{Collection, Decree, Verdict};
    use mailrace_shards::rules::Scope;

    #[test]
    fn what_is_written_is_read() {
        let scope = Scope {
            pool: Some("p".into()),
            source_ip: Some("192.0.2.1".parse().unwrap()),
            domain: Some("a.test".into()),
            remote_ip: Some("2001:db8::1".parse().unwrap()),
            tag: Some("T\"".into()),
            campaign: Some("c".into()),
            tenant: Some("t".into()),
            routing_domain: Some("r.test".into()),
            queues: ["c:t@a.test".into(), "b.test".into()].into(),
            path: Some("ip-1->mx.a.test@smtp_client".into()),
            address: Some("u@a.test".into()),
        };
        assert_eq!(read_scope(&write_scope(&scope)).unwrap(), scope);
        assert_eq!(read_scope("{}").unwrap(), Scope::default());
        let verdict = Verdict { code: 450, extended: enhanced_code("4.7.1"), description: Some("later".into()) };
        for (collection, decree) in [
            (Collection::Pauses, Decree::Pause),
            (Collection::Errors, Decree::Error(verdict)),
            (Collection::Errors, Decree::Error(Verdict { code: 250, extended: None, description: None })),
            (Collection::Suspensions, Decree::Suspend { reason: "".into() }),
            (Collection::Bounces, Decree::Bounce { reason: "x".into(), suppress_logging: true }),
        ] {
            assert_eq!(read_decree(collection, &write_decree(&decree)).unwrap(), decree);
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for scope in ["", "[]", r#"{"colour":"red"}"#, r#"{"mta":"x"}"#, r#"{"queue_names":[1]}"#, r#"{"tag":null}"#] {
            assert!(read_scope(scope).is_err(), "{scope}");
        }
        for decree in ["{}", r#"{"code":700}"#, r#"{"code":550,"extended":"5"}"#] {
            assert!(read_decree(Collection::Errors, decree).is_err(), "{decree}");
        }
        assert!(read_decree(Collection::Bounces, r#"{"reason":"x"}"#).is_err());
    }

    #[test]
    fn enhanced_codes() {
        for (text, valid) in [
            ("5.7.1", true),
            ("2.0.0", true),
            ("4.999.999", true),
            ("3.0.0", false),
            ("5.7", false),
            ("5.7.1.1", false),
            ("5.7.1000", false),
            ("5..1", false),
            ("+5.7.1", false),
            ("", false),
            ("5.7.x", false),
        ] {
            assert_eq!(enhanced_code(text).map(|code| code.to_string()), valid.then(|| text.to_owned()));
        }
    }
}
