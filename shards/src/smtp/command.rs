//! The commands that delivery sends, written straight into the output buffer. Never allocates otherwise, never
//! decides which command is due. Addresses are checked before they come here: [`is_safe_address`].

use super::ehlo::Capabilities;
use crate::message::ContentFlags;

/// Whether `address` can stand in a command without ending it: no control characters, no blank or angle bracket
/// outside a quoted local part.
#[must_use]
pub fn is_safe_address(address: &str) -> bool {
    let mut quoted = false;
    let mut escaped = false;
    for octet in address.bytes() {
        if octet < b' ' || octet == 0x7f {
            return false;
        }
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b' ' | b'<' | b'>' if !quoted => return false,
            _ => {}
        }
    }
    !quoted
}

/// `EHLO name`, RFC 5321 §4.1.1.1.
pub fn ehlo(out: &mut Vec<u8>, name: &str) {
    write(out, &[b"EHLO ", name.as_bytes(), b"\r\n"]);
}

/// `HELO name`, for a peer that refused EHLO.
pub fn helo(out: &mut Vec<u8>, name: &str) {
    write(out, &[b"HELO ", name.as_bytes(), b"\r\n"]);
}

/// `STARTTLS`, RFC 3207.
pub fn starttls(out: &mut Vec<u8>) {
    out.extend_from_slice(b"STARTTLS\r\n");
}

/// `MAIL FROM` with the parameters that the peer offers and the message needs: SIZE (RFC 1870), BODY (RFC 6152),
/// SMTPUTF8 (RFC 6531). `size` is the octets that will be transferred, without stuffed dots and the final dot.
pub fn mail(out: &mut Vec<u8>, sender: &str, size: usize, flags: ContentFlags, peer: &Capabilities) {
    write(out, &[b"MAIL FROM:<", sender.as_bytes(), b">"]);
    if peer.size.is_some() {
        out.extend_from_slice(b" SIZE=");
        number(out, size);
    }
    if flags.eight_bit && peer.eight_bit_mime {
        out.extend_from_slice(b" BODY=8BITMIME");
    }
    if flags.smtputf8 && peer.smtputf8 {
        out.extend_from_slice(b" SMTPUTF8");
    }
    out.extend_from_slice(b"\r\n");
}

/// `RCPT TO`.
pub fn rcpt(out: &mut Vec<u8>, recipient: &str) {
    write(out, &[b"RCPT TO:<", recipient.as_bytes(), b">\r\n"]);
}

/// `DATA`.
pub fn data(out: &mut Vec<u8>) {
    out.extend_from_slice(b"DATA\r\n");
}

/// `BDAT size LAST`, RFC 3030: the whole body as one chunk.
pub fn bdat_last(out: &mut Vec<u8>, size: usize) {
    out.extend_from_slice(b"BDAT ");
    number(out, size);
    out.extend_from_slice(b" LAST\r\n");
}

/// `RSET`.
pub fn rset(out: &mut Vec<u8>) {
    out.extend_from_slice(b"RSET\r\n");
}

/// `QUIT`.
pub fn quit(out: &mut Vec<u8>) {
    out.extend_from_slice(b"QUIT\r\n");
}

fn write(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn number(out: &mut Vec<u8>, mut value: usize) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::{is_safe_address, number};

    #[test]
    fn numbers_are_decimal() {
        for value in [0, 7, 10, 4096, usize::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string().into_bytes());
        }
    }

    #[test]
    fn addresses_cannot_end_their_command() {
        for good in ["", "a@b.example", "\"a b\"@c.example", "\"<>\\\"\"@c.example", "x@[192.0.2.1]", "ü@b.example"] {
            assert!(is_safe_address(good), "{good}");
        }
        for bad in
            ["a@b\r\nDATA", "a@b> SIZE=1", "a b@c", "a\0@b", "\"a@b", "\"a\n\"@b", "\"a\\\"@b", "a\\ b@c", "a\\> X@c"]
        {
            assert!(!is_safe_address(bad), "{bad}");
        }
    }
}
