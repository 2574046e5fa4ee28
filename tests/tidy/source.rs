//! One source file as the style gate sees it: its text, the same text with comments and literals blanked out
//! (offsets unchanged), and what can be found in that by matching names and braces. It is no parser: it reads
//! code that `rustfmt` has laid out and `rustc` has accepted.

use std::ops::Range;

pub struct Source {
    /// From the root of the repository, with slashes.
    pub path: String,
    pub text: String,
    /// The text with the contents of comments, strings and character literals replaced by spaces.
    pub code: String,
    /// Parts compiled for tests only.
    tests: Vec<Range<usize>>,
    /// Bodies of modules written inside the file.
    inline_modules: Vec<Range<usize>>,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    pub at: usize,
    pub lines: usize,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let mut source =
            Self { path: path.to_owned(), text: text.to_owned(), code, tests: Vec::new(), inline_modules: Vec::new() };
        source.tests = source.find_tests();
        source.inline_modules = source.find_inline_modules();
        source
    }

    pub fn line(&self, at: usize) -> usize {
        1 + self.text.as_bytes()[..at].iter().filter(|octet| **octet == b'\n').count()
    }

    /// Whether the place is compiled for tests only, as far as this file tells.
    pub fn in_tests(&self, at: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&at))
    }

    /// Names of modules in files of their own that are compiled for tests only.
    pub fn test_modules(&self) -> Vec<&str> {
        find_all(&self.code, "#[cfg(test)]")
            .filter_map(|at| {
                let item = self.code[at..].split_once("mod ")?;
                let name = leading_name(item.1);
                let only_attributes = !item.0.contains(['{', ';', '}']);
                (only_attributes && item.1[name.len()..].starts_with(';')).then_some(name)
            })
            .collect()
    }

    /// The module path of a place: directories and file name below `src`, then modules inside the file.
    pub fn module_depth(&self, at: usize) -> usize {
        self.inline_modules.iter().filter(|range| range.contains(&at)).count()
    }

    /// Every path of two or more segments and every crate imported whole, trees of `use` written out.
    pub fn paths(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let octets = self.code.as_bytes();
        let mut at = 0;
        while at < octets.len() {
            let name = leading_name(&self.code[at..]);
            if name.is_empty() {
                at += self.code[at..].chars().next().map_or(1, char::len_utf8);
                continue;
            }
            let imported = ["use ", "extern crate "].iter().any(|word| self.code[..at].ends_with(word));
            let mut tree = Tree { code: &self.code, at, found: Vec::new() };
            tree.read(String::new());
            let several = self.code[at + name.len()..].starts_with("::");
            if several || imported {
                found.extend(tree.found.into_iter().map(|path| (at, path)));
                at = tree.at.max(at + name.len());
            } else {
                at += name.len();
            }
        }
        found
    }

    /// Every function that has a body.
    pub fn functions(&self) -> Vec<Function> {
        find_words(&self.code, "fn")
            .filter_map(|at| {
                let rest = self.code[at + 2..].trim_start();
                let name = leading_name(rest);
                let open = self.body(at)?;
                let close = closing(&self.code, open)?;
                let lines = self.line(close) - self.line(at) + 1;
                (!name.is_empty()).then(|| Function { name: name.to_owned(), at, lines })
            })
            .collect()
    }

    /// The brace that opens the body of the function at this place.
    fn body(&self, at: usize) -> Option<usize> {
        let mut depth = 0_usize;
        for (offset, octet) in self.code.bytes().enumerate().skip(at) {
            match octet {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth = depth.checked_sub(1)?,
                b'{' if depth == 0 => return Some(offset),
                b';' | b'}' if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }

    fn find_tests(&self) -> Vec<Range<usize>> {
        find_all(&self.code, "#[cfg(test)]")
            .filter_map(|at| {
                let stop = at + self.code[at..].find(['{', ';'])?;
                let end = if self.code.as_bytes()[stop] == b'{' { closing(&self.code, stop)? } else { stop };
                Some(at..end)
            })
            .collect()
    }

    fn find_inline_modules(&self) -> Vec<Range<usize>> {
        find_words(&self.code, "mod")
            .filter_map(|at| {
                let rest = self.code[at + 3..].trim_start();
                let name = leading_name(rest);
                let open = self.code.len() - rest.len() + name.len();
                let open = open + self.code[open..].find(|c: char| !c.is_whitespace())?;
                (self.code.as_bytes()[open] == b'{').then(|| closing(&self.code, open).map(|end| open..end))?
            })
            .collect()
    }
}

/// Reads one path or tree of `use`.
struct Tree<'a> {
    code: &'a str,
    at: usize,
    found: Vec<String>,
}

impl Tree<'_> {
    fn read(&mut self, mut path: String) {
        loop {
            self.skip_space();
            let name = leading_name(&self.code[self.at..]);
            if name.is_empty() {
                if self.eat("{") {
                    self.read_list(&path);
                } else {
                    self.found.push(path);
                }
                return;
            }
            if !path.is_empty() {
                path.push_str("::");
            }
            path.push_str(name);
            self.at += name.len();
            if !self.eat("::") {
                self.found.push(path);
                return;
            }
        }
    }

    fn read_list(&mut self, prefix: &str) {
        loop {
            self.skip_space();
            if self.eat("}") || self.at == self.code.len() {
                return;
            }
            let before = self.at;
            self.read(prefix.to_owned());
            // What stands between a member and the comma (`as name`, `*`) names nothing that is looked for.
            let rest = &self.code[self.at..];
            self.at += rest.find([',', '}']).unwrap_or(rest.len());
            self.eat(",");
            assert!(self.at > before, "each round reads something");
        }
    }

    fn eat(&mut self, what: &str) -> bool {
        let is = self.code[self.at..].starts_with(what);
        if is {
            self.at += what.len();
        }
        is
    }

    fn skip_space(&mut self) {
        let rest = &self.code[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }
}

fn is_of_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn leading_name(code: &str) -> &str {
    &code[..code.find(|c| !is_of_name(c)).unwrap_or(code.len())]
}

fn find_all<'a>(code: &'a str, what: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(what).map(|(at, _)| at)
}

/// Places of a whole word.
pub fn find_words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    find_all(code, word)
        .filter(move |at| !code[..*at].ends_with(is_of_name) && !code[at + word.len()..].starts_with(is_of_name))
}

/// The brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, octet) in code.bytes().enumerate().skip(open) {
        match octet {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Replaces comments and the contents of literals by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let octets = text.as_bytes();
    let mut out = octets.to_vec();
    let mut at = 0;
    while at < octets.len() {
        let end = literal_end(text, at);
        for octet in &mut out[at..end] {
            if *octet != b'\n' {
                *octet = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole characters were replaced by spaces")
}

/// Where the comment or literal that begins here ends; `at` itself when none begins here.
fn literal_end(text: &str, at: usize) -> usize {
    let octets = text.as_bytes();
    let rest = &octets[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|octet| *octet == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(octets, at);
    }
    let starts_word = at == 0 || !is_of_name(char::from(octets[at - 1]));
    let prefix = ["r", "br", "cr"].iter().find(|prefix| starts_word && rest.starts_with(prefix.as_bytes()));
    if let Some(prefix) = prefix {
        let hashes = rest[prefix.len()..].iter().take_while(|octet| **octet == b'#').count();
        if rest.get(prefix.len() + hashes) == Some(&b'"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let from = at + prefix.len() + hashes + 1;
            return text[from..].find(&close).map_or(text.len(), |found| from + found + close.len());
        }
    }
    match rest[0] {
        b'"' => quoted_end(octets, at, b'"'),
        b'\'' if rest.get(1) == Some(&b'\\') => quoted_end(octets, at, b'\''),
        b'\'' => {
            // A lifetime has no second quote after its first character.
            let width = text[at + 1..].chars().next().map_or(0, char::len_utf8);
            if rest.get(1 + width) == Some(&b'\'') { at + width + 2 } else { at }
        }
        _ => at,
    }
}

fn quoted_end(octets: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < octets.len() && octets[at] != quote {
        at += if octets[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(octets.len())
}

fn block_comment_end(octets: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at < octets.len() {
        if octets[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if octets[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    octets.len()
}
