//! The members of a JSON object, taken one by one, and readers of their values. What a reader refuses it says as a
//! sentence without its subject; the dialect puts the name before it.

use crate::json::Json;

/// Why a value is refused: `must be a string`.
pub type Why = String;

/// An object's members.
#[derive(Debug, Default)]
pub struct Members(Vec<(String, Json)>);

impl Members {
    /// Of an object.
    ///
    /// # Errors
    /// It is none.
    pub fn of(value: Json) -> Result<Self, Why> {
        match value {
            Json::Object(members) => Ok(Self(members)),
            _ => Err("must be an object".to_owned()),
        }
    }

    /// Takes a member out; null is none.
    pub fn take(&mut self, name: &str) -> Option<Json> {
        let place = self.0.iter().position(|(own, _)| own == name)?;
        let (_, value) = self.0.swap_remove(place);
        (value != Json::Null).then_some(value)
    }

    /// A name that nobody has taken, cut to what a sentence can hold.
    #[must_use]
    pub fn left(&self) -> Option<String> {
        self.0.first().map(|(name, _)| name.chars().take(100).collect())
    }

    /// All that is left, in order of names; `None` when that is nothing.
    #[must_use]
    pub fn rest(mut self) -> Option<Json> {
        self.0.sort_by(|(one, _), (other, _)| one.cmp(other));
        (!self.0.is_empty()).then_some(Json::Object(self.0))
    }
}

/// A string.
pub fn text(value: Json) -> Result<String, Why> {
    match value {
        Json::Text(text) => Ok(text),
        _ => Err("must be a string".to_owned()),
    }
}

/// An array.
pub fn array(value: Json) -> Result<Vec<Json>, Why> {
    match value {
        Json::Array(items) => Ok(items),
        _ => Err("must be an array".to_owned()),
    }
}

/// A whole number from `least` to `most`, as a number or as its digits.
pub fn whole(value: &Json, least: u32, most: u32) -> Result<u32, Why> {
    let number = match value {
        Json::Integer(number) => u32::try_from(*number).ok(),
        Json::Text(text) if text.bytes().all(|octet| octet.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let fits = number.filter(|number| (least..=most).contains(number));
    fits.ok_or_else(|| format!("must be a whole number from {least} to {most}"))
}

/// Whether a value asks for nothing: null, false, or empty.
pub fn asks_nothing(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Text(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(members) => members.is_empty(),
        _ => false,
    }
}
