//! One line of strace's output as the beginning or the end of a call.
//!
//! It knows the form of the lines and nothing of what the calls mean.

use std::collections::HashMap;

/// What a line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The call's name and its arguments, as far as they were known at its beginning and are now.
    pub call: Call,
    /// Whether this line is where it begins.
    pub begins: bool,
    /// What it returned, if this line is where it ends; negative for a failure.
    pub returned: Option<i64>,
    /// What stands beside a descriptor that was returned.
    pub returned_path: Option<String>,
}

/// A call of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// The thread.
    pub thread: u32,
    /// Such as `fdatasync`.
    pub name: String,
    /// What stands between the parentheses.
    pub arguments: String,
}

/// Puts together the calls that other threads interrupted.
#[derive(Default)]
pub struct Reader {
    unfinished: HashMap<u32, Call>,
}

impl Reader {
    /// Reads the next line; `None` for one that is about no call.
    pub fn read(&mut self, line: &str) -> Option<Seen> {
        let (thread, rest) = line.split_once(' ')?;
        let (thread, rest) = (thread.parse().ok()?, rest.trim_start());
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, rest) = resumed.split_once(" resumed>")?;
            let mut call = self.unfinished.remove(&thread)?;
            let (more, returned, returned_path) = ending(rest)?;
            call.arguments.push_str(more);
            return Some(Seen { call, begins: false, returned: Some(returned), returned_path });
        }
        let (name, rest) = rest.split_once('(')?;
        let name = name.to_owned();
        if let Some(arguments) = rest.strip_suffix("<unfinished ...>") {
            let call = Call { thread, name, arguments: arguments.to_owned() };
            self.unfinished.insert(thread, call.clone());
            return Some(Seen { call, begins: true, returned: None, returned_path: None });
        }
        let (arguments, returned, returned_path) = ending(rest)?;
        let call = Call { thread, name, arguments: arguments.to_owned() };
        Some(Seen { call, begins: true, returned: Some(returned), returned_path })
    }
}

/// `…) = 5</path>`: the arguments before it, the number, the path.
fn ending(text: &str) -> Option<(&str, i64, Option<String>)> {
    // What is said of the result may have parentheses of its own.
    let closing = |(at, _)| Some((at, text[at + 1..].trim_start_matches(' ').strip_prefix("= ")?));
    let (at, result) = text.rmatch_indices(')').find_map(closing)?;
    let digits = result.split([' ', '<']).next()?;
    let path = result.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path.to_owned());
    Some((&text[..at], digits.parse().ok()?, path))
}

impl Call {
    /// What the first argument, a descriptor, is: a path, or `TCP:[…]` and the like.
    pub fn place(&self) -> Option<&str> {
        let rest = self.arguments.trim_start_matches(|character: char| character.is_ascii_digit()).strip_prefix('<')?;
        // An address has an arrow in it.
        let end = match rest.find("]>") {
            Some(at) if !rest.starts_with('/') => at + 1,
            _ => rest.find('>')?,
        };
        Some(&rest[..end])
    }

    /// The octets that it hands over: all quoted strings, one after the other.
    pub fn octets(&self) -> Vec<u8> {
        self.strings().concat()
    }

    /// All quoted strings.
    pub fn strings(&self) -> Vec<Vec<u8>> {
        let mut strings = Vec::new();
        // Between a place and the strings there is no quotation mark.
        let mut characters = self.arguments.bytes();
        while let Some(character) = characters.next() {
            if character != b'"' {
                continue;
            }
            let mut octets = Vec::new();
            while let Some(character) = characters.next() {
                match character {
                    b'"' => break,
                    b'\\' => unescape(&mut characters, &mut octets),
                    other => octets.push(other),
                }
            }
            strings.push(octets);
        }
        strings
    }
}

/// What follows a backslash, as in C.
fn unescape(characters: &mut std::str::Bytes<'_>, octets: &mut Vec<u8>) {
    let Some(character) = characters.next() else { return };
    octets.push(match character {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'f' => 0x0c,
        b'0'..=b'7' => {
            let mut value = u32::from(character - b'0');
            for _ in 0..2 {
                match characters.clone().next() {
                    Some(digit @ b'0'..=b'7') => value = value * 8 + u32::from(digit - b'0'),
                    _ => break,
                }
                characters.next();
            }
            value as u8
        }
        other => other,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_and_interrupted_calls_are_read() {
        let mut reader = Reader::default();
        let seen = reader.read("152 pwritev2(6</tmp/a b>, [{iov_base=\"he\\r\\n\\1\\377\\\"q\\\\\", iov_len=9}, {iov_base=\"12\", iov_len=2}], 2, 100, 0) = 11").unwrap();
        assert_eq!((seen.call.place(), seen.begins, seen.returned), (Some("/tmp/a b"), true, Some(11)));
        assert_eq!(seen.call.octets(), b"he\r\n\x01\xff\"q\\12");
        let begun = reader.read("152 fdatasync(6</tmp/x> <unfinished ...>").unwrap();
        assert_eq!((begun.call.place(), begun.begins, begun.returned), (Some("/tmp/x"), true, None));
        let other =
            reader.read("9 sendto(5<TCP:[127.0.0.1:25->127.0.0.1:404]>, \"250 ok\\r\\n\", 8, 0, NULL, 0) = 8").unwrap();
        assert_eq!(
            (other.call.place(), other.call.octets()),
            (Some("TCP:[127.0.0.1:25->127.0.0.1:404]"), b"250 ok\r\n".to_vec())
        );
        let ended =
            reader.read("152 <... fdatasync resumed>)             = -1 EIO (Input/output error) (DELAYED)").unwrap();
        assert_eq!((ended.call.name.as_str(), ended.begins, ended.returned), ("fdatasync", false, Some(-1)));
        let opened = reader.read("7 openat(AT_FDCWD</w>, \"/tmp/s\", O_WRONLY|O_DSYNC, 0777) = 6</tmp/s>").unwrap();
        assert_eq!(opened.returned_path.as_deref(), Some("/tmp/s"));
        assert_eq!(reader.read("7 +++ exited with 0 +++"), None);
    }
}
