//! Reads one TOML table key by key: each key is taken once, with its kind and its bounds; what nobody took is
//! an unknown key. Every problem is noted and reading goes on, so that one run names them all. Knows no key
//! of its own.

use super::problem::Problems;
use std::cell::RefCell;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One table of the file.
pub struct Section<'a> {
    problems: &'a Problems<'a>,
    name: String,
    span: Range<usize>,
    table: Option<&'a DeTable<'a>>,
    taken: RefCell<Vec<&'static str>>,
}

/// One value of the file, with its place and its full key.
#[derive(Clone)]
pub struct Item<'a> {
    problems: &'a Problems<'a>,
    /// Full key, for messages.
    pub key: String,
    /// Octets of the value in the file.
    pub span: Range<usize>,
    value: &'a DeValue<'a>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub fn root(problems: &'a Problems<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self::new(problems, String::new(), table.span(), Some(table.get_ref()))
    }

    fn new(problems: &'a Problems<'a>, name: String, span: Range<usize>, table: Option<&'a DeTable<'a>>) -> Self {
        Self { problems, name, span, table, taken: RefCell::new(Vec::new()) }
    }

    /// Where the table stands.
    pub fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// The full name of `key` in this table.
    pub fn key(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// The table's own name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where problems go.
    pub fn problems(&self) -> &'a Problems<'a> {
        self.problems
    }

    /// Notes a problem of `key`, at its value when it is there, else at the table.
    pub fn problem(&self, key: &str, text: impl Into<String>) {
        let value =
            self.table.into_iter().flatten().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value.span());
        self.problems.add(value.as_ref().unwrap_or(&self.span), &self.key(key), text);
    }

    /// Whether `key` is there, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.iter().any(|(name, _)| name.get_ref() == key))
    }

    /// The value of `key`, which is known from now on.
    pub fn take(&self, key: &'static str) -> Option<Item<'a>> {
        self.taken.borrow_mut().push(key);
        let (_, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Item { problems: self.problems, key: self.key(key), span: value.span(), value: value.get_ref() })
    }

    /// The table at `key`; empty when absent or not a table.
    pub fn table(&self, key: &'static str) -> Section<'a> {
        match self.take(key) {
            None => Section::new(self.problems, self.key(key), self.span.clone(), None),
            Some(item) => item.table().unwrap_or_else(|| Section::new(self.problems, item.key, item.span, None)),
        }
    }

    /// The tables of the array at `key` (`[[key]]`), numbered from 1 in their names.
    pub fn tables(&self, key: &'static str) -> Vec<Section<'a>> {
        self.take(key).map_or_else(Vec::new, |item| item.list(usize::MAX, Item::table))
    }

    /// `key` by `read`, or `default` when it is absent or wrong.
    pub fn or<T>(&self, key: &'static str, default: T, read: impl FnOnce(&Item<'a>) -> Option<T>) -> T {
        self.take(key).and_then(|item| read(&item)).unwrap_or(default)
    }

    /// `key` by `read`, if it is there and right.
    pub fn optional<T>(&self, key: &'static str, read: impl FnOnce(&Item<'a>) -> Option<T>) -> Option<T> {
        self.take(key).and_then(|item| read(&item))
    }

    /// `key` by `read`; its absence is a problem.
    pub fn required<T>(&self, key: &'static str, read: impl FnOnce(&Item<'a>) -> Option<T>) -> Option<T> {
        let item = self.take(key);
        if item.is_none() {
            self.problems.add(&self.span, &self.key(key), "is missing");
        }
        item.and_then(|item| read(&item))
    }

    /// Names every key that nobody took.
    pub fn finish(self) {
        let taken = self.taken.borrow();
        for (name, _) in self.table.into_iter().flatten() {
            if !taken.contains(&name.get_ref().as_ref()) {
                let mut known = taken.clone();
                known.sort_unstable();
                let text = format!("unknown key; allowed here: {}", known.join(", "));
                self.problems.add(&name.span(), &self.key(name.get_ref()), text);
            }
        }
    }
}

impl<'a> Item<'a> {
    /// Notes a problem of this value.
    pub fn problem(&self, text: impl Into<String>) {
        self.problems.add(&self.span, &self.key, text);
    }

    fn wrong_kind<T>(&self, wanted: &str) -> Option<T> {
        self.problem(format!("must be {wanted}, not {}", kind(self.value)));
        None
    }

    /// A string.
    pub fn string(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(text) => Some(text),
            _ => self.wrong_kind("a string"),
        }
    }

    /// A string that `parse` understands; its error says what is allowed.
    pub fn parse<T, E: Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.string()?;
        parse(text).map_err(|error| self.problem(format!("{text:?} {error}"))).ok()
    }

    /// As [`Self::parse`], of what must not be shown.
    pub fn parse_secret<T, E: Display>(&self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.string()?;
        parse(text).map_err(|error| self.problem(error.to_string())).ok()
    }

    /// One of `words`.
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let allowed: Vec<_> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
            self.problem(format!("{text:?} is not one of {}", allowed.join(", ")));
        }
        found
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match self.value {
            DeValue::Boolean(value) => Some(*value),
            _ => self.wrong_kind("true or false"),
        }
    }

    /// A whole number within `range`.
    pub fn integer<T: TryFrom<i128> + Copy + Into<u64>>(&self, range: RangeInclusive<T>) -> Option<T> {
        let DeValue::Integer(digits) = self.value else { return self.wrong_kind("a whole number") };
        let (low, high): (u64, u64) = ((*range.start()).into(), (*range.end()).into());
        let value = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        let value = value.filter(|value| (i128::from(low)..=i128::from(high)).contains(value));
        let value = value.and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            self.problem(format!("{digits} is out of bounds; it must be from {low} to {high}"));
        }
        value
    }

    /// An array of at most `most`, each element by `read`. Elements that are wrong are left out.
    pub fn list<T>(&self, most: usize, read: impl Fn(&Item<'a>) -> Option<T>) -> Vec<T> {
        let DeValue::Array(array) = self.value else {
            return self.wrong_kind("an array").unwrap_or_default();
        };
        if array.len() > most {
            self.problem(format!("has {} elements; at most {most} are allowed", array.len()));
        }
        let items = array.iter().take(most).enumerate().map(|(index, value)| Item {
            problems: self.problems,
            key: format!("{}[{}]", self.key, index + 1),
            span: value.span(),
            value: value.get_ref(),
        });
        items.filter_map(|item| read(&item)).collect()
    }

    /// Whether it is an array without elements.
    pub fn is_empty_list(&self) -> bool {
        matches!(self.value, DeValue::Array(array) if array.is_empty())
    }

    /// A table.
    pub fn table(&self) -> Option<Section<'a>> {
        match self.value {
            DeValue::Table(table) => {
                Some(Section::new(self.problems, self.key.clone(), self.span.clone(), Some(table)))
            }
            _ => self.wrong_kind("a table"),
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
