//! A message that is there as a whole (as those that come by HTTP are) becomes a body as a session would have
//! made it: the same decoder, the same refusals, the same control headers. The text changes in nothing but its
//! line ends and the headers that are taken out.

use super::ServerConfig;
use super::control::Wishes;
use super::decoder::{Content, ContentRefusal, Decoder};
use super::received::Received;
use crate::message::{ContentFlags, Extras, MessageId};
use crate::time::Timestamp;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Octets of our own header: room for it is reserved with the body.
const OWN_HEADER_BYTES: usize = 512;

/// A message that is fit to be stored. The same may go to many recipients, under an id each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// CRLF line ends, the last one included, no dot-stuffing, control headers removed.
    pub text: Vec<u8>,
    /// What the text needs of the next hop. An address beyond ASCII needs SMTPUTF8 besides.
    pub flags: ContentFlags,
    /// Reverse-path that a control header names; empty for the null one.
    pub envelope: Option<Box<str>>,
    /// Marks and wishes from control headers, when there are any.
    pub extras: Option<Box<Extras>>,
}

/// What our Received header tells of a message.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Who handed it in.
    pub peer: SocketAddr,
    /// Our own name.
    pub hostname: &'a str,
    /// `HTTP`: an atom, as RFC 5321 §4.4 asks of protocols that it does not name (Attdl-Protocol).
    pub protocol: &'static str,
    /// The message's id.
    pub id: MessageId,
    /// When it came.
    pub at: Timestamp,
}

/// Why a text is no message that we take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ComposeError {
    /// Nothing in it.
    Empty,
    /// Over so many octets.
    TooLarge(u32),
    /// A CR without its LF.
    BareCr,
    /// An octet of value zero.
    Nul,
    /// A line over `TEXT_LINE_BYTES_MAX`.
    LongLine,
    /// A header over `HEADER_BYTES_MAX`.
    LargeHeader,
    /// Too many Received headers.
    Loop,
    /// A control header that is wrong or not carried out: its name, and why.
    Control(Box<str>, &'static str),
}

impl fmt::Display for ComposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the message is empty"),
            Self::TooLarge(most) => write!(f, "the message is over {most} octets"),
            Self::BareCr => f.write_str("the message holds a CR that stands alone"),
            Self::Nul => f.write_str("the message holds a NUL octet"),
            Self::LongLine => f.write_str("the message holds a line that is too long"),
            Self::LargeHeader => f.write_str("the message's header is too large"),
            Self::Loop => f.write_str("the message has too many Received headers, a loop"),
            Self::Control(name, why) => write!(f, "the message's header {name}: {why}"),
        }
    }
}

impl std::error::Error for ComposeError {}

/// Makes a message of `content`, a full text (RFC 5322) with line ends of LF, CRLF, or both. Its control headers
/// are obeyed: call this only for those who may ask for what they say.
///
/// # Errors
/// What is wrong with the text.
pub fn compose(config: &Arc<ServerConfig>, content: &[u8]) -> Result<Composed, ComposeError> {
    if content.is_empty() {
        return Err(ComposeError::Empty);
    }
    let refused = |refusal| match refusal {
        ContentRefusal::TooLarge => ComposeError::TooLarge(config.max_message_bytes),
        // Every LF that stands alone has been given its CR.
        ContentRefusal::BareLineEnd => ComposeError::BareCr,
        ContentRefusal::Nul => ComposeError::Nul,
        ContentRefusal::LongLine => ComposeError::LongLine,
        ContentRefusal::LargeHeader => ComposeError::LargeHeader,
        ContentRefusal::Loop => ComposeError::Loop,
        ContentRefusal::Control(name, why) => ComposeError::Control(name, why),
        ContentRefusal::Pressure(_) => unreachable!("only a session is under pressure"),
    };
    // A text that is too long anyway is not copied first.
    let most = usize::try_from(config.max_message_bytes).unwrap_or(usize::MAX);
    let room = content.len().min(most) + content.len() / 32;
    let mut decoder = Decoder::new(Vec::with_capacity(room), config.clone(), true);
    decode(&mut decoder, content);
    let Content { body, header_end, eight_bit, dot_lines, marks } = decoder.finish().map_err(refused)?;
    let Wishes { envelope, extras } =
        marks.into_wishes().map_err(|(name, why)| ComposeError::Control(name.into(), why))?;
    // Only SMTPUTF8 may carry a header with UTF-8 beyond ASCII (RFC 6531 §3.1, RFC 6532 §3.2). Octets above 127 that
    // are no UTF-8 it could not carry either; they go as they came.
    let header = &body[..header_end];
    let smtputf8 = !header.is_ascii() && std::str::from_utf8(header).is_ok();
    Ok(Composed { text: body, flags: ContentFlags { eight_bit, smtputf8, dot_lines }, envelope, extras })
}

impl Composed {
    /// The message as it is stored: our Received header (RFC 5321 §3.7.2, §4.4), then the text.
    #[must_use]
    pub fn body(&self, origin: &Origin<'_>) -> Vec<u8> {
        let mut body = Vec::with_capacity(OWN_HEADER_BYTES + self.text.len());
        let greeted_as = match origin.peer.ip().to_canonical() {
            IpAddr::V4(address) => format!("[{address}]"),
            IpAddr::V6(address) => format!("[IPv6:{address}]"),
        };
        let received = Received {
            greeted_as: &greeted_as,
            peer: origin.peer,
            hostname: origin.hostname,
            protocol: origin.protocol,
            tls: None,
            id: origin.id,
            at: origin.at,
        };
        received.write(&mut body);
        body.extend_from_slice(&self.text);
        body
    }
}

/// Gives the decoder all of the text, in runs as long as its line ends allow, and an end to its last line.
fn decode(decoder: &mut Decoder, content: &[u8]) {
    let mut start = 0;
    for at in memchr::memchr_iter(b'\n', content) {
        if at == 0 || content[at - 1] != b'\r' {
            decoder.chunk(&content[start..at]);
            decoder.chunk(b"\r\n");
            start = at + 1;
        }
        if decoder.refusal().is_some() {
            return;
        }
    }
    decoder.chunk(&content[start..]);
    if !content.ends_with(b"\n") {
        decoder.chunk(b"\r\n");
    }
}
