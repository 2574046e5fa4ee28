//! A request that is not carried out, and why: for the peer to read.

use super::response::Response;
use serde_json::json;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// 4xx or 5xx.
    pub status: u16,
    /// For a person.
    pub text: Cow<'static, str>,
    /// The one field of the request that is at fault.
    pub field: Option<Cow<'static, str>>,
    /// Nodes of the cluster that have not applied yet what is stored.
    pub pending: Vec<Arc<str>>,
    /// Further header of the answer.
    pub header: Option<(&'static str, String)>,
    /// Where the next request begins cannot be known: the connection ends with this answer.
    pub closes: bool,
}

impl Refusal {
    /// With a status and words.
    #[must_use]
    pub fn new(status: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, text: text.into(), field: None, pending: Vec::new(), header: None, closes: false }
    }

    /// Naming the field at fault.
    #[must_use]
    pub fn of_field(status: u16, field: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { field: Some(field.into()), ..Self::new(status, text) }
    }

    /// 503 with Retry-After.
    #[must_use]
    pub fn unavailable(text: impl Into<Cow<'static, str>>, retry_after_seconds: u32) -> Self {
        Self { header: Some(("Retry-After", retry_after_seconds.to_string())), ..Self::new(503, text) }
    }

    /// One after which the connection ends.
    #[must_use]
    pub fn closing(status: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { closes: true, ..Self::new(status, text) }
    }

    /// `{"error":…, "field":…}`; `{"error":…, "stored":true, "pending":[…]}` of what is stored.
    #[must_use]
    pub fn to_json(&self) -> Response {
        let body = match &self.field {
            Some(field) => json!({ "error": self.text, "field": field }),
            None if self.pending.is_empty() => json!({ "error": self.text }),
            None => {
                let pending: Vec<&str> = self.pending.iter().map(|node| &**node).collect();
                json!({ "error": self.text, "stored": true, "pending": pending })
            }
        };
        self.finish(Response::json(self.status, &body))
    }

    /// The words alone.
    #[must_use]
    pub fn to_text(&self) -> Response {
        self.finish(Response::text(self.status, &*self.text))
    }

    fn finish(&self, mut response: Response) -> Response {
        response.headers.extend(self.header.clone());
        response.closes = self.closes;
        response
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text)
    }
}

impl std::error::Error for Refusal {}
