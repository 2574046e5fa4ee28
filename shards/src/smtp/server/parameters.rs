//! The parameters of MAIL and RCPT (RFC 5321 §4.1.2 `Mail-parameters`). What was not offered is refused by
//! name: a wish that is silently dropped is worse than an error (DSN, RFC 3461, is not offered).

/// What MAIL asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MailParameters {
    /// SIZE, RFC 1870; 0 when not given.
    pub(super) size: u64,
    /// SMTPUTF8, RFC 6531.
    pub(super) smtputf8: bool,
}

/// Which parameter is wrong, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ParameterError {
    /// Not offered: 555.
    Unsupported(String),
    /// Offered, but not like that: 501.
    Malformed(String),
}

/// Parses what follows the path of MAIL. AUTH= (RFC 4954 §5) is taken when AUTH is offered; its value is not
/// used, because the next hop is never told it.
pub(super) fn mail(text: &[u8], auth_offered: bool) -> Result<MailParameters, ParameterError> {
    let mut parameters = MailParameters::default();
    let mut seen = 0_u8;
    for word in words(text) {
        let (name, value) = split(word);
        let mut once = |bit: u8, right: bool| {
            let again = seen & bit != 0;
            seen |= bit;
            if right && !again { Ok(()) } else { Err(ParameterError::Malformed(printable(name))) }
        };
        if name.eq_ignore_ascii_case(b"SIZE") {
            let size = value.and_then(number);
            once(1, size.is_some())?;
            parameters.size = size.unwrap_or(0);
        } else if name.eq_ignore_ascii_case(b"BODY") {
            let known = |v: &[u8]| v.eq_ignore_ascii_case(b"7BIT") || v.eq_ignore_ascii_case(b"8BITMIME");
            once(2, value.is_some_and(known))?;
        } else if name.eq_ignore_ascii_case(b"SMTPUTF8") {
            once(4, value.is_none())?;
            parameters.smtputf8 = true;
        } else if auth_offered && name.eq_ignore_ascii_case(b"AUTH") {
            once(8, value.is_some())?;
        } else {
            return Err(ParameterError::Unsupported(printable(name)));
        }
    }
    Ok(parameters)
}

/// RCPT has no parameters here; the first one is refused.
pub(super) fn rcpt(text: &[u8]) -> Result<(), ParameterError> {
    match words(text).next() {
        None => Ok(()),
        Some(word) => Err(ParameterError::Unsupported(printable(split(word).0))),
    }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|octet| matches!(octet, b' ' | b'\t')).filter(|word| !word.is_empty())
}

fn split(word: &[u8]) -> (&[u8], Option<&[u8]>) {
    match word.iter().position(|&octet| octet == b'=') {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    }
}

/// Up to 20 digits (RFC 1870 §3); more than 64 bits hold counts as the greatest number, which is refused as
/// too large.
fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// The name as it may stand in a reply: short, letters, digits and hyphens only, upper case.
fn printable(name: &[u8]) -> String {
    let plain = |octet: &u8| if octet.is_ascii_alphanumeric() || *octet == b'-' { char::from(*octet) } else { '?' };
    name.iter().take(32).map(plain).collect::<String>().to_ascii_uppercase()
}
