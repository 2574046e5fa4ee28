//! The far ends of connections: clients that hand mail in and hosts that take it, and what they do to the pipes.

use crate::injector::{Injector, Letter, Step};
use crate::network::{Chunk, Conn, ConnId, Far, Load, Way};
use crate::plan::{SECOND, utc_at};
use crate::random::Random;
use crate::sink::{self, Reaction};
use crate::world::{Event, Happening, World};
use std::net::SocketAddr;

impl World {
    /// Puts something into a pipe, `delay` microseconds from now.
    pub fn send(&mut self, conn: ConnId, way: Way, load: Load, delay: u64, answers: Vec<usize>) {
        let sent = self.moment();
        let earliest = self.time + delay;
        let Some(of) = self.conns.get_mut(&conn) else { return };
        let earliest = earliest + of.latency;
        if self.telling() {
            let text = match &load {
                Load::Octets(octets) => format!("{:?}", String::from_utf8_lossy(octets)),
                other => format!("{other:?}"),
            };
            eprintln!("{:>12} {:>6} conn {conn} {way:?} {text}", self.time, self.step);
        }
        let Some(of) = self.conns.get_mut(&conn) else { return };
        let chunk = Chunk { load, sent, answers };
        if let Some(at) = of.pipe(way).put(chunk, earliest) {
            self.at(at, Event::Arrive(conn, way));
        }
    }

    pub fn arrive(&mut self, conn: ConnId, way: Way) {
        let Some(of) = self.conns.get_mut(&conn) else { return };
        of.pipe(way).arrive();
        let (far, core, life) = (of.far, of.core, of.life);
        let alive = life == self.life && !of.closed_by_core && !self.cores.is_empty();
        let freed = way == Way::FromCore && std::mem::take(&mut of.blocked);
        if alive && (freed || way == Way::ToCore) {
            let happening = if far == Far::Sink { Happening::Drive(conn) } else { Happening::Inject(conn) };
            self.on_core(core, 0, happening);
        }
        if way == Way::FromCore {
            while let Some(chunk) = self.conns.get_mut(&conn).and_then(|of| of.from_core.arrived.pop_front()) {
                match far {
                    Far::Sink => self.sink_reads(conn, chunk),
                    Far::Injector => self.client_reads(conn, &chunk),
                }
            }
        }
        self.forget_conn(conn);
    }

    /// The core closes its side; what it sent before still travels.
    pub fn close_by_core(&mut self, conn: ConnId) {
        self.send(conn, Way::FromCore, Load::End, 0, Vec::new());
        if let Some(of) = self.conns.get_mut(&conn) {
            of.closed_by_core = true;
        }
    }

    pub fn close_by_far(&mut self, conn: ConnId, load: Load, delay: u64) {
        self.send(conn, Way::ToCore, load, delay, Vec::new());
    }

    fn forget_conn(&mut self, conn: ConnId) {
        if self.conns.get(&conn).is_some_and(|of| of.closed_by_core && of.to_core.ended) {
            self.conns.remove(&conn);
            self.sinks.remove(&conn);
            self.injectors.remove(&conn);
        }
    }

    // Hosts.

    pub fn sink_accepts(&mut self, conn: ConnId, peer: SocketAddr) {
        let plan = self.plan.hosts.iter().find(|host| host.address == peer).expect("only hosts resolve");
        let mut manner = plan.manner.clone();
        if self.faults.over {
            manner.faults = 0;
        }
        let (session, reactions) = sink::Session::new(manner, &mut self.random);
        self.sinks.insert(conn, session);
        self.react(conn, reactions);
    }

    fn sink_reads(&mut self, conn: ConnId, chunk: Chunk) {
        let Some(mut session) = self.sinks.remove(&conn) else { return };
        match chunk.load {
            Load::Octets(octets) => {
                self.trace(&octets);
                let reactions = session.feed(&octets, chunk.sent, &mut self.random);
                self.sinks.insert(conn, session);
                self.react(conn, reactions);
            }
            Load::End | Load::Reset => self.close_by_far(conn, Load::End, 0),
        }
    }

    fn react(&mut self, conn: ConnId, reactions: Vec<Reaction>) {
        // A slow answer holds up what follows it.
        let (mut delay, mut answers) = (0, Vec::new());
        for reaction in reactions {
            match reaction {
                Reaction::Say(octets, after) => {
                    delay += after;
                    self.send(conn, Way::ToCore, Load::Octets(octets), delay, std::mem::take(&mut answers));
                }
                Reaction::Complete(taken) => {
                    let good = taken.good;
                    let number = self.oracle.completed(conn, taken);
                    if good {
                        answers.push(number);
                    }
                }
                Reaction::Fault(phase, act) => self.report.fault(&format!("peer: {act:?}"), &format!("{phase:?}")),
                Reaction::Close => self.close_by_far(conn, Load::End, delay),
                Reaction::Reset => self.close_by_far(conn, Load::Reset, delay),
                Reaction::Vanish => {
                    if let Some(of) = self.conns.get_mut(&conn) {
                        of.to_core.swallows = true;
                        of.from_core.swallows = true;
                    }
                }
            }
        }
    }

    // Clients.

    /// A client comes with some letters.
    pub fn new_client(&mut self) {
        if self.faults.over {
            return;
        }
        if self.cores.is_empty() || self.stop_by.is_some() {
            return self.after(SECOND / 10, Event::Client);
        }
        let mut letters = Vec::new();
        for _ in 0..self.random.between(1, self.plan.letters_a_connection) {
            if self.oracle.letters() < self.plan.letters {
                letters.push(self.write_letter());
            }
        }
        if letters.is_empty() {
            return;
        }
        let leaves = self.random.permille(self.plan.leaving_clients);
        let injector = Injector::new(letters, leaves, &mut self.random);
        let core = self.random.below(self.cores.len() as u64) as usize;
        let latency = self.random.skewed(20, 20_000);
        let conn = Conn::new(Far::Injector, self.life, core, latency, usize::MAX, usize::MAX);
        let id = self.new_conn(conn);
        self.injectors.insert(id, injector);
        self.accept_client(id, core);
        let pause = self.random.skewed(1_000, 3 * self.plan.active / self.plan.letters as u64);
        self.after(pause, Event::Client);
    }

    pub fn write_letter(&mut self) -> Letter {
        let serial = self.oracle.letters();
        let random = &mut self.random;
        let mut recipients = Vec::new();
        let count = if random.permille(600) { 1 } else { random.between(1, 6) };
        for number in 0..count {
            let domain = &random.pick(&self.plan.domains).name;
            recipients.push(format!("r{serial}-{number}@{domain}"));
        }
        let some = |random: &mut Random, names: &[&str], chance| {
            random.permille(chance).then(|| (*random.pick(names)).to_owned())
        };
        let utc = utc_at(self.time).0;
        let soon =
            |random: &mut Random, chance| random.permille(chance).then(|| utc + random.skewed(500, 60_000) as i64);
        let pools = !self.plan.settings.pools.is_empty();
        let lines = random.skewed(1, 200);
        let text =
            (0..lines).map(|line| if line % 7 == 3 { format!(".{line}\r\n") } else { format!("line {line}\r\n") });
        let letter = Letter {
            serial,
            sender: format!("sender{serial}@in.test"),
            recipients,
            tags: some(random, &["red", "green", "blue"], 300).into_iter().collect(),
            campaign: some(random, &["spring", "autumn"], 200),
            tenant: some(random, &["one", "two"], 200),
            pool: if pools { some(random, &["p0", "p1"], 400) } else { None },
            expires: soon(random, 100),
            not_before: soon(random, 80),
            max_attempts: random.permille(80).then(|| random.between(1, 4) as u16),
            text: text.collect(),
        };
        self.oracle.written_letter(&letter, self.time);
        letter
    }

    fn client_reads(&mut self, conn: ConnId, chunk: &Chunk) {
        let Load::Octets(octets) = &chunk.load else {
            self.injectors.remove(&conn);
            return self.close_by_far(conn, Load::End, 0);
        };
        let Some(mut injector) = self.injectors.remove(&conn) else { return };
        let steps = injector.feed(octets, &mut self.random);
        self.injectors.insert(conn, injector);
        let mut delay = 0;
        for step in steps {
            match step {
                Step::Send(pieces) => {
                    for (octets, after) in pieces {
                        delay += after;
                        self.send(conn, Way::ToCore, Load::Octets(octets), delay, Vec::new());
                    }
                }
                Step::Submitted(serial) => self.oracle.submitted(conn, serial),
                Step::Leave => {
                    self.close_by_far(conn, Load::End, delay);
                    self.injectors.remove(&conn);
                }
            }
        }
    }
}
