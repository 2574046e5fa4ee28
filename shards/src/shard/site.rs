//! Sites (sets of hosts), the paths to them, and which destination goes to which site.

use crate::event::{Host, SessionId};
use crate::path::{Eligible, Limits, Member, PathId, Rotation, ShareKey, SourceIndex, TokenKey, Window};
use crate::queue::{BucketId, DestinationId};
use crate::rules::{BucketVerdict, Stamp};
use crate::time::Instant;
use hashbrown::HashMap;
use slab::Slab;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A site on one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SiteId(pub u32);

/// A set of hosts that take the mail of some destinations.
#[derive(Debug)]
pub(super) struct Site {
    pub name: Arc<str>,
    pub hosts: Vec<Host>,
    /// Destinations with ready mail, in turn.
    pub ring: VecDeque<DestinationId>,
    pub paths: SmallVec<[PathId; 1]>,
    /// Whose turn it is among the sources of each pool (or of all sources).
    pub rotations: HashMap<Option<Arc<str>>, Rotation>,
    /// Destinations that are routed here.
    pub destinations: u32,
}

/// One source's way to one site.
#[derive(Debug)]
pub(super) struct Path {
    pub site: SiteId,
    pub source: SourceIndex,
    pub name: Arc<str>,
    /// Own address of the last connection that was greeted.
    pub own_address: Option<IpAddr>,
    pub window: Window,
    /// Sessions, wanted ones included.
    pub sessions: u32,
    /// The same by what they may carry.
    pub by_share: SmallVec<[(ShareKey, u32); 1]>,
    /// Sessions that wait for a permit, connect or greet: what each may carry.
    pub opening: SmallVec<[ShareKey; 4]>,
    /// No host could be used from its source when it was last tried.
    pub failed: bool,
    /// Sessions without a message, the longest idle first.
    pub idle: VecDeque<SessionId>,
}

/// Where a destination's mail goes, as far as is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Route {
    /// Not asked yet, or forgotten.
    #[default]
    Unknown,
    /// Asked.
    Resolving,
    /// To this site, until it must be asked again.
    Known { site: SiteId, until: Instant },
}

/// What the shard keeps for a destination beside the queue.
#[derive(Debug, Default)]
pub(super) struct RouteState {
    pub route: Route,
    /// The settings have changed since it was asked: the answer does not count.
    pub outdated: bool,
    /// It is in its site's ring.
    pub listed: bool,
    /// It will be attended again at that time.
    pub stalled_until: Option<Instant>,
    /// It was empty, and is forgotten then unless mail comes.
    pub empty_until: Option<Instant>,
    /// Sweeps that fail its ready mail and are not finished.
    pub failing: u32,
    /// Tokens that its mail waits for: it is attended to when they come.
    pub awaited: SmallVec<[TokenKey; 1]>,
    /// From where the mail of its first bucket may go.
    pub members: Option<Arc<[Member]>>,
    /// The mail of other buckets goes from elsewhere.
    pub several_members: bool,
}

/// Routes by destination.
#[derive(Debug, Default)]
pub(super) struct RouteTable {
    states: Vec<RouteState>,
}

impl RouteTable {
    /// The route of a destination, if anything is known of it.
    pub fn get(&self, id: DestinationId) -> Option<Route> {
        self.states.get(id.0 as usize).map(|state| state.route)
    }

    /// Whether some of its mail waits for tokens.
    pub fn awaits_tokens(&self, id: DestinationId) -> bool {
        self.states.get(id.0 as usize).is_some_and(|state| !state.awaited.is_empty())
    }

    pub fn of(&mut self, id: DestinationId) -> &mut RouteState {
        let at = id.0 as usize;
        if at >= self.states.len() {
            self.states.resize_with(at + 1, RouteState::default);
        }
        &mut self.states[at]
    }
}

/// What the shard keeps for a bucket beside the queue. Made when first needed, gone with the bucket.
#[derive(Debug)]
pub(super) struct BucketState {
    pub eligible: Eligible,
    /// Own rotation, for a bucket whose messages name addresses.
    pub rotation: Rotation,
    pub limits: SmallVec<[(PathId, Arc<Limits>); 1]>,
    pub verdict: Option<BucketVerdict>,
    /// Ways that rules close or leave open to all its mail alike.
    pub ways: KnownWays,
}

/// What rules say of the ways of a bucket, as long as it holds.
#[derive(Debug, Default)]
pub(super) struct KnownWays {
    /// Of which answers these are; nothing is known without.
    pub stamp: Option<(SiteId, Stamp)>,
    /// Whether each is open, by own source and remote address.
    pub open: HashMap<(SourceIndex, IpAddr), bool>,
}

/// Bucket states by bucket.
#[derive(Debug, Default)]
pub(super) struct BucketStates {
    states: Vec<Option<BucketState>>,
}

impl BucketStates {
    pub fn get(&self, id: BucketId) -> Option<&BucketState> {
        self.states.get(id.0 as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, id: BucketId) -> Option<&mut BucketState> {
        self.states.get_mut(id.0 as usize)?.as_mut()
    }

    pub fn set(&mut self, id: BucketId, state: BucketState) {
        let at = id.0 as usize;
        if at >= self.states.len() {
            self.states.resize_with(at + 1, || None);
        }
        self.states[at] = Some(state);
    }

    pub fn remove(&mut self, id: BucketId) {
        if let Some(state) = self.states.get_mut(id.0 as usize) {
            *state = None;
        }
    }

    /// Forgets everything, after a reload.
    pub fn clear(&mut self) {
        self.states.clear();
    }
}

impl Path {
    /// A session that may carry mail of `share` is wanted.
    pub fn enter(&mut self, share: ShareKey) {
        self.sessions += 1;
        self.opening.push(share);
        match self.by_share.iter_mut().find(|(of, _)| *of == share) {
            Some((_, count)) => *count += 1,
            None => self.by_share.push((share, 1)),
        }
    }

    /// A session that may carry mail of `share` is gone.
    pub fn leave(&mut self, share: ShareKey) {
        self.sessions -= 1;
        let at = self.by_share.iter().position(|(of, _)| *of == share).expect("a session enters before it leaves");
        self.by_share[at].1 -= 1;
        if self.by_share[at].1 == 0 {
            self.by_share.swap_remove(at);
        }
    }

    /// Sessions that may carry mail of `share`.
    pub fn sharing(&self, share: ShareKey) -> u32 {
        self.by_share.iter().find(|(of, _)| *of == share).map_or(0, |(_, count)| *count)
    }

    /// A session that may carry mail of `share` has ended its opening, well or not.
    pub fn opened(&mut self, share: ShareKey) {
        let at = self.opening.iter().position(|of| *of == share).expect("a session opens before it has opened");
        self.opening.swap_remove(at);
    }
}

/// A host that failed from one source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    pub until: Instant,
    pub failures: u32,
}

/// All sites and paths of a core.
#[derive(Debug, Default)]
pub(super) struct Sites {
    sites: Slab<Site>,
    by_name: HashMap<Arc<str>, SiteId>,
    paths: Slab<Path>,
    rests: HashMap<(SourceIndex, SocketAddr), Rest>,
}

impl Sites {
    pub fn site(&self, id: SiteId) -> &Site {
        &self.sites[id.0 as usize]
    }

    pub fn site_mut(&mut self, id: SiteId) -> &mut Site {
        &mut self.sites[id.0 as usize]
    }

    pub fn path(&self, id: PathId) -> &Path {
        &self.paths[id.0 as usize]
    }

    pub fn path_mut(&mut self, id: PathId) -> &mut Path {
        &mut self.paths[id.0 as usize]
    }

    /// The site of that name with these hosts now; made when there is none. Counts one destination more.
    pub fn enter(&mut self, name: &str, hosts: Vec<Host>) -> SiteId {
        if let Some(&id) = self.by_name.get(name) {
            let site = self.site_mut(id);
            site.hosts = hosts;
            site.destinations += 1;
            return id;
        }
        let name: Arc<str> = name.into();
        let site = Site {
            name: name.clone(),
            hosts,
            ring: VecDeque::new(),
            paths: SmallVec::new(),
            rotations: HashMap::new(),
            destinations: 1,
        };
        let id = SiteId(u32::try_from(self.sites.insert(site)).expect("fewer sites than destinations"));
        self.by_name.insert(name, id);
        id
    }

    /// A destination is no longer routed to `id`; a site without destinations and sessions goes.
    pub fn leave(&mut self, id: SiteId) {
        self.site_mut(id).destinations -= 1;
        self.drop_unused(id);
    }

    /// Forgets a site that nobody uses.
    pub fn drop_unused(&mut self, id: SiteId) {
        let site = self.site(id);
        if site.destinations > 0 || site.paths.iter().any(|path| self.path(*path).sessions > 0) {
            return;
        }
        let site = self.sites.remove(id.0 as usize);
        for path in site.paths {
            self.paths.remove(path.0 as usize);
        }
        self.by_name.remove(&site.name);
    }

    /// The path from `source` to `site`, made when there is none; `name` names it.
    pub fn path_to(&mut self, site: SiteId, source: SourceIndex, name: impl FnOnce(&Site) -> String) -> PathId {
        if let Some(path) = self.find_path(site, source) {
            return path;
        }
        let path = Path {
            site,
            source,
            name: name(self.site(site)).into(),
            own_address: None,
            window: Window::new(),
            sessions: 0,
            by_share: SmallVec::new(),
            opening: SmallVec::new(),
            failed: false,
            idle: VecDeque::new(),
        };
        let id = PathId(u32::try_from(self.paths.insert(path)).expect("fewer paths than 2^32"));
        self.site_mut(site).paths.push(id);
        id
    }

    pub fn find_path(&self, site: SiteId, source: SourceIndex) -> Option<PathId> {
        self.site(site).paths.iter().copied().find(|path| self.path(*path).source == source)
    }

    /// Whether `peer` may be tried from `source` now.
    pub fn rested(&self, source: SourceIndex, peer: SocketAddr, now: Instant) -> bool {
        self.rests.get(&(source, peer)).is_none_or(|rest| rest.until <= now)
    }

    /// Until when `peer` is left alone by `source`.
    pub fn rest_until(&self, source: SourceIndex, peer: SocketAddr) -> Option<Instant> {
        self.rests.get(&(source, peer)).map(|rest| rest.until)
    }

    /// `peer` failed from `source`: it is left alone for `least` at first, doubled with each failure in a row
    /// up to `most`.
    pub fn rest(
        &mut self,
        source: SourceIndex,
        peer: SocketAddr,
        now: Instant,
        least: std::time::Duration,
        most: std::time::Duration,
    ) {
        let rest = self.rests.entry((source, peer)).or_insert(Rest { until: now, failures: 0 });
        if rest.until > now {
            return;
        }
        let wait = least.saturating_mul(1 << rest.failures.min(16)).min(most);
        rest.failures += 1;
        rest.until = now.after(wait);
    }

    /// `peer` served `source`.
    pub fn served(&mut self, source: SourceIndex, peer: SocketAddr) {
        if !self.rests.is_empty() {
            self.rests.remove(&(source, peer));
        }
    }

    /// Drops rests that ended long ago, so that hosts seen once are not remembered for ever.
    pub fn forget_rests(&mut self, before: Instant) {
        self.rests.retain(|_, rest| rest.until > before);
    }
}

#[cfg(test)]
mod tests {
    use super::{BucketState, BucketStates, KnownWays, Sites};
    use crate::path::{Eligible, Rotation, ShareKey, SourceIndex};
    use crate::queue::BucketId;
    use crate::time::Instant;
    use smallvec::SmallVec;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;

    /// A site goes, and its paths with it, when no destination is routed to it and no session uses it.
    #[test]
    fn a_site_goes_with_its_last_user() {
        let mut sites = Sites::default();
        let site = sites.enter("mx.test", Vec::new());
        assert_eq!(sites.enter("mx.test", Vec::new()), site, "the name makes it");
        let path = sites.path_to(site, SourceIndex(0), |_| "s->mx.test".to_owned());
        sites.path_mut(path).enter(ShareKey(1));
        let left = |sites: &Sites| (sites.sites.len(), sites.by_name.len(), sites.paths.len());
        sites.leave(site);
        sites.leave(site);
        assert_eq!(left(&sites), (1, 1, 1), "a session uses it");
        sites.path_mut(path).leave(ShareKey(1));
        sites.drop_unused(site);
        assert_eq!(left(&sites), (0, 0, 0));
        let site = sites.enter("mx.test", Vec::new());
        sites.enter("mx.test", Vec::new());
        sites.path_to(site, SourceIndex(0), |_| "s->mx.test".to_owned());
        sites.leave(site);
        assert_eq!(left(&sites), (1, 1, 1), "a destination is routed to it");
        sites.leave(site);
        assert_eq!(left(&sites), (0, 0, 0));
    }

    fn peer(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 25))
    }

    /// A host that fails rests for longer with each failure in a row; what fails while it rests counts as the same one.
    #[test]
    fn a_host_rests_twice_as_long_after_each_failure() {
        let (mut sites, source) = (Sites::default(), SourceIndex(0));
        let (least, most) = (Duration::from_micros(10), Duration::from_micros(75));
        let mut now = Instant(100);
        for wait in [10, 20, 40, 75, 75] {
            sites.rest(source, peer(1), now, least, most);
            let until = Instant(now.0 + wait);
            assert_eq!(sites.rest_until(source, peer(1)), Some(until));
            sites.rest(source, peer(1), Instant(until.0 - 1), least, most);
            assert_eq!(sites.rest_until(source, peer(1)), Some(until), "it rests already");
            assert!(!sites.rested(source, peer(1), Instant(until.0 - 1)) && sites.rested(source, peer(1), until));
            now = until;
        }
        assert!(sites.rested(SourceIndex(1), peer(1), Instant(0)) && sites.rested(source, peer(2), Instant(0)));
        sites.served(source, peer(2));
        assert!(sites.rest_until(source, peer(1)).is_some(), "another one served");
        sites.served(source, peer(1));
        assert_eq!(sites.rest_until(source, peer(1)), None);
        sites.rest(source, peer(1), now, least, most);
        assert_eq!(sites.rest_until(source, peer(1)), Some(Instant(now.0 + 10)), "it begins anew");
    }

    #[test]
    fn rests_that_are_over_are_forgotten_and_no_others() {
        let (mut sites, source) = (Sites::default(), SourceIndex(0));
        let (least, most) = (Duration::from_micros(10), Duration::from_micros(75));
        sites.rest(source, peer(1), Instant(0), least, most);
        sites.rest(source, peer(2), Instant(1), least, most);
        sites.forget_rests(Instant(10));
        assert_eq!(sites.rest_until(source, peer(1)), None);
        assert_eq!(sites.rest_until(source, peer(2)), Some(Instant(11)));
    }

    #[test]
    fn a_path_counts_its_sessions_by_what_they_may_carry() {
        let mut sites = Sites::default();
        let site = sites.enter("mx.test", Vec::new());
        let id = sites.path_to(site, SourceIndex(0), |_| "s->mx.test".to_owned());
        assert_eq!(sites.path_to(site, SourceIndex(0), |_| unreachable!("it is there")), id);
        assert_eq!((sites.find_path(site, SourceIndex(0)), sites.find_path(site, SourceIndex(1))), (Some(id), None));
        let path = sites.path_mut(id);
        let (one, two) = (ShareKey(1), ShareKey(2));
        [one, two, one].into_iter().for_each(|share| path.enter(share));
        assert_eq!((path.sessions, path.sharing(one), path.sharing(two), path.sharing(ShareKey(3))), (3, 2, 1, 0));
        path.opened(one);
        assert_eq!(path.opening.iter().filter(|of| **of == one).count(), 1);
        assert_eq!(path.opening.len(), 2);
        path.leave(one);
        path.leave(two);
        assert_eq!((path.sessions, path.sharing(one), path.sharing(two)), (1, 1, 0));
        assert_eq!(path.by_share.len(), 1);
    }

    /// A bucket's number is used again; nothing of the old one may be known of the new one.
    #[test]
    fn the_state_of_a_bucket_goes_with_it() {
        let state = || BucketState {
            eligible: Eligible { pool: None, members: Arc::from([]) },
            rotation: Rotation::default(),
            limits: SmallVec::new(),
            verdict: None,
            ways: KnownWays::default(),
        };
        let mut states = BucketStates::default();
        states.set(BucketId(2), state());
        states.set(BucketId(1), state());
        let known =
            |states: &mut BucketStates| (0..4).filter(|id| states.get_mut(BucketId(*id)).is_some()).collect::<Vec<_>>();
        assert_eq!(known(&mut states), [1, 2]);
        states.remove(BucketId(2));
        states.remove(BucketId(7));
        assert_eq!(known(&mut states), [1]);
        assert!(states.get(BucketId(1)).is_some() && states.get(BucketId(2)).is_none());
        states.clear();
        assert!(known(&mut states).is_empty());
    }
}
