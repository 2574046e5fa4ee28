//! Who injects with AUTH: a user of the users file, or the bearer of an API token that may inject.

use crate::token::{Scope, TokenSet};
use crate::users::Users;
use std::sync::Arc;

/// The name of whoever shows `secret` as `name`, if that opens anything. A token opens by its text alone, under
/// any name, and gives its own. Blocks for some 10 ms when it is a user's (see [`Users::verify`]).
#[must_use]
pub fn injector(users: &Users, tokens: &TokenSet, name: &str, secret: &[u8]) -> Option<Arc<str>> {
    let token = std::str::from_utf8(secret).ok().and_then(|text| tokens.find(text));
    if let Some(token) = token.filter(|token| token.scope.allows(Scope::Inject)) {
        return Some(token.name.clone());
    }
    users.verify(name, secret).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::injector;
    use crate::token::{Scope, Token, TokenSet, hash};
    use crate::users::{Users, cheap_line};
    use mailrace_shards::time::Timestamp;

    #[test]
    fn users_and_tokens_open() {
        let users = Users::parse(&cheap_line("anna")).unwrap();
        let token = |name: &str, scope| Token { name: name.into(), scope, digest: hash(name), created: Timestamp(0) };
        let tokens =
            TokenSet::new(vec![token("ci", Scope::Inject), token("watch", Scope::Read), token("root", Scope::Admin)]);
        for (name, secret, expected) in [
            ("anna", "secret", Some("anna")),
            ("anna", "wrong", None),
            ("anna", "ci", Some("ci")),
            ("", "root", Some("root")),
            ("watch", "watch", None),
            ("ben", "secret", None),
        ] {
            assert_eq!(injector(&users, &tokens, name, secret.as_bytes()).as_deref(), expected, "{name} {secret}");
        }
    }
}
