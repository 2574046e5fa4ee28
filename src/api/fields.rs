//! The members of a request's body, JSON or form, read strictly: each by its name and type, and whatever nobody asked
//! for is refused, since a mistyped field must not silently widen a rule.

use crate::config;
use crate::http::form;
use crate::json::Json;
use crate::rules::stored::enhanced_code;
use mailrace_shards::message::domain_of;
use mailrace_shards::outcome::EnhancedCode;
use mailrace_shards::rules::normal_address;
use mailrace_shards::smtp::server::mailbox;
use mailrace_shards::time::Timestamp;
use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Octets of a text; a longer one is refused.
pub const TEXT_BYTES_MAX: usize = 4096;

/// The last moment that RFC 3339 can write, in milliseconds.
const LAST_MOMENT: i64 = 253_402_300_799_999;

/// What is wrong with a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A field that must be there is not.
    Missing(&'static str),
    /// A field that means nothing here.
    Unknown(String),
    /// A field's value, and why it is refused, as a sentence without its subject.
    Value(&'static str, String),
    /// The body as a whole.
    Shape(String),
}

impl Wrong {
    /// The field at fault.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Missing(name) | Self::Value(name, _) => Some(name),
            Self::Unknown(name) => Some(name),
            Self::Shape(_) => None,
        }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "missing field `{name}`"),
            Self::Unknown(name) => write!(f, "unknown field `{name}`"),
            Self::Value(name, why) => write!(f, "`{name}` {why}"),
            Self::Shape(why) => f.write_str(why),
        }
    }
}

/// The members.
pub struct Fields {
    members: Vec<(String, Json)>,
    /// Which of them somebody asked for.
    asked: RefCell<Vec<bool>>,
    /// All values are texts.
    is_form: bool,
}

type Read<T> = Result<Option<T>, Wrong>;

impl Fields {
    /// Of a JSON body.
    ///
    /// # Errors
    /// It is no object.
    pub fn of_json(json: Json) -> Result<Self, Wrong> {
        let Json::Object(members) = json else { return Err(Wrong::Shape("the body must be a JSON object".to_owned())) };
        let asked = RefCell::new(vec![false; members.len()]);
        Ok(Self { members, asked, is_form: false })
    }

    /// Of a form.
    #[must_use]
    pub fn of_form(form: form::Fields) -> Self {
        let members: Vec<_> = form.0.into_iter().map(|(name, value)| (name, Json::Text(value))).collect();
        let asked = RefCell::new(vec![false; members.len()]);
        Self { members, asked, is_form: true }
    }

    /// The value, null included.
    pub fn raw(&self, name: &str) -> Option<&Json> {
        let index = self.members.iter().position(|(own, _)| own == name)?;
        self.asked.borrow_mut()[index] = true;
        Some(&self.members[index].1)
    }

    /// The value; null is none.
    fn value(&self, name: &str) -> Option<&Json> {
        self.raw(name).filter(|value| **value != Json::Null)
    }

    /// A text on one line that may be empty.
    pub fn words(&self, name: &'static str) -> Read<Arc<str>> {
        match self.prose(name)? {
            Some(text) if text.chars().any(char::is_control) => {
                Err(Wrong::Value(name, "holds control characters".to_owned()))
            }
            text => Ok(text),
        }
    }

    /// A text for people, which may be empty and may have several lines.
    pub fn prose(&self, name: &'static str) -> Read<Arc<str>> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let Json::Text(text) = value else { return Err(Wrong::Value(name, "must be a string".to_owned())) };
        if text.len() > TEXT_BYTES_MAX {
            return Err(Wrong::Value(name, format!("is longer than {TEXT_BYTES_MAX} octets")));
        }
        Ok(Some(text.as_str().into()))
    }

    /// A text that is not empty.
    pub fn word(&self, name: &'static str) -> Read<Arc<str>> {
        match self.words(name)? {
            Some(text) if text.is_empty() => Err(Wrong::Value(name, "must not be empty".to_owned())),
            text => Ok(text),
        }
    }

    /// A text, made into something.
    pub fn parsed<T>(&self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Read<T> {
        let Some(text) = self.word(name)? else { return Ok(None) };
        parse(&text).map(Some).map_err(|why| Wrong::Value(name, why))
    }

    /// A domain, in lower case and A-labels.
    pub fn domain(&self, name: &'static str) -> Read<Arc<str>> {
        self.parsed(name, domain)
    }

    /// An address of the IP, canonical.
    pub fn ip(&self, name: &'static str) -> Read<IpAddr> {
        self.parsed(name, |text| {
            let ip = text.parse::<IpAddr>().map_err(|_| "is not an IP address".to_owned())?;
            Ok(ip.to_canonical())
        })
    }

    /// An enhanced status code.
    pub fn enhanced_code(&self, name: &'static str) -> Read<EnhancedCode> {
        self.parsed(name, |text| {
            enhanced_code(text).ok_or_else(|| "is not an enhanced status code such as 5.7.1".to_owned())
        })
    }

    /// Yes or no.
    pub fn boolean(&self, name: &'static str) -> Read<bool> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match value {
            Json::Bool(value) => Ok(Some(*value)),
            Json::Text(text) if self.is_form => match truth(text) {
                Some(value) => Ok(Some(value)),
                None => Err(Wrong::Value(name, "must be true or false".to_owned())),
            },
            _ => Err(Wrong::Value(name, "must be true or false".to_owned())),
        }
    }

    /// A whole number within bounds, as a number or as its digits.
    pub fn number(&self, name: &'static str, bounds: std::ops::RangeInclusive<u16>) -> Read<u16> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let wrong = || Wrong::Value(name, format!("must be a number from {} to {}", bounds.start(), bounds.end()));
        let number = match value {
            Json::Integer(number) => Some(*number),
            Json::Text(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        let number = number.and_then(|number| u16::try_from(number).ok()).filter(|number| bounds.contains(number));
        number.map(Some).ok_or_else(wrong)
    }

    /// A moment: `YYYY-MM-DD HH:MM:SS` in UTC, seconds since 1970 as a number or its digits, or RFC 3339.
    pub fn moment(&self, name: &'static str) -> Read<Timestamp> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let moment = match value {
            Json::Integer(seconds) => seconds.checked_mul(1000).map(Timestamp),
            #[expect(clippy::cast_possible_truncation, reason = "what is out of bounds saturates and is refused below")]
            Json::Float(seconds) => Some(Timestamp((seconds * 1000.0) as i64)),
            Json::Text(text) => moment(text),
            _ => None,
        };
        let why = "must be a time: \"YYYY-MM-DD HH:MM:SS\" in UTC, seconds since 1970, or RFC 3339".to_owned();
        moment.filter(|at| (0..=LAST_MOMENT).contains(&at.0)).map(Some).ok_or(Wrong::Value(name, why))
    }

    /// Whether anything is set of these names.
    #[must_use]
    pub fn is_set(&self, name: &str) -> bool {
        self.members.iter().any(|(own, value)| own == name && *value != Json::Null)
    }

    /// An array; in a form, as JSON text.
    pub fn array(&self, name: &'static str) -> Read<Vec<Json>> {
        let wrong = || Wrong::Value(name, "must be an array".to_owned());
        match self.value(name) {
            None => Ok(None),
            Some(Json::Array(items)) => Ok(Some(items.clone())),
            Some(Json::Text(text)) if self.is_form => match crate::json::parse(text.as_bytes()) {
                Ok(Json::Array(items)) => Ok(Some(items)),
                _ => Err(wrong()),
            },
            Some(_) => Err(wrong()),
        }
    }

    /// Nobody needs what is there and was not asked for.
    ///
    /// # Errors
    /// The first such field.
    pub fn finish(&self) -> Result<(), Wrong> {
        let asked = self.asked.borrow();
        match self.members.iter().zip(&*asked).find(|(_, asked)| !**asked) {
            Some(((name, _), _)) => Err(Wrong::Unknown(name.chars().take(100).collect())),
            None => Ok(()),
        }
    }
}

/// `true`, `false`, `1`, `0`.
#[must_use]
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

/// A domain in lower case and A-labels, or an address literal: any that mail can be for, also where it is no host name.
///
/// # Errors
/// What is wrong with it.
pub fn domain(text: &str) -> Result<Arc<str>, String> {
    config::domain(text).or_else(|why| match mailbox(&format!("x@{text}")) {
        Ok(address) => Ok(domain_of(&address).into()),
        Err(_) => Err(why),
    })
}

/// A mail address in the form in which rules and suppressions compare it.
///
/// # Errors
/// What is wrong with it.
pub fn address(text: &str) -> Result<Arc<str>, String> {
    let address = mailbox(text).map_err(|error| format!("is not a mail address: {}", error.as_str()))?;
    Ok(normal_address(&address).into())
}

/// A moment as text.
#[must_use]
pub fn moment(text: &str) -> Option<Timestamp> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<i64>().ok()?.checked_mul(1000).map(Timestamp);
    }
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Some(Timestamp(moment.as_millisecond()));
    }
    let civil = jiff::civil::DateTime::strptime("%Y-%m-%d %H:%M:%S", text).ok()?;
    let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
    Some(Timestamp(zoned.timestamp().as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::{Fields, domain, moment};
    use crate::json::parse;

    #[test]
    fn moments() {
        for (text, expected) in [
            ("2026-03-01 12:00:00", Some(1_772_366_400_000)),
            ("1772366400", Some(1_772_366_400_000)),
            ("2026-03-01T12:00:00Z", Some(1_772_366_400_000)),
            ("2026-03-01T13:00:00+01:00", Some(1_772_366_400_000)),
            ("2026-03-01T12:00:00", None),
            ("2026-03-01", None),
            ("2026-02-30 12:00:00", None),
            ("tomorrow", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(moment(text).map(|at| at.0), expected, "{text}");
        }
    }

    /// What mail can be for can be paused, also where it is no name of a host.
    #[test]
    fn every_domain_of_mail_can_be_named() {
        for (text, expected) in [
            ("A-.Example", Some("a-.example")),
            ("-a.example", Some("-a.example")),
            ("a.example.", Some("a.example")),
            ("a@b.example", None),
            ("*.example", None),
            ("192.0.2.1", None),
            ("a..example", None),
            ("a.example>", None),
            (" a.example", None),
        ] {
            assert_eq!(domain(text).ok().as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn fields_are_read_by_type() {
        let fields = |text: &str| Fields::of_json(parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(fields(r#"{"a":"550"}"#).number("a", 200..=599).unwrap(), Some(550));
        for text in [r#"{"a":""}"#, r#"{"a":"+550"}"#, r#"{"a":600}"#, r#"{"a":true}"#, r#"{"a":5.5}"#] {
            assert!(fields(text).number("a", 200..=599).is_err(), "{text}");
        }
        assert!(fields(r#"{"a":"true"}"#).boolean("a").is_err(), "only a form writes booleans as words");
        assert!(fields(r#"{"a":"x\u0001"}"#).word("a").is_err());
        assert!(fields(r#"{"a":""}"#).word("a").is_err());
        assert_eq!(fields(r#"{"a":null}"#).word("a").unwrap(), None);
        assert_eq!(fields(r#"{"b":1}"#).finish().unwrap_err().to_string(), "unknown field `b`");
        assert_eq!(&*fields(r#"{"a":"Bücher.Example"}"#).domain("a").unwrap().unwrap(), "xn--bcher-kva.example");
        assert_eq!(fields(r#"{"a":"::ffff:192.0.2.1"}"#).ip("a").unwrap().unwrap().to_string(), "192.0.2.1");
        assert!(Fields::of_json(parse(b"[]").unwrap()).is_err());
    }
}
