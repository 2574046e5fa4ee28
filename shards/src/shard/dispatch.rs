//! A destination has ready mail: find its hosts, wake an idle session or open a new one.

use super::Shard;
use super::session::{Phase, Session};
use super::settle::Attempt;
use super::site::{BucketState, KnownWays, Route, SiteId};
use super::sweep::Meant;
use crate::event::{Command, Lookup, Resolved, SessionId};
use crate::limits::{PATH_CONNECTIONS_DEFAULT, PICK_DESTINATIONS, READY_PER_CONNECTION, SESSIONS_IN_LINE_MAX};
use crate::outcome::{Carrier, Verb};
use crate::path::{Combination, Eligible, Limits, Member, PathId, PermitId, Rotation, site_name};
use crate::queue::{BucketId, DestinationId, NextHop};
use crate::settings::RouteHost;
use crate::smtp::classify::{Failure, FailureKind};
use crate::time::{Instant, Now};
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Sets of sources that one look at a destination serves; others are looked at later.
const SERVED_AT_ONCE: usize = 8;

/// An answer of the resolver is used for at least so long, or the mail that waits for it would ask for ever.
const ROUTE_KEPT_MIN: Duration = Duration::from_secs(1);

/// When mail is looked at again for which no session can even wait.
const LINE_LOOKED_AT: Duration = Duration::from_secs(1);

/// How much later.
const SERVED_LATER: Duration = Duration::from_millis(100);

impl Shard {
    /// Sees to it that the ready mail of a destination is on its way, or will be looked at again.
    pub(super) fn attend(&mut self, destination: DestinationId, now: Now) {
        if self.queue.ready(destination) == 0 || self.stopping || self.halted() {
            return;
        }
        // What fails is not served before that is done; then it is attended to.
        if self.routes.of(destination).failing > 0 {
            return;
        }
        match self.routes.of(destination).route {
            Route::Resolving => {}
            Route::Known { site, until } if until > now.instant => {
                let state = self.routes.of(destination);
                if !state.listed {
                    state.listed = true;
                    self.sites.site_mut(site).ring.push_back(destination);
                }
                self.serve(site, destination, now);
            }
            Route::Unknown | Route::Known { .. } => self.resolve(destination),
        }
    }

    fn resolve(&mut self, destination: DestinationId) {
        let (domain, next_hop) = self.queue.destination(destination);
        let lookup = match next_hop {
            NextHop::Recipient => self.lookup_of(domain.clone()),
            NextHop::Domain(routing_domain) => self.lookup_of((&**routing_domain).into()),
            NextHop::Host(host) => Lookup::Hosts { hosts: vec![parse_smarthost(host)], by_operator: false },
        };
        self.unroute(destination);
        self.routes.of(destination).route = Route::Resolving;
        self.commands.push_back(Command::Resolve { destination, lookup });
    }

    fn lookup_of(&self, domain: Arc<str>) -> Lookup {
        match self.route_index.get(&*domain).or(self.default_route.as_ref()) {
            Some(&route) => Lookup::Hosts { hosts: self.settings.routes[route].hosts.clone(), by_operator: true },
            None => Lookup::MailHosts(domain),
        }
    }

    /// The resolver's answer.
    pub fn handle_resolved(&mut self, destination: DestinationId, answer: Result<Resolved, Failure>, now: Now) {
        if self.routes.of(destination).route != Route::Resolving || self.queue.total(destination).is_none() {
            return;
        }
        let state = self.routes.of(destination);
        if std::mem::take(&mut state.outdated) {
            state.route = Route::Unknown;
            return self.attend(destination, now);
        }
        let answer = answer.and_then(|resolved| self.without_ourselves(resolved));
        match answer {
            Ok(resolved) => {
                let names: SmallVec<[&str; 8]> = resolved.names.iter().map(|name| &**name).collect();
                let site = self.sites.enter(&site_name(&names), resolved.hosts);
                // An answer that may not be kept at all is good for what waits for it.
                let until = resolved.expires.max(now.instant.after(ROUTE_KEPT_MIN));
                self.routes.of(destination).route = Route::Known { site, until };
                self.attend(destination, now);
            }
            Err(failure) => {
                self.routes.of(destination).route = Route::Unknown;
                self.sweep_ready(destination, Meant::All, failure, Attempt::without_session());
            }
        }
    }

    /// Mail for a host that is this engine would come back: such a host and those after it do not count.
    fn without_ourselves(&self, mut resolved: Resolved) -> Result<Resolved, Failure> {
        let ours = |address: &SocketAddr| self.settings.smtp.listen.contains(address);
        if let Some(at) = resolved.hosts.iter().position(|host| host.addresses.iter().any(ours)) {
            resolved.hosts.truncate(at);
        }
        if resolved.hosts.is_empty() {
            let text = "mail for this domain would come back to this host";
            return Err(Failure::own(FailureKind::Loop, Verb::None, text));
        }
        Ok(resolved)
    }

    /// Forgets where destinations go, since the settings may now say otherwise. Those with mail are asked for again
    /// when they are attended to.
    pub(super) fn unroute_all(&mut self) {
        for destination in self.queue.destination_ids() {
            let state = self.routes.of(destination);
            state.outdated = state.route == Route::Resolving;
            if !state.outdated {
                self.unroute(destination);
            }
        }
    }

    /// Forgets where a destination goes.
    pub(super) fn unroute(&mut self, destination: DestinationId) {
        let state = self.routes.of(destination);
        let Route::Known { site, .. } = std::mem::take(&mut state.route) else {
            return;
        };
        if std::mem::take(&mut state.listed) {
            self.sites.site_mut(site).ring.retain(|listed| *listed != destination);
        }
        self.sites.leave(site);
        // Paths of that site may be gone, and their numbers used again.
        for &bucket in self.queue.buckets(destination) {
            if let Some(state) = self.buckets.get_mut(bucket) {
                state.limits.clear();
                state.ways = KnownWays::default();
            }
        }
    }

    /// The ready mail of a bucket asks for something that is not configured, which was its attempt: a reload may bring
    /// it back. What a rule holds is not meant.
    fn misdirected(&mut self, destination: DestinationId, bucket: BucketId) {
        let key = self.queue.bucket_key(bucket);
        if let Err(error) = self.pools.choose(&self.sources, key.pool.as_deref(), &key.ips) {
            let failure = Failure::own(FailureKind::NoSource, Verb::None, error.to_string());
            self.sweep_ready(destination, Meant::Bucket(bucket), failure, Attempt::without_session());
        }
    }

    /// Wakes an idle session for the ready mail of `destination`, or opens one if it deserves more. Mail that goes
    /// from other sources than the mail in turn gets at least one session.
    pub(super) fn serve(&mut self, site: SiteId, destination: DestinationId, now: Now) {
        let mut served: SmallVec<[Arc<[Member]>; 2]> = SmallVec::new();
        let mut misdirected: SmallVec<[BucketId; 2]> = SmallVec::new();
        for _ in 0..SERVED_AT_ONCE {
            let buckets = &self.buckets;
            let is_new = |bucket: BucketId| match buckets.get(bucket) {
                Some(state) => !served.iter().any(|members| Arc::ptr_eq(members, &state.eligible.members)),
                None => !misdirected.contains(&bucket),
            };
            let Some((bucket, _)) = self.queue.next(destination, |bucket, _| is_new(bucket)) else {
                return;
            };
            let Some(eligible) = self.eligible(bucket) else {
                self.misdirected(destination, bucket);
                misdirected.push(bucket);
                continue;
            };
            self.serve_bucket(site, destination, bucket, &eligible, served.is_empty(), now);
            if !self.routes.of(destination).several_members {
                return;
            }
            served.push(eligible.members);
        }
        self.stall(destination, now.instant.after(SERVED_LATER));
    }

    fn serve_bucket(
        &mut self,
        site: SiteId,
        destination: DestinationId,
        bucket: BucketId,
        eligible: &Eligible,
        in_turn: bool,
        now: Now,
    ) {
        let (mut opening, mut sessions, mut alone) = (0, 0, false);
        let guided = self.guided(bucket, now);
        for member in eligible.members.iter() {
            let Some(path) = self.sites.find_path(site, member.source) else {
                continue;
            };
            if guided.is_some_and(|entry| !self.is_open_from(entry, site, member, now)) {
                continue;
            }
            let limits = self.limits_for(bucket, path);
            let (share, of_path) = (limits.share, self.sites.path(path));
            alone |= limits.exclusive_domain;
            opening += of_path.opening.iter().filter(|of| **of == share).count();
            sessions += of_path.sharing(share);
            // The last to become idle is the warmest, and the others may reach their time-out.
            let fits = |session: &Session| {
                session.share == share && !session.retiring() && member.reaches(session.peer().ip())
            };
            let idle: SmallVec<[(SessionId, SocketAddr); 4]> = of_path
                .idle
                .iter()
                .rev()
                .map(|id| (*id, self.session(*id).peer()))
                .filter(|(id, _)| fits(self.session(*id)))
                .take(if guided.is_some() { usize::MAX } else { 1 })
                .collect();
            let found = idle
                .into_iter()
                .find(|(_, peer)| guided.is_none_or(|entry| self.is_open(entry, site, member.source, *peer, now)));
            if let Some((id, _)) = found {
                self.leave_idle(id);
                self.commands.push_back(Command::Wake(id));
                return;
            }
        }
        let ready = || {
            let own = self.queue.ready(destination);
            if alone {
                return own;
            }
            let ring = self.sites.site(site).ring.iter().take(PICK_DESTINATIONS);
            ring.map(|listed| self.queue.ready(*listed)).sum::<u32>().max(own)
        };
        // Something is ready, or nobody would be served.
        let enough = opening > 0 && opening >= ready().div_ceil(READY_PER_CONNECTION) as usize;
        if !enough && (in_turn || sessions == 0) {
            self.open_more(site, destination, bucket, eligible, now);
        }
    }

    fn open_more(&mut self, site: SiteId, destination: DestinationId, bucket: BucketId, eligible: &Eligible, now: Now) {
        if self.places.in_line() >= SESSIONS_IN_LINE_MAX {
            return self.stall(destination, now.instant.after(LINE_LOOKED_AT));
        }
        let Some(path) = self.choose_path(site, bucket, eligible, now) else {
            self.hold_wayless(site, destination, bucket, now);
            if self.queue.ready(destination) == 0 {
                return;
            }
            self.make_room(site, bucket, eligible);
            let again = self.next_chance(site, eligible, now.instant);
            self.stall(destination, again);
            return;
        };
        let limits = self.limits_for(bucket, path);
        let permit = if limits.needs_permit() {
            let held = self.sites.path(path).sharing(limits.share);
            match self.permits.request(&limits, held, now.instant) {
                Some(permit) => permit,
                // Too many requests wait already.
                None => return self.stall(destination, now.instant.after(SERVED_LATER)),
            }
        } else {
            PermitId::UNLIMITED
        };
        let id = self.new_session(path, destination, &limits, permit, eligible);
        if permit != PermitId::UNLIMITED {
            // One that is granted at once may be recalled like any other.
            self.permit_sessions.insert(permit, id);
        }
        if permit == PermitId::UNLIMITED {
            self.start_connecting(id, now);
        }
        // A request may be for the home on another core, or granted already.
        self.carry_permits(now);
    }

    /// Ends the longest idle session that takes the place of one that `bucket` could use.
    fn make_room(&mut self, site: SiteId, bucket: BucketId, eligible: &Eligible) {
        let destination = self.queue.destination_of(bucket);
        for member in eligible.members.iter() {
            let Some(path) = self.sites.find_path(site, member.source) else { continue };
            let limits = self.limits_for(bucket, path);
            let of_path = self.sites.path(path);
            let waits = self.routes.of(destination).awaited.contains(&limits.tokens);
            if waits || of_path.sharing(limits.share) >= limits.core_connections {
                continue;
            }
            let idle = of_path.idle.iter().copied().find(|id| !self.session(*id).recalled);
            if let Some(id) = idle {
                self.sessions[id.0 as usize].recalled = true;
                self.commands.push_back(Command::Wake(id));
                return;
            }
        }
    }

    /// When a destination that has no path now may have one by the passing of time. Events (a session that
    /// ends, a success) attend to it earlier.
    fn next_chance(&self, site: SiteId, eligible: &Eligible, now: Instant) -> Instant {
        let site = self.sites.site(site);
        let rests = eligible.members.iter().flat_map(|member| {
            let addresses = site.hosts.iter().flat_map(|host| &host.addresses);
            addresses.filter_map(|peer| self.sites.rest_until(member.source, *peer))
        });
        let windows = site.paths.iter().filter_map(|path| self.sites.path(*path).window.next_change(now));
        let soonest = rests.chain(windows).filter(|at| *at > now).min();
        soonest.unwrap_or_else(|| now.after(Duration::from_secs(1)))
    }

    /// Attends to a destination again at `at`.
    pub(super) fn stall(&mut self, destination: DestinationId, at: Instant) {
        let state = self.routes.of(destination);
        if state.stalled_until.is_none_or(|until| at < until) {
            state.stalled_until = Some(at);
            self.stalled.push(std::cmp::Reverse((at, destination)));
        }
    }

    fn new_session(
        &mut self,
        path: PathId,
        destination: DestinationId,
        limits: &Arc<Limits>,
        permit: PermitId,
        eligible: &Eligible,
    ) -> SessionId {
        self.next_session += 1;
        let site = self.sites.path(path).site;
        let index = self.sites.path(path).source;
        let source = self.sources.get(index);
        let member = eligible.members.iter().find(|member| member.source == index);
        let member = *member.expect("the path was chosen from these members");
        let carrier = Carrier {
            session: self.next_session,
            site: self.sites.site(site).name.clone(),
            pool: eligible.pool.clone(),
            source: Some(source.name.clone()),
            ..Carrier::default()
        };
        let of_path = self.sites.path_mut(path);
        of_path.enter(limits.share);
        let session = Session {
            phase: Phase::AwaitingPermit,
            site,
            path,
            destination,
            domain: self.queue.destination(destination).0.clone(),
            member,
            share: limits.share,
            limits: limits.clone(),
            permit,
            has_place: false,
            hosts: SmallVec::new(),
            host: 0,
            tls: limits.tls,
            in_clear: false,
            served: false,
            carrier: Arc::new(carrier),
            flights: SmallVec::new(),
            messages: 0,
            messages_max: limits.messages_per_connection,
            connections_max: limits.core_connections.max(PATH_CONNECTIONS_DEFAULT),
            idle_timeout: limits.idle_timeout,
            recalled: false,
        };
        SessionId(u32::try_from(self.sessions.insert(session)).expect("sessions are bounded by open files"))
    }

    /// From which sources a bucket may be sent; none when it names what is not configured.
    pub(super) fn eligible(&mut self, bucket: BucketId) -> Option<Eligible> {
        if let Some(state) = self.buckets.get(bucket) {
            return Some(state.eligible.clone());
        }
        let key = self.queue.bucket_key(bucket);
        match self.pools.choose(&self.sources, key.pool.as_deref(), &key.ips) {
            Ok(eligible) => {
                let state = BucketState {
                    eligible: eligible.clone(),
                    rotation: Rotation::starting_at(&eligible.members, self.core.0),
                    limits: SmallVec::new(),
                    verdict: None,
                    ways: KnownWays::default(),
                };
                self.buckets.set(bucket, state);
                let destination = self.routes.of(self.queue.destination_of(bucket));
                let members = destination.members.get_or_insert_with(|| eligible.members.clone());
                destination.several_members |= !Arc::ptr_eq(members, &eligible.members);
                Some(eligible)
            }
            Err(_) => {
                // Its mail is to be deferred when other mail of the destination can be sent, too.
                self.routes.of(self.queue.destination_of(bucket)).several_members = true;
                None
            }
        }
    }

    fn limits_of(&self, bucket: BucketId, path: PathId) -> Option<&Arc<Limits>> {
        let state = self.buckets.get(bucket)?;
        state.limits.iter().find(|(of, _)| *of == path).map(|(_, limits)| limits)
    }

    /// What limits a bucket's messages on a path of the site to which its destination is routed.
    pub(super) fn limits_for(&mut self, bucket: BucketId, path: PathId) -> Arc<Limits> {
        if let Some(limits) = self.limits_of(bucket, path) {
            return limits.clone();
        }
        // Kept until the destination is routed anew. So long the site stays, and the path's number is not another's.
        debug_assert!(self.is_routed_to(bucket, self.sites.path(path).site), "limits are kept for mail in its site");
        let (domain, _) = self.queue.destination(self.queue.destination_of(bucket));
        let pool = self.buckets.get(bucket).and_then(|state| state.eligible.pool.as_deref());
        let limits = Arc::new(self.resolve_limits(domain, pool, path));
        if let Some(state) = self.buckets.get_mut(bucket) {
            state.limits.push((path, limits.clone()));
        }
        limits
    }

    fn is_routed_to(&self, bucket: BucketId, site: SiteId) -> bool {
        let route = self.routes.get(self.queue.destination_of(bucket));
        matches!(route, Some(Route::Known { site: known, .. }) if known == site)
    }

    /// What limits mail of a domain from a pool on any path.
    pub(super) fn resolve_limits(&self, domain: &str, pool: Option<&str>, path: PathId) -> Limits {
        let of_path = self.sites.path(path);
        let (site, source) = (&self.sites.site(of_path.site).name, &self.sources.get(of_path.source).name);
        self.limits.resolve(&Combination { domain, site, source, pool })
    }
}

/// `host`, `host:port` or `[address]:port`; checked where the message came in.
fn parse_smarthost(text: &str) -> RouteHost {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return RouteHost { host: address.ip().to_string().into(), port: address.port() };
    }
    if let Some((host, port)) = text.rsplit_once(':')
        && let Ok(port) = port.parse()
        && !host.contains(':')
    {
        return RouteHost { host: host.into(), port };
    }
    RouteHost { host: text.trim_matches(['[', ']']).into(), port: 25 }
}

#[cfg(test)]
mod tests {
    use super::parse_smarthost;

    #[test]
    fn a_smart_host_is_a_name_or_an_address_with_or_without_a_port() {
        let table = [
            ("relay.test", "relay.test", 25),
            ("relay.test:2525", "relay.test", 2525),
            ("relay.test:x", "relay.test:x", 25),
            ("192.0.2.1", "192.0.2.1", 25),
            ("192.0.2.1:587", "192.0.2.1", 587),
            ("[2001:db8::1]", "2001:db8::1", 25),
            ("[2001:db8::1]:587", "2001:db8::1", 587),
            ("2001:db8::1", "2001:db8::1", 25),
        ];
        for (text, host, port) in table {
            let parsed = parse_smarthost(text);
            assert_eq!((&*parsed.host, parsed.port), (host, port), "{text}");
        }
    }
}
