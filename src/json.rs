//! JSON of the API: the one place that names simd-json. Values keep the order of their members, objects with a
//! member twice are refused (which one was meant?), and depth is bounded.

mod judge;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use simd_json::{Node, StaticNode};
use std::fmt;
use std::sync::Arc;

/// Arrays and objects inside each other; deeper ones are refused.
const DEPTH_MAX: usize = 32;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A whole number above [`i64::MAX`].
    Large(u64),
    /// Another number.
    Float(f64),
    /// A string.
    Text(String),
    /// An array.
    Array(Vec<Json>),
    /// An object: names are unique, in order.
    Object(Vec<(String, Json)>),
}

/// Why a text is no JSON that we take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadJson(String);

impl fmt::Display for BadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadJson {}

/// Parses a whole text.
///
/// # Errors
/// Not JSON, not UTF-8, too deep, or an object with a member twice.
pub fn parse(text: &[u8]) -> Result<Json, BadJson> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(BadJson("the body is empty".to_owned()));
    }
    // The parser below takes some texts that are no JSON, and makes something else of them: behind a number it loses
    // what follows NUL or a second fraction, it wraps exponents, and pairs surrogates with what is none.
    judge::judge(text).map_err(BadJson)?;
    // The parser works in place, and the caller's text may yet be wanted for a message.
    let mut copy = text.to_vec();
    let tape = simd_json::to_tape(&mut copy).map_err(|error| BadJson(error.to_string()))?;
    let mut rest = tape.0.as_slice();
    take(&mut rest, DEPTH_MAX)
}

fn take(tape: &mut &[Node<'_>], depth: usize) -> Result<Json, BadJson> {
    let Some((first, rest)) = tape.split_first() else { return Err(BadJson("the text ends early".to_owned())) };
    *tape = rest;
    if depth == 0 {
        return Err(BadJson(format!("more than {DEPTH_MAX} arrays and objects inside each other")));
    }
    Ok(match first {
        Node::String(text) => Json::Text(checked(text)?),
        Node::Static(StaticNode::Null) => Json::Null,
        Node::Static(StaticNode::Bool(value)) => Json::Bool(*value),
        Node::Static(StaticNode::I64(value)) => Json::Integer(*value),
        Node::Static(StaticNode::U64(value)) => i64::try_from(*value).map_or(Json::Large(*value), Json::Integer),
        Node::Static(StaticNode::F64(value)) => Json::Float(*value),
        Node::Array { len, .. } => {
            let mut items = Vec::with_capacity(*len);
            for _ in 0..*len {
                items.push(take(tape, depth - 1)?);
            }
            Json::Array(items)
        }
        Node::Object { len, .. } => object_of(tape, *len, depth)?,
    })
}

/// The parser makes a NUL of half a surrogate pair (`"\ud800"`), and nothing here needs a NUL that was meant.
fn checked(text: &str) -> Result<String, BadJson> {
    if text.contains('\0') {
        Err(BadJson("a string holds NUL, or half a surrogate pair".to_owned()))
    } else {
        Ok(text.to_owned())
    }
}

fn object_of(tape: &mut &[Node<'_>], len: usize, depth: usize) -> Result<Json, BadJson> {
    let mut members: Vec<(String, Json)> = Vec::with_capacity(len);
    let mut names = std::collections::HashSet::with_capacity(len);
    for _ in 0..len {
        let Json::Text(name) = take(tape, depth)? else {
            return Err(BadJson("the name of a member is no string".to_owned()));
        };
        let value = take(tape, depth - 1)?;
        if !names.insert(name.clone()) {
            return Err(BadJson(format!("duplicate field `{name}`")));
        }
        members.push((name, value));
    }
    Ok(Json::Object(members))
}

impl Json {
    /// An object of those members that are set.
    #[must_use]
    pub fn object<'a>(members: impl IntoIterator<Item = (&'a str, Option<Json>)>) -> Self {
        let set = members.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)));
        Self::Object(set.collect())
    }

    /// The member of an object.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Json> {
        match self {
            Self::Object(members) => members.iter().find(|(member, _)| member == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The text of a string.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// Appends members to an object.
    #[must_use]
    pub fn with<'a>(self, more: impl IntoIterator<Item = (&'a str, Option<Json>)>) -> Self {
        let Self::Object(mut members) = self else { return self };
        let set = more.into_iter().filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)));
        members.extend(set);
        Self::Object(members)
    }

    /// As text, without spaces.
    #[must_use]
    pub fn to_text(&self) -> String {
        let text = simd_json::to_string(self);
        text.expect("a value of this type has only names that are strings")
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&Arc<str>> for Json {
    fn from(text: &Arc<str>) -> Self {
        Self::Text(text.as_ref().to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Large(value), Self::Integer)
    }
}

impl From<u16> for Json {
    fn from(value: u16) -> Self {
        Self::Integer(value.into())
    }
}

impl From<Vec<Json>> for Json {
    fn from(items: Vec<Json>) -> Self {
        Self::Array(items)
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Large(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Array(items) => {
                let mut array = serializer.serialize_seq(Some(items.len()))?;
                items.iter().try_for_each(|item| array.serialize_element(item))?;
                array.end()
            }
            Self::Object(members) => {
                let mut object = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, value)| object.serialize_entry(name, value))?;
                object.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Json, parse};

    #[test]
    fn what_is_read_is_written() {
        for text in [
            "null",
            "{}",
            "[]",
            r#"{"b":[1,-2,18446744073709551615,true,null],"a":"ä\n\"x\""}"#,
            r#"[{"a":{}},{"b":[[]]},1.5]"#,
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().to_text(), text);
        }
        assert_eq!(parse(br#" {"a" : "\u00e4"} "#).unwrap().get("a"), Some(&Json::from("ä")));
    }

    #[test]
    fn what_is_no_json_is_refused() {
        let deep = "[".repeat(33) + &"]".repeat(33);
        let very_deep = "[".repeat(2_000_000);
        let cases =
            ["", "  ", "{", "{\"a\":}", "{} {}", "{'a':1}", "{\"a\":1,}", "nul", "\"\\ud800\"", &deep, &very_deep];
        for text in cases {
            assert!(parse(text.as_bytes()).is_err(), "{}", &text[..text.len().min(60)]);
        }
        assert!(parse(b"\"\xff\"").is_err());
        assert!(parse(("[".repeat(30) + &"]".repeat(30)).as_bytes()).is_ok());
        let after = parse(b"{\"a\":\n x}").unwrap_err().to_string();
        assert_eq!(after, "expected value at line 2 column 2");
        assert_eq!(parse(br#"{"a":1,"a":2}"#).unwrap_err().to_string(), "duplicate field `a`");
    }
    #[test]
    fn nothing_behind_a_number_is_lost() {
        let numbers =
            ["123456789.1234556789.1234556789.123", "12345678901234567890123.5.5", "1.2.3", "1e5e5", "01", "1-2"];
        let texts = numbers.iter().flat_map(|number| [format!("[{number}]"), format!("{{\"a\":{number}}}")]);
        for text in
            texts.chain(["[1\x002]".into(), "{\"code\":55\x000,\"tag\":\"t\"}".into(), "[]\0".into(), "1\0".into()])
        {
            assert!(parse(text.as_bytes()).is_err(), "{text:?} is taken as {:?}", parse(text.as_bytes()));
        }
    }

    #[test]
    fn nothing_is_taken_for_what_it_is_not() {
        let strings = [r#"["\ud83d\ufe00"]"#, r#"["\ud83d\ud83d"]"#, r#"["\ud83dx"]"#];
        for text in strings.into_iter().chain(["[1e4294967297]", "[1e400]"]) {
            assert!(parse(text.as_bytes()).is_err(), "{text} is taken as {:?}", parse(text.as_bytes()));
        }
    }
}
