//! Who may inject with AUTH: the users file, `name:argon2-hash` a line. Knows nothing of SMTP or SASL.

use crate::files::read_bounded;
use argon2::password_hash::{PasswordHash, PasswordHashString, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Argon2, Params};
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Octets of a users file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Problems reported of one file.
const PROBLEMS_MAX: usize = 100;

/// Octets of a name or a secret; longer ones are nobody's.
const CREDENTIAL_BYTES_MAX: usize = 1024;

/// KiB of memory, passes, and their product that a hash may ask for: each verification costs them, and the
/// one who decides how often is the peer.
const HASH_MEMORY_KIB_MAX: u32 = 256 << 10;
const HASH_PASSES_MAX: u32 = 64;

/// Successful verifications remembered; all are forgotten when it is full.
const VERIFIED_MAX: usize = 4096;

/// The users of one reading of the file. Shared by reference between the threads that verify; a reload makes
/// a new one, which has forgotten every earlier success.
#[derive(Debug)]
pub struct Users {
    hashes: HashMap<Box<str>, PasswordHashString>,
    /// Verified in the place of an unknown name, so that time does not tell which names exist.
    decoy: Option<PasswordHashString>,
    /// Digests, under a key of this process, of name and secret that were right.
    verified: Mutex<HashSet<[u8; 32]>>,
    key: [u8; 32],
}

impl Default for Users {
    /// Nobody.
    fn default() -> Self {
        Self { hashes: HashMap::new(), decoy: None, verified: Mutex::default(), key: random() }
    }
}

impl Users {
    /// Reads `path`; every bad line is named with its number.
    pub fn load(path: &Path) -> Result<Self, Vec<String>> {
        let shown = path.display();
        let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|error| vec![error])?;
        let text = String::from_utf8(bytes).map_err(|_| vec![format!("{shown} is not UTF-8 text")])?;
        Self::parse(&text)
            .map_err(|errors| errors.into_iter().map(|(line, text)| format!("{shown}:{line}: {text}")).collect())
    }

    /// Reads the file's text; problems with their line numbers from 1. Empty lines and lines that begin with
    /// `#` say nothing.
    pub fn parse(text: &str) -> Result<Self, Vec<(usize, String)>> {
        let mut users = Self::default();
        let mut problems = Vec::new();
        let mut costliest: Option<Params> = None;
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Ok((name, hash, params)) => {
                    if users.hashes.insert(name.into(), hash).is_some() {
                        problems.push((index + 1, format!("{name:?} stands on an earlier line too")));
                    }
                    if costliest.as_ref().is_none_or(|most| cost(&params) > cost(most)) {
                        costliest = Some(params);
                    }
                }
                Err(problem) => problems.push((index + 1, problem)),
            }
        }
        if !problems.is_empty() {
            problems.truncate(PROBLEMS_MAX);
            return Err(problems);
        }
        users.decoy = costliest.and_then(|params| hash_with(&random::<32>(), params).ok());
        Ok(users)
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.hashes.len()
    }

    /// Whether `name` is a user and `secret` is theirs. Takes some 10 ms of processor and the hash's memory:
    /// call it where blocking is allowed, and not many at once.
    #[must_use]
    pub fn verify(&self, name: &str, secret: &[u8]) -> bool {
        if name.len() > CREDENTIAL_BYTES_MAX || secret.len() > CREDENTIAL_BYTES_MAX {
            return false;
        }
        let known = self.hashes.get(name);
        let digest = self.digest(name, secret);
        if known.is_some() && self.lock().contains(&digest) {
            return true;
        }
        let Some(hash) = known.or(self.decoy.as_ref()) else { return false };
        let right = Argon2::default().verify_password(secret, &hash.password_hash()).is_ok();
        if !right || known.is_none() {
            return false;
        }
        let mut verified = self.lock();
        if verified.len() >= VERIFIED_MAX {
            verified.clear();
        }
        verified.insert(digest);
        true
    }

    fn digest(&self, name: &str, secret: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.key);
        // The length keeps ("ab", "c") apart from ("a", "bc").
        digest.update((name.len() as u64).to_be_bytes());
        digest.update(name);
        digest.update(secret);
        digest.finalize().into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<[u8; 32]>> {
        // A panic elsewhere cannot leave a set of digests half right.
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The line of a users file for `name`, with a fresh salt.
pub fn user_line(name: &str, secret: &[u8]) -> Result<String, String> {
    check_name(name)?;
    if secret.is_empty() || secret.len() > CREDENTIAL_BYTES_MAX {
        return Err(format!("a secret has 1 to {CREDENTIAL_BYTES_MAX} octets"));
    }
    Ok(format!("{name}:{}", hash_with(secret, Params::default())?))
}

fn parse_line(line: &str) -> Result<(&str, PasswordHashString, Params), String> {
    let (name, hash) = line.split_once(':').ok_or("is not name:hash")?;
    check_name(name)?;
    let wrong = |error: &dyn std::fmt::Display| {
        format!(
            "the hash of {name:?} is not an argon2 hash ($argon2id$v=19$…): {error}; make one with `mailrace hash-secret`"
        )
    };
    let hash = PasswordHash::new(hash.trim()).map_err(|error| wrong(&error))?;
    if !["argon2id", "argon2i", "argon2d"].contains(&hash.algorithm.as_str()) {
        return Err(wrong(&format!("it is {}", hash.algorithm)));
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(wrong(&"salt or digest is missing"));
    }
    let params = Params::try_from(&hash).map_err(|error| wrong(&error))?;
    if params.m_cost() > HASH_MEMORY_KIB_MAX || params.t_cost() > HASH_PASSES_MAX {
        return Err(format!(
            "the hash of {name:?} costs too much (m={} t={}); at most m={HASH_MEMORY_KIB_MAX} and t={HASH_PASSES_MAX}",
            params.m_cost(),
            params.t_cost()
        ));
    }
    Ok((name, hash.serialize(), params))
}

fn check_name(name: &str) -> Result<(), String> {
    let fits = (1..=CREDENTIAL_BYTES_MAX).contains(&name.len());
    if fits && !name.starts_with('#') && !name.chars().any(|c| c.is_control() || c.is_whitespace() || c == ':') {
        Ok(())
    } else {
        Err(format!("{name:?} is not a name; write it without spaces and colons"))
    }
}

fn cost(params: &Params) -> u64 {
    u64::from(params.m_cost()) * u64::from(params.t_cost())
}

fn hash_with(secret: &[u8], params: Params) -> Result<PasswordHashString, String> {
    let failed = |error: argon2::password_hash::Error| format!("argon2 refused: {error}");
    let salt = SaltString::encode_b64(&random::<16>()).map_err(failed)?;
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    Ok(argon2.hash_password(secret, &salt).map_err(failed)?.serialize())
}

/// Octets that nobody can guess.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Only a kernel older than getrandom(2) without /dev/urandom fails here; guessable keys would be worse.
    getrandom::fill(&mut bytes).expect("the kernel gives random octets");
    bytes
}

/// m=8 t=1: as cheap as argon2 gets, for tests only; the secret is "secret".
#[cfg(test)]
pub fn cheap_line(name: &str) -> String {
    let params = Params::new(8, 1, 1, None).unwrap();
    format!("{name}:{}", hash_with(b"secret", params).unwrap())
}

#[cfg(test)]
mod tests {
    use super::{CREDENTIAL_BYTES_MAX, Users, cheap_line as cheap, user_line};

    #[test]
    fn only_the_right_secret_opens() {
        let users = Users::parse(&format!("# people\n\n{}\r\n  {}\n", cheap("anna"), cheap("ben"))).unwrap();
        assert_eq!(users.count(), 2);
        let long = "x".repeat(CREDENTIAL_BYTES_MAX + 1);
        for _round in ["fresh", "remembered"] {
            for (name, secret, expected) in [
                ("anna", "secret", true),
                ("ben", "secret", true),
                ("anna", "Secret", false),
                ("anna", "", false),
                ("Anna", "secret", false),
                ("nobody", "secret", false),
                ("", "secret", false),
                ("anna", long.as_str(), false),
                (long.as_str(), "secret", false),
            ] {
                assert_eq!(users.verify(name, secret.as_bytes()), expected, "{name} {secret}");
            }
        }
        assert_eq!(users.lock().len(), 2);
        assert!(!Users::default().verify("anna", b"secret"));
    }

    #[test]
    fn a_line_that_we_write_we_read() {
        let users = Users::parse(&user_line("anna", b"p\xc3\xa4ss").unwrap()).unwrap();
        assert!(users.verify("anna", b"p\xc3\xa4ss"));
        assert!(user_line("a:b", b"x").is_err() && user_line("a", b"").is_err());
    }

    #[test]
    fn every_bad_line_is_named() {
        let text = format!(
            "{}\nanna\n:x\nben:plaintext\ncarl:$5$salt$abc\ndora:$argon2id$v=19$m=8,t=1,p=1\n{}\nerik:$argon2id$v=19$m=4194304,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNo\na b:x",
            cheap("twice"),
            cheap("twice")
        );
        let found: Vec<_> = Users::parse(&text)
            .unwrap_err()
            .into_iter()
            .map(|(line, text)| format!("{line} {}", &text[..text.len().min(36)]))
            .collect();
        let expected = [
            "2 is not name:hash",
            "3 \"\" is not a name; write it without s",
            "4 the hash of \"ben\" is not an argon2 h",
            "5 the hash of \"carl\" is not an argon2 ",
            "6 the hash of \"dora\" is not an argon2 ",
            "7 \"twice\" stands on an earlier line to",
            "8 the hash of \"erik\" costs too much (m",
            "9 \"a b\" is not a name; write it withou",
        ];
        assert_eq!(found, expected);
    }
}
