//! A request's head, taken apart. Made by `parse` alone, so that nothing unchecked is in one.

use std::fmt;
use std::ops::Range;

/// What is asked for. Method names are case-sensitive (RFC 9110 §9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    /// Answered as GET, without the body.
    Head,
    Post,
    Put,
    Delete,
    Options,
    /// Known to nobody here: 405, or 404.
    Other,
}

impl Method {
    /// As in a request line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other => "(other)",
        }
    }

    pub(super) fn of(name: &str) -> Self {
        [Self::Get, Self::Head, Self::Post, Self::Put, Self::Delete, Self::Options]
            .into_iter()
            .find(|method| method.as_str() == name)
            .unwrap_or(Self::Other)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// The header fields of a request, in their order.
#[derive(Clone, Default)]
pub struct Headers {
    pub(super) block: Box<[u8]>,
    pub(super) fields: Vec<(Range<u16>, Range<u16>)>,
}

impl Headers {
    /// Of pairs; for tests and for what is made up here.
    #[must_use]
    #[cfg(test)]
    pub fn of(pairs: &[(&str, &str)]) -> Self {
        let mut block = Vec::new();
        let mut place = |text: &str| {
            let start = u16::try_from(block.len()).unwrap_or(u16::MAX);
            block.extend_from_slice(text.as_bytes());
            start..u16::try_from(block.len()).expect("few short header fields fit 64 KiB")
        };
        let fields = pairs.iter().map(|(name, value)| (place(name), place(value))).collect();
        Self { block: block.into(), fields }
    }

    /// All values of the field called `name`, whatever its case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the field called `name` if it is there just once and is ASCII.
    #[must_use]
    pub fn get<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut all = self.all(name);
        let value = all.next().filter(|value| value.is_ascii())?;
        if all.next().is_some() { None } else { std::str::from_utf8(value).ok() }
    }

    /// Whether there is such a field.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let slice = |range: &Range<u16>| &self.block[usize::from(range.start)..usize::from(range.end)];
        self.fields.iter().map(move |(name, value)| {
            (std::str::from_utf8(slice(name)).expect("a field's name is a token of ASCII"), slice(value))
        })
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

/// Where a request's body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many octets, at least one.
    Length(u64),
    /// After the chunk of size zero and the trailers.
    Chunked,
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    Gzip,
    /// The zlib format (RFC 9110 §8.4.1.2).
    Deflate,
    /// In a way that we do not know, or in several: 415 when the body is asked for.
    Unknown,
}

/// All that stands before a request's body.
#[derive(Clone, Debug)]
pub struct Head {
    pub method: Method,
    /// As sent, percent-encoding included; begins with a slash, or is `*`.
    pub path: Box<str>,
    /// What follows the question mark, as sent.
    pub query: Box<str>,
    /// The authority that the request is for: of an absolute target, else the Host field. Empty when there is
    /// none (HTTP/1.0).
    pub host: Box<str>,
    pub version: Version,
    pub headers: Headers,
    pub framing: Framing,
    pub coding: Coding,
    /// Whether the peer waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
}
