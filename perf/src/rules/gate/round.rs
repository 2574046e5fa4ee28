//! One round of the gate: mail on its way, a rule over it, and what is completed after the rule's answer.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::http::Client;
use super::destination::{Lane, READ_OCTETS};
use super::inject::Injector;
use super::judge::{Judgement, Seen, judge};
use super::kind::{Kind, Names, RuleCall};
use super::servers::Ways;
use crate::clock::now_ns;
use crate::error::{Context, Result, fail};
use crate::stop;

/// Octets of a large message.
const LARGE_OCTETS: usize = 5 << 20;
/// A connection that has brought so much of a large message has begun it.
const BEGUN_OCTETS: u64 = 32 << 10;
/// Small messages of a round, and the octets of each.
const SMALL_COUNT: u32 = 60;
const SMALL_OCTETS: usize = 3_000;
/// A round in which something does not come for so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Answers of 503 to one rule, at most; each took the engine 2 s.
const MAX_PUT_OFF: u32 = 10;
/// Between two questions to the API, and between two looks at our own destination.
const ASK_AGAIN: Duration = Duration::from_millis(10);
const LOOK_AGAIN: Duration = Duration::from_micros(500);

/// What is on its way when the rule is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// One message of 5 MiB, hardly begun.
    Large,
    /// Sixty of 3 KB, in the midst of which the rule comes.
    Small,
}

/// What a round found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What came after the answer.
    pub judgement: Judgement,
    /// All mail had come before the answer: the round shows nothing.
    pub too_late: bool,
    /// Of a large message: octets that had not been read when the answer came.
    pub unread: u64,
    /// Calls before the one that was answered with 200: the rule was stored, and not in force everywhere within the
    /// engine's own bound.
    pub put_off: u32,
    /// What else was wrong: mail lost, delivered twice, or not sent as the round means.
    pub wrong: Vec<String>,
}

/// Makes rounds on one destination, one after the other.
pub struct Worker {
    lane: Lane,
    domain: String,
    number: u32,
    /// Rounds so far.
    made: u32,
    send_buffer: u64,
    /// Of the engine that has the mail, and of the one by which rules are made.
    mail: Client,
    rules: Client,
    shared: bool,
    injector: Injector,
}

impl Worker {
    /// For lane `number`, to which the server under test brings the mail for `domain`. No sender has more than
    /// `send_buffer` octets in its socket.
    pub fn new(lane: Lane, domain: String, number: u32, send_buffer: u64, ways: Ways, injector: Injector) -> Worker {
        let (mail, rules) = (Client::new(ways.mail), Client::new(ways.rules));
        Worker { lane, domain, number, made: 0, send_buffer, mail, rules, shared: ways.shared, injector }
    }

    /// One round; `turn` sets its criteria and its moment.
    pub fn round(&mut self, kind: Kind, size: Size, turn: u32) -> Result<Found> {
        self.made += 1;
        let run = self.number << 20 | self.made;
        let names = self.names(run);
        let count = match size {
            Size::Large => self.begin_large(run, &names)?,
            Size::Small => self.begin_small(run, &names, turn)?,
        };
        // Not always at the same moment of the engine's turn. Small messages are all there soon.
        let moments = if size == Size::Large { 20_000 } else { 5_000 };
        std::thread::sleep(Duration::from_micros(u64::from(turn) * 777 % moments));
        let mut call = kind.call(&names, turn);
        if self.shared {
            call.body["cluster"] = json!(true);
        }
        let (answer, put_off) = self.make(&call)?;
        let answered_ns = now_ns();
        let (before, early) = (self.lane.octets(), self.lane.completed());
        self.let_it_come(size)?;
        // What another engine has in flight, the answer does not know.
        let in_flight = if self.shared { Some(u64::MAX) } else { answer["in_flight"].as_u64() };
        let Some(in_flight) = in_flight else {
            return fail(format!("{} answered {answer}, without in_flight", call.path));
        };
        let buffers = self.send_buffer + self.lane.receive_buffer + READ_OCTETS as u64;
        let seen = Seen { answered_ns, in_flight, completed: self.lane.completions(&before), buffers };
        let mut found =
            Found { judgement: judge(&seen), too_late: early >= count as usize, put_off, ..Found::default() };
        if size == Size::Large {
            found.unread = (LARGE_OCTETS as u64).saturating_sub(before.values().max().copied().unwrap_or(0));
        }
        call.undo(&mut self.rules, &answer)?;
        self.drain(kind)?;
        found.wrong = self.wrong(kind, count);
        if size == Size::Large {
            // The next one begins on a connection whose buffers are as small as they are at first.
            self.lane.hang_up();
            until("the connections are closed", LOOK_AGAIN, || Ok(self.lane.connections() == 0))?;
        }
        Ok(found)
    }

    /// Makes the rule; its answer, and how many calls before were answered with 503. The same call again makes the same
    /// rule, so it is the last answer that promises.
    fn make(&mut self, call: &RuleCall) -> Result<(Value, u32)> {
        let mut put_off = 0;
        loop {
            let answer = self.rules.call("POST", call.path, &call.body)?;
            match answer.status {
                200 => return Ok((answer.body, put_off)),
                503 if put_off < MAX_PUT_OFF => put_off += 1,
                status => return fail(format!("{} was answered with {status}: {}", call.path, answer.body)),
            }
        }
    }

    fn names(&self, run: u32) -> Names {
        Names {
            recipient: format!("r{run}@{}", self.domain),
            domain: self.domain.clone(),
            tag: format!("tag-{run}"),
            campaign: format!("campaign-{run}"),
            tenant: format!("tenant-{run}"),
            path: format!("unspecified->{}@smtp_client", self.lane.address),
        }
    }

    fn begin_large(&mut self, run: u32, names: &Names) -> Result<u32> {
        self.lane.begin(run, 1, BEGUN_OCTETS);
        self.injector.send(run, 1, LARGE_OCTETS, names)?;
        let begun = || self.lane.octets().values().any(|octets| *octets >= BEGUN_OCTETS);
        until("the message is on its way", LOOK_AGAIN, || Ok(begun()))?;
        Ok(1)
    }

    fn begin_small(&mut self, run: u32, names: &Names, turn: u32) -> Result<u32> {
        self.lane.begin(run, SMALL_COUNT, 1);
        self.injector.send(run, SMALL_COUNT, SMALL_OCTETS, names)?;
        until("some messages have come", LOOK_AGAIN, || Ok(self.lane.completed() > turn as usize % 5))?;
        Ok(SMALL_COUNT)
    }

    /// Everything that is under way in spite of the rule comes, or its connection ends.
    fn let_it_come(&mut self, size: Size) -> Result<()> {
        if size == Size::Large {
            self.lane.open();
            until("no message is being read", LOOK_AGAIN, || Ok(!self.lane.within_message()))?;
        }
        let question = format!("/v1/messages?domain={}&state=in_flight&limit=1", self.domain);
        self.until_none("no connection has any of the mail", &question)?;
        self.lane.open();
        until("no message is being read", LOOK_AGAIN, || Ok(!self.lane.within_message()))
    }

    /// The rule is gone: what it held is delivered, what it ended is ended.
    fn drain(&mut self, kind: Kind) -> Result<()> {
        if kind == Kind::Error4xx {
            // What was deferred would wait for its retry.
            let flush = json!({"domain": self.domain, "reason": "next round", "data": {}, "always_flush": true});
            self.mail.must("POST", "/api/admin/rebind/v1", &flush)?;
        }
        let question = format!("/v1/messages?domain={}&limit=1", self.domain);
        self.until_none("no mail is left", &question)
    }

    fn until_none(&mut self, what: &str, question: &str) -> Result<()> {
        let client = &mut self.mail;
        until(what, ASK_AGAIN, || {
            let answer = client.must("GET", question, &Value::Null)?;
            Ok(answer.as_array().is_some_and(Vec::is_empty))
        })
        .context(format_args!("go on in {}", self.domain))
    }

    fn wrong(&self, kind: Kind, count: u32) -> Vec<String> {
        let counts = self.lane.counts();
        let mut wrong = Vec::new();
        if kind.keeps() && counts.delivered != count {
            wrong.push(format!("{} of {count} messages were delivered after the release", counts.delivered));
        }
        let rest = [
            (counts.duplicates, "were delivered twice"),
            (counts.otherwise, "came by another transport than was offered"),
            (counts.protocol_errors, "commands were no SMTP"),
        ];
        wrong.extend(rest.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!("{number} {what}")));
        wrong
    }
}

/// Looks until it is so.
fn until(what: &str, again: Duration, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end_ns = now_ns() + PATIENCE.as_nanos() as u64;
    while !so()? {
        if stop::requested() {
            return fail("stopped");
        }
        if now_ns() > end_ns {
            return fail(format!("waited {} s in vain until {what}", PATIENCE.as_secs()));
        }
        std::thread::sleep(again);
    }
    Ok(())
}
