//! Sessions come up, fail to come up, and end; permits come and go with them.

use super::Shard;
use super::session::{Phase, Session};
use super::settle::Attempt;
use super::site::SiteId;
use super::sweep::Meant;
use super::way::Ways;
use crate::event::{Command, Connect, Mail, SessionId};
use crate::limits::{HOST_REST_MILLIS, HOST_REST_MILLIS_MAX, HOSTS_TRIED, PICK_DESTINATIONS};
use crate::path::source::Bind;
use crate::path::{Eligible, Member, PermitEvent, PermitId, PermitState, SourceIndex};
use crate::queue::{BucketId, DestinationId};
use crate::settings::TlsPolicy;
use crate::smtp::classify::{Failure, Remedy, Scope, consequence};
use crate::time::Now;
use smallvec::SmallVec;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// A destination, the sources of the mail that is meant, and the ways that are left to it.
type Stuck = (DestinationId, Arc<[Member]>, Ways);

/// What TLS gave a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// Negotiated suite.
    pub cipher: Option<&'static str>,
    /// Negotiated version.
    pub version: Option<&'static str>,
}

impl Shard {
    /// Leave is given: choose the hosts to try and connect to the first, or go on with the one in turn.
    pub(super) fn start_connecting(&mut self, id: SessionId, now: Now) {
        if self.stopping {
            return self.drop_session(id, now);
        }
        if !self.session(id).has_place && self.places.are_taken() {
            return self.line_up(id, now);
        }
        if !self.session(id).hosts.is_empty() {
            self.take_place(id);
            self.sessions[id.0 as usize].phase = Phase::Opening;
            return self.connect(id);
        }
        let session = self.session(id);
        let source = self.sites.path(session.path).source;
        let identity = self.sources.get(source);
        let hosts: SmallVec<[(Arc<str>, SocketAddr); 2]> = self
            .sites
            .site(session.site)
            .hosts
            .iter()
            .flat_map(|host| host.addresses.iter().map(|peer| (host.name.clone(), *peer)))
            .filter(|(_, peer)| session.member.reaches(peer.ip()))
            .filter(|(_, peer)| identity.bind_for(peer.ip()) != Bind::Unusable)
            .filter(|(_, peer)| self.sites.rested(source, *peer, now.instant))
            .take(HOSTS_TRIED)
            .collect();
        if hosts.is_empty() {
            self.drop_session(id, now);
            return;
        }
        let hosts = self.open_hosts((session.destination, session.site, source), hosts, now);
        self.take_place(id);
        let session = &mut self.sessions[id.0 as usize];
        session.phase = Phase::Opening;
        session.hosts = hosts;
        let path = session.path;
        self.sites.path_mut(path).failed = false;
        self.connect(id);
    }

    /// Connects to the host in turn.
    fn connect(&mut self, id: SessionId) {
        let session = &mut self.sessions[id.0 as usize];
        debug_assert!(
            matches!(self.permits.state(session.permit), Some(PermitState::Granted | PermitState::Recalled)),
            "a session connects with the leave that it has now"
        );
        let identity = self.sources.get(self.sites.path(session.path).source);
        let (host, peer) = session.hosts[session.host].clone();
        let source = match identity.bind_for(peer.ip()) {
            Bind::Address(address) => Some(address),
            Bind::System | Bind::Unusable => None,
        };
        let carrier = Arc::make_mut(&mut session.carrier);
        carrier.peer_name = host.clone();
        carrier.peer = Some(peer);
        carrier.source_address = source;
        let tls = if session.in_clear { TlsPolicy::Disabled } else { session.tls };
        self.counters.connections += 1;
        self.commands.push_back(Command::Connect(Connect {
            session: id,
            peer,
            host,
            source,
            ehlo: identity.ehlo.clone(),
            tls,
        }));
    }

    /// A session's greeting is good: it may ask for messages. `local` is our end of the connection.
    pub fn handle_ready(&mut self, id: SessionId, tls: Option<TlsFacts>, local: Option<IpAddr>) {
        let session = &mut self.sessions[id.0 as usize];
        assert_eq!(session.phase, Phase::Opening, "a session is greeted once");
        session.phase = Phase::Busy;
        session.served = true;
        let carrier = Arc::make_mut(&mut session.carrier);
        carrier.source_address = carrier.source_address.or(local);
        if let Some(tls) = tls {
            carrier.tls_cipher = tls.cipher;
            carrier.tls_version = tls.version;
        }
        let (path, share, own) = (session.path, session.share, session.carrier.source_address);
        let path = self.sites.path_mut(path);
        path.own_address = own;
        path.opened(share);
        path.failed = false;
    }

    /// The connection is gone, or was never made; the last word on it. A session whose greeting was not
    /// good tries its next host.
    pub fn handle_closed(&mut self, id: SessionId, failure: Option<Failure>, now: Now) {
        let flights = std::mem::take(&mut self.sessions[id.0 as usize].flights);
        let mut destinations: SmallVec<[DestinationId; 2]> = SmallVec::new();
        for flight in flights {
            destinations.push(self.queue.destination_of(self.queue.entry(flight.entry).bucket));
            self.queue.put_back(flight.entry);
            self.end_if_ruled(flight.entry, now);
        }
        // From here on their mail is attended to, which may end what was given back.
        self.session_closed(id, failure, now);
        for destination in destinations {
            self.attend(destination, now);
        }
    }

    fn session_closed(&mut self, id: SessionId, failure: Option<Failure>, now: Now) {
        let session = self.session(id);
        if session.phase == Phase::Opening && !self.stopping {
            match failure {
                Some(failure) => return self.opening_failed(id, failure, now),
                None => self.rest_host(id, now),
            }
        } else if let Some(failure) = &failure
            && consequence(failure, session.tls).scope == Scope::Host
        {
            let path = session.path;
            self.sites.path_mut(path).window.host_failed(now.instant);
        }
        self.drop_session(id, now);
    }

    /// The session's task panicked: its messages are put aside, the rest goes on.
    pub fn handle_session_panic(&mut self, id: SessionId, now: Now) {
        let flights = std::mem::take(&mut self.sessions[id.0 as usize].flights);
        for flight in flights {
            self.counters.quarantined += 1;
            self.queue.put_back(flight.entry);
            self.queue.hold(flight.entry);
            self.end_if_ruled(flight.entry, now);
        }
        if self.session(id).phase == Phase::Opening {
            // Whatever the host said may be said again at the next connection.
            self.rest_host(id, now);
        }
        self.drop_session(id, now);
    }

    fn opening_failed(&mut self, id: SessionId, failure: Failure, now: Now) {
        let session = &mut self.sessions[id.0 as usize];
        let means = consequence(&failure, session.tls);
        if means.remedy == Remedy::InClear && !session.in_clear {
            session.in_clear = true;
            return self.connect_once_more(id, now);
        }
        session.in_clear = false;
        if means.scope == Scope::Source {
            // The address is not usable at all: no host can be reached from it.
            let (path, hosts) = (session.path, session.hosts.clone());
            let source = self.sites.path(path).source;
            for (_, peer) in hosts {
                self.rest(source, peer, now);
            }
        } else {
            self.rest_host(id, now);
            let session = &mut self.sessions[id.0 as usize];
            if session.host + 1 < session.hosts.len() {
                session.host += 1;
                return self.connect_once_more(id, now);
            }
        }
        self.site_failed(id, failure, now);
    }

    /// One more connection within the same attempt, to the next host or without TLS. Where a rate of connections counts,
    /// it takes its token like the first one: the leave goes back, and the session asks for another.
    fn connect_once_more(&mut self, id: SessionId, now: Now) {
        let session = self.session(id);
        if session.limits.version != self.limits.version() {
            // Others hold by now. Its mail is attended to anew, by those.
            return self.drop_session(id, now);
        }
        if !session.limits.has_connection_rate() {
            return self.connect(id);
        }
        self.leave_place(id);
        self.ask_anew(id, now);
        self.serve_line(now);
    }

    /// Gives the leave to connect back and asks for another.
    pub(super) fn ask_anew(&mut self, id: SessionId, now: Now) {
        let session = self.session(id);
        let (limits, before) = (session.limits.clone(), session.permit);
        let used = session.phase == Phase::Opening;
        // All that share with it, less itself.
        let held = self.sites.path(session.path).sharing(session.share) - 1;
        self.permit_sessions.remove(&before);
        self.permits.release(before, used, now.instant);
        let permit = self.permits.request(&limits, held, now.instant);
        let session = &mut self.sessions[id.0 as usize];
        (session.phase, session.recalled) = (Phase::AwaitingPermit, false);
        // Too many requests wait already: its mail is attended to again.
        session.permit = permit.unwrap_or(PermitId::UNLIMITED);
        let Some(permit) = permit else { return self.drop_session(id, now) };
        self.permit_sessions.insert(permit, id);
        self.carry_permits(now);
    }

    /// No host of the site could be used from this source. When nothing else is left for the mail that waits
    /// for the site, that was its attempt.
    fn site_failed(&mut self, id: SessionId, failure: Failure, now: Now) {
        let session = self.session(id);
        let (site, path) = (session.site, session.path);
        let attempt =
            Attempt { carrier: Some(session.carrier.clone()), tls: session.tls, other_host: false, repeatable: false };
        let of_path = self.sites.path_mut(path);
        of_path.window.host_failed(now.instant);
        of_path.failed = true;
        let source = of_path.source;
        let waiting: SmallVec<[DestinationId; 8]> = self.sites.site(site).ring.iter().copied().collect();
        let mut stuck: SmallVec<[Stuck; 4]> = SmallVec::new();
        for waiting in waiting {
            for at in 0..self.queue.buckets(waiting).len() {
                let Some(&bucket) = self.queue.buckets(waiting).get(at) else { break };
                let Some(Eligible { members, .. }) = self.eligible(bucket) else { continue };
                let known = stuck.iter().any(|(of, has, _)| *of == waiting && Arc::ptr_eq(has, &members));
                let concerned = members.iter().any(|member| member.source == source);
                if !concerned || known || self.queue.ready(waiting) == 0 {
                    continue;
                }
                let ways = self.ways_left(bucket, &members, site, now);
                // Those that are left may be closed by rules; the sweep asks for each message.
                let guided = if ways.is_empty() { None } else { self.guided(bucket, now) };
                if ways.is_empty() || guided.is_some_and(|entry| !self.has_open(entry, site, &ways, now)) {
                    stuck.push((waiting, members, ways));
                }
            }
        }
        if !stuck.is_empty() {
            // The next round begins anew with every source.
            for path in self.sites.site(site).paths.clone() {
                self.sites.path_mut(path).failed = false;
            }
        }
        for (destination, members, ways) in stuck {
            self.sweep_ready(destination, Meant::From(members, site, ways), failure.clone(), attempt.clone());
        }
        self.drop_session(id, now);
    }

    /// The ways that mail of `bucket` has to the site, whatever rules say of them: connections that work and may
    /// carry it, and sources from which the site was not tried in vain just now.
    fn ways_left(&mut self, bucket: BucketId, members: &[Member], site: SiteId, now: Now) -> Ways {
        let mut ways = Ways::new();
        for member in members {
            if let Some(path) = self.sites.find_path(site, member.source) {
                let share = self.limits_for(bucket, path).share;
                let carries = |session: &Session| {
                    session.path == path
                        && session.share == share
                        && session.served
                        && !session.retiring()
                        && member.reaches(session.peer().ip())
                };
                let carrying = self.sessions.iter().filter(|(_, session)| carries(session));
                for (_, session) in carrying {
                    let way = (member.source, session.peer());
                    if !ways.contains(&way) {
                        ways.push(way);
                    }
                }
                if self.sites.path(path).failed {
                    continue;
                }
            }
            let peers = self.sites.site(site).hosts.iter().flat_map(|host| &host.addresses).copied();
            let rested =
                |peer: &SocketAddr| member.reaches(peer.ip()) && self.sites.rested(member.source, *peer, now.instant);
            ways.extend(peers.filter(rested).map(|peer| (member.source, peer)));
        }
        ways
    }

    /// Leaves the host in use alone for a while.
    pub(super) fn rest_host(&mut self, id: SessionId, now: Now) {
        let session = self.session(id);
        let (source, peer) = (self.sites.path(session.path).source, session.peer());
        self.rest(source, peer, now);
    }

    /// Whether the host in use is to be left alone now.
    pub(super) fn host_rests(&self, id: SessionId, now: Now) -> bool {
        let session = self.session(id);
        !self.sites.rested(self.sites.path(session.path).source, session.peer(), now.instant)
    }

    fn rest(&mut self, source: SourceIndex, peer: SocketAddr, now: Now) {
        let least = Duration::from_millis(HOST_REST_MILLIS);
        self.sites.rest(source, peer, now.instant, least, Duration::from_millis(HOST_REST_MILLIS_MAX));
    }

    /// The host answered for a message, well or not: whatever was held against it is forgotten.
    pub(super) fn host_served(&mut self, id: SessionId) {
        let session = self.session(id);
        let (path, peer, most) = (session.path, session.peer(), session.connections_max);
        let source = self.sites.path(path).source;
        self.sites.served(source, peer);
        let path = self.sites.path_mut(path);
        path.window.succeeded(path.sessions, most);
    }

    /// Whether another host of the session's site may be tried now from its source.
    pub(super) fn has_other_host(&self, id: SessionId, now: Now) -> bool {
        let session = self.session(id);
        let source = self.sites.path(session.path).source;
        let identity = self.sources.get(source);
        let mut peers = self.sites.site(session.site).hosts.iter().flat_map(|host| &host.addresses);
        peers.any(|peer| {
            *peer != session.peer()
                && session.member.reaches(peer.ip())
                && identity.bind_for(peer.ip()) != Bind::Unusable
                && self.sites.rested(source, *peer, now.instant)
        })
    }

    /// Forgets a session that has no connection, and gives its site's mail another chance.
    pub(super) fn drop_session(&mut self, id: SessionId, now: Now) {
        self.leave_idle(id);
        let session = self.sessions.remove(id.0 as usize);
        let path = self.sites.path_mut(session.path);
        path.leave(session.share);
        if !session.stands() {
            path.opened(session.share);
        }
        if session.permit != PermitId::UNLIMITED {
            self.permit_sessions.remove(&session.permit);
            self.permits.release(session.permit, !session.waits(), now.instant);
        }
        if session.has_place {
            self.places.leave();
        }
        self.delist_empty(session.site);
        let ring = &mut self.sites.site_mut(session.site).ring;
        let waiting: SmallVec<[DestinationId; 4]> = ring.iter().take(PICK_DESTINATIONS).copied().collect();
        // The others come first at the next time.
        ring.rotate_left(waiting.len());
        self.sites.drop_unused(session.site);
        // Others may connect now, or end in turn; the site may go with the last of them.
        self.carry_permits(now);
        self.serve_line(now);
        // The one that it was opened for may stand far behind the others.
        for destination in waiting.into_iter().chain([session.destination]) {
            self.attend(destination, now);
        }
    }

    /// Carries what the permit keeper has to say.
    pub(super) fn carry_permits(&mut self, now: Now) {
        // Whoever hears of it may end and give something back, of which the next one hears: one after the other, or as many
        // as wait for the same limit would stand on the stack.
        if std::mem::replace(&mut self.carrying, true) {
            return;
        }
        loop {
            while let Some((core, message)) = self.permits.poll_message() {
                self.commands.push_back(Command::Post(core, Mail::Permit(self.core, message)));
            }
            let Some(event) = self.permits.poll_event() else { break };
            self.hear(event, now);
        }
        self.carrying = false;
    }

    fn hear(&mut self, event: PermitEvent, now: Now) {
        match event {
            PermitEvent::Granted(permit) => {
                if let Some(&id) = self.permit_sessions.get(&permit)
                    && self.session(id).phase == Phase::AwaitingPermit
                {
                    self.start_connecting(id, now);
                }
            }
            PermitEvent::Recalled(permit) => {
                if let Some(&id) = self.permit_sessions.get(&permit) {
                    self.recall(id, now);
                }
            }
            PermitEvent::Tokens(key) => {
                for destination in self.token_waiters.remove(&key).unwrap_or_default() {
                    self.routes.of(destination).awaited.retain(|of| *of != key);
                    self.attend(destination, now);
                }
            }
        }
    }

    fn recall(&mut self, id: SessionId, now: Now) {
        let session = &mut self.sessions[id.0 as usize];
        session.recalled = true;
        match session.phase {
            Phase::AwaitingPermit | Phase::InLine => self.drop_session(id, now),
            Phase::Idle(_) => self.commands.push_back(Command::Wake(id)),
            Phase::Opening | Phase::Busy | Phase::Finishing => {}
        }
    }
}
