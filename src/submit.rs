//! A message that came by HTTP, from what a dialect read to a core's word that it is durable. The dialects read and
//! answer; nothing here knows JSON.

use crate::api::Api;
use mailrace_shards::event::{NotTaken, Pressure, Submission};
use mailrace_shards::limits::{
    CONTROL_LIST_MAX, CONTROL_VALUE_BYTES_MAX, META_BYTES_MAX, SUBMISSION_BYTES_MAX, SUBMISSION_WAIT, SUBMISSIONS_MAX,
};
use mailrace_shards::message::{Body, ContentFlags, Extras, MessageId};
use mailrace_shards::runtime::control::Control;
use mailrace_shards::runtime::reply::{NoReply, Reply};
use mailrace_shards::runtime::submit::Submitter;
use mailrace_shards::settings::Settings;
use mailrace_shards::smtp::server::{AddressError, Composed, Origin, ServerConfig, mailbox};
use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

/// Names the way by which a message came, in its Received header and in records.
const PROTOCOL: &str = "HTTP";

/// How messages are taken now. Replaced as a whole by a reload, and by a change of the API's pools.
#[derive(Clone, Debug, Default)]
pub struct CurrentTerms(Arc<RwLock<Arc<Terms>>>);

impl CurrentTerms {
    /// What is in force now. One request should ask once.
    #[must_use]
    pub fn get(&self) -> Arc<Terms> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes them from settings, the API's pools included.
    pub fn set(&self, settings: &Settings) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Terms::from(settings));
    }
}

/// What a message is held to.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// As for SMTP.
    pub server: Arc<ServerConfig>,
    /// Names of all pools.
    pub pools: Vec<Arc<str>>,
    /// Addresses of all sources.
    pub addresses: Vec<IpAddr>,
}

impl From<&Settings> for Terms {
    fn from(settings: &Settings) -> Self {
        let of_source = settings.sources.iter().map(|source| {
            let v4 = source.address.map(IpAddr::V4);
            [v4, source.address_v6.map(IpAddr::V6)]
        });
        Self {
            server: Arc::new(ServerConfig::from(settings)),
            pools: settings.pools.iter().map(|pool| pool.name.clone()).collect(),
            addresses: of_source.flatten().flatten().collect(),
        }
    }
}

impl Terms {
    /// Octets of one call's body.
    pub fn body_max(&self) -> usize {
        usize::try_from(self.server.max_message_bytes).unwrap_or(usize::MAX)
    }

    /// Whether there are the sources that a message names; if not, which wish is at fault, and why.
    pub fn check_sources(&self, extras: &Extras) -> Result<(), (&'static str, String)> {
        if let Some(address) = extras.ips.iter().find(|address| !self.addresses.contains(&address.to_canonical())) {
            return Err(("ips", format!("names {address}, which belongs to no source")));
        }
        match &extras.pool {
            // As for the engine: addresses take precedence.
            Some(pool) if extras.ips.is_empty() && !self.pools.iter().any(|own| **own == **pool) => {
                Err(("pool", format!("names {pool:?}, which is no pool")))
            }
            _ => Ok(()),
        }
    }
}

/// A message that may be handed to a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Reverse-path, empty for the null one.
    pub sender: Box<str>,
    /// As [`mailbox`] gives it.
    pub recipient: Box<str>,
    /// Marks and wishes.
    pub extras: Option<Box<Extras>>,
}

/// Why it is not known to be durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was not taken.
    NotTaken(NotTaken),
    /// The core has not answered; the message may have been taken.
    Unknown,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotTaken(why) => write!(f, "{}, try again later", why.as_str()),
            Self::Unknown => f.write_str("the engine has not answered in time; the message may have been accepted"),
        }
    }
}

/// Why no message is looked at just now, known before its body is read.
pub fn pressure(api: &Api) -> Result<(), Failure> {
    let pressure = if api.control.stopping() {
        Pressure::Stopping
    } else if api.monitor.memory_short() {
        Pressure::MemoryShort
    } else {
        return Ok(());
    };
    Err(Failure::NotTaken(NotTaken::Pressure(pressure)))
}

/// Messages of one call on their way to cores, bounded in number and octets. Each carries what its caller knows it by.
pub struct Convoy<'a, T> {
    control: &'a Control,
    submitter: &'a Submitter,
    terms: &'a Terms,
    peer: SocketAddr,
    under_way: VecDeque<Sent<T>>,
    octets: usize,
}

struct Sent<T> {
    name: T,
    octets: usize,
    reply: Reply<Result<MessageId, NotTaken>>,
}

impl<'a, T> Convoy<'a, T> {
    /// Nothing yet, on behalf of `peer`.
    pub fn new(api: &'a Api, terms: &'a Terms, peer: SocketAddr) -> Self {
        let (control, submitter) = (&api.control, &api.submitter);
        Self { control, submitter, terms, peer, under_way: VecDeque::new(), octets: 0 }
    }

    /// Whether [`Convoy::next`] should be asked before more is sent.
    pub fn is_full(&self) -> bool {
        self.under_way.len() >= SUBMISSIONS_MAX || self.octets >= SUBMISSION_BYTES_MAX
    }

    /// Hands a message to a core.
    pub fn send(&mut self, name: T, draft: Draft, composed: &Composed) {
        let id = self.submitter.next_id();
        let hostname = &*self.terms.server.hostname;
        let origin = Origin { peer: self.peer, hostname, protocol: PROTOCOL, id, at: self.submitter.now() };
        let body: Body = self.submitter.body(composed.body(&origin));
        let octets = body.len();
        let Draft { sender, recipient, extras } = draft;
        // Addresses beyond ASCII need SMTPUTF8 whatever the content does (RFC 6531 §3.3).
        let smtputf8 = composed.flags.smtputf8 || !sender.is_ascii() || !recipient.is_ascii();
        let reply = self.submitter.submit(Submission {
            id,
            sender,
            recipients: vec![recipient],
            flags: ContentFlags { smtputf8, ..composed.flags },
            extras,
            body,
            protocol: PROTOCOL,
            peer: Some(self.peer),
        });
        self.octets += octets;
        self.under_way.push_back(Sent { name, octets, reply });
    }

    /// What became of the oldest; `None` when none is under way.
    pub async fn next(&mut self) -> Option<(T, Result<MessageId, Failure>)> {
        let Sent { name, octets, reply } = self.under_way.pop_front()?;
        self.octets -= octets;
        let result = match reply.within(self.control, SUBMISSION_WAIT).await {
            Ok(result) => result.map_err(Failure::NotTaken),
            Err(NoReply::Dropped | NoReply::Late) => Err(Failure::Unknown),
        };
        Some((name, result))
    }
}

/// An address with or without angle brackets.
pub fn address(text: &str) -> Result<Box<str>, AddressError> {
    let text = text.trim_matches([' ', '\t']);
    mailbox(text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text))
}

/// The same; empty or `<>` is the null reverse-path.
pub fn reverse_path(text: &str) -> Result<Box<str>, AddressError> {
    if matches!(text.trim_matches([' ', '\t']), "" | "<>") { Ok(Box::default()) } else { address(text) }
}

/// A campaign, tenant, pool or tag, held to the bounds of the header that says the same.
pub fn mark(text: &str) -> Result<Box<str>, String> {
    if text.trim().is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.len() > CONTROL_VALUE_BYTES_MAX {
        return Err(format!("is longer than {CONTROL_VALUE_BYTES_MAX} octets"));
    }
    if text.chars().any(char::is_control) {
        return Err("holds control characters".to_owned());
    }
    Ok(text.into())
}

/// Items of a list, held to the bound of the headers that say the same.
pub fn count(items: usize) -> Result<(), String> {
    if items > CONTROL_LIST_MAX { Err(format!("has more than {CONTROL_LIST_MAX} items")) } else { Ok(()) }
}

/// The text of a JSON object of the injector's own.
pub fn meta(text: String) -> Result<Box<str>, String> {
    if text.len() > META_BYTES_MAX {
        Err(format!("come to more than {META_BYTES_MAX} octets"))
    } else {
        Ok(text.into())
    }
}
