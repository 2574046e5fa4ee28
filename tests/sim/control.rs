//! The control side as the cores see it: a durable set of rules, and numbered changes published to the cores that
//! they concern, one at a time. A call is answered when every concerned core has applied it.

use crate::core::Order;
use crate::oracle::Coverage;
use crate::plan::SECOND;
use crate::random::Random;
use crate::world::{Event, Happening, World};
use mailrace_shards::event::Question;
use mailrace_shards::message::CoreId;
use mailrace_shards::path::LimitTable;
use mailrace_shards::rules::{
    Action, Answer, Cause, Change, HashKey, Kind, Rule, Scope, Update, Validity, concerns, concerns_suppression,
};
use mailrace_shards::settings::Settings;
use mailrace_shards::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Secret of the rule tables' hashes.
pub const RULE_KEY: HashKey = HashKey(3, 4);

#[derive(Default)]
pub struct Control {
    /// What is stored; survives everything.
    rules: BTreeMap<Arc<str>, Stored>,
    made: u64,
    epoch: u64,
    /// The epoch of the last update posted to each core of this life.
    posted: Vec<u64>,
    call: Option<Call>,
    /// Calls that are still to come.
    left: u64,
    /// Knows on how many cores a domain is spread.
    limits: Option<LimitTable>,
}

/// A rule, or a suppression in bulk, which is a rule of one address or domain that a core keeps in few octets and that
/// is named by its value.
#[derive(Clone)]
struct Stored {
    rule: Arc<Rule>,
    bulk: bool,
}

impl Stored {
    fn put(&self) -> Change {
        match (&self.rule.kind, self.bulk) {
            (Kind::Suppression(answer), true) => {
                let cause = Cause { answer: answer.clone(), by: self.rule.by.clone() };
                Change::Suppress { key: RULE_KEY.suppression(&self.rule.id), cause: Arc::new(cause) }
            }
            _ => Change::Put(self.rule.clone()),
        }
    }

    fn remove(&self) -> Change {
        if self.bulk {
            return Change::Unsuppress { key: RULE_KEY.suppression(&self.rule.id) };
        }
        Change::Remove(self.rule.id.clone())
    }
}

struct Call {
    epoch: u64,
    waits_for: BTreeSet<usize>,
    put: Vec<Arc<str>>,
    remove: Option<Arc<str>>,
}

impl Control {
    pub fn plan(&mut self, calls: u64, settings: &Settings) {
        self.left = calls;
        self.limits = Some(LimitTable::new(&settings.limits, 0));
    }

    fn concerned(&self, stored: &Stored, cores: usize) -> BTreeSet<usize> {
        let lanes = |domain: &str| self.limits.as_ref().map_or(1, |limits| limits.lanes(domain));
        let is_concerned = |core: &usize| {
            let core = CoreId(*core as u16);
            if stored.bulk {
                return concerns_suppression(core, cores, &stored.rule.id, lanes);
            }
            concerns(core, cores, &stored.rule.scope, lanes)
        };
        (0..cores).filter(is_concerned).collect()
    }
}

impl World {
    /// All stored rules to each core that they concern, before it has any mail.
    pub fn publish_at_start(&mut self) {
        let cores = self.cores.len();
        self.control.posted = vec![0; cores];
        self.control.epoch += 1;
        let epoch = self.control.epoch;
        let rules: Vec<Stored> = self.control.rules.values().cloned().collect();
        for core in 0..cores {
            let concerned = rules.iter().filter(|rule| self.control.concerned(rule, cores).contains(&core));
            let changes: Vec<Change> = concerned.map(Stored::put).collect();
            if !changes.is_empty() {
                self.control.posted[core] = epoch;
                self.with_shard(core, |shard, now| shard.handle_rules(Update { after: 0, epoch, changes }, now));
            }
        }
        // What was stored and not answered is in force as well now; what was to go is gone.
        let moment = self.moment();
        if let Some(call) = self.control.call.take() {
            self.answer_call(&call);
        }
        self.oracle.rules_in_force(moment);
    }

    /// Somebody makes or removes a rule.
    pub fn rule_call(&mut self) {
        if self.control.left == 0 && !self.faults.over {
            return;
        }
        if self.cores.is_empty() || self.control.call.is_some() {
            return self.after(SECOND / 50, Event::RuleCall);
        }
        let known: Vec<Arc<str>> = self.control.rules.keys().cloned().collect();
        if self.faults.over {
            // All go, one after the other.
            if let Some(id) = known.first() {
                self.remove_rule(&id.clone());
                self.after(SECOND / 50, Event::RuleCall);
            }
            return;
        }
        self.control.left -= 1;
        if !known.is_empty() && self.random.permille(400) {
            let id = self.random.pick(&known).clone();
            self.remove_rule(&id);
        } else {
            self.put_rule();
        }
        let pause = self.random.skewed(100, 6 * SECOND);
        self.after(pause, Event::RuleCall);
    }

    /// Somebody asks all cores something, or has them do something to one message or to some mail.
    pub fn ask(&mut self) {
        if self.faults.over || self.cores.is_empty() {
            return;
        }
        let serial = self.random.below(self.oracle.letters() as u64 + 1) as usize;
        let domain: Arc<str> = self.random.pick(&self.plan.domains).name.as_str().into();
        let scope = Scope { domain: Some(domain.clone()), ..Scope::default() };
        let id = self.oracle.id_of(serial);
        let question = match (self.random.below(6), id) {
            (0 | 1, Some(id)) => {
                self.oracle.cancelled(serial);
                Question::Cancel { id, by: "simulation".into() }
            }
            (2, Some(id)) => {
                self.oracle.retried(serial);
                Question::Retry(id)
            }
            (3, _) => Question::Covered { scope, within: Duration::from_millis(50) },
            (4, _) => Question::Queues,
            _ => {
                self.oracle.flushed(&domain, self.time);
                // Mail of earlier lives may be on its way: it is meant as well.
                Question::Flush { scope, found: true }
            }
        };
        let text = format!("{question:?}");
        self.report.count("control", text.split([' ', '(']).next().unwrap_or_default());
        for core in 0..self.cores.len() {
            self.cores[core].orders.push_back(Order::Ask(question.clone()));
            let delay = self.random.skewed(1, 20_000);
            self.on_core(core, delay, Happening::Turn);
        }
    }

    fn put_rule(&mut self) {
        let utc = self.utc();
        self.control.made += 1;
        let domains: Vec<String> = self.plan.domains.iter().map(|domain| domain.name.clone()).collect();
        let mut rule = make_rule(self.control.made, utc, &domains, self.oracle.letters(), &mut self.random);
        let mut bulk = false;
        if self.random.permille(200) {
            let answer = Answer::new(550, None, "suppressed".into()).expect("the code is in its range");
            let scope = if self.random.permille(800) {
                Scope { address: Some(address(&domains, self.oracle.letters(), &mut self.random)), ..Scope::default() }
            } else {
                Scope { domain: Some(self.random.pick(&domains).as_str().into()), ..Scope::default() }
            };
            let id = scope.address.clone().or(scope.domain.clone()).expect("it has one of them");
            if !self.control.rules.contains_key(&id) {
                rule = Rule { id, kind: Kind::Suppression(answer), scope, validity: Validity::always(), ..rule };
                bulk = true;
            }
        }
        let stored = Stored { rule: Arc::new(rule), bulk };
        let (rule, id) = (&stored.rule, stored.rule.id.clone());
        self.oracle.rule_called(rule);
        let what = if bulk { "suppression in bulk" } else { rule.kind.as_str() };
        self.report.count("rule", &format!("{what} made"));
        let concerned = self.control.concerned(&stored, self.cores.len());
        let change = stored.put();
        self.control.rules.insert(id.clone(), stored);
        self.publish(vec![(change, concerned)], vec![id], None);
    }

    /// Somebody brings many suppressions at once.
    pub fn import(&mut self) {
        if self.faults.over {
            return;
        }
        if self.cores.is_empty() || self.control.call.is_some() {
            return self.after(SECOND / 50, Event::Import);
        }
        self.note_states("suppressions imported");
        let domains: Vec<String> = self.plan.domains.iter().map(|domain| domain.name.clone()).collect();
        let (mut changes, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..self.random.between(5, 60) {
            let id = address(&domains, self.oracle.letters(), &mut self.random);
            if self.control.rules.contains_key(&id) {
                continue;
            }
            self.control.made += 1;
            let answer = Answer::new(550, None, "suppressed".into()).expect("the code is in its range");
            let rule = Rule {
                id: id.clone(),
                order: self.control.made,
                kind: Kind::Suppression(answer),
                scope: Scope { address: Some(id.clone()), ..Scope::default() },
                validity: Validity::always(),
                by: "import".into(),
            };
            self.oracle.rule_called(&rule);
            self.report.count("rule", "suppression imported");
            let stored = Stored { rule: Arc::new(rule), bulk: true };
            changes.push((stored.put(), self.control.concerned(&stored, self.cores.len())));
            self.control.rules.insert(id.clone(), stored);
            ids.push(id);
        }
        self.publish(changes, ids, None);
    }

    fn remove_rule(&mut self, id: &Arc<str>) {
        let stored = self.control.rules.remove(id).expect("only stored rules are removed");
        self.oracle.rule_removal_called(id, self.moment());
        let concerned = self.control.concerned(&stored, self.cores.len());
        self.publish(vec![(stored.remove(), concerned)], Vec::new(), Some(id.clone()));
    }

    /// One update for each core that some of the changes concern, with those.
    fn publish(&mut self, changes: Vec<(Change, BTreeSet<usize>)>, put: Vec<Arc<str>>, remove: Option<Arc<str>>) {
        self.control.epoch += 1;
        let epoch = self.control.epoch;
        let to: BTreeSet<usize> = changes.iter().flat_map(|(_, cores)| cores.iter().copied()).collect();
        for core in &to {
            let after = std::mem::replace(&mut self.control.posted[*core], epoch);
            let own = changes.iter().filter(|(_, cores)| cores.contains(core)).map(|(change, _)| change.clone());
            let update = Update { after, epoch, changes: own.collect() };
            self.cores[*core].orders.push_back(Order::Rules(update));
            let delay = self.random.skewed(1, 20_000);
            self.on_core(*core, delay, Happening::Turn);
        }
        let call = Call { epoch, waits_for: to, put, remove };
        if call.waits_for.is_empty() {
            // An import of what is known already: nobody will say that it has applied anything.
            return self.answer_call(&call);
        }
        self.control.call = Some(call);
    }

    /// A core has applied a change.
    pub fn applied(&mut self, core: usize, epoch: u64) {
        let Some(call) = &mut self.control.call else { return };
        if epoch < call.epoch {
            return;
        }
        call.waits_for.remove(&core);
        if call.waits_for.is_empty() {
            let call = self.control.call.take().expect("looked at above");
            self.answer_call(&call);
        }
    }

    fn answer_call(&mut self, call: &Call) {
        let (moment, utc) = (self.moment(), self.utc());
        if !call.put.is_empty() {
            self.note_states("rule acknowledged");
        }
        for id in &call.put {
            self.oracle.rule_acknowledged(id, moment);
        }
        if let Some(id) = &call.remove {
            self.oracle.rule_removed(id, utc);
        }
    }
}

fn make_rule(number: u64, utc: Timestamp, domains: &[String], letters: usize, random: &mut Random) -> Rule {
    let answer = |code, text: &str| Answer::new(code, None, text.into()).expect("the code is in its range");
    let kind = match random.below(10) {
        0..=3 => Kind::Pause,
        4 | 5 => Kind::Suspension { reason: "simulated".into() },
        6 => Kind::Error(answer(451, "later by rule")),
        7 => Kind::Error(answer(*random.pick(&[550, 250]), "ended by rule")),
        8 => Kind::Bounce { answer: answer(550, "bounced by rule"), suppress_logging: false },
        _ => Kind::Suppression(answer(550, "suppressed")),
    };
    let text = |random: &mut Random, from: &[&str]| -> Option<Arc<str>> { Some((*random.pick(from)).into()) };
    let mut scope = Scope::default();
    for _ in 0..random.between(1, 2) {
        match random.below(9) {
            0 | 1 => scope.domain = Some(random.pick(domains).as_str().into()),
            2 => scope.tag = text(random, &["red", "green", "blue"]),
            3 => scope.campaign = text(random, &["spring", "autumn"]),
            4 => scope.tenant = text(random, &["one", "two"]),
            5 => scope.pool = text(random, &["p0", "p1"]),
            6 => scope.source_ip = Some(std::net::IpAddr::from([192, 0, 2, random.between(1, 3) as u8])),
            7 => scope.remote_ip = Some(std::net::IpAddr::from([198, 51, 100, random.between(1, 6) as u8])),
            _ => scope.address = Some(address(domains, letters, random)),
        }
    }
    let holds = Rule {
        id: format!("rule-{number}").into(),
        order: number,
        kind,
        scope,
        validity: Validity::always(),
        by: "simulation".into(),
    };
    // A rule that ends mail may not cover all of it by accident; a hold may.
    let everything = holds.action() == Action::Hold && random.permille(100);
    let scope = if everything { Scope::default() } else { holds.scope.clone() };
    let later = |random: &mut Random, most| Timestamp(utc.0 + random.skewed(1, most) as i64);
    let validity = match random.below(4) {
        0 => Validity::always(),
        1 => {
            let start = later(random, 5_000);
            Validity::between(start, Timestamp(start.0 + random.skewed(1, 20_000) as i64))
        }
        _ => Validity::until(later(random, 30_000)),
    };
    Rule { scope, validity, ..holds }
}

/// The address of a recipient who perhaps gets mail.
fn address(domains: &[String], letters: usize, random: &mut Random) -> Arc<str> {
    format!("r{}-0@{}", random.below(letters as u64 + 3), random.pick(domains)).into()
}

impl Coverage {
    /// When a rule is in force, by its author's word.
    pub fn of(rule: &Rule) -> (Timestamp, Timestamp) {
        let spans = rule.validity.spans();
        spans.first().map_or((Timestamp::NEVER, Timestamp::NEVER), |span| (span.start, span.end))
    }
}
