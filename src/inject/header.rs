//! Recipients in the header of a message (RFC 5322 §3.4, §3.6.3): finding, and removing Bcc. Reads no more of
//! the grammar than tells where an address begins and ends.

/// Octets of an address (RFC 5321 §4.5.3.1: local part 64, `@`, domain 255).
const ADDRESS_BYTES_MAX: usize = 320;

/// Depth of comments within comments.
const COMMENT_DEPTH_MAX: u32 = 32;

/// The addresses of To, Cc and Bcc; the Bcc fields are cut out of `message`.
pub fn take_recipients(message: &mut Vec<u8>) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let mut hidden = Vec::new();
    for field in fields(message) {
        let text = &message[field.clone()];
        let Some(colon) = text.iter().position(|octet| *octet == b':') else { continue };
        let name = String::from_utf8_lossy(&text[..colon]).trim_end().to_ascii_lowercase();
        if !["to", "cc", "bcc"].contains(&name.as_str()) {
            continue;
        }
        let body = std::str::from_utf8(&text[colon + 1..]).map_err(|_| format!("the {name} field is not UTF-8"))?;
        found.extend(addresses(body).map_err(|error| format!("the {name} field: {error}"))?);
        if name == "bcc" {
            hidden.push(field);
        }
    }
    for field in hidden.into_iter().rev() {
        message.drain(field);
    }
    Ok(found)
}

/// The header's fields, each with its folded lines and line ends.
fn fields(message: &[u8]) -> Vec<std::ops::Range<usize>> {
    let mut fields: Vec<std::ops::Range<usize>> = Vec::new();
    let mut at = 0;
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        let end = at + line.len();
        match line.first() {
            Some(b' ' | b'\t') => {
                if let Some(field) = fields.last_mut() {
                    field.end = end;
                }
            }
            Some(b'\r' | b'\n') => break,
            _ => fields.push(at..end),
        }
        at = end;
    }
    fields
}

/// Where the reader stands within an address list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Phrase, or an address without brackets.
    Plain,
    /// Within `"…"`, and whether within `<…>` too.
    Quoted { bracketed: bool },
    /// Within `<…>`.
    Bracketed,
    /// Past `>`: only space, comments and a separator may follow.
    After,
}

/// The addresses of an address list, without names, comments and brackets. Groups are opened, empty places
/// between commas are allowed.
pub fn addresses(list: &str) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    let (mut plain, mut bracketed) = (String::new(), None::<String>);
    let mut state = State::Plain;
    let mut depth = 0_u32;
    let mut characters = list.chars();
    while let Some(character) = characters.next() {
        if depth > 0 {
            match character {
                '(' => depth += 1,
                ')' => depth -= 1,
                '\\' => drop(characters.next()),
                _ => {}
            }
            if depth > COMMENT_DEPTH_MAX {
                return Err("comments are nested too deeply".to_owned());
            }
            continue;
        }
        let current = if let Some(text) = &mut bracketed { text } else { &mut plain };
        match (state, character) {
            (State::Quoted { .. }, '\\') => {
                current.push('\\');
                current.extend(characters.next());
            }
            (State::Quoted { bracketed }, '"') => {
                current.push('"');
                state = if bracketed { State::Bracketed } else { State::Plain };
            }
            (State::Quoted { .. }, _) => current.push(character),
            (_, '(') => depth = 1,
            (State::Plain | State::Bracketed, '"') => {
                current.push('"');
                state = State::Quoted { bracketed: state == State::Bracketed };
            }
            (State::Plain, '<') => {
                bracketed = Some(String::new());
                state = State::Bracketed;
            }
            (State::Bracketed, '>') => state = State::After,
            (State::Plain | State::After, ',' | ';') => {
                found.extend(finish(&mut plain, &mut bracketed)?);
                state = State::Plain;
            }
            // What stood before the colon was a group's name; a colon in `[IPv6:…]` belongs to the literal.
            (State::Plain, ':') if !current.contains('@') => plain.clear(),
            (State::After | State::Bracketed, _) if character.is_whitespace() => {}
            (State::After, _) => return Err(format!("{character:?} follows \">\"")),
            _ => current.push(character),
        }
    }
    if !matches!(state, State::Plain | State::After) || depth > 0 {
        return Err("a bracket, quote or comment is not closed".to_owned());
    }
    found.extend(finish(&mut plain, &mut bracketed)?);
    Ok(found)
}

fn finish(plain: &mut String, bracketed: &mut Option<String>) -> Result<Option<String>, String> {
    let plain = std::mem::take(plain);
    let address = match bracketed.take() {
        Some(address) => address,
        None if plain.trim().is_empty() => return Ok(None),
        None => plain.trim().to_owned(),
    };
    check(&address)?;
    Ok(Some(address))
}

/// Whether `address` can stand in MAIL or RCPT. What it means is the server's question.
fn check(address: &str) -> Result<(), String> {
    if address.len() > ADDRESS_BYTES_MAX {
        return Err(format!("an address is longer than {ADDRESS_BYTES_MAX} octets"));
    }
    let Some((local, domain)) = address.rsplit_once('@') else {
        return Err(format!("{address:?} has no domain"));
    };
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    // Controls and brackets would let an address end its command and begin another.
    let breaks = |c: char| c.is_control() || c == '<' || c == '>';
    let bad_local = local.is_empty()
        || local.contains(char::is_control)
        || (!quoted && local.contains(|c: char| breaks(c) || c == ' '));
    if bad_local || domain.is_empty() || domain.contains(|c: char| breaks(c) || c == ' ' || c == '"') {
        return Err(format!("{address:?} is not an address"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{addresses, take_recipients};

    #[test]
    fn address_lists() {
        for (list, expected) in [
            ("a@b.example", "a@b.example"),
            ("<a@b.example>", "a@b.example"),
            (" Anna B <a@b.example> , c@d.example,\r\n\te@f.example", "a@b.example c@d.example e@f.example"),
            ("\"B, Anna <x>\" <a@b.example>", "a@b.example"),
            ("a@b.example (Anna (the first), and \\) more), c@d.example", "a@b.example c@d.example"),
            ("friends: a@b.example, Ben <c@d.example>; e@f.example", "a@b.example c@d.example e@f.example"),
            ("undisclosed recipients:;", ""),
            (",, a@b.example,", "a@b.example"),
            ("\"two words\"@b.example", "\"two words\"@b.example"),
            ("<\"a>b\"@c.example>", "\"a>b\"@c.example"),
            ("a@[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]"),
            ("jörg@bücher.example", "jörg@bücher.example"),
            ("", ""),
            ("root", "! \"root\" has no domain"),
            ("<>", "! \"\" has no domain"),
            ("a b@c.example", "! \"a b@c.example\" is not an address"),
            ("<a@b.example", "! a bracket, quote or comment is not closed"),
            ("\"a@b.example", "! a bracket, quote or comment is not closed"),
            ("a@b.example (x", "! a bracket, quote or comment is not closed"),
            ("<a@b.example> x", "! 'x' follows \">\""),
            ("<a@b.example> <c@d.example>", "! '<' follows \">\""),
            ("a@b.example>", "! \"a@b.example>\" is not an address"),
            ("\"a\r\nRCPT TO:x\"@b.example", "! \"\\\"a\\r\\nRCPT TO:x\\\"@b.example\" is not an address"),
            ("@b.example", "! \"@b.example\" is not an address"),
            ("a@", "! \"a@\" is not an address"),
        ] {
            let got = addresses(list).map_or_else(|error| format!("! {error}"), |found| found.join(" "));
            assert_eq!(got, expected, "{list:?}");
        }
        assert!(addresses(&"(".repeat(100)).is_err());
        assert!(addresses(&format!("{}@b.example", "a".repeat(400))).is_err());
    }

    #[test]
    fn bcc_is_taken_out() {
        for (message, expected, left) in [
            (
                "Subject: x\nTo: a@b.example,\n c@d.example\nBCC: e@f.example,\n\tg@h.example\nX: y\n\nBcc: not@a.field\n",
                "a@b.example c@d.example e@f.example g@h.example",
                "Subject: x\nTo: a@b.example,\n c@d.example\nX: y\n\nBcc: not@a.field\n",
            ),
            ("Bcc: a@b.example\r\nCc : c@d.example\r\n\r\n", "a@b.example c@d.example", "Cc : c@d.example\r\n\r\n"),
            ("Bcc: a@b.example\nBcc: c@d.example\n\nx", "a@b.example c@d.example", "\nx"),
            ("Resent-To: a@b.example\n\nx", "", "Resent-To: a@b.example\n\nx"),
            ("\nTo: a@b.example\n", "", "\nTo: a@b.example\n"),
            ("", "", ""),
        ] {
            let mut octets = message.as_bytes().to_vec();
            assert_eq!(take_recipients(&mut octets).unwrap().join(" "), expected, "{message:?}");
            assert_eq!(octets, left.as_bytes(), "{message:?}");
        }
    }
}
