//! API tokens: 256 random bits as text, kept only as their SHA-256 (enough for what cannot be guessed), each
//! with a name and a scope.

use crate::files::write_private;
use crate::rules::store::{Store, StoreError};
use crate::users::random;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use mailrace_shards::time::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// Begins every token, so that one found in a log or a repository is recognised.
const PREFIX: &str = "mailrace_";

/// Octets of a presented token that are looked at; a longer one is nobody's.
const PRESENTED_BYTES_MAX: usize = 256;

/// What a token may do. Each scope of the order includes those before it, but for `inject`, which only
/// `admin` includes: the program that sends mail and the one that watches it need not trust each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Scope {
    /// Look.
    Read,
    /// Hand in mail.
    Inject,
    /// Look, and change rules, queues and pools.
    Control,
    /// Everything, tokens included.
    Admin,
}

impl Scope {
    /// As stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Inject => "inject",
            Self::Control => "control",
            Self::Admin => "admin",
        }
    }

    /// Whether a token of this scope may do what `needed` names.
    #[must_use]
    pub fn allows(self, needed: Self) -> bool {
        self == needed || self == Self::Admin || (self == Self::Control && needed == Self::Read)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Read, Self::Inject, Self::Control, Self::Admin]
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or(())
    }
}

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Shown in rules and the audit trail.
    pub name: Arc<str>,
    /// What it may do.
    pub scope: Scope,
    /// SHA-256 of its text.
    pub digest: [u8; 32],
    /// When it was made.
    pub created: Timestamp,
}

/// The valid tokens, to be asked for each request without a look at the database.
#[derive(Clone, Debug, Default)]
pub struct TokenSet {
    tokens: Arc<[Token]>,
}

impl TokenSet {
    /// Of the tokens given.
    #[must_use]
    pub fn new(tokens: Vec<Token>) -> Self {
        Self { tokens: tokens.into() }
    }

    /// The token whose text is `presented`. Takes as long for every text: no comparison ends early.
    #[must_use]
    pub fn find(&self, presented: &str) -> Option<&Token> {
        if presented.len() > PRESENTED_BYTES_MAX {
            return None;
        }
        let digest = hash(presented);
        let mut found = u32::MAX;
        for (index, token) in (0..u32::MAX).zip(self.tokens.iter()) {
            found.conditional_assign(&index, token.digest.ct_eq(&digest));
        }
        self.tokens.get(found as usize)
    }

    /// All of them, oldest first.
    #[must_use]
    pub fn list(&self) -> &[Token] {
        &self.tokens
    }
}

/// A new token's text.
#[must_use]
pub fn generate() -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random::<32>()))
}

/// What is kept of a token's text.
#[must_use]
pub fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// A token's name: up to 100 octets that a shell and a log line take as they are.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=100).contains(&name.len());
    let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b));
    if fits && word && !name.starts_with('-') {
        Ok(())
    } else {
        Err(format!("{name:?} is not a token's name; write 1 to 100 of: letters, digits, - _ . @ +"))
    }
}

/// Name of the token that the first start makes.
const FIRST_NAME: &str = "admin";

/// On the first start, an admin token in `data_dir/token`; later, nothing. Returns the file when it was made.
pub fn first_token(store: &mut Store, data_dir: &Path, now: Timestamp) -> Result<Option<PathBuf>, StoreError> {
    if store.had_token(FIRST_NAME)? {
        return Ok(None);
    }
    let path = data_dir.join("token");
    let secret = generate();
    // The file comes first: a crash in between leaves a file that the next start replaces, never a valid
    // token that nobody can read.
    write_private(&path, format!("{secret}\n").as_bytes())
        .map_err(|error| StoreError::Refused(format!("{} cannot be written: {error}", path.display())))?;
    store.add_token(FIRST_NAME, Scope::Admin, &secret, now)?;
    Ok(Some(path))
}

#[cfg(test)]
mod tests {
    use super::Scope::{Admin, Control, Inject, Read};
    use super::{PRESENTED_BYTES_MAX, Timestamp, Token, TokenSet, check_name, generate, hash};

    #[test]
    fn scopes_allow() {
        for (has, allowed) in [
            (Read, &[Read][..]),
            (Inject, &[Inject]),
            (Control, &[Read, Control]),
            (Admin, &[Read, Inject, Control, Admin]),
        ] {
            for needed in [Read, Inject, Control, Admin] {
                assert_eq!(has.allows(needed), allowed.contains(&needed), "{has} for {needed}");
            }
        }
    }

    #[test]
    fn tokens_are_found_by_their_text_alone() {
        let texts: Vec<_> = (0..3).map(|_| generate()).collect();
        let token = |text: &String| Token {
            name: text.as_str().into(),
            scope: Read,
            digest: hash(text),
            created: Timestamp(0),
        };
        let set = TokenSet::new(texts.iter().map(token).collect());
        for text in &texts {
            assert_eq!(text.len(), "mailrace_".len() + 43);
            assert_eq!(set.find(text).map(|token| &*token.name), Some(text.as_str()));
            assert!(set.find(&text[1..]).is_none() && set.find(&text.to_uppercase()).is_none());
        }
        assert!(set.find("").is_none() && set.find(&"x".repeat(PRESENTED_BYTES_MAX + 1)).is_none());
        assert!(TokenSet::default().find(&texts[0]).is_none());
    }

    #[test]
    fn names() {
        for name in ["admin", "ci-1", "anna@example.net"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "-x", "a b", "a\n", "é", &"x".repeat(101)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
