//! One simulated core: the real brain, its two lanes, and the hands that carry out what it commands, in the order of
//! steps of the real runtime. Orders are drained before anything else and again inside the gate.

use crate::network::{Conn, Far};
use crate::plan::{SECOND, Spot};
use crate::storage::{Log, Task};
use crate::world::{Event, Happening, World};
use mailrace_shards::event::{Answer, Command, Connect, Host, Lookup, Mail, Question, ReplyTo, Resolved, SessionId};
use mailrace_shards::outcome::Verb;
use mailrace_shards::queue::DestinationId;
use mailrace_shards::rules::Update;
use mailrace_shards::settings::Settings;
use mailrace_shards::shard::{Shard, Submission};
use mailrace_shards::smtp::classify::{DnsFailure, Failure, FailureKind};
use mailrace_shards::spool::report::SpoolCompletion;
use mailrace_shards::time::{Instant, Now};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

/// What the control side tells a core.
pub enum Order {
    Rules(Update),
    Ask(Question),
    Reload(Arc<Settings>),
    /// A letter by its serial.
    Submit(Box<Submission>, usize),
}

/// Who waits for the spool's word.
#[derive(Clone, Copy, Debug)]
pub enum Waiter {
    /// The client on a connection.
    Client(u64),
    /// Whoever handed a letter in through the control side.
    Control(usize),
}

/// Mail taken in one turn.
const MAIL_A_TURN: usize = 4;

pub struct Core {
    pub shard: Shard,
    pub orders: VecDeque<Order>,
    pub mail: VecDeque<Mail>,
    pub log: Log,
    /// Connections by session.
    pub sessions: BTreeMap<SessionId, u64>,
    /// Who waits for the spool's word, by ticket.
    pub waiting: BTreeMap<u64, Waiter>,
    /// It does nothing before.
    pub stalled_until: u64,
    pub stopping: bool,
}

impl World {
    /// Asks or tells a brain something, and carries out what it commands.
    pub fn with_shard<R>(&mut self, core: usize, ask: impl FnOnce(&mut Shard, Now) -> R) -> R {
        let now = self.now();
        let answer = ask(&mut self.cores[core].shard, now);
        self.carry_out(core);
        answer
    }

    fn carry_out(&mut self, core: usize) {
        let now = self.now();
        while let Some(command) = self.cores[core].shard.poll_command() {
            match command {
                Command::Post(to, mail) if usize::from(to.0) == core => self.cores[core].shard.handle_mail(mail, now),
                Command::Post(to, mail) => self.post(usize::from(to.0), mail),
                Command::Record { number, outcome } => self.append_record(core, number, *outcome),
                Command::Progress(spool, progress) => self.hand_to_spool(spool, Task::Progress(progress)),
                Command::Store { ticket, envelope, body } => {
                    // The spool that has the core's own number is the one that it accepts into.
                    self.hand_to_spool(core as u16, Task::Store(ticket, envelope, body));
                }
                Command::Accepted { ticket, result } => match self.cores[core].waiting.remove(&ticket) {
                    Some(Waiter::Client(conn)) => self.stored(conn, result),
                    Some(Waiter::Control(serial)) => self.submission_answered(serial, &result),
                    None => {}
                },
                Command::Wake(session) => self.on_core(core, 0, Happening::Wake(session)),
                Command::Connect(connect) => self.connect(core, connect),
                Command::Resolve { destination, lookup } => {
                    let delay = self.random.skewed(100, 2 * SECOND);
                    self.on_core(core, delay, Happening::Resolved(destination, lookup));
                }
            }
        }
    }

    fn post(&mut self, to: usize, mail: Mail) {
        self.cores[to].mail.push_back(mail);
        let delay = self.random.skewed(1, 2_000);
        self.on_core(to, delay, Happening::Turn);
    }

    /// A core tells all, itself included.
    fn post_to_all(&mut self, from: usize, mail: impl Fn() -> Mail) {
        for other in (0..self.cores.len()).filter(|other| *other != from) {
            self.post(other, mail());
        }
        self.with_shard(from, |shard, now| shard.handle_mail(mail(), now));
    }

    /// What other threads have sent, orders first.
    pub fn mailbox_turn(&mut self, core: usize) {
        self.take_orders(core);
        for _ in 0..MAIL_A_TURN {
            let Some(mail) = self.cores[core].mail.pop_front() else { return };
            self.with_shard(core, |shard, now| shard.handle_mail(mail, now));
            self.take_orders(core);
        }
        self.on_core(core, 0, Happening::Turn);
    }

    /// Carries out the orders that have come.
    pub fn take_orders(&mut self, core: usize) {
        while let Some(order) = self.cores[core].orders.pop_front() {
            let update = match order {
                Order::Rules(update) => update,
                Order::Ask(question) => {
                    // What the answer says is not looked at here, only what the question does.
                    let reply = ReplyTo::new(drop::<Answer>);
                    self.with_shard(core, |shard, now| shard.handle_question(question, reply, now));
                    continue;
                }
                Order::Reload(settings) => {
                    self.with_shard(core, |shard, now| shard.handle_reload(settings, now));
                    self.reloaded(core);
                    continue;
                }
                Order::Submit(submission, serial) => {
                    self.take_submission(core, *submission, serial);
                    continue;
                }
            };
            let epoch = self.with_shard(core, |shard, now| {
                shard.handle_rules(update, now);
                shard.rules().epoch()
            });
            let delay = self.random.skewed(1, 5_000);
            self.after(delay, Event::Applied(self.life, core, epoch));
            self.pass(Spot::RuleApplied);
        }
    }

    pub fn complete_spool(&mut self, core: usize, spool: u16, completions: Vec<SpoolCompletion>) {
        self.take_orders(core);
        for completion in completions {
            match completion {
                SpoolCompletion::Stored { ticket, location } => {
                    let keep = self.random.permille(self.plan.bodies_kept);
                    self.with_shard(core, |shard, now| shard.handle_stored(ticket, Ok((location, keep)), now));
                }
                SpoolCompletion::Failed { ticket, why } => {
                    self.with_shard(core, |shard, now| shard.handle_stored(ticket, Err(why), now));
                }
                SpoolCompletion::Moved { id, location } => {
                    self.report.count("spool", "body moved");
                    self.post_to_all(core, || Mail::Moved(id, location));
                }
                SpoolCompletion::Behind(behind) => {
                    self.report.count("spool", if behind { "behind" } else { "behind no more" });
                    self.post_to_all(core, || Mail::Behind(spool, behind));
                }
                SpoolCompletion::Failing { .. } | SpoolCompletion::Working => self.oracle.trouble(self.time, self.time),
                SpoolCompletion::Housekeeping { .. } => {}
                SpoolCompletion::Damaged { .. } => self.oracle.disk_damage_was_told(spool),
            }
        }
    }

    /// A connection of the core to another host.
    fn connect(&mut self, core: usize, connect: Connect) {
        let host = self.plan.hosts.iter().position(|host| host.address == connect.peer).expect("only hosts resolve");
        let plan = &self.plan.hosts[host];
        let latency = plan.latency;
        let conn = Conn::new(Far::Sink, self.life, core, latency, plan.room, plan.write_max);
        let works = !self.random.permille(if self.faults.over { 0 } else { plan.refuses });
        let id = self.new_conn(conn);
        self.oracle.connecting(id, &connect, self.moment());
        self.cores[core].sessions.insert(connect.session, id);
        self.begin_carrier(id, core, connect);
        self.on_core(core, 2 * latency, Happening::Opened(id, works));
    }

    pub fn new_conn(&mut self, conn: Conn) -> u64 {
        self.next_conn += 1;
        self.conns.insert(self.next_conn, conn);
        self.next_conn
    }

    pub fn resolved(&mut self, core: usize, destination: DestinationId, lookup: &Lookup) {
        let answer = self.look_up(lookup);
        self.with_shard(core, |shard, now| shard.handle_resolved(destination, answer, now));
    }

    fn look_up(&mut self, lookup: &Lookup) -> Result<Resolved, Failure> {
        let (domain, hosts) = match lookup {
            Lookup::MailHosts(domain) => {
                let plan = self.plan.domains.iter().find(|plan| plan.name == **domain);
                (domain.clone(), plan.expect("mail is only made for domains of the plan").hosts.clone())
            }
            Lookup::Hosts { hosts, .. } => {
                let of_name = |name: &str| {
                    let at = self.plan.hosts.iter().position(|host| host.address.ip().to_string() == name);
                    at.expect("routes name hosts of the plan")
                };
                ("a route".into(), hosts.iter().map(|host| of_name(&host.host)).collect())
            }
        };
        if !self.faults.over && self.random.permille(self.plan.dns_faults) {
            self.report.count("dns", "temporary failure");
            let kind = FailureKind::Dns(DnsFailure::Temporary);
            return Err(Failure::own(kind, Verb::None, format!("{domain}: no answer")));
        }
        let name = |host: &usize| -> Arc<str> { format!("mx{host}.sim.test").into() };
        let address = |host: &usize| -> SocketAddr { self.plan.hosts[*host].address };
        let found: Vec<Host> = hosts
            .iter()
            .map(|host| Host { name: name(host), addresses: [address(host)].into_iter().collect() })
            .collect();
        let names = hosts.iter().map(name).collect();
        let most = self.plan.dns_answers;
        let good_for = self.random.between(most.min(5 * SECOND), most);
        Ok(Resolved { hosts: found, names, expires: Instant(self.now().instant.0 + good_for) })
    }
}
