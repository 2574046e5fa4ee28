//! A blocking client of etcd, through the JSON gateway that every member has. Knows members, tokens and time-outs, and
//! says of each failure whether what was asked may have been done; knows nothing of what the keys mean.

mod assemble;
mod http;
mod types;
mod verdict;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

pub use http::EtcdTls;
pub use types::{
    Answer, Compare, EtcdError, Event, Events, Header, KeyValue, Lease, Op, Page, Revision, Txn, TxnAnswer,
    after_prefix,
};
pub use watch::Watch;

use http::{Members, Post, Reply};
use mailrace_shards::limits::{
    ETCD_CONNECT_WITHIN, ETCD_LOG_IN_WITHIN, ETCD_READ_WITHIN, ETCD_REQUEST_BYTES_MAX, ETCD_VALUE_BYTES_MAX,
    ETCD_WATCH_WITHIN,
};
use mailrace_shards::runtime::clock;
use mailrace_shards::time::Instant;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use verdict::{Verdict, verdict};
use wire::Line;

/// Where etcd is, and as who it is asked.
#[derive(Clone, Debug, Default)]
pub struct EtcdSettings {
    /// `http://host:port` or `https://host:port`, one for each member.
    pub endpoints: Vec<String>,
    /// Name and password, where the members want to know.
    pub user: Option<(String, String)>,
    /// For endpoints with https.
    pub tls: Option<EtcdTls>,
}

/// All the members as one store. Clones share connections, the token, and which member answered last.
#[derive(Clone)]
pub struct Etcd(Arc<Shared>);

struct Shared {
    members: Members,
    user: Option<(String, String)>,
    token: Mutex<Option<String>>,
    /// The member that answered last; counts on where one does not.
    current: AtomicUsize,
}

/// Whether a request may be sent again where nobody knows if it was done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Freely,
    Never,
}

impl Etcd {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// An endpoint that is none, or a file that does not hold what it should.
    pub fn new(settings: &EtcdSettings) -> Result<Self, String> {
        Ok(Self(Arc::new(Shared {
            members: Members::new(&settings.endpoints, settings.tls.as_ref())?,
            user: settings.user.clone(),
            token: Mutex::new(None),
            current: AtomicUsize::new(0),
        })))
    }

    /// The member that is asked next, for people.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        self.0.members.url(self.0.current.load(Ordering::Relaxed))
    }

    /// From now on the member is asked that leads, if that can be found out, each being asked for no longer than `within`:
    /// the others would only pass on what they are asked, and hear of what comes of it later.
    pub fn prefer_leader(&self, within: Duration) {
        let members = &self.0.members;
        let status = |member: usize| {
            let token = self.0.token(member, clock::now().instant.after(within)).ok()?;
            let (content, token) = ("{}", token.as_deref());
            let post = Post { path: "/v3/maintenance/status", content, token, connect: within, within };
            match members.post(member, &post) {
                Ok(Reply::Done(body)) => wire::status(&body).ok(),
                _ => None,
            }
        };
        let known: Vec<(usize, (u64, u64))> =
            (0..members.count()).filter_map(|member| Some((member, status(member)?))).collect();
        let leads = |number: u64| number != 0 && known.iter().any(|(_, (_, leader))| *leader == number);
        // Of two that claim to lead, the later one; who has lost the others finds out by itself.
        if let Some((member, _)) = known.iter().rfind(|(_, (number, _))| leads(*number)) {
            self.0.current.store(*member, Ordering::Relaxed);
        }
    }

    /// The keys from `from` up to, but without, `end` (empty: the one key), as they are now or were `at` a revision,
    /// `limit` at most (0: all). Linearizable: sees every write that was answered before.
    ///
    /// # Errors
    /// See [`EtcdError`]; [`EtcdError::Refused`] also where the page is longer than `ETCD_ANSWER_BYTES_MAX`.
    pub fn range(&self, from: &[u8], end: &[u8], at: Option<Revision>, limit: u32) -> Result<Page, EtcdError> {
        let request = wire::range_request(from, end, at.unwrap_or(0), limit);
        let text = self.0.ask("/v3/kv/range", &request, ETCD_READ_WITHIN, Repeat::Freely)?;
        self.0.read(wire::page(&text))
    }

    /// The same without values: names and revisions.
    ///
    /// # Errors
    /// As [`Etcd::range`].
    pub fn keys(&self, from: &[u8], end: &[u8], at: Option<Revision>, limit: u32) -> Result<Page, EtcdError> {
        let request = wire::keys_request(from, end, at.unwrap_or(0), limit);
        let text = self.0.ask("/v3/kv/range", &request, ETCD_READ_WITHIN, Repeat::Freely)?;
        self.0.read(wire::page(&text))
    }

    /// Does all of it or nothing. Asks a second member only where the first surely has not done it.
    ///
    /// # Errors
    /// See [`EtcdError`]; a value or a whole that is too large is [`EtcdError::Refused`] before it is sent.
    pub fn txn(&self, txn: &Txn, within: Duration) -> Result<TxnAnswer, EtcdError> {
        sizes(txn)?;
        let text = self.0.ask("/v3/kv/txn", &wire::txn_request(txn), within, Repeat::Never)?;
        let answer = self.0.read(wire::txn_answer(&text))?;
        let wanted = if answer.succeeded { &txn.success } else { &txn.failure };
        if answer.answers.len() != wanted.len() {
            return Err(EtcdError::Unknown("an answer to another transaction".to_owned()));
        }
        Ok(answer)
    }

    /// Follows a range from the revision `start` on.
    ///
    /// # Errors
    /// See [`EtcdError`]. That `start` is compacted is said by the watch itself.
    pub fn watch(&self, from: &[u8], end: &[u8], start: Revision) -> Result<Watch, EtcdError> {
        self.0.watch(&wire::watch_request(from, end, start))
    }

    /// A new lease, and for how long it is granted; etcd may grant more than was asked for.
    ///
    /// # Errors
    /// See [`EtcdError`]. One that is unknown ends by itself.
    pub fn grant(&self, ttl: Duration, within: Duration) -> Result<(Lease, Duration), EtcdError> {
        let request = json!({ "TTL": ttl.as_secs().max(1).to_string(), "ID": "0" });
        let text = self.0.ask("/v3/lease/grant", &request, within, Repeat::Freely)?;
        let granted = self.0.read(wire::granted(&text))?;
        if granted.lease.0 == 0 || granted.seconds == 0 {
            return Err(EtcdError::Unknown("a grant without a lease".to_owned()));
        }
        Ok((granted.lease, Duration::from_secs(granted.seconds)))
    }

    /// Renews the lease; for how long, counted from when etcd heard of it. `None`: it has ended.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub fn keep_alive(&self, lease: Lease, within: Duration) -> Result<Option<Duration>, EtcdError> {
        let request = json!({ "ID": lease.0.to_string() });
        let text = self.0.ask("/v3/lease/keepalive", &request, within, Repeat::Freely)?;
        match self.0.read(wire::kept_alive(&text))? {
            Line::Said(answer) => Ok((answer.seconds > 0).then(|| Duration::from_secs(answer.seconds))),
            Line::Ended(code, words) => match verdict(code, &words) {
                Verdict::LogInAgain => Err(EtcdError::Refused(words)),
                Verdict::Is(error) => Err(error),
            },
        }
    }

    /// Ends the lease and every key with it; one that has ended is fine, too.
    ///
    /// # Errors
    /// See [`EtcdError`].
    pub fn revoke(&self, lease: Lease, within: Duration) -> Result<(), EtcdError> {
        let request = json!({ "ID": lease.0.to_string() });
        match self.0.ask("/v3/lease/revoke", &request, within, Repeat::Freely) {
            Err(EtcdError::Refused(words)) if words.contains("lease not found") => Ok(()),
            answer => answer.map(|_| ()),
        }
    }
}

/// What etcd would refuse is refused in words that name the key; by its defaults it takes 1.5 MiB in one request.
fn sizes(txn: &Txn) -> Result<(), EtcdError> {
    let mut whole = 0;
    for op in txn.success.iter().chain(&txn.failure) {
        let Op::Put { key, value, .. } = op else { continue };
        if value.len() > ETCD_VALUE_BYTES_MAX {
            let (name, size) = (String::from_utf8_lossy(key), value.len());
            let why = format!("the value of {name} has {size} octets, {ETCD_VALUE_BYTES_MAX} at most");
            return Err(EtcdError::Refused(why));
        }
        whole += key.len() + value.len();
    }
    if whole > ETCD_REQUEST_BYTES_MAX {
        let why = format!("a transaction of {whole} octets, {ETCD_REQUEST_BYTES_MAX} at most");
        return Err(EtcdError::Refused(why));
    }
    Ok(())
}

impl Shared {
    /// Asks members one after another within the time; the body of the first answer.
    fn ask(&self, path: &str, request: &Value, within: Duration, repeat: Repeat) -> Result<Vec<u8>, EtcdError> {
        let content = request.to_string();
        let count = self.members.count();
        let deadline = clock::now().instant.after(within);
        let mut last = EtcdError::Unreachable("no time to ask".to_owned());
        let mut logged_in = false;
        let mut tries_left = count;
        while tries_left > 0 {
            let left = deadline.since(clock::now().instant);
            if left.is_zero() {
                break;
            }
            let share = left / u32::try_from(tries_left).unwrap_or(u32::MAX);
            let member = self.current.load(Ordering::Relaxed);
            let token = match self.token(member, clock::now().instant.after(share)) {
                Ok(token) => token,
                Err(error) => {
                    last = self.on(member, error, Repeat::Freely)?;
                    tries_left -= 1;
                    continue;
                }
            };
            let whole = if repeat == Repeat::Freely { share } else { left };
            let post = Post { path, content: &content, token: token.as_deref(), connect: share, within: whole };
            match self.members.post(member, &post) {
                Ok(Reply::Done(body)) => return Ok(body),
                Ok(Reply::Refused(status, body)) => match refused(status, &body) {
                    Verdict::LogInAgain if !logged_in && self.user.is_some() => {
                        logged_in = true;
                        self.forget(token.as_deref());
                        continue;
                    }
                    Verdict::LogInAgain => return Err(self.not_welcome(&body)),
                    Verdict::Is(error) => last = self.on(member, error, repeat)?,
                },
                Err(error) => last = self.on(member, error, repeat)?,
            }
            tries_left -= 1;
        }
        Err(last)
    }

    /// The watch, from the first member that gives one.
    fn watch(&self, request: &Value) -> Result<Watch, EtcdError> {
        let content = request.to_string();
        let mut last = EtcdError::Unreachable("no member".to_owned());
        let mut logged_in = false;
        let mut tries_left = self.members.count();
        while tries_left > 0 {
            let member = self.current.load(Ordering::Relaxed);
            let begun = self.token(member, clock::now().instant.after(ETCD_LOG_IN_WITHIN)).and_then(|token| {
                let (connect, within) = (ETCD_CONNECT_WITHIN, ETCD_WATCH_WITHIN);
                let post = Post { path: "/v3/watch", content: &content, token: token.as_deref(), connect, within };
                let verdict = match self.members.stream(member, &post)? {
                    Ok(stream) => match Watch::begin(stream, within) {
                        Ok(watch) => return Ok(Ok(watch)),
                        Err(verdict) => verdict,
                    },
                    Err((status, body)) => refused(status, &body),
                };
                Ok(Err((verdict, token)))
            });
            match begun {
                Ok(Ok(watch)) => return Ok(watch),
                Ok(Err((Verdict::LogInAgain, token))) if !logged_in && self.user.is_some() => {
                    logged_in = true;
                    self.forget(token.as_deref());
                    continue;
                }
                Ok(Err((Verdict::LogInAgain, _))) => return Err(self.not_welcome(b"")),
                Ok(Err((Verdict::Is(error), _))) | Err(error) => last = self.on(member, error, Repeat::Freely)?,
            }
            tries_left -= 1;
        }
        Err(last)
    }

    /// What a failure at a member means for the others: the error itself where they are not to be asked.
    fn on(&self, member: usize, error: EtcdError, repeat: Repeat) -> Result<EtcdError, EtcdError> {
        match &error {
            EtcdError::Compacted { .. } | EtcdError::Refused(_) => return Err(error),
            EtcdError::Unreachable(_) | EtcdError::Unknown(_) => {}
        }
        // Only whoever was at this member moves on, so that many at once do not skip one that is well.
        let next = (member + 1) % self.members.count();
        let _ = self.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
        match (&error, repeat) {
            (EtcdError::Unknown(_), Repeat::Never) => Err(error),
            _ => Ok(error),
        }
    }

    /// The token to show, where there is a user; asks the member for one if none is known.
    fn token(&self, member: usize, deadline: Instant) -> Result<Option<String>, EtcdError> {
        let Some((name, password)) = &self.user else { return Ok(None) };
        let is_current = || self.current.load(Ordering::Relaxed) == member;
        let was_current = is_current();
        // Held while asking, so that one log-in serves all who wait for it.
        let mut known = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() && was_current && !is_current() {
            // Nor does one that fails keep all of them, one after another.
            return Err(EtcdError::Unreachable("the member does not answer who logs in".to_owned()));
        }
        if known.is_none() {
            let content = json!({ "name": name, "password": password }).to_string();
            let within = deadline.since(clock::now().instant).min(ETCD_LOG_IN_WITHIN);
            if within.is_zero() {
                return Err(EtcdError::Unreachable("no time left to log in".to_owned()));
            }
            let post = Post { path: "/v3/auth/authenticate", content: &content, token: None, connect: within, within };
            match self.members.post(member, &post) {
                Ok(Reply::Done(body)) => *known = Some(self.read(wire::token(&body))?),
                Ok(Reply::Refused(status, body)) => match refused(status, &body) {
                    // As etcd's own client: a user is no harm where nobody asks for one.
                    Verdict::Is(EtcdError::Refused(words)) if words.contains("authentication is not enabled") => {
                        return Ok(None);
                    }
                    Verdict::Is(EtcdError::Unknown(words)) => return Err(EtcdError::Unreachable(words)),
                    Verdict::Is(error) => return Err(error),
                    Verdict::LogInAgain => return Err(self.not_welcome(&body)),
                },
                // Nothing has been asked yet but who we are.
                Err(EtcdError::Unknown(why)) => return Err(EtcdError::Unreachable(why)),
                Err(error) => return Err(error),
            }
        }
        Ok(known.clone())
    }

    /// The token is of no use any more, unless another one has been found meanwhile.
    fn forget(&self, token: Option<&str>) {
        let mut known = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_deref() == token {
            *known = None;
        }
    }

    fn not_welcome(&self, body: &[u8]) -> EtcdError {
        let words = wire::refusal(body).map_or_else(|| "our token".to_owned(), |(_, words)| words);
        EtcdError::Refused(match &self.user {
            Some((name, _)) => format!("user {name}: {words}"),
            None => format!("it wants a user and a password ({words})"),
        })
    }

    /// An answer that cannot be read is one that says nothing of what was done.
    fn read<T>(&self, answer: Result<T, String>) -> Result<T, EtcdError> {
        answer.map_err(|why| {
            EtcdError::Unknown(format!("{}: {why}", self.members.url(self.current.load(Ordering::Relaxed))))
        })
    }
}

fn refused(status: u16, body: &[u8]) -> Verdict {
    match wire::refusal(body) {
        Some((code, words)) => verdict(code, &words),
        None => {
            let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
            // Whatever it is that answers, it is not etcd's gateway: it knows no such path.
            let words = format!("status {status}: {}", text.trim());
            Verdict::Is(if status == 404 { EtcdError::Refused(words) } else { EtcdError::Unknown(words) })
        }
    }
}
