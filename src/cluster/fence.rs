//! Whether all mail of this engine has to wait, and why: because it has not caught up with etcd since it was not
//! delivering, or because its lease is over and it announced that it then holds. Decides only; `presence` brings it into
//! force as a rule over all mail, so that the gate itself keeps it and what was held is let go as after any rule.

use crate::rules::shared::Revision;
use mailrace_shards::time::{Instant, Now, Timestamp};
use std::time::Duration;

/// How soon is looked again at a wall clock that was set forward, beyond the end of a lease that is valid.
const STEP: Duration = Duration::from_millis(500);

/// What stands before all mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Nothing.
    Open,
    /// Nothing until that moment; from then on the lease is over. The cores know it beforehand, and so hold the mail
    /// even if no thread of this engine comes to say so.
    From(Timestamp),
    /// All mail waits.
    Shut(Why),
}

/// Why all mail waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Others do not wait for this engine until it has caught up.
    Behind,
    /// The lease is over.
    NoLease,
    /// It is not known yet whether the others still count with this engine, and whether another one has its name.
    Unsure,
    /// Another engine runs with a copy of this one's data directory.
    Copy,
}

impl Why {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Behind => {
                "cluster: this engine has been out of the cluster and has not caught up with etcd yet; \
                 it delivers as soon as it has"
            }
            Self::NoLease => {
                "cluster: etcd cannot be reached and cluster.on_partition is \"hold\"; \
                 it delivers again once etcd answers"
            }
            Self::Unsure => {
                "cluster: this engine asks etcd first whether the others still count with it; \
                 it delivers when it knows, or in a few seconds"
            }
            Self::Copy => {
                "cluster: another engine runs with a copy of this data directory; \
                 this one delivers nothing as long as that one is there"
            }
        }
    }
}

/// What the decision depends on.
#[derive(Clone, Debug)]
pub struct Gate {
    /// It holds when it is lost.
    holds: bool,
    /// How much earlier than etcd it takes a lease for over.
    margin: Duration,
    /// The others may not wait for it: it has to have applied this before it delivers. Everything, as long as it is
    /// not known what that is.
    behind: Option<Revision>,
    /// Until when the lease is valid by the monotonic clock, and what the wall clock will show then.
    lease: Option<Now>,
    /// Until then, at the latest, somebody says whether this engine may deliver.
    unsure: Option<Instant>,
    /// With everything up to it in force, nobody will say so.
    sure_with: Option<Revision>,
    /// Another one runs with a copy of its data directory.
    copy: bool,
}

impl Gate {
    /// At a start. `counted`: the others wait for this engine even when it is lost.
    #[must_use]
    pub fn new(holds: bool, margin: Duration, counted: bool) -> Self {
        let behind = if counted && !holds { None } else { Some(Revision::MAX) };
        Self { holds, margin, behind, lease: None, unsure: None, sure_with: None, copy: false }
    }

    /// Somebody may say until then that this engine must not deliver: it waits for that, and no longer.
    pub fn unsure(&mut self, until: Instant) {
        self.unsure = Some(until);
        self.sure_with = None;
    }

    /// The same where it waits already, until another moment: it is being told, or will not be. Whoever delivers by what
    /// it knows goes on.
    pub fn still_unsure(&mut self, now: Instant, until: Instant) {
        if self.unsure.is_some_and(|until| now < until) {
            self.unsure = Some(until);
        }
    }

    /// Nobody says so. Where it waits, it goes on to do so until it has what was decided up to that revision, or the time
    /// is over: what is stored here may be older than what this engine once had in force, if it came from a backup.
    pub fn sure(&mut self, with: Revision) {
        self.sure_with = self.unsure.map(|_| with);
    }

    /// Whether another engine runs with a copy of the data directory.
    pub fn is_copy(&mut self, copy: bool) {
        self.copy = copy;
    }

    /// The others do not wait for this engine, from when on is not known: it has to announce itself and catch up.
    pub fn uncounted(&mut self) {
        self.behind = Some(Revision::MAX);
    }

    /// How soon what stands before all mail may change by time alone, if so.
    #[must_use]
    pub fn changes_within(&self, now: Now) -> Option<Duration> {
        let unsure = self.unsure.filter(|until| now.instant < *until).map(|until| until.since(now.instant));
        let lease = self.lease.filter(|_| self.holds && self.is_leased(now.instant)).map(|until| {
            // Whichever clock comes there first.
            until.instant.since(now.instant).min(until.utc.since(now.utc).max(STEP))
        });
        unsure.into_iter().chain(lease).min()
    }

    /// The lease was granted or renewed for so long by an answer to what was sent then.
    pub fn renewed(&mut self, sent: Now, ttl: Duration) {
        self.lease = Some(sent.after(ttl.saturating_sub(self.margin)));
    }

    /// etcd says that the lease is over. For the others, this engine was lost meanwhile.
    pub fn ended(&mut self) {
        self.lease = None;
        if self.holds {
            self.behind = Some(Revision::MAX);
        }
    }

    /// From this revision on the others count with this engine: up to it, it has to catch up by itself.
    pub fn announced(&mut self, at: Revision) {
        if let Some(behind) = &mut self.behind {
            *behind = (*behind).min(at);
        }
    }

    /// Everything up to a revision is in force.
    pub fn applied(&mut self, revision: Revision) {
        if self.behind.is_some_and(|behind| behind <= revision) {
            self.behind = None;
        }
        if self.sure_with.is_some_and(|with| with <= revision) {
            (self.unsure, self.sure_with) = (None, None);
        }
    }

    /// What stands before all mail now.
    #[must_use]
    pub fn fence(&self, now: Now) -> Fence {
        if self.copy {
            return Fence::Shut(Why::Copy);
        }
        if self.behind.is_some() {
            return Fence::Shut(if self.holds && !self.is_leased(now.instant) { Why::NoLease } else { Why::Behind });
        }
        if self.unsure.is_some_and(|until| now.instant < until) {
            return Fence::Shut(Why::Unsure);
        }
        match &self.lease {
            _ if !self.holds => Fence::Open,
            Some(until) if now.instant < until.instant => Fence::From(until.utc),
            _ => Fence::Shut(Why::NoLease),
        }
    }

    /// For how long the lease is valid yet, for one that holds without it.
    #[must_use]
    pub fn leased_for(&self, now: Instant) -> Option<Duration> {
        self.lease.filter(|_| self.holds).map(|until| until.instant.since(now))
    }

    /// Whether what was decided while the others did not count with this engine is in force here.
    #[must_use]
    pub fn has_caught_up(&self) -> bool {
        self.behind.is_none() && !self.copy
    }

    /// Whether the lease is valid by now.
    #[must_use]
    pub fn is_leased(&self, now: Instant) -> bool {
        self.lease.is_some_and(|until| now < until.instant)
    }
}

#[cfg(test)]
mod tests {
    use super::{Fence, Gate, STEP, Why};
    use mailrace_shards::time::{Instant, Now, Timestamp};
    use std::time::Duration;

    fn at(seconds: u64) -> Now {
        Now { instant: Instant(seconds * 1_000_000), utc: Timestamp(1_000_000 + seconds as i64 * 1000) }
    }

    const TTL: Duration = Duration::from_secs(10);
    const MARGIN: Duration = Duration::from_secs(2);

    #[test]
    fn who_delivers_when_lost_is_held_only_until_it_has_caught_up() {
        let after_crash = Gate::new(false, MARGIN, true);
        assert_eq!(after_crash.fence(at(0)), Fence::Open);
        let mut gate = Gate::new(false, MARGIN, false);
        gate.applied(50);
        assert_eq!(gate.fence(at(0)), Fence::Shut(Why::Behind), "nobody knows how far is far enough");
        gate.announced(60);
        gate.applied(59);
        assert_eq!((gate.fence(at(0)), gate.has_caught_up()), (Fence::Shut(Why::Behind), false));
        gate.applied(60);
        assert_eq!((gate.fence(at(0)), gate.has_caught_up()), (Fence::Open, true));
        gate.ended();
        assert_eq!(gate.fence(at(100)), Fence::Open, "the others wait for it");
    }

    #[test]
    fn who_starts_after_a_crash_asks_first_and_waits_no_longer_than_it_said() {
        let mut gate = Gate::new(false, MARGIN, true);
        gate.unsure(at(2).instant);
        assert_eq!(
            (gate.fence(at(1)), gate.changes_within(at(1))),
            (Fence::Shut(Why::Unsure), Some(at(1).instant.since(at(0).instant)))
        );
        assert_eq!((gate.fence(at(2)), gate.changes_within(at(2))), (Fence::Open, None), "etcd may be away for long");
        gate.unsure(at(9).instant);
        gate.sure(70);
        gate.applied(69);
        assert_eq!(gate.fence(at(3)), Fence::Shut(Why::Unsure), "its rules may have come from a backup");
        assert_eq!(gate.fence(at(9)), Fence::Open, "the others wait for it");
        gate.applied(70);
        assert_eq!(gate.fence(at(3)), Fence::Open);
        gate.uncounted();
        gate.applied(99);
        assert_eq!(gate.fence(at(3)), Fence::Shut(Why::Behind), "they do not: somebody has forgotten it");
        gate.announced(100);
        gate.applied(100);
        assert_eq!(gate.fence(at(3)), Fence::Open);
        gate.is_copy(true);
        assert_eq!(gate.fence(at(3)), Fence::Shut(Why::Copy));
    }

    #[test]
    fn who_is_being_told_waits_for_it_and_who_will_not_be_delivers() {
        let mut gate = Gate::new(false, MARGIN, true);
        gate.unsure(at(10).instant);
        gate.still_unsure(at(1).instant, at(2).instant);
        assert_eq!(gate.fence(at(1)), Fence::Shut(Why::Unsure));
        gate.still_unsure(at(1).instant, at(10).instant);
        assert_eq!(gate.fence(at(3)), Fence::Shut(Why::Unsure), "it asks again");
        gate.still_unsure(at(3).instant, at(2).instant);
        assert_eq!(gate.fence(at(3)), Fence::Open, "nobody answers");
        gate.still_unsure(at(3).instant, at(10).instant);
        assert_eq!(gate.fence(at(3)), Fence::Open, "it went on by what it knows");
    }

    #[test]
    fn who_holds_when_lost_delivers_only_under_a_lease() {
        let mut gate = Gate::new(true, MARGIN, true);
        assert_eq!(gate.fence(at(0)), Fence::Shut(Why::NoLease));
        gate.renewed(at(1), TTL);
        assert_eq!(gate.fence(at(1)), Fence::Shut(Why::Behind));
        gate.announced(7);
        gate.applied(7);
        assert_eq!(gate.fence(at(1)), Fence::From(at(9).utc));
        assert_eq!(gate.fence(at(8)), Fence::From(at(9).utc));
        assert_eq!(gate.fence(at(9)), Fence::Shut(Why::NoLease), "earlier than etcd would say so");
        gate.renewed(at(9), TTL);
        assert_eq!(gate.fence(at(9)), Fence::From(at(17).utc), "etcd had kept the lease: the others have waited");
        gate.ended();
        gate.renewed(at(30), TTL);
        assert_eq!(gate.fence(at(30)), Fence::Shut(Why::Behind), "the others have not waited");
        gate.applied(20);
        gate.announced(21);
        assert_eq!(gate.fence(at(30)), Fence::Shut(Why::Behind));
        gate.applied(21);
        assert_eq!(gate.fence(at(30)), Fence::From(at(38).utc));
    }

    #[test]
    fn a_lease_that_is_over_is_nothing_to_wake_up_for() {
        let mut gate = Gate::new(true, MARGIN, false);
        gate.renewed(at(1), TTL);
        assert_eq!(gate.changes_within(at(2)), Some(at(9).instant.since(at(2).instant)));
        let forward = Now { utc: at(50).utc, ..at(2) };
        assert_eq!(gate.changes_within(forward), Some(STEP));
        let back = Now { utc: Timestamp(0), ..at(8) };
        assert_eq!(gate.changes_within(back), Some(at(9).instant.since(at(8).instant)), "it ends by the other clock");
        assert_eq!(gate.leased_for(back.instant), Some(at(9).instant.since(at(8).instant)));
        assert_eq!(gate.changes_within(at(9)), None);
        assert_eq!(gate.changes_within(at(90)), None, "else the thread would do nothing but wake up");
    }

    #[test]
    fn a_wall_clock_that_is_set_back_does_not_make_a_lease_longer() {
        let mut gate = Gate::new(true, MARGIN, false);
        gate.renewed(at(1), TTL);
        gate.announced(7);
        gate.applied(7);
        let back = Now { utc: Timestamp(0), ..at(9) };
        assert_eq!(gate.fence(back), Fence::Shut(Why::NoLease));
    }
}
