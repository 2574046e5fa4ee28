//! The header field by which the sink recognises each generated message: `X-Perf-Id: run/number/sent-time`.
//!
//! All three fields have a fixed width, so that the generator patches them in place.
//! It must never depend on anything that a mail server may rewrite (Message-ID, Date, Received).

use memchr::memmem::Finder;

/// Name and colon, as the generator writes them. Mail servers pass unknown fields on unchanged (RFC 5321 §4.4 and §6.4).
pub const NAME: &str = "X-Perf-Id: ";

/// Octets of the value: eight hexadecimal digits, ten and twenty decimal ones, two slashes.
pub const VALUE_OCTETS: usize = 8 + 1 + 10 + 1 + 20;

/// The identity of one generated message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Which measurement it belongs to; others (the warm-up) are not counted in it.
    pub run: u32,
    /// Its number within the run, from zero.
    pub number: u32,
    /// When its end of data was handed to the kernel, [`crate::clock::now_ns`].
    pub sent_ns: u64,
}

impl Marker {
    /// Writes the value, exactly [`VALUE_OCTETS`] long, over `place`.
    pub fn write(self, place: &mut [u8]) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for (index, octet) in place[..8].iter_mut().enumerate() {
            *octet = HEX[(self.run >> (28 - 4 * index) & 15) as usize];
        }
        place[8] = b'/';
        write_decimal(u64::from(self.number), &mut place[9..19]);
        place[19] = b'/';
        write_decimal(self.sent_ns, &mut place[20..40]);
    }

    /// Parses a value as [`Marker::write`] makes it; `None` for anything else.
    fn parse(value: &[u8]) -> Option<Marker> {
        let text = std::str::from_utf8(value.get(..VALUE_OCTETS)?).ok()?;
        let mut parts = text.splitn(3, '/');
        Some(Marker {
            run: u32::from_str_radix(parts.next()?, 16).ok()?,
            number: parts.next()?.parse().ok()?,
            sent_ns: parts.next()?.parse().ok()?,
        })
    }
}

fn write_decimal(mut value: u64, place: &mut [u8]) {
    for octet in place.iter_mut().rev() {
        *octet = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// A prepared search for markers.
pub struct MarkerFinder(Finder<'static>);

impl MarkerFinder {
    /// Prepares the search once; it is used for every message.
    pub fn new() -> MarkerFinder {
        MarkerFinder(Finder::new(NAME.as_bytes()))
    }

    /// The first marker in `text`, if there is a whole one.
    pub fn find(&self, text: &[u8]) -> Option<Marker> {
        let start = self.0.find(text)? + NAME.len();
        Marker::parse(&text[start..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_writing_and_reading() {
        for marker in [
            Marker { run: 0, number: 0, sent_ns: 0 },
            Marker { run: u32::MAX, number: u32::MAX, sent_ns: u64::MAX },
            Marker { run: 0x00c0_ffee, number: 12_345, sent_ns: 987_654_321_012 },
        ] {
            let mut text = b"Received: from x\r\nX-Perf-Id: ".to_vec();
            let start = text.len();
            text.resize(start + VALUE_OCTETS, b' ');
            marker.write(&mut text[start..]);
            text.extend_from_slice(b"\r\n\r\nbody");
            assert_eq!(MarkerFinder::new().find(&text), Some(marker));
        }
    }

    #[test]
    fn what_is_no_marker_is_not_taken_for_one() {
        let finder = MarkerFinder::new();
        for text in
            ["", "X-Perf-Id: ", "X-Perf-Id: 0000/1/2\r\n", "x-perf-id: 00000000/0000000000/00000000000000000000"]
        {
            assert_eq!(finder.find(text.as_bytes()), None, "{text:?}");
        }
    }
}
