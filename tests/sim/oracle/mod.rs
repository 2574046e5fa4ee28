//! The oracle: keeps the ledger of what the engine has promised and done, from the contract alone. It sees letters
//! as clients write them, octets on wires, acknowledgements, answers to rule calls and durable records; it never
//! looks into the engine.
//!
//! | what must hold | where |
//! |---|---|
//! | each acknowledged recipient ends in one record, or is still queued; nothing is lost | here, `records` |
//! | nothing is delivered twice except across a crash and within the bound | `arrivals` |
//! | what arrives is what was handed in | `arrivals` |
//! | no end-of-data after a covering rule was acknowledged; rules act only while they are in force | `rules` |
//! | limits are never exceeded | `limits` |
//! | expiry on time, records true | `records` |

mod arrivals;
mod limits;
mod records;
mod rules;

pub use rules::Coverage;

use crate::injector::Letter;
use crate::network::{ConnId, Moment};
use crate::plan::{Plan, SECOND, utc_at};
use crate::report::Report;
use crate::sink::Taken;
use crate::world::World;
use limits::Limits;
use mailrace_shards::event::Connect;
use mailrace_shards::message::MessageId;
use mailrace_shards::outcome::RecordType;
use mailrace_shards::settings::LimitSettings;
use mailrace_shards::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The address from which connections go when no source is configured.
pub const SYSTEM_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));

/// How long after a flush mail may still come that it covers, because a core has not got to it.
const FLUSHED_WITHIN: u64 = 30 * SECOND;

/// A letter and what became of it.
pub(crate) struct Known {
    letter: Letter,
    id: Option<MessageId>,
    acknowledged: Option<Moment>,
    /// When the client had sent its end.
    submitted: bool,
    /// A durable record says that it was accepted.
    reception: bool,
    /// Its end was asked for.
    cancelled: bool,
    /// Somebody asked that it be tried at once.
    hastened: bool,
    expires: Timestamp,
    recipients: Vec<Recipient>,
}

#[derive(Default)]
struct Recipient {
    /// Numbers of what hosts have taken for it.
    taken: Vec<usize>,
    ends: Vec<End>,
    /// Connections that were given it, and on which it was named.
    carried_by: BTreeSet<ConnId>,
    named_on: BTreeSet<ConnId>,
    /// A record of its end exists, durable or not; when it was made.
    record_made: Option<(u32, u64)>,
}

/// A durable record that ends a recipient.
struct End {
    life: u32,
    moment: Moment,
    kind: RecordType,
}

/// A message that a host has read to its end.
struct Handed {
    life: u32,
    conn: ConnId,
    good: bool,
    completed: Moment,
    /// The engine has read the good answer.
    answered: Option<Moment>,
}

/// A connection of the engine to a host.
struct Out {
    source: IpAddr,
    peer: IpAddr,
    closed: Option<Moment>,
    line: Vec<u8>,
}

pub struct Oracle {
    known: Vec<Known>,
    by_address: BTreeMap<String, (usize, usize)>,
    ids: BTreeMap<MessageId, usize>,
    /// Domains whose mail somebody asked to be tried at once, and when last.
    flushes: BTreeMap<String, u64>,
    handed: Vec<Handed>,
    outs: BTreeMap<ConnId, Out>,
    submitting: BTreeMap<ConnId, usize>,
    rules: BTreeMap<Arc<str>, Coverage>,
    limits: Limits,
    life: u32,
    /// What messages taken in this life have in their ids, and when it began.
    generation: u32,
    born: Timestamp,
    ended_by_gone: u64,
    /// When each life ended, by its number.
    crashes: BTreeMap<u32, Moment>,
    /// From when to when something was wrong that holds work up.
    troubles: Vec<(u64, u64)>,
    /// The engine is not running, since then.
    down_since: Option<u64>,
    /// Lives that ended in order.
    clean: BTreeSet<u32>,
    damaged: BTreeSet<u16>,
    failure: Option<String>,
    pub deliveries: u64,
    pub repeated: u64,
    pub checks: u64,
}

impl Oracle {
    pub fn new(plan: &Plan) -> Self {
        Self {
            known: Vec::new(),
            by_address: BTreeMap::new(),
            ids: BTreeMap::new(),
            flushes: BTreeMap::new(),
            handed: Vec::new(),
            outs: BTreeMap::new(),
            submitting: BTreeMap::new(),
            rules: BTreeMap::new(),
            limits: Limits::new(plan),
            life: 0,
            generation: 0,
            born: Timestamp(0),
            ended_by_gone: 0,
            crashes: BTreeMap::new(),
            troubles: Vec::new(),
            down_since: None,
            clean: BTreeSet::new(),
            damaged: BTreeSet::new(),
            failure: None,
            deliveries: 0,
            repeated: 0,
            checks: 0,
        }
    }

    /// The first thing that was wrong.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub fn fail(&mut self, what: String) {
        self.failure.get_or_insert(what);
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        self.checks += 1;
        if !holds {
            self.fail(what());
        }
    }

    pub fn has_damage(&self) -> bool {
        !self.damaged.is_empty()
    }

    pub fn sum_up(&self, report: &mut Report) {
        report.letters = self.known.len() as u64;
        report.acknowledged = self.known.iter().filter(|known| known.acknowledged.is_some()).count() as u64;
        report.deliveries = self.deliveries;
        report.repeated = self.repeated;
        report.checks = self.checks;
        report.add("rule", "mail ended by one that was gone when it was found", self.ended_by_gone);
    }

    // What the world tells.

    pub fn letters(&self) -> usize {
        self.known.len()
    }

    /// The id of a letter that was acknowledged.
    pub fn id_of(&self, serial: usize) -> Option<MessageId> {
        self.known.get(serial)?.id
    }

    /// Somebody asks for the end of a letter.
    pub fn cancelled(&mut self, serial: usize) {
        self.known[serial].cancelled = true;
    }

    /// Somebody asks that a letter be tried at once.
    pub fn retried(&mut self, serial: usize) {
        self.known[serial].hastened = true;
    }

    /// The same of all mail that is queued for a domain.
    pub fn flushed(&mut self, domain: &str, time: u64) {
        self.flushes.insert(domain.to_owned(), time);
        for known in &mut self.known {
            known.hastened |= known.letter.goes_to(domain);
        }
    }

    /// Whether a flush may not have been heard by all cores yet when a letter comes.
    fn was_flushed(&self, letter: &Letter, time: u64) -> bool {
        self.flushes.iter().any(|(domain, at)| time < at + FLUSHED_WITHIN && letter.goes_to(domain))
    }

    pub fn written_letter(&mut self, letter: &Letter, time: u64) {
        for (at, address) in letter.recipients.iter().enumerate() {
            self.by_address.insert(address.clone(), (self.known.len(), at));
        }
        let recipients = letter.recipients.iter().map(|_| Recipient::default()).collect();
        let hastened = self.was_flushed(letter, time);
        self.known.push(Known {
            letter: letter.clone(),
            id: None,
            acknowledged: None,
            submitted: false,
            reception: false,
            cancelled: false,
            hastened,
            expires: Timestamp::NEVER,
            recipients,
        });
    }

    /// The client's end of a message is on its way.
    pub fn submitted(&mut self, conn: ConnId, serial: usize) {
        self.known[serial].submitted = true;
        self.submitting.insert(conn, serial);
    }

    pub fn submitted_on(&self, conn: ConnId) -> Option<usize> {
        self.submitting.get(&conn).copied()
    }

    /// The good answer to a message's end was put onto the wire.
    pub fn acknowledged(&mut self, serial: usize, id: MessageId, moment: Moment, utc: Timestamp) {
        let submitted = self.known[serial].submitted;
        self.check(submitted, || format!("letter {serial} was acknowledged before its end was sent"));
        let other = self.ids.insert(id, serial);
        self.check(other.is_none_or(|of| of == serial), || {
            format!("id {id} was given to letters {other:?} and {serial}")
        });
        let known = &mut self.known[serial];
        let again = known.acknowledged.is_some();
        known.id = Some(id);
        known.acknowledged = Some(moment);
        known.expires = known.letter.expires_after(utc);
        self.check(!again, || format!("letter {serial} was acknowledged twice"));
    }

    pub fn connecting(&mut self, conn: ConnId, connect: &Connect, moment: Moment) {
        let source = connect.source.unwrap_or(SYSTEM_ADDRESS);
        let out = Out { source, peer: connect.peer.ip(), closed: None, line: Vec::new() };
        let source = connect.source;
        self.outs.insert(conn, out);
        let trouble = self.trouble_since(moment.time.saturating_sub(10 * SECOND));
        if let Some(what) = self.limits.connecting(conn, source, connect.peer.ip(), moment.time, trouble) {
            self.fail(what);
        }
    }

    /// A handshake of TLS has succeeded on a connection to a host.
    pub fn secured(&mut self, conn: ConnId) {
        self.limits.secured(conn);
    }

    pub fn closed(&mut self, conn: ConnId, moment: Moment) {
        if let Some(out) = self.outs.get_mut(&conn) {
            out.closed.get_or_insert(moment);
            self.limits.closed(conn);
        }
    }

    /// The engine passed octets to the network on a connection to a host.
    pub fn written(&mut self, conn: ConnId, octets: &[u8], moment: Moment) {
        let Some(mut out) = self.outs.remove(&conn) else { return };
        for octet in octets {
            out.line.push(*octet);
            if *octet == b'\n' {
                let line = String::from_utf8_lossy(&out.line).into_owned();
                out.line.clear();
                if let Some(rest) = line.strip_prefix("RCPT TO:<") {
                    self.named(conn, rest.split('>').next().unwrap_or_default(), moment);
                } else if line.starts_with("MAIL FROM:<sender") {
                    let trouble = self.trouble_since(moment.time.saturating_sub(10 * SECOND));
                    self.limits.mail(conn, moment.time, trouble);
                }
            }
        }
        self.outs.insert(conn, out);
    }

    /// A connection was given a message for a recipient. It may stand there behind others, and is not asked to be
    /// ended meanwhile.
    pub fn carried(&mut self, conn: ConnId, address: &str) {
        if let Some(&(serial, at)) = self.by_address.get(address) {
            self.known[serial].recipients[at].carried_by.insert(conn);
        }
    }

    fn named(&mut self, conn: ConnId, address: &str, moment: Moment) {
        let Some(&(serial, at)) = self.by_address.get(address) else {
            return self.fail(format!("a stranger was named: {address}"));
        };
        let known = &mut self.known[serial];
        known.recipients[at].named_on.insert(conn);
        let begins = known.letter.not_before.filter(|_| !known.hastened);
        if begins.is_some_and(|begins| begins > utc_at(moment.time).0) {
            self.fail(format!("letter {serial} recipient {at} is tried at {moment:?}, and is to begin at {begins:?}"));
        }
        let domain = address.rsplit('@').next().unwrap_or_default();
        let trouble = self.trouble_since(moment.time.saturating_sub(10 * SECOND));
        if let Some(what) = self.limits.named(conn, domain, moment.time, trouble) {
            self.fail(what);
        }
    }

    /// A host has read a message to its end. Its number.
    pub fn completed(&mut self, conn: ConnId, taken: Taken) -> usize {
        let number = self.handed.len();
        let life = self.life_at(taken.completed);
        self.check_content(&taken);
        self.check_rules(conn, &taken);
        let handed = Handed { life, conn, good: taken.good, completed: taken.completed, answered: None };
        self.handed.push(handed);
        for address in &taken.recipients {
            let Some(&(serial, at)) = self.by_address.get(address) else { continue };
            self.check_not_twice(serial, at, number);
            self.known[serial].recipients[at].taken.push(number);
            self.deliveries += u64::from(taken.good);
        }
        number
    }

    /// The engine has read the good answer to a message's end.
    pub fn answered(&mut self, number: usize, moment: Moment) {
        self.handed[number].answered = Some(moment);
    }

    /// The configuration's limits are others from now on; none at all while nobody can say which.
    pub fn limits_change(&mut self, entries: &[LimitSettings]) {
        self.limits.change(entries);
    }

    /// The whole of a letter was handed to the control side.
    pub fn handed_in(&mut self, serial: usize) {
        self.known[serial].submitted = true;
    }

    pub fn engine_started(&mut self, generation: u32, moment: Moment) {
        self.life += 1;
        self.generation = generation;
        self.born = utc_at(moment.time);
        self.limits.engine_started();
        let since = self.down_since.take().unwrap_or(moment.time);
        self.trouble(since, moment.time);
    }

    /// The engine stopped, in order and with everything finished (`clean`), or it died.
    pub fn ended(&mut self, moment: Moment, clean: bool) {
        self.crashes.insert(self.life, moment);
        if clean {
            self.clean.insert(self.life);
        }
        self.down_since = Some(moment.time);
    }

    /// Something is wrong that holds work up.
    pub fn trouble(&mut self, from: u64, to: u64) {
        self.troubles.push((from, to));
    }

    fn trouble_since(&self, time: u64) -> bool {
        self.trouble_between(time, u64::MAX)
    }

    fn trouble_between(&self, from: u64, to: u64) -> bool {
        let down = self.down_since.is_some_and(|since| since <= to);
        down || self.troubles.iter().any(|(begun, over)| *begun <= to && from <= *over)
    }

    pub fn disk_was_damaged(&mut self, spool: u16) {
        self.damaged.insert(spool);
    }

    pub fn disk_damage_was_told(&mut self, spool: u16) {
        let known = self.damaged.contains(&spool);
        self.check(known, || format!("spool {spool} told of damage that nobody did"));
    }

    fn life_at(&self, moment: Moment) -> u32 {
        // A life's crash ends it; what was sent before it belongs to it.
        self.crashes.iter().find(|(_, crash)| moment.step <= crash.step).map_or(self.life, |(life, _)| *life)
    }

    // What must hold.

    /// Acknowledged recipients without a durable end.
    pub fn open(&self) -> usize {
        self.owed().count()
    }

    fn owed(&self) -> impl Iterator<Item = (usize, usize)> {
        let acknowledged = self.known.iter().enumerate().filter(|(_, known)| known.acknowledged.is_some());
        acknowledged.flat_map(move |(serial, known)| {
            let open = known.recipients.iter().enumerate().filter(|(_, recipient)| recipient.ends.is_empty());
            let damaged = self.is_damaged(serial);
            open.filter(move |_| !damaged).map(move |(at, _)| (serial, at))
        })
    }

    /// All should be at its end.
    pub fn check_all_ended(&mut self) {
        let accepted = self.known.iter().enumerate().filter(|(_, known)| known.acknowledged.is_some());
        let unrecorded: Vec<usize> = accepted
            .filter(|(serial, known)| !known.reception && !self.is_damaged(*serial))
            .map(|(serial, _)| serial)
            .take(5)
            .collect();
        self.check(unrecorded.is_empty(), || format!("acknowledged without a record of reception: {unrecorded:?}"));
        let owed: Vec<(usize, usize)> = self.owed().take(5).collect();
        self.check(owed.is_empty(), || format!("lost or stuck, as (letter, recipient): {owed:?}"));
    }

    /// How many recipients are in which state, as a fault finds them.
    pub fn states(&self, time: u64) -> BTreeMap<&'static str, u64> {
        let mut states = BTreeMap::new();
        for known in &self.known {
            for recipient in &known.recipients {
                *states.entry(self.state(known, recipient, time)).or_default() += 1;
            }
        }
        states
    }

    fn state(&self, known: &Known, recipient: &Recipient, time: u64) -> &'static str {
        if !recipient.ends.is_empty() {
            let fresh = recipient.ends.iter().any(|end| end.moment.time + World::WINDOW / 2 > time);
            return if fresh { "7 just recorded" } else { "8 ended" };
        }
        if recipient.record_made.is_some_and(|(life, _)| life == self.life) {
            return "6 record not synced";
        }
        let last = recipient.taken.last().map(|number| &self.handed[*number]).filter(|last| last.life == self.life);
        match last {
            Some(last) if last.answered.is_some() => return "6 record not synced",
            Some(last) if self.outs.get(&last.conn).is_some_and(|out| out.closed.is_none()) => return "5 dot sent",
            _ => {}
        }
        let is_open = |conn: &ConnId| self.outs.get(conn).is_some_and(|out| out.closed.is_none());
        if recipient.named_on.iter().any(is_open) {
            return "4 on the wire";
        }
        match (known.acknowledged, known.submitted) {
            (Some(_), _) if self.is_covered(known, time) => "3 held by a rule",
            (Some(_), _) => "2 queued",
            (None, true) => "1 not acknowledged",
            (None, false) => "0 being handed in",
        }
    }
}
