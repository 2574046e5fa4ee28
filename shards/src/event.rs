//! What enters and leaves a shard: the vocabulary between the runtime and the brain. Read this file first.
//!
//! In: [`Mail`] from other cores, [`Order`]s from the control side, and the `handle_*` calls of
//! [`crate::shard::Shard`]. Out: [`Command`]s, which the runtime carries out in order.

use crate::message::{Body, ContentFlags, CoreId, Envelope, Extras, Location, MessageId};
use crate::outcome::Outcome;
use crate::path::PermitMessage;
use crate::queue::DestinationId;
use crate::rules::{Scope, Update};
use crate::settings::{RouteHost, Settings, TlsPolicy};
use crate::spool::report::Progress;
use crate::time::{Instant, Timestamp};
use crossbeam::channel::Sender;
use smallvec::SmallVec;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Recipients of one message for the core that owns their domain.
#[derive(Clone, Debug)]
pub struct Post {
    /// The message.
    pub envelope: Arc<Envelope>,
    /// Its recipients of one domain (and equal attempts and due time) that are still open.
    pub recipients: SmallVec<[u16; 4]>,
    /// Where the body lies.
    pub location: Location,
    /// The body, while the memory budget has room for it.
    pub body: Option<Body>,
    /// Attempts made so far.
    pub attempts: u16,
    /// Not before.
    pub due: Option<Timestamp>,
    /// An earlier attempt may have got through.
    pub maybe_delivered: bool,
}

/// The mail lane: what cores post to each other.
#[derive(Clone, Debug)]
pub enum Mail {
    /// Accepting core → owner.
    Post(Post),
    /// Owner → core of the spool: what became of recipients, after their records are synced.
    Progress(u16, Progress),
    /// Core of the spool → every core: compaction has moved a body.
    Moved(MessageId, Location),
    /// Core of the spool → every core: too many ends wait to be written to it, or no longer.
    Behind(u16, bool),
    /// Between the cores' permit keepers, with the sender.
    Permit(CoreId, PermitMessage),
}

/// The order lane: what the control side tells a core. Drained before anything else, also inside the gate.
#[derive(Debug)]
pub enum Order {
    /// A numbered change of the rules. The core answers as soon as its table is swapped.
    Rules {
        /// The change.
        update: Arc<Update>,
        /// Hears the core and the epoch that it has reached.
        applied: Sender<(CoreId, u64)>,
    },
    /// A question; answered when it has been looked up, which may take many turns.
    Ask {
        /// What.
        question: Question,
        /// Hears the answer.
        reply: ReplyTo<Answer>,
    },
    /// Accept a message that came by HTTP. Answered once it is durable, or with why it is not taken.
    Submit {
        /// The message.
        submission: Box<Submission>,
        /// Hears it.
        reply: ReplyTo<Result<MessageId, NotTaken>>,
    },
    /// Read a body back from a spool.
    ReadBody {
        /// Whose.
        id: MessageId,
        /// Where it lies.
        location: Location,
        /// Hears it, or why it cannot be read.
        reply: ReplyTo<Result<Body, String>>,
    },
    /// Say when all messages that this core has posted to others by now are in their queues. Not answered when that takes
    /// longer than [`crate::limits::ASK_MILLIS`].
    Arrived {
        /// Hears it.
        reply: ReplyTo<()>,
    },
    /// New settings after a reload.
    Reload(Arc<Settings>),
    /// Open the log file anew (after an outside rotation).
    ReopenLog,
    /// Accept nothing more, let transactions finish, then end.
    Stop,
}

/// A message as whoever received it hands it to a core.
#[derive(Debug)]
pub struct Submission {
    /// Its id, taken before: the Received header names it.
    pub id: MessageId,
    /// Reverse-path, empty for none.
    pub sender: Box<str>,
    /// Recipients, at least one, domains in lower case and A-labels.
    pub recipients: Vec<Box<str>>,
    /// What the content needs.
    pub flags: ContentFlags,
    /// Marks and wishes.
    pub extras: Option<Box<Extras>>,
    /// The message.
    pub body: Body,
    /// `ESMTP`, `HTTP` and the like.
    pub protocol: &'static str,
    /// Who injects.
    pub peer: Option<SocketAddr>,
}

/// Why a core takes no mail just now. All of it passes: whoever is refused may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// `spool.min_free_bytes`.
    LowSpace,
    /// A write or a sync has failed.
    SpoolFailing,
    /// `limits.memory_bytes`.
    MemoryShort,
    /// Too much is on its way to other cores and threads.
    Backlog,
    /// A stop was ordered.
    Stopping,
}

impl Pressure {
    /// For a reply.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LowSpace => "the spool's file system is nearly full",
            Self::SpoolFailing => "the spool cannot be written",
            Self::MemoryShort => "the engine's memory is used up",
            Self::Backlog => "the queue takes no more just now",
            Self::Stopping => "the engine is stopping",
        }
    }
}

/// Why a submission was not taken. It may be tried again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Nothing was tried.
    Pressure(Pressure),
    /// The spool could not make it durable.
    NotStored,
}

impl NotTaken {
    /// For a reply.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pressure(pressure) => pressure.as_str(),
            Self::NotStored => "the message could not be made durable",
        }
    }
}

/// Who hears the answer to an order. Whoever asked makes it, so that it can wake its own kind of waiting; the core
/// calls it once. Dropped uncalled, it tells (by what it holds) that no answer will come.
pub struct ReplyTo<T>(Box<dyn FnOnce(T) + Send>);

impl<T> ReplyTo<T> {
    /// `hear` is called on a core and must not wait.
    #[must_use]
    pub fn new(hear: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(hear))
    }

    /// Answers.
    pub fn send(self, answer: T) {
        (self.0)(answer);
    }
}

impl<T> fmt::Debug for ReplyTo<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyTo")
    }
}

/// What the control side may ask a core.
#[derive(Clone, Debug)]
pub enum Question {
    /// How much queued mail a scope covers.
    Covered {
        /// The scope.
        scope: Scope,
        /// What is known after this time is the answer; [`crate::limits::ASK_MILLIS`] at most.
        within: Duration,
    },
    /// Messages that pass a filter, at most `limit`.
    Messages {
        /// Which.
        filter: MessageFilter,
        /// How many at most.
        limit: usize,
    },
    /// One message.
    Message(MessageId),
    /// Destinations by age.
    Queues,
    /// What rules hold and have ended.
    RuleCounts(Vec<Arc<str>>),
    /// Make a message due now.
    Retry(MessageId),
    /// End a message by a forced error.
    Cancel {
        /// Which.
        id: MessageId,
        /// Name of the token that asks.
        by: Arc<str>,
    },
    /// Make all waiting mail that a scope covers due now.
    Flush {
        /// The scope.
        scope: Scope,
        /// Mail of earlier runs is on its way into the queues, and what is covered of it is to be due when it gets there.
        found: bool,
    },
}

/// Which messages are wanted; absent fields want any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// Recipient domain.
    pub domain: Option<Arc<str>>,
    /// Tag.
    pub tag: Option<Arc<str>>,
    /// Campaign.
    pub campaign: Option<Arc<str>>,
    /// Scheduled queue name.
    pub queue: Option<Arc<str>>,
    /// `ready`, `waiting`, `held` or `in_flight`.
    pub state: Option<Arc<str>>,
    /// Only those with a greater id.
    pub after: Option<MessageId>,
}

/// What a core answers.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Covered`.
    Covered(Coverage),
    /// To `Messages` and `Message`.
    Messages(Vec<MessageView>),
    /// To `Queues`.
    Queues(Vec<QueueView>),
    /// To `RuleCounts`, in the order asked.
    RuleCounts(Vec<RuleCount>),
    /// To `Retry`, `Cancel` and `Flush`: how many entries.
    Count(u64),
    /// Too many questions are open; ask later.
    Busy,
}

/// How much queued mail a scope covers, in recipients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// All of it.
    pub matched: u64,
    /// With its end-of-data sent and unanswered when the question came.
    pub in_flight: u64,
    /// Held by a rule.
    pub held: u64,
    /// The earliest expiry of it.
    pub first_expiry: Option<Timestamp>,
    /// The largest destinations of it.
    pub destinations: Vec<(Arc<str>, u64)>,
    /// The largest scheduled queues of it, without what is in flight.
    pub queues: Vec<(Arc<str>, u64)>,
    /// The time for the answer ran out first: all figures are lower bounds.
    pub counting: bool,
}

/// One entry of the queue: some recipients of one message.
#[derive(Clone, Debug)]
pub struct MessageView {
    /// The message.
    pub envelope: Arc<Envelope>,
    /// Where its body lies.
    pub location: Location,
    /// Its open recipients here.
    pub recipients: SmallVec<[u16; 4]>,
    /// Scheduled queue name.
    pub queue: Arc<str>,
    /// Attempts made so far.
    pub attempts: u16,
    /// When it fails.
    pub expires: Timestamp,
    /// An earlier attempt may have got through.
    pub maybe_delivered: bool,
    /// What it waits for.
    pub waits: Waits,
}

/// What an entry waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waits {
    /// A session has it.
    InFlight,
    /// The retry schedule.
    BackOff {
        /// When it is due.
        until: Timestamp,
    },
    /// A rule; none when it was put aside because a session panicked over it.
    Rule {
        /// Its id.
        rule: Option<Arc<str>>,
        /// When that ends by itself.
        until: Timestamp,
    },
    /// A connection, or its turn on one.
    Connection,
    /// The addresses of its hosts.
    Resolution,
}

/// One destination domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Recipient domain.
    pub domain: Arc<str>,
    /// Entries.
    pub total: u64,
    /// Entries that a rule holds.
    pub held: u64,
    /// Entries that wait for their due time.
    pub waiting: u64,
    /// Entries by age: up to 5, 10, 20, 40, 80, 160, 320, 640, 1280 minutes, and older.
    pub ages: [u64; 10],
}

/// What one rule does on one core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    /// The rule.
    pub rule: Arc<str>,
    /// Recipients that it holds; of whole queues that are too deep to be gone through in time, entries.
    pub held: u64,
    /// Recipients that it has ended.
    pub ended: u64,
    /// The same by scheduled queue name.
    pub ended_by_queue: Vec<(Arc<str>, u64)>,
    /// The earliest expiry of what it holds; nothing where that could not be gone through in time.
    pub first_expiry: Option<Timestamp>,
}

/// A session of this core, by its place in the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// A connection to make, or to make again to another host.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Whose.
    pub session: SessionId,
    /// Remote host.
    pub peer: SocketAddr,
    /// Its name, for TLS and records.
    pub host: Arc<str>,
    /// Own address; `None` for the system's choice.
    pub source: Option<IpAddr>,
    /// Name to say in EHLO.
    pub ehlo: Arc<str>,
    /// STARTTLS.
    pub tls: TlsPolicy,
}

/// What to ask of the resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// The mail hosts of a domain (or an address literal).
    MailHosts(Arc<str>),
    /// The addresses of these hosts, in order of preference.
    Hosts {
        /// Names or addresses, with ports.
        hosts: Vec<RouteHost>,
        /// Whether the configuration names them; else a caller did, and private addresses may be refused.
        by_operator: bool,
    },
}

/// A host and where it listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name, or its address as text.
    pub name: Arc<str>,
    /// Its addresses, at least one, in the order to try them.
    pub addresses: SmallVec<[SocketAddr; 2]>,
}

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Hosts that can be tried, in order; none when the best is this engine itself.
    pub hosts: Vec<Host>,
    /// Names (with a port when it is not 25) of all published hosts in order of preference: they name the site.
    pub names: Vec<Arc<str>>,
    /// When to ask again.
    pub expires: Instant,
}

/// What a shard asks of the runtime.
#[derive(Debug)]
pub enum Command {
    /// Find the hosts of a destination, answer with `handle_resolved`.
    Resolve {
        /// Whose.
        destination: DestinationId,
        /// What to look up.
        lookup: Lookup,
    },
    /// Connect, and run a session over it.
    Connect(Connect),
    /// The session should ask for a message (or for its end) again.
    Wake(SessionId),
    /// Post to another core (or to this one).
    Post(CoreId, Mail),
    /// Write a record; answer with `handle_log_synced(number)` when it is durable.
    Record {
        /// Counts records of this shard.
        number: u64,
        /// The record.
        outcome: Box<Outcome>,
    },
    /// Make an accepted message durable; answer with `handle_stored`.
    Store {
        /// Names the answer.
        ticket: u64,
        /// The message.
        envelope: Arc<Envelope>,
        /// Its body.
        body: Body,
    },
    /// Tell the injecting session of `ticket` how it ended.
    Accepted {
        /// As in `Store`.
        ticket: u64,
        /// The id, or why it was not stored.
        result: Result<MessageId, Box<str>>,
    },
    /// Tell a spool of this core what became of recipients.
    Progress(u16, Progress),
}
