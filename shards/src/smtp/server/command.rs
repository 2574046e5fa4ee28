//! One command line, parsed in place (RFC 5321 §4.1.1). Knows the syntax of commands, not their order.

/// A command whose syntax is right as far as its verb goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command<'a> {
    /// Name or literal.
    Ehlo(&'a [u8]),
    /// Name.
    Helo(&'a [u8]),
    /// What follows `FROM:`.
    Mail(&'a [u8]),
    /// What follows `TO:`.
    Rcpt(&'a [u8]),
    Data,
    Bdat {
        octets: u64,
        last: bool,
    },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    StartTls,
    Auth {
        mechanism: &'a [u8],
        initial: Option<&'a [u8]>,
    },
    /// HTTP, sent to this port by a browser or a proxy.
    Http,
}

/// What is wrong with a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommandError {
    /// No such verb.
    Unknown,
    /// Control characters, which no command holds.
    Control,
    /// Right verb, wrong arguments; the text shows the right ones.
    Syntax(&'static str),
    /// BDAT without a usable length: what follows cannot be told from commands.
    ChunkLength,
}

/// Parses `line`, which has no line end.
pub(super) fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    if line.iter().any(|&octet| octet < b' ' && octet != b'\t' || octet == 0x7f) {
        return Err(CommandError::Control);
    }
    let line = line.trim_ascii_end();
    let (verb, arguments) = split_word(line);
    let mut upper = [0_u8; 8];
    let Some(upper) = upper.get_mut(..verb.len()) else { return unknown(verb) };
    upper.copy_from_slice(verb);
    upper.make_ascii_uppercase();
    match &*upper {
        b"MAIL" => path(arguments, b"FROM:").map(Command::Mail).ok_or(CommandError::Syntax("MAIL FROM:<address>")),
        b"RCPT" => path(arguments, b"TO:").map(Command::Rcpt).ok_or(CommandError::Syntax("RCPT TO:<address>")),
        b"DATA" => bare(arguments, Command::Data, "DATA"),
        b"BDAT" => chunk(arguments),
        b"EHLO" if !arguments.is_empty() => Ok(Command::Ehlo(arguments)),
        b"EHLO" => Err(CommandError::Syntax("EHLO name")),
        b"HELO" if !arguments.is_empty() => Ok(Command::Helo(arguments)),
        b"HELO" => Err(CommandError::Syntax("HELO name")),
        b"RSET" => bare(arguments, Command::Rset, "RSET"),
        b"NOOP" => Ok(Command::Noop),
        b"QUIT" => bare(arguments, Command::Quit, "QUIT"),
        b"STARTTLS" => bare(arguments, Command::StartTls, "STARTTLS"),
        b"AUTH" => auth(arguments),
        b"VRFY" => Ok(Command::Vrfy),
        b"EXPN" => Ok(Command::Expn),
        b"HELP" => Ok(Command::Help),
        _ => unknown(verb),
    }
}

/// Whether `line` begins with the verb AUTH, whose lines may be longer (RFC 4954 §4).
pub(super) fn is_auth(line: &[u8]) -> bool {
    line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"AUTH "))
}

fn unknown(verb: &[u8]) -> Result<Command<'_>, CommandError> {
    // A web page can make a browser that sits within `relay_from` post lines that look like commands.
    // Its first line gives it away.
    const HTTP: [&[u8]; 9] = [b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"PATCH", b"PRI"];
    if HTTP.contains(&verb) { Ok(Command::Http) } else { Err(CommandError::Unknown) }
}

/// First word, and what follows the blanks behind it.
fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|octet| matches!(octet, b' ' | b'\t')).unwrap_or(text.len());
    (&text[..end], text[end..].trim_ascii_start())
}

fn bare<'a>(arguments: &[u8], command: Command<'a>, usage: &'static str) -> Result<Command<'a>, CommandError> {
    if arguments.is_empty() { Ok(command) } else { Err(CommandError::Syntax(usage)) }
}

/// What follows the keyword. Blanks behind the colon are wrong by RFC 5321 §3.3, common, and harmless.
fn path<'a>(arguments: &'a [u8], keyword: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = arguments.split_at_checked(keyword.len())?;
    start.eq_ignore_ascii_case(keyword).then(|| rest.trim_ascii_start())
}

/// `BDAT octets [LAST]`, RFC 3030 §2.
fn chunk(arguments: &[u8]) -> Result<Command<'_>, CommandError> {
    let (number, rest) = split_word(arguments);
    let last = match rest {
        [] => false,
        word if word.eq_ignore_ascii_case(b"LAST") => true,
        _ => return Err(CommandError::ChunkLength),
    };
    if number.is_empty() || number.len() > 18 || !number.iter().all(u8::is_ascii_digit) {
        return Err(CommandError::ChunkLength);
    }
    let octets = number.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(Command::Bdat { octets, last })
}

fn auth(arguments: &[u8]) -> Result<Command<'_>, CommandError> {
    let (mechanism, initial) = split_word(arguments);
    if mechanism.is_empty() || initial.contains(&b' ') {
        return Err(CommandError::Syntax("AUTH mechanism [initial-response]"));
    }
    Ok(Command::Auth { mechanism, initial: (!initial.is_empty()).then_some(initial) })
}

#[cfg(test)]
mod tests {
    use super::{Command, parse};

    /// How many octets are no command must never be guessed: what follows would be read as commands.
    #[test]
    fn a_chunk_says_how_many_octets_and_nothing_else() {
        let chunk = |line: &[u8]| match parse(line) {
            Ok(Command::Bdat { octets, last }) => Some((octets, last)),
            _ => None,
        };
        assert_eq!(chunk(b"BDAT 86"), Some((86, false)));
        assert_eq!(chunk(b"bdat 0 last"), Some((0, true)));
        assert_eq!(chunk(b"BDAT 999999999999999999 LAST"), Some((999_999_999_999_999_999, true)));
        for bad in ["", " LAST", " x", " -1", " 1x", " 5 FIRST", " 5 LAST LAST", " 1000000000000000000", " 5,5"] {
            assert_eq!(chunk(format!("BDAT{bad}").as_bytes()), None, "BDAT{bad}");
        }
    }
}
