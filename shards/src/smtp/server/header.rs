//! The header block as it arrives: which fields are removed, what the control headers say, how many hops the
//! message has behind it. Changes nothing but the fields that it removes.

use super::ServerConfig;
use super::control::{self, Marks};
use super::decoder::ContentRefusal;
use crate::limits::{HEADER_BYTES_MAX, RECEIVED_HEADERS_MAX};
use std::sync::Arc;

/// Follows a header block through a body that grows line by line.
#[derive(Debug)]
pub(super) struct HeaderScan {
    config: Arc<ServerConfig>,
    trusted: bool,
    place: Place,
    /// Where the block begins in the body.
    start: usize,
    received: u32,
    marks: Marks,
}

/// Where the scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the first line.
    Start,
    /// In the field that begins at this offset.
    Field(usize),
    /// Behind the header.
    Done,
}

/// What becomes of a field.
enum Verdict {
    Keep,
    Remove,
    /// The line is no field: text begins without an empty line.
    Text,
}

impl HeaderScan {
    /// The block begins at offset `start`. Control headers are removed always, obeyed when `trusted`.
    pub(super) fn new(config: Arc<ServerConfig>, trusted: bool, start: usize) -> Self {
        Self { config, trusted, place: Place::Start, start, received: 0, marks: Marks::default() }
    }

    /// Whether the header goes on.
    pub(super) fn active(&self) -> bool {
        self.place != Place::Done
    }

    /// Looks at nothing more.
    pub(super) fn stop(&mut self) {
        self.place = Place::Done;
    }

    /// What the control headers said.
    pub(super) fn into_marks(self) -> Marks {
        self.marks
    }

    /// A line begins with `first`, and `body` holds all lines before it.
    pub(super) fn line_begins(&mut self, body: &mut Vec<u8>, first: u8) -> Result<(), ContentRefusal> {
        let folded = matches!(first, b' ' | b'\t');
        match self.place {
            Place::Done => return Ok(()),
            // Before the first field it continues our own Received header, for whoever reads the message.
            Place::Field(_) | Place::Start if folded => return self.check_size(body),
            Place::Field(start) => self.field_ended(body, start)?,
            Place::Start => {}
        }
        if self.place == Place::Done {
            return Ok(());
        }
        // An empty line ends the block (RFC 5322 §2.1); so does a line that cannot begin a field.
        self.place = if first == b'\r' { Place::Done } else { Place::Field(body.len()) };
        self.check_size(body)
    }

    /// The message ends.
    pub(super) fn end(&mut self, body: &mut Vec<u8>) -> Result<(), ContentRefusal> {
        if let Place::Field(start) = self.place {
            self.field_ended(body, start)?;
        }
        self.place = Place::Done;
        Ok(())
    }

    fn check_size(&self, body: &[u8]) -> Result<(), ContentRefusal> {
        if body.len() - self.start > HEADER_BYTES_MAX { Err(ContentRefusal::LargeHeader) } else { Ok(()) }
    }

    fn field_ended(&mut self, body: &mut Vec<u8>, start: usize) -> Result<(), ContentRefusal> {
        match self.judge(&body[start..])? {
            Verdict::Keep => {}
            Verdict::Remove => body.truncate(start),
            Verdict::Text => self.place = Place::Done,
        }
        Ok(())
    }

    fn judge(&mut self, field: &[u8]) -> Result<Verdict, ContentRefusal> {
        let Some(name) = name(field) else { return Ok(Verdict::Text) };
        let config = &self.config;
        if name.eq_ignore_ascii_case(b"received") {
            self.received += 1;
            return if self.received > RECEIVED_HEADERS_MAX { Err(ContentRefusal::Loop) } else { Ok(Verdict::Keep) };
        }
        let known = if name.eq_ignore_ascii_case(config.campaign_header.as_bytes()) {
            control::Field::Campaign
        } else if name.eq_ignore_ascii_case(config.tenant_header.as_bytes()) {
            control::Field::Tenant
        } else if let Some(field) = control::Field::named(name) {
            field
        } else {
            return Ok(Verdict::Keep);
        };
        if self.trusted {
            let colon = field.iter().position(|&octet| octet == b':').unwrap_or(field.len() - 1);
            let value = &field[colon + 1..];
            self.marks.set(known, value).map_err(|why| {
                ContentRefusal::Control(
                    String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned().into_boxed_str(),
                    why,
                )
            })?;
        }
        Ok(Verdict::Remove)
    }
}

/// The field's name: printable ASCII before a colon, blanks between them allowed (RFC 5322 §4.5.8).
fn name(field: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr2(b':', b'\r', field).filter(|&at| field[at] == b':')?;
    let name = field[..colon].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}
