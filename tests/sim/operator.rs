//! What operators and applications do beside SMTP and rules: reload the configuration, hand mail in through the control
//! side, import suppressions in bulk, publish other hosts for a domain.

use crate::core::{Order, Waiter};
use crate::injector::Letter;
use crate::plan::{CLIENT, SECOND, Spot, draw_limits, draw_routes};
use crate::world::{Event, Happening, World};
use mailrace_shards::message::{Body, ContentFlags, Extras, MessageId};
use mailrace_shards::settings::LimitSettings;
use mailrace_shards::shard::Submission;
use mailrace_shards::time::Timestamp;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Stands where the ids of messages taken by a core name that core.
pub const CONTROL_CORE: u16 = u16::MAX;

/// A reload that not all cores have applied yet.
#[derive(Default)]
pub struct Operator {
    waits_for: BTreeSet<usize>,
    /// Ids given out for messages that come through the control side.
    submitted: u64,
}

impl World {
    pub fn schedule_the_operator(&mut self) {
        for _ in 0..self.plan.reloads {
            let at = self.random.below(self.plan.active);
            self.after(at, Event::Reload);
        }
        for _ in 0..self.plan.moves {
            let at = self.random.below(self.plan.active);
            self.after(at, Event::Move);
        }
        for _ in 0..self.plan.submissions {
            let at = self.random.below(self.plan.active);
            self.after(at, Event::Submit);
        }
        for _ in 0..self.plan.imports {
            let at = self.random.below(self.plan.active);
            self.after(at, Event::Import);
        }
    }

    /// Limits, pools and routes become others. Until all cores follow, nobody can say which hold.
    pub fn reload(&mut self) {
        if self.faults.over || self.cores.is_empty() || !self.operator.waits_for.is_empty() {
            return;
        }
        self.note_states("reload");
        let (plan, random) = (&mut self.plan, &mut self.random);
        let lanes: Vec<LimitSettings> =
            plan.settings.limits.iter().filter(|limit| limit.lanes.is_some()).cloned().collect();
        let all_tls = plan.hosts.iter().all(|host| host.manner.starttls);
        plan.settings.limits = draw_limits(&plan.domains, &plan.settings.sources, all_tls, random);
        plan.settings.limits.extend(lanes);
        plan.settings.routes = draw_routes(&plan.domains, &plan.hosts, random);
        if let Some(pool) = plan.settings.pools.first_mut() {
            pool.sources = vec![(random.below(plan.settings.sources.len() as u64) as usize, 1)];
        }
        self.tell(|| format!("reload: {:?} {:?}", self.plan.settings.limits, self.plan.settings.routes));
        self.oracle.limits_change(&[]);
        let mut settings = self.plan.settings.clone();
        settings.shards = self.cores.len();
        let settings = Arc::new(settings);
        for core in 0..self.cores.len() {
            self.operator.waits_for.insert(core);
            self.cores[core].orders.push_back(Order::Reload(settings.clone()));
            let delay = self.random.skewed(1, SECOND / 5);
            self.on_core(core, delay, Happening::Turn);
        }
    }

    /// A core follows the new settings.
    pub fn reloaded(&mut self, core: usize) {
        if self.operator.waits_for.remove(&core) && self.operator.waits_for.is_empty() {
            self.oracle.limits_change(&self.plan.settings.limits);
        }
    }

    /// The engine begins with the settings that there are.
    pub fn forget_reload(&mut self) {
        self.operator.waits_for.clear();
        self.oracle.limits_change(&self.plan.settings.limits);
    }

    /// A domain publishes other hosts. Who asked before may send to the old ones until that answer is old.
    pub fn move_domain(&mut self) {
        let hosts = self.random.pick(&self.plan.groups).clone();
        let domain = self.random.below(self.plan.domains.len() as u64) as usize;
        if self.plan.domains[domain].hosts != hosts {
            self.note_states("dns: other hosts");
            self.plan.domains[domain].hosts = hosts;
        }
    }

    /// An application hands a message in by HTTP.
    pub fn submit_letter(&mut self) {
        if self.faults.over || self.cores.is_empty() || self.oracle.letters() >= self.plan.letters {
            return;
        }
        let letter = self.write_letter();
        self.operator.submitted += 1;
        let id = MessageId { generation: self.life, core: CONTROL_CORE, sequence: self.operator.submitted };
        let submission = submission_of(&letter, id);
        self.oracle.handed_in(letter.serial);
        let core = self.random.below(self.cores.len() as u64) as usize;
        self.cores[core].orders.push_back(Order::Submit(Box::new(submission), letter.serial));
        let delay = self.random.skewed(1, 20_000);
        self.on_core(core, delay, Happening::Turn);
    }

    /// A core gets it.
    pub fn take_submission(&mut self, core: usize, submission: Submission, serial: usize) {
        if self.cores[core].stopping || self.refusing(core as u16) {
            return self.report.count("engine", "submission refused");
        }
        let now = self.now();
        let ticket = self.cores[core].shard.accept(submission, now);
        self.cores[core].waiting.insert(ticket, Waiter::Control(serial));
        self.with_shard(core, |_, _| ());
        self.report.count("engine", "submission received");
    }

    /// The caller hears 200, or that it should come again.
    pub fn submission_answered(&mut self, serial: usize, result: &Result<MessageId, Box<str>>) {
        if let Ok(id) = result {
            self.oracle.acknowledged(serial, *id, self.moment(), self.utc());
            self.pass(Spot::Acknowledged);
        }
    }
}

fn submission_of(letter: &Letter, id: MessageId) -> Submission {
    let marks = |of: &Option<String>| of.as_deref().map(Box::from);
    let extras = Extras {
        tags: letter.tags.iter().map(|tag| tag.as_str().into()).collect(),
        campaign: marks(&letter.campaign),
        tenant: marks(&letter.tenant),
        pool: marks(&letter.pool),
        expires: letter.expires.map(Timestamp),
        not_before: letter.not_before.map(Timestamp),
        max_attempts: letter.max_attempts,
        ..Extras::default()
    };
    let content = format!("Received: by in.sim.test with HTTP\r\n{}", letter.content());
    Submission {
        id,
        sender: letter.sender.as_str().into(),
        recipients: letter.recipients.iter().map(|recipient| recipient.as_str().into()).collect(),
        flags: ContentFlags { dot_lines: content.contains("\r\n."), ..ContentFlags::default() },
        extras: (extras != Extras::default()).then(|| Box::new(extras)),
        body: Body::from(content.into_bytes()),
        protocol: "HTTP",
        peer: Some(CLIENT),
    }
}
