//! `application/x-www-form-urlencoded`: query strings and forms (WHATWG URL §5.1, but strict: a broken escape,
//! text that is not UTF-8 and a repeated name are refused, never guessed at).

use super::limits::FIELDS_MAX;
use std::fmt;

/// Decoded fields, in their order; each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, String)>);

/// Why a form cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormError {
    /// A percent sign without two hexadecimal digits behind it.
    Escape(String),
    /// What the escapes mean is not UTF-8, or an octet stands there that is none.
    NotText(String),
    /// The field is there twice.
    Duplicate(String),
    /// More than [`FIELDS_MAX`].
    TooMany,
    /// No name before the equals sign.
    Nameless,
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Escape(at) => write!(f, "`{at}` holds a percent sign without two hexadecimal digits behind it"),
            Self::NotText(at) => write!(f, "`{at}` is not UTF-8"),
            Self::Duplicate(name) => write!(f, "duplicate field `{name}`"),
            Self::TooMany => write!(f, "more than {FIELDS_MAX} fields"),
            Self::Nameless => f.write_str("a field has no name"),
        }
    }
}

impl std::error::Error for FormError {}

impl Fields {
    /// The value of the field.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The first field whose name is none of `known`.
    #[must_use]
    pub fn unknown(&self, known: &[&str]) -> Option<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).find(|name| !known.contains(name))
    }
}

/// Takes a query string or a form's body apart.
///
/// # Errors
/// What is wrong with it first.
pub fn parse(text: &str) -> Result<Fields, FormError> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for part in text.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (decode(name, true)?, decode(value, true)?);
        if name.is_empty() {
            return Err(FormError::Nameless);
        }
        if fields.len() == FIELDS_MAX {
            return Err(FormError::TooMany);
        }
        if fields.iter().any(|(own, _)| *own == name) {
            return Err(FormError::Duplicate(name));
        }
        fields.push((name, value));
    }
    Ok(Fields(fields))
}

/// As [`parse`], of octets.
///
/// # Errors
/// As [`parse`].
pub fn parse_octets(octets: &[u8]) -> Result<Fields, FormError> {
    match std::str::from_utf8(octets) {
        Ok(text) => parse(text),
        Err(_) => Err(FormError::NotText(shown(&String::from_utf8_lossy(octets)))),
    }
}

/// Percent-decodes; with `plus`, a plus sign is a space.
///
/// # Errors
/// A broken escape, or no UTF-8.
pub fn decode(text: &str, plus: bool) -> Result<String, FormError> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'+' if plus => b' ',
            b'%' => {
                let digit = |octet: Option<u8>| octet.and_then(|octet| char::from(octet).to_digit(16));
                let (Some(high), Some(low)) = (digit(rest.next()), digit(rest.next())) else {
                    return Err(FormError::Escape(shown(text)));
                };
                u8::try_from(high << 4 | low).expect("two hexadecimal digits make an octet")
            }
            other => other,
        });
    }
    String::from_utf8(octets).map_err(|_| FormError::NotText(shown(text)))
}

/// The beginning of it, for a message.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::{FIELDS_MAX, parse, parse_octets};

    #[test]
    fn forms() {
        for (text, expected) in [
            ("", Ok(&[][..])),
            ("&&", Ok(&[])),
            ("a=1&b=2", Ok(&[("a", "1"), ("b", "2")])),
            ("a", Ok(&[("a", "")])),
            ("a=", Ok(&[("a", "")])),
            ("a=b=c", Ok(&[("a", "b=c")])),
            ("a=x+y%2Bz%20", Ok(&[("a", "x y+z ")])),
            ("%c3%A9=%E2%82%AC", Ok(&[("é", "€")])),
            ("a=é", Ok(&[("a", "é")])),
            ("A=1&a=2", Ok(&[("A", "1"), ("a", "2")])),
            ("a=1&a=1", Err("duplicate field `a`")),
            ("a=1&%61=1", Err("duplicate field `a`")),
            ("=1", Err("a field has no name")),
            ("a=%", Err("`%` holds a percent sign without two hexadecimal digits behind it")),
            ("a=%4", Err("`%4` holds a percent sign without two hexadecimal digits behind it")),
            ("a=%+4", Err("`%+4` holds a percent sign without two hexadecimal digits behind it")),
            ("a=%zz", Err("`%zz` holds a percent sign without two hexadecimal digits behind it")),
            ("a=%ff", Err("`%ff` is not UTF-8")),
            ("a=%ed%a0%80", Err("`%ed%a0%80` is not UTF-8")),
        ] {
            let found = parse(text);
            let pairs = found
                .as_ref()
                .map(|fields| fields.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>());
            assert_eq!(
                pairs.map_err(ToString::to_string),
                expected.map(<[_]>::to_vec).map_err(str::to_owned),
                "{text}"
            );
        }
        assert!(parse_octets(b"a=\xff").is_err());
    }

    #[test]
    fn many_fields_are_refused() {
        let form = |count: usize| (0..count).map(|n| format!("f{n}=1")).collect::<Vec<_>>().join("&");
        assert_eq!(parse(&form(FIELDS_MAX)).unwrap().0.len(), FIELDS_MAX);
        assert_eq!(parse(&form(FIELDS_MAX + 1)).unwrap_err().to_string(), format!("more than {FIELDS_MAX} fields"));
    }
}
