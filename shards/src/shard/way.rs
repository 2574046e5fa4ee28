//! Which way the next connection takes. Mail that a rule holds on some ways only (own address, path, remote address)
//! takes another while there is one that no rule closes, and is held when none is left. Nothing here sends.

use super::Shard;
use super::gate::Judgement;
use super::site::{KnownWays, SiteId};
use crate::limits::{PICK_SKIPS, WAYS_KNOWN, WAYS_KNOWN_BUCKETS};
use crate::path::source::Bind;
use crate::path::{Eligible, Member, PathId, Rotation, SourceIndex, path_name};
use crate::queue::{BucketId, DestinationId, EntryId, State};
use crate::rules::{Decision, Facts, Fields, Moment, PathFacts, Rule, Stamp};
use crate::time::Now;
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Whether a rule holds mail on some ways only.
pub(super) fn closes_ways(rule: &Rule) -> bool {
    rule.kind.record().is_none() && rule.scope.fields().meets(Fields::OF_PATH)
}

/// Ways to a site: from where, to which host.
pub(super) type Ways = SmallVec<[(SourceIndex, SocketAddr); 4]>;

impl Shard {
    /// The path for the next connection: the next source in turn that has room, a host to try, and no rate for which the
    /// mail waits already: it would only wait there, too, end in time, and be opened again.
    pub(super) fn choose_path(
        &mut self,
        site: SiteId,
        bucket: BucketId,
        eligible: &Eligible,
        now: Now,
    ) -> Option<PathId> {
        let own = eligible.pool.is_none() && !self.queue.bucket_key(bucket).ips.is_empty();
        let mut rotation = if own {
            std::mem::take(&mut self.buckets.get_mut(bucket)?.rotation)
        } else {
            let kept = self.sites.site_mut(site).rotations.remove(&eligible.pool);
            kept.unwrap_or_else(|| Rotation::starting_at(&eligible.members, self.core.0))
        };
        let guided = self.guided(bucket, now);
        let destination = self.queue.destination_of(bucket);
        let source = rotation.next(&eligible.members, |member| {
            let room = match self.sites.find_path(site, member.source) {
                None => true,
                Some(path) => {
                    let limits = self.limits_for(bucket, path);
                    let waits = self.routes.of(destination).awaited.contains(&limits.tokens);
                    let path = self.sites.path_mut(path);
                    !waits
                        && path.sharing(limits.share) < limits.core_connections
                        && path.window.room(path.sessions, u32::MAX, now.instant) > 0
                }
            };
            let hosts = &self.sites.site(site).hosts;
            let addresses = hosts.iter().flat_map(|host| &host.addresses).copied();
            let usable =
                |peer: &SocketAddr| member.reaches(peer.ip()) && self.sites.rested(member.source, *peer, now.instant);
            let mut usable = addresses.filter(usable).collect::<SmallVec<[SocketAddr; 8]>>().into_iter();
            room && usable.any(|peer| guided.is_none_or(|entry| self.is_open(entry, site, member.source, peer, now)))
        });
        if own {
            self.buckets.get_mut(bucket)?.rotation = rotation;
        } else {
            self.sites.site_mut(site).rotations.insert(eligible.pool.clone(), rotation);
        }
        let source = source?;
        let name = &self.sources.get(source).name;
        Some(self.sites.path_to(site, source, |site| path_name(Some(name), &site.name)))
    }

    /// The next message of a bucket, if rules may close some of its ways and not others.
    pub(super) fn guided(&mut self, bucket: BucketId, now: Now) -> Option<EntryId> {
        if self.rules.is_empty() {
            return None;
        }
        let entry = self.queue.next_of(bucket)?;
        self.may_be_guided(entry, now).then_some(entry)
    }

    fn may_be_guided(&mut self, entry: EntryId, now: Now) -> bool {
        let bucket = self.queue.entry(entry).bucket;
        let fresh = |verdict: &crate::rules::BucketVerdict, epoch| verdict.stamp.holds(epoch, now.utc);
        let known = self.buckets.get(bucket).and_then(|state| state.verdict.as_ref());
        if !known.is_some_and(|verdict| fresh(verdict, self.rules.epoch())) {
            // Asking about any message brings the bucket's verdict up to date.
            self.judge(entry, PathFacts::default(), Moment::Attempt, now);
        }
        self.buckets.get(bucket).and_then(|state| state.verdict.as_ref()).is_some_and(|verdict| verdict.per_path)
    }

    /// What the rules say of a message on a way.
    fn judge_way(
        &mut self,
        entry: EntryId,
        site: SiteId,
        source: SourceIndex,
        peer: SocketAddr,
        now: Now,
    ) -> Judgement {
        let identity = self.sources.get(source);
        let (name, known) = match self.sites.find_path(site, source).map(|path| self.sites.path(path)) {
            Some(path) => (path.name.clone(), path.own_address),
            None => (path_name(Some(&identity.name), &self.sites.site(site).name).into(), None),
        };
        let source_ip = match identity.bind_for(peer.ip()) {
            Bind::Address(address) => Some(address),
            // What the system chose last is what it will choose.
            Bind::System | Bind::Unusable => known,
        };
        let facts = PathFacts { source_ip, path: Some(&name), remote_ip: Some(peer.ip()) };
        self.judge(entry, facts, Moment::Attempt, now)
    }

    /// Whether no rule holds all of a message on a way. What ends or defers it acts there.
    pub(super) fn is_open(
        &mut self,
        entry: EntryId,
        site: SiteId,
        source: SourceIndex,
        peer: SocketAddr,
        now: Now,
    ) -> bool {
        let own = self.sources.get(source).bind_for(peer.ip());
        // Of an address that the system chooses, the answer may change with its choice.
        if self.rules.parts_ways_by_message() || !matches!(own, Bind::Address(_)) {
            return !self.judge_way(entry, site, source, peer, now).holds();
        }
        let bucket = self.queue.entry(entry).bucket;
        let key = (source, peer.ip());
        let Some(ways) = self.buckets.get(bucket).map(|state| &state.ways) else {
            return !self.judge_way(entry, site, source, peer, now).holds();
        };
        let is_fresh = ways.stamp.is_some_and(|(of, stamp)| of == site && stamp.holds(self.rules.epoch(), now.utc));
        if is_fresh && let Some(open) = ways.open.get(&key) {
            return *open;
        }
        let (open, stamp) = self.ask_about_way(entry, site, source, peer, now);
        self.keep_way(bucket, (key, open), (site, stamp), is_fresh);
        open
    }

    /// Whether no rule closes a way to the whole bucket of a message, and how long that holds. What ends mail by its
    /// tag or address, or holds it on every way, acts when the message is picked.
    fn ask_about_way(
        &mut self,
        entry: EntryId,
        site: SiteId,
        source: SourceIndex,
        peer: SocketAddr,
        now: Now,
    ) -> (bool, Stamp) {
        self.counters.judged += 1;
        let identity = self.sources.get(source);
        let name: Arc<str> = match self.sites.find_path(site, source) {
            Some(path) => self.sites.path(path).name.clone(),
            None => path_name(Some(&identity.name), &self.sites.site(site).name).into(),
        };
        let source_ip = match identity.bind_for(peer.ip()) {
            Bind::Address(address) => Some(address),
            Bind::System | Bind::Unusable => None,
        };
        let path = PathFacts { source_ip, path: Some(&name), remote_ip: Some(peer.ip()) };
        let facts = Facts { bucket: self.facts_of(self.queue.entry(entry).bucket), message: None, path };
        let verdict = self.rules.verdict(&facts, Moment::Attempt, now.utc);
        (!matches!(verdict.decision, Decision::Hold { .. }), verdict.stamp)
    }

    fn keep_way(
        &mut self,
        bucket: BucketId,
        (key, open): ((SourceIndex, IpAddr), bool),
        (site, stamp): (SiteId, Stamp),
        is_fresh: bool,
    ) {
        let Some(state) = self.buckets.get_mut(bucket) else { return };
        let ways = &mut state.ways;
        let is_new = ways.stamp.is_none();
        if !is_fresh || ways.open.len() >= WAYS_KNOWN {
            ways.open.clear();
            ways.stamp = None;
        }
        let (_, known) = ways.stamp.get_or_insert((site, stamp));
        known.at = known.at.max(stamp.at);
        known.next_transition = known.next_transition.min(stamp.next_transition);
        ways.open.insert(key, open);
        if is_new {
            self.ways_known.push_back(bucket);
            if self.ways_known.len() > WAYS_KNOWN_BUCKETS
                && let Some(oldest) = self.ways_known.pop_front()
                && let Some(state) = self.buckets.get_mut(oldest)
            {
                state.ways = KnownWays::default();
            }
        }
    }

    /// Whether a message has an open way from a source.
    pub(super) fn is_open_from(&mut self, entry: EntryId, site: SiteId, member: &Member, now: Now) -> bool {
        self.peers(site, member).into_iter().any(|peer| self.is_open(entry, site, member.source, peer, now))
    }

    /// Whether one of some ways is open to a message.
    pub(super) fn has_open(&mut self, entry: EntryId, site: SiteId, ways: &Ways, now: Now) -> bool {
        ways.iter().any(|&(source, peer)| self.is_open(entry, site, source, peer, now))
    }

    fn peers(&self, site: SiteId, member: &Member) -> SmallVec<[SocketAddr; 8]> {
        let identity = self.sources.get(member.source);
        let peers = self.sites.site(site).hosts.iter().flat_map(|host| &host.addresses).copied();
        peers.filter(|peer| member.reaches(peer.ip()) && identity.bind_for(peer.ip()) != Bind::Unusable).collect()
    }

    /// Whether a message that is held on one way may go on another.
    pub(super) fn has_open_way(&mut self, entry: EntryId, site: SiteId, now: Now) -> bool {
        if !self.may_be_guided(entry, now) {
            return false;
        }
        let bucket = self.queue.entry(entry).bucket;
        let Some(eligible) = self.eligible(bucket) else { return false };
        eligible.members.iter().any(|member| self.is_open_from(entry, site, member, now))
    }

    /// Holds the first messages of a bucket that have no open way.
    pub(super) fn hold_wayless(&mut self, site: SiteId, destination: DestinationId, bucket: BucketId, now: Now) {
        for _ in 0..PICK_SKIPS {
            let Some(entry) = self.guided(bucket, now) else { return };
            if self.queue.bucket_held(bucket).is_some() || self.has_open_way(entry, site, now) {
                return;
            }
            let Some(eligible) = self.eligible(bucket) else { return };
            let mut ways = eligible.members.iter().flat_map(|member| {
                let peers = self.peers(site, member);
                peers.into_iter().map(|peer| (member.source, peer))
            });
            let Some((source, peer)) = ways.next() else { return };
            let acts = self.judge_way(entry, site, source, peer, now);
            self.carry_out(entry, acts, now);
            if self.queue.total(destination).is_none() || self.queue.buckets(destination).iter().all(|of| *of != bucket)
            {
                return;
            }
        }
        self.stall(destination, now.instant);
    }

    /// Of the hosts that a session may try, those that are open to the mail for which it connects; all, when none
    /// is.
    pub(super) fn open_hosts<T>(
        &mut self,
        (destination, site, source): (DestinationId, SiteId, SourceIndex),
        hosts: SmallVec<[(T, SocketAddr); 2]>,
        now: Now,
    ) -> SmallVec<[(T, SocketAddr); 2]> {
        if self.rules.is_empty() || self.queue.total(destination).is_none() {
            return hosts;
        }
        let buckets = &self.buckets;
        let goes = |bucket: BucketId| {
            buckets.get(bucket).is_some_and(|state| state.eligible.members.iter().any(|of| of.source == source))
        };
        let next = self.queue.next(destination, |bucket, _| goes(bucket));
        let Some(entry) = next.map(|(_, entry)| entry).filter(|entry| self.queue.entry(*entry).state == State::Ready)
        else {
            return hosts;
        };
        if !self.may_be_guided(entry, now) {
            return hosts;
        }
        let open: SmallVec<[bool; 8]> =
            hosts.iter().map(|(_, peer)| self.is_open(entry, site, source, *peer, now)).collect();
        if !open.contains(&true) {
            return hosts;
        }
        hosts.into_iter().zip(open).filter(|(_, open)| *open).map(|(host, _)| host).collect()
    }
}
