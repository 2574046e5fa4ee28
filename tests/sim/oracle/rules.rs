//! Rules as the operator understands them: what they cover, from when and until when. Written from the contract of
//! the API, not from the engine's tables.

use super::{Known, Oracle, Out};
use crate::network::{ConnId, Moment};
use crate::plan::{EPOCH_MILLIS, SECOND, utc_at};
use crate::sink::Taken;
use mailrace_shards::outcome::RuleMark;
use mailrace_shards::rules::{Action, Rule, Scope};
use mailrace_shards::time::Timestamp;
use std::sync::Arc;

/// A rule and since when it holds.
pub struct Coverage {
    scope: Scope,
    /// It ends mail at once, wherever that waits.
    ends: bool,
    start: Timestamp,
    end: Timestamp,
    acknowledged: Option<Moment>,
    removal_called: Option<Moment>,
    /// When the removal was answered.
    removed: Option<Timestamp>,
}

impl Coverage {
    fn in_force(&self, utc: Timestamp) -> bool {
        self.start <= utc && utc < self.end
    }

    /// Whether it was so at any time from `since` to `until`.
    fn was_in_force(&self, since: Timestamp, until: Timestamp) -> bool {
        self.start <= until && since < self.end && self.removed.is_none_or(|removed| since <= removed)
    }

    /// Whether a letter's recipient is covered, on a connection when one is given.
    fn covers(&self, known: &Known, address: &str, out: Option<&Out>) -> bool {
        let Scope { pool, source_ip, domain, remote_ip, tag, campaign, tenant, address: of, .. } = &self.scope;
        let letter = &known.letter;
        let same = |named: &Option<Arc<str>>, has: Option<&str>| named.is_none() || named.as_deref() == has;
        same(pool, letter.pool.as_deref())
            && same(domain, address.rsplit('@').next())
            && same(campaign, letter.campaign.as_deref())
            && same(tenant, letter.tenant.as_deref())
            && same(of, Some(address))
            && tag.as_deref().is_none_or(|tag| letter.tags.iter().any(|has| has == tag))
            && out.is_none_or(|out| {
                source_ip.is_none_or(|ip| ip == out.source) && remote_ip.is_none_or(|ip| ip == out.peer)
            })
    }

    fn needs_connection(&self) -> bool {
        self.scope.source_ip.is_some() || self.scope.remote_ip.is_some()
    }
}

/// How late the end by a rule may be when nothing holds it up, microseconds.
const ENDING_LATE: u64 = 3 * SECOND / 2;

fn utc_of(moment: Moment) -> Timestamp {
    utc_at(moment.time)
}

impl Oracle {
    pub fn rule_called(&mut self, rule: &Rule) {
        let (start, end) = Coverage::of(rule);
        let scope = rule.scope.clone();
        let about_attempts = scope.source_ip.is_some() || scope.remote_ip.is_some() || scope.pool.is_some();
        let ends = matches!(rule.action(), Action::Fail(_) | Action::EndSilently(_)) && !about_attempts;
        let coverage = Coverage { scope, ends, start, end, acknowledged: None, removal_called: None, removed: None };
        self.rules.insert(rule.id.clone(), coverage);
    }

    pub fn rule_acknowledged(&mut self, id: &Arc<str>, moment: Moment) {
        self.rules.get_mut(id).expect("it was called").acknowledged.get_or_insert(moment);
    }

    pub fn rule_removal_called(&mut self, id: &Arc<str>, moment: Moment) {
        self.rules.get_mut(id).expect("it was called").removal_called = Some(moment);
    }

    pub fn rule_removed(&mut self, id: &Arc<str>, utc: Timestamp) {
        self.rules.get_mut(id).expect("it was called").removed = Some(utc);
    }

    /// A life has begun: every stored rule is in force.
    pub fn rules_in_force(&mut self, moment: Moment) {
        for rule in self.rules.values_mut().filter(|rule| rule.removal_called.is_none()) {
            rule.acknowledged.get_or_insert(moment);
        }
    }

    /// No end-of-data after a covering rule was acknowledged.
    pub(super) fn check_rules(&mut self, conn: ConnId, taken: &Taken) {
        let sent = taken.completed;
        let utc = utc_of(sent);
        for address in &taken.recipients {
            let Some(&(serial, _)) = self.by_address.get(address) else { continue };
            let (known, out) = (&self.known[serial], self.outs.get(&conn));
            let holds = |rule: &&Coverage| {
                let acknowledged = rule.acknowledged.is_some_and(|at| at.step < sent.step);
                let gone = rule.removal_called.is_some_and(|at| at.step <= sent.step);
                acknowledged && !gone && rule.in_force(utc) && rule.covers(known, address, out)
            };
            let broken = self.rules.iter().find(|(_, rule)| holds(rule)).map(|(id, rule)| {
                let (since, scope) = (rule.acknowledged, &rule.scope);
                format!("letter {serial}: end-of-data at {sent:?}, but {id} of {scope:?} was acknowledged at {since:?}")
            });
            self.check(broken.is_none(), || broken.unwrap_or_default());
        }
    }

    /// A record that names a rule was made while that rule was in force, of mail that it covers. What a start reads from
    /// the spool late (`is_found`: it is of an earlier life) also ends by rules that are gone by then.
    pub(super) fn check_mark(
        &mut self,
        (serial, address, is_found): (usize, &str, bool),
        mark: &RuleMark,
        at: Timestamp,
    ) {
        if mark.kind == "cancel" {
            let known = &self.known[serial];
            let asked = known.cancelled && known.id.is_some_and(|id| id.to_string() == *mark.id);
            return self.check(asked, || format!("letter {serial} was cancelled by {mark:?}, which nobody asked for"));
        }
        let Some(rule) = self.rules.get(&mark.id) else {
            return self.fail(format!("letter {serial} was ended by {}, which nobody made", mark.id));
        };
        let (in_force, covers) = (rule.in_force(at), rule.covers(&self.known[serial], address, None));
        let gone = rule.removed.is_some_and(|removed| at > removed);
        let span = (rule.start, rule.end, rule.removed);
        let was_in_force = rule.ends && rule.was_in_force(self.born, at);
        self.ended_by_gone += u64::from(!in_force || gone);
        self.check((in_force && !gone) || (is_found && was_in_force), || {
            format!("letter {serial} was ended by {} at {at:?}, not in force: {span:?}", mark.id)
        });
        self.check(covers, || format!("letter {serial} to {address} was ended by {}, which is not about it", mark.id));
    }

    /// What a rule ends that can be decided from the message alone is ended soon, wherever it waits; only what a
    /// connection has may take longer.
    pub fn check_endings(&mut self, time: u64) {
        let utc = utc_of(Moment { step: 0, time });
        let ending: Vec<(&Arc<str>, &Coverage)> = self
            .rules
            .iter()
            .filter(|(_, rule)| rule.ends && rule.removal_called.is_none() && rule.in_force(utc))
            .collect();
        if ending.is_empty() {
            return;
        }
        let overdue = self.owed().find_map(|(serial, at)| {
            let (known, recipient) = (&self.known[serial], &self.known[serial].recipients[at]);
            let address = &known.letter.recipients[at];
            ending.iter().find_map(|(id, rule)| {
                let start = (rule.start.0.max(EPOCH_MILLIS) - EPOCH_MILLIS) as u64 * 1000;
                let since = rule.acknowledged?.time.max(start);
                // What comes under a rule that is in force already is ended as it comes.
                let since = since.max(known.acknowledged?.time).max(self.given_back(recipient)?);
                let late = since + ENDING_LATE < time && !self.trouble_between(since.saturating_sub(SECOND), time);
                (late && rule.covers(known, address, None)).then(|| format!("letter {serial} recipient {at} by {id}"))
            })
        });
        self.check(overdue.is_none(), || format!("not ended in time: {}", overdue.unwrap_or_default()));
    }

    /// Whether some rule in force keeps a letter where it is.
    pub(super) fn is_covered(&self, known: &Known, time: u64) -> bool {
        let utc = utc_of(Moment { step: 0, time });
        let holds =
            |rule: &Coverage| rule.acknowledged.is_some() && rule.removal_called.is_none() && rule.in_force(utc);
        let first = known.letter.recipients.first().map_or("", String::as_str);
        self.rules.values().any(|rule| holds(rule) && !rule.needs_connection() && rule.covers(known, first, None))
    }
}
