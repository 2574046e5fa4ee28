//! What is wrong in a configuration file, and where. Collects; never decides what is right.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Problems reported of one file; further ones are left out.
pub const PROBLEMS_MAX: usize = 1000;

/// One thing that is wrong, at a place of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// Line and column, both from 1, the column in characters; `None` when the problem is the file itself.
    pub position: Option<(usize, usize)>,
    /// The key as the operator would name it (`smtp.listen`, `limit[2].tls`); empty for broken syntax.
    pub key: String,
    /// What is wrong and what is allowed.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// Every problem of one file, gathered while it is read. Readers share it, hence the cell; it lives on one
/// thread for one load.
#[derive(Debug)]
pub struct Problems<'a> {
    file: &'a Path,
    text: &'a str,
    found: RefCell<Vec<Found>>,
}

#[derive(Debug)]
struct Found {
    offset: usize,
    key: String,
    text: String,
}

impl<'a> Problems<'a> {
    /// None yet, of `file` whose content is `text`.
    pub fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text, found: RefCell::new(Vec::new()) }
    }

    /// Notes one at the octets `span` of the file.
    pub fn add(&self, span: &Range<usize>, key: &str, text: impl Into<String>) {
        let mut found = self.found.borrow_mut();
        if found.len() < PROBLEMS_MAX {
            found.push(Found { offset: span.start, key: key.to_owned(), text: text.into() });
        }
    }

    /// How many so far.
    pub fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// All of them in the file's order.
    pub fn into_list(self) -> Vec<Problem> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|problem| problem.offset);
        found
            .into_iter()
            .map(|problem| Problem {
                file: self.file.to_owned(),
                position: Some(position(self.text, problem.offset)),
                key: problem.key,
                text: problem.text,
            })
            .collect()
    }
}

/// Line and column, both from 1, of an octet offset; an offset past the end is the end.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::position;

    #[test]
    fn positions_count_characters() {
        for (text, offset, expected) in [
            ("", 0, (1, 1)),
            ("ab\ncd", 3, (2, 1)),
            ("é = 1", 3, (1, 3)),
            ("é", 1, (1, 1)),
            ("a\r\nb", 3, (2, 1)),
            ("a\n", 99, (2, 1)),
        ] {
            assert_eq!(position(text, offset), expected, "{text:?} at {offset}");
        }
    }
}
