//! Which core is owed which change, and which change is in force. Decides only: it is given changes, acknowledgements
//! and the time, and gives out updates to post and verdicts on whoever waits. One batch is outstanding per core;
//! what comes meanwhile is the next batch.
//!
//! A change that a core has not acknowledged stays owed to it, however long it takes: a rule that is stored comes
//! into force, only its caller may have been told that it is late.

use mailrace_shards::limits::RULE_CHANGES_MAX;
use mailrace_shards::message::CoreId;
use mailrace_shards::rules::{Change, Update, concerns, concerns_suppression};
use mailrace_shards::time::Instant;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// On how many cores a domain is spread.
pub type Lanes = Arc<dyn Fn(&str) -> u16 + Send + Sync>;

/// A change, with what tells which cores keep it.
#[derive(Clone, Debug)]
pub enum Target {
    /// As the scope of the rule says.
    Rule(mailrace_shards::rules::Scope),
    /// As the value of the suppression says.
    Suppression(Arc<str>),
}

/// The cores that keep it.
#[must_use]
pub fn cores_of(target: &Target, cores: usize, lanes: &Lanes) -> SmallVec<[u16; 4]> {
    let keeps = |core: u16| match target {
        Target::Rule(scope) => concerns(CoreId(core), cores, scope, |domain| lanes(domain)),
        Target::Suppression(value) => concerns_suppression(CoreId(core), cores, value, |domain| lanes(domain)),
    };
    (0..u16::try_from(cores).expect("CORES_MAX fits 16 bits")).filter(|core| keeps(*core)).collect()
}

/// One of a set of changes that belong together.
pub type Ticket = u64;

/// How it stands with a ticket that was waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All cores concerned have applied it.
    InForce,
    /// These cores have not, in the time allowed; it is still on its way to them.
    Late(Vec<u16>),
}

#[derive(Debug, Default)]
struct Core {
    /// Epoch of the last update posted.
    posted: u64,
    /// Tickets of the update that is out, in order; empty for none.
    outstanding: VecDeque<Ticket>,
    /// What follows.
    pending: VecDeque<(Ticket, Change)>,
}

impl Core {
    /// The oldest ticket that it has not applied.
    fn owed(&self) -> Option<Ticket> {
        self.outstanding.front().copied().or_else(|| self.pending.front().map(|(ticket, _)| *ticket))
    }

    fn has_applied(&self, ticket: Ticket) -> bool {
        self.owed().is_none_or(|owed| owed > ticket)
    }
}

/// Somebody who waits.
#[derive(Debug)]
struct Waiter {
    ticket: Ticket,
    cores: SmallVec<[u16; 4]>,
    deadline: Instant,
}

/// All of it. Lives on the publication's thread.
pub struct Publication {
    cores: Vec<Core>,
    lanes: Lanes,
    /// Numbers updates over all cores.
    epoch: u64,
    tickets: Ticket,
    waiters: Vec<Waiter>,
}

impl Publication {
    /// Nothing owed; updates are numbered from `epoch + 1`, and `posted` is the last epoch of each core.
    #[must_use]
    pub fn new(posted: &[u64], lanes: Lanes) -> Self {
        let cores = posted.iter().map(|posted| Core { posted: *posted, ..Core::default() }).collect();
        let epoch = posted.iter().copied().max().unwrap_or(0);
        Self { cores, lanes, epoch, tickets: 0, waiters: Vec::new() }
    }

    /// How many cores there are.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.cores.len()
    }

    /// Takes changes that belong together; as one update where they fit into one. Whether they are in force will be
    /// said of the ticket, by `deadline` at the latest.
    pub fn take(&mut self, changes: Vec<(Target, Change)>, deadline: Instant) -> Ticket {
        self.tickets += 1;
        let ticket = self.tickets;
        let mut concerned: SmallVec<[u16; 4]> = SmallVec::new();
        for (target, change) in changes {
            for core in cores_of(&target, self.cores.len(), &self.lanes) {
                self.cores[usize::from(core)].pending.push_back((ticket, change.clone()));
                if !concerned.contains(&core) {
                    concerned.push(core);
                }
            }
        }
        self.waiters.push(Waiter { ticket, cores: concerned, deadline });
        ticket
    }

    /// The next update for a core that has none outstanding.
    pub fn next_update(&mut self) -> Option<(CoreId, Update)> {
        let ready = |core: &Core| core.outstanding.is_empty() && !core.pending.is_empty();
        let index = self.cores.iter().position(ready)?;
        self.epoch += 1;
        let core = &mut self.cores[index];
        let mut changes = Vec::new();
        let mut cost = 0;
        // A ticket that does not fit any more starts the next update; one that never fits is cut.
        while let Some((ticket, change)) = core.pending.front() {
            let ticket = *ticket;
            let first = changes.is_empty();
            let next = change.cost();
            let begins = core.outstanding.back() != Some(&ticket);
            if cost + next > RULE_CHANGES_MAX
                || (begins && !first && cost + ticket_cost(core, ticket) > RULE_CHANGES_MAX)
            {
                break;
            }
            if begins {
                core.outstanding.push_back(ticket);
            }
            cost += next;
            changes.extend(core.pending.pop_front().map(|(_, change)| change));
        }
        assert!(!changes.is_empty(), "a single change fits into an update: RULE_QUEUES_MAX <= RULE_CHANGES_MAX");
        let update = Update { after: core.posted, epoch: self.epoch, changes };
        core.posted = self.epoch;
        Some((CoreId(u16::try_from(index).expect("CORES_MAX fits 16 bits")), update))
    }

    /// A core has applied everything up to an epoch.
    pub fn acknowledged(&mut self, core: CoreId, epoch: u64) {
        if let Some(core) = self.cores.get_mut(usize::from(core.0))
            && core.posted == epoch
        {
            core.outstanding.clear();
        }
    }

    /// Tickets of which something can be said now; each is said of once.
    pub fn settle(&mut self, now: Instant) -> Vec<(Ticket, Standing)> {
        let mut settled = Vec::new();
        let cores = &self.cores;
        self.waiters.retain(|waiter| {
            let behind = |core: &u16| !cores[usize::from(*core)].has_applied(waiter.ticket);
            let late: Vec<u16> = waiter.cores.iter().copied().filter(behind).collect();
            if late.is_empty() {
                settled.push((waiter.ticket, Standing::InForce));
            } else if waiter.deadline <= now {
                settled.push((waiter.ticket, Standing::Late(late)));
            } else {
                return true;
            }
            false
        });
        settled
    }

    /// When [`Self::settle`] must be asked at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.waiters.iter().map(|waiter| waiter.deadline).min()
    }

    /// Changes that some core has not applied.
    #[cfg(test)]
    #[must_use]
    pub fn owed(&self) -> usize {
        self.cores.iter().map(|core| core.outstanding.len() + core.pending.len()).sum()
    }
}

/// What the changes of a ticket cost that a core is still owed; counted no further than one update holds.
fn ticket_cost(core: &Core, ticket: Ticket) -> usize {
    let mut sum = 0;
    for (_, change) in core.pending.iter().take_while(|(other, _)| *other == ticket) {
        sum += change.cost();
        if sum > RULE_CHANGES_MAX {
            break;
        }
    }
    sum
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;
