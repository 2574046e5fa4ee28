//! What is answered.

use super::{Refusal, Waiting};
use serde::Serialize;

/// One answer. Length, date, connection and transfer headers are the connection's to write.
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// Media type; none for an empty answer.
    pub content_type: Option<&'static str>,
    /// Further headers. Octets that no header may hold end the request with 500.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub content: Content,
    /// Whether the connection ends with this answer.
    pub closes: bool,
}

/// The body of an answer.
pub enum Content {
    /// Known as a whole.
    Full(Vec<u8>),
    /// Made while it is sent: chunked, or ended by the close (HTTP/1.0).
    Stream(Box<dyn Stream>),
}

/// A body that is made while it is sent, at the pace of the peer.
pub trait Stream {
    /// The next part. Bound its size (some 64 KiB are well) and the wait for it. Not called for HEAD.
    fn next(&mut self) -> Waiting<'_, Chunk>;
}

/// Part of a streamed body.
pub enum Chunk {
    /// Some octets; none are harmless.
    Octets(Vec<u8>),
    /// That was all.
    End,
    /// It cannot be finished: the connection ends in a way that the peer notices. The text is for the operator.
    Broken(String),
}

/// JSON's media type.
pub const JSON: &str = "application/json";
/// That of words.
pub const TEXT: &str = "text/plain; charset=utf-8";

impl Response {
    /// A status, and nothing else to say.
    #[must_use]
    pub fn empty(status: u16) -> Self {
        Self { status, content_type: None, headers: Vec::new(), content: Content::Full(Vec::new()), closes: false }
    }

    /// Octets of a media type.
    #[must_use]
    pub fn full(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { content_type: Some(content_type), content: Content::Full(body.into()), ..Self::empty(status) }
    }

    /// Words.
    #[must_use]
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Self::full(status, TEXT, text.into())
    }

    /// A value as JSON. One that cannot be written (a map with keys that are no strings) is our bug: 500.
    #[must_use]
    pub fn json(status: u16, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::full(status, JSON, body),
            Err(error) => Self::text(500, format!("the answer cannot be written as JSON: {error}")),
        }
    }

    /// A streamed body.
    #[must_use]
    pub fn stream(status: u16, content_type: &'static str, stream: Box<dyn Stream>) -> Self {
        Self { content_type: Some(content_type), content: Content::Stream(stream), ..Self::empty(status) }
    }

    /// With one more header.
    #[cfg(test)]
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        refusal.to_text()
    }
}
