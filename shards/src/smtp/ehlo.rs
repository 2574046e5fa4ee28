//! What a server offers in its reply to EHLO, RFC 5321 §4.1.1.1. Unknown keywords are skipped; nothing is decided.

use super::reply::Reply;

/// Extensions that delivery uses. All absent after HELO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// PIPELINING, RFC 2920.
    pub pipelining: bool,
    /// CHUNKING, RFC 3030.
    pub chunking: bool,
    /// STARTTLS, RFC 3207.
    pub starttls: bool,
    /// 8BITMIME, RFC 6152.
    pub eight_bit_mime: bool,
    /// SMTPUTF8, RFC 6531.
    pub smtputf8: bool,
    /// ENHANCEDSTATUSCODES, RFC 2034.
    pub enhanced_status_codes: bool,
    /// SIZE, RFC 1870: largest message in octets; `Some(0)` when offered without a bound.
    pub size: Option<u64>,
    /// The conversation runs over TLS.
    pub secure: bool,
}

impl Capabilities {
    /// Reads the lines after the first of a positive reply to EHLO. `secure`: the reply came over TLS.
    #[must_use]
    pub fn parse(reply: &Reply<'_>, secure: bool) -> Self {
        let mut offers = Self { secure, ..Self::default() };
        for line in reply.lines().skip(1) {
            let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            let is = |name: &str| keyword.eq_ignore_ascii_case(name.as_bytes());
            if is("PIPELINING") {
                offers.pipelining = true;
            } else if is("CHUNKING") {
                offers.chunking = true;
            } else if is("STARTTLS") {
                offers.starttls = true;
            } else if is("8BITMIME") {
                offers.eight_bit_mime = true;
            } else if is("SMTPUTF8") {
                offers.smtputf8 = true;
            } else if is("ENHANCEDSTATUSCODES") {
                offers.enhanced_status_codes = true;
            } else if is("SIZE") {
                let bound = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
                offers.size = Some(bound.unwrap_or(0));
            }
        }
        offers
    }

    /// Whether a message of `octets` is over the bound that the server advertised.
    #[must_use]
    pub fn is_too_large(&self, octets: usize) -> bool {
        self.size.is_some_and(|bound| bound != 0 && octets as u64 > bound)
    }
}
