//! Who asks. By a token, shown as Bearer or as Basic's password; or by the peer's address, for peers that the
//! configuration trusts. Pure.
//!
//! What trust in an address must not mean is trust in every page that a browser at that address has open. A
//! page can send requests here, to our address or to a name of its own that resolves to it (DNS rebinding).
//! So a request without a token has to be for a name that is surely ours, must not say that it comes from
//! another site, and, when it changes something, must be one for which the browser would have asked first.
//! Basic credentials are remembered by browsers and sent along, so they do not excuse a request that says it
//! comes from another site. A Bearer token does: no page can send one that it does not know.

use super::Current;
use crate::http::{Method, Refusal, Request, Version, media};
use crate::token::{Scope, Token};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Stands for peers that need no token; no token can be called so.
const TRUSTED_HOST: &str = "(trusted host)";

/// Octets of an Authorization field that are looked at; a longer one is nobody's.
const CREDENTIALS_BYTES_MAX: usize = 1024;

/// Who asks, for the record of what they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token's name, or `(trusted host)`.
    pub name: Arc<str>,
    /// What they may do.
    pub scope: Scope,
    /// Where they are.
    pub peer: SocketAddr,
}

/// Why somebody is nobody.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// They showed nothing.
    Missing,
    /// What they showed opens nothing.
    Wrong,
    /// They are known, but a browser may be asking in somebody else's name.
    Browser(Refusal),
}

/// Who sends this request.
pub fn identify(current: &Current, request: &Request) -> Result<Identity, Denied> {
    let headers = &request.head.headers;
    let identity = |name: &Arc<str>, scope| Identity { name: name.clone(), scope, peer: request.peer };
    if headers.has("authorization") {
        let credentials = headers.get("authorization").and_then(Credentials::parse).ok_or(Denied::Wrong)?;
        let token = credentials.token(current).ok_or(Denied::Wrong)?;
        if matches!(credentials, Credentials::Basic { .. }) {
            same_site(request).map_err(Denied::Browser)?;
        }
        return Ok(identity(&token.name, token.scope));
    }
    if !current.trusted_hosts.iter().any(|network| network.contains(request.peer.ip())) {
        return Err(Denied::Missing);
    }
    no_page(current, request).map_err(Denied::Browser)?;
    Ok(identity(&TRUSTED_HOST.into(), Scope::Admin))
}

enum Credentials {
    Bearer(String),
    Basic { name: String, secret: String },
}

impl Credentials {
    fn parse(value: &str) -> Option<Self> {
        if value.len() > CREDENTIALS_BYTES_MAX {
            return None;
        }
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim_matches(' ');
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Bearer(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let (name, secret) = text.split_once(':')?;
        Some(Self::Basic { name: name.to_owned(), secret: secret.to_owned() })
    }

    fn token<'a>(&self, current: &'a Current) -> Option<&'a Token> {
        match self {
            Self::Bearer(secret) => current.tokens.find(secret),
            // The secret is looked for whatever the name is, so the time tells nothing of names.
            Self::Basic { name, secret } => current.tokens.find(secret).filter(|token| *token.name == **name),
        }
    }
}

/// Refuses what a page may have sent: see above.
fn no_page(current: &Current, request: &Request) -> Result<(), Refusal> {
    let head = &request.head;
    // Before HTTP/1.1 there were no pages with scripts, and no Host.
    let nameless = head.host.is_empty() && head.version == Version::Http10;
    if !nameless && !is_ours(host_name(&head.host), &current.hostname) {
        return Err(Refusal::new(
            403,
            "without a token, the Host field must be an address, `localhost` or this server's name",
        ));
    }
    same_site(request)?;
    if head.method == Method::Post && media::is_simple(&media::essence(&head.headers)) {
        return Err(Refusal::new(415, "without a token, a POST must say `Content-Type: application/json`"));
    }
    Ok(())
}

/// Refuses a request that says it comes from another site (Fetch Metadata; Origin, RFC 6454 §7).
fn same_site(request: &Request) -> Result<(), Refusal> {
    let head = &request.head;
    let is_own = |origin: &[u8]| {
        let authority = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(head.host.as_bytes()))
    };
    let own_origin = head.headers.all("origin").all(is_own);
    let own_fetch = head.headers.all("sec-fetch-site").all(|site| matches!(site, b"same-origin" | b"none"));
    if own_origin && own_fetch {
        return Ok(());
    }
    Err(Refusal::new(403, "the request comes from a page of another site; only a Bearer token allows that"))
}

/// The name in an authority, without its port.
fn host_name(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.find(']').map_or(authority, |end| &authority[..=end]);
    }
    authority.split(':').next().unwrap_or(authority)
}

fn is_ours(name: &str, hostname: &str) -> bool {
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let name = name.strip_suffix('.').unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || (!hostname.is_empty() && name.eq_ignore_ascii_case(hostname))
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
