//! Every way in which a destination can fail, at each phase: what is recorded, and that a retry or the end follows.
//! What would take minutes (time-outs) is in the pure tests, where time is free.

use crate::support::ports::free_address;
use crate::support::{Action, Config, Engine, Features, Record, Sink, Step, until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BODY: &[u8] = b"Subject: fails\r\n\r\nfails\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Banner,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    Dot,
}

impl Phase {
    fn is(self, step: &Step<'_>) -> bool {
        match step {
            Step::Connected(_) => self == Self::Banner,
            Step::Hello => self == Self::Ehlo,
            Step::Mail(_) => self == Self::Mail,
            Step::Recipient(_) => self == Self::Rcpt,
            Step::Data => self == Self::Data,
            Step::Message(_) => self == Self::Dot,
            Step::StartTls => false,
        }
    }

    /// As records name the command.
    fn command(self) -> &'static str {
        match self {
            Self::Banner => "BANNER",
            Self::Ehlo => "EHLO",
            Self::Mail => "MAIL FROM",
            Self::Rcpt => "RCPT TO",
            Self::Data => "DATA",
            Self::Dot => ".",
        }
    }
}

const PHASES: [Phase; 6] = [Phase::Banner, Phase::Ehlo, Phase::Mail, Phase::Rcpt, Phase::Data, Phase::Dot];

/// How it fails, and what is recorded then: code, and whether that is the end once a message was begun.
struct Way {
    name: &'static str,
    action: fn() -> Action,
    code: u64,
    enhanced: &'static str,
    permanent: bool,
}

const WAYS: [Way; 5] = [
    Way { name: "4yz", action: || Action::reply("450 4.2.1 not now"), code: 450, enhanced: "4.2.1", permanent: false },
    Way { name: "5yz", action: || Action::reply("550 5.7.1 never"), code: 550, enhanced: "5.7.1", permanent: true },
    Way {
        name: "421",
        action: || Action::ReplyAndDrop("421 4.3.2 closing down".to_owned()),
        code: 421,
        enhanced: "4.3.2",
        permanent: false,
    },
    Way { name: "drop", action: || Action::Drop, code: 451, enhanced: "4.4.2", permanent: false },
    Way {
        name: "garbage",
        action: || Action::reply("what do you want of me?"),
        code: 451,
        enhanced: "4.5.0",
        permanent: false,
    },
];

struct Case {
    domain: String,
    way: &'static Way,
    phase: Phase,
    sink: Sink,
    failing: Arc<AtomicBool>,
}

fn cases() -> Vec<Case> {
    static ALL: &[Way] = &WAYS;
    let mut cases = Vec::new();
    for pipelining in [true, false] {
        for phase in PHASES {
            for way in ALL {
                let sink = Sink::start(Features { pipelining, ..Features::default() });
                let failing = Arc::new(AtomicBool::new(true));
                let fails = failing.clone();
                sink.script(move |step| match phase.is(step) && fails.load(Ordering::SeqCst) {
                    true => (way.action)(),
                    false => Action::Default,
                });
                let words = if pipelining { "pipelined" } else { "stepwise" };
                let domain = format!("{}-{}-{words}.example", way.name, format!("{phase:?}").to_lowercase());
                cases.push(Case { domain, way, phase, sink, failing });
            }
        }
    }
    cases
}

fn of<'a>(records: &'a [Record], domain: &str) -> Vec<&'a Record> {
    let about = records.iter().filter(|record| record.kind() != "Reception");
    about.filter(|record| record.recipient().ends_with(&format!("@{domain}"))).collect()
}

fn command(record: &Record) -> &str {
    record.0["response"]["command"].as_str().unwrap_or("")
}

fn says_maybe(record: &Record) -> bool {
    record.0.get("maybe_delivered").is_some_and(|value| value == true)
}

fn check_first(case: &Case, first: &Record) {
    let Case { domain, way, phase, .. } = case;
    let ends = way.permanent && !matches!(phase, Phase::Banner | Phase::Ehlo);
    assert_eq!(first.kind(), if ends { "Bounce" } else { "TransientFailure" }, "{domain}: {first:?}");
    assert_eq!((first.code(), first.enhanced().as_str()), (way.code, way.enhanced), "{domain}: {first:?}");
    assert_eq!((command(first), first.attempts()), (phase.command(), 1), "{domain}: {first:?}");
    let unanswered = *phase == Phase::Dot && matches!(way.name, "drop" | "garbage");
    assert_eq!(says_maybe(first), unanswered, "{domain}: {first:?}");
    let peer = first.0["peer_address"]["addr"].as_str();
    assert_eq!(peer, Some(case.sink.address.ip().to_string().as_str()), "{domain}");
}

#[test]
fn each_failure_is_recorded_as_what_it_is_and_tried_again_or_not() {
    let cases = cases();
    let config = cases.iter().fold(Config::default(), |config, case| config.route(&case.domain, case.sink.address));
    let engine = Engine::start(&config);
    let mut client = engine.client();
    for case in &cases {
        assert_eq!(client.send("s@test.example", &[&format!("r@{}", case.domain)], BODY).code, 250);
    }
    let mut records = Vec::new();
    until("each destination has failed once", || {
        records = engine.records();
        cases.iter().all(|case| !of(&records, &case.domain).is_empty())
    });
    for case in &cases {
        check_first(case, of(&records, &case.domain)[0]);
        case.failing.store(false, Ordering::SeqCst);
    }
    let is_over = |records: &[Record], case: &Case| {
        of(records, &case.domain).last().is_some_and(|last| last.kind() != "TransientFailure")
    };
    until("each message has its end", || {
        records = engine.records();
        cases.iter().all(|case| is_over(&records, case))
    });
    for case in &cases {
        let story = of(&records, &case.domain);
        let attempts: Vec<u64> = story.iter().map(|record| record.attempts()).collect();
        assert_eq!(attempts, (1..=story.len() as u64).collect::<Vec<_>>(), "{}: {story:?}", case.domain);
        let last = story.last().unwrap();
        let bounced = last.kind() == "Bounce";
        assert_eq!(case.sink.count(), usize::from(!bounced), "{}", case.domain);
        assert!(bounced && story.len() == 1 || last.kind() == "Delivery" && story.len() > 1, "{}", case.domain);
        assert!(!says_maybe(last), "{}", case.domain);
    }
}

#[test]
fn a_host_that_refuses_connections_is_passed_over_and_the_last_one_defers() {
    let (nobody, nobody_else) = (free_address(), free_address());
    let sink = Sink::start(Features::default());
    let hosts = |list: &[SocketAddr]| {
        let quoted: Vec<String> = list.iter().map(|host| format!("\"{host}\"")).collect();
        format!("hosts = [{}]", quoted.join(", "))
    };
    let config = Config::default()
        .table("route", &format!("domain = \"second.example\"\n{}", hosts(&[nobody, sink.address])))
        .table("route", &format!("domain = \"none.example\"\n{}", hosts(&[nobody, nobody_else])));
    let engine = Engine::start(&config);
    let mut client = engine.client();
    for domain in ["second.example", "none.example"] {
        assert_eq!(client.send("s@test.example", &[&format!("r@{domain}")], BODY).code, 250);
    }
    sink.await_messages(1);
    let delivery = engine.await_records("Delivery", 1).remove(0);
    assert_eq!((delivery.recipient(), delivery.attempts()), ("r@second.example", 1));
    let failed = engine.await_records("TransientFailure", 2);
    assert!(failed.iter().all(|record| record.recipient() == "r@none.example"), "{failed:?}");
    for (record, attempt) in failed.iter().zip(1..) {
        assert_eq!((record.code(), record.enhanced().as_str()), (451, "4.4.1"));
        assert_eq!((command(record), record.attempts()), ("CONNECT", attempt));
    }
}

/// Name, phase and deed of a host that fails.
type Trouble = (&'static str, Phase, fn() -> Action);

/// Hosts that accept the connection and then fail in their own ways; the next one takes the message at once.
#[test]
fn another_host_is_tried_within_the_same_attempt() {
    let mut config = Config::default();
    let mut sinks = Vec::new();
    let ways: [Trouble; 6] = [
        ("greets-with-554", Phase::Banner, || Action::reply("554 5.3.2 no service")),
        ("greets-with-421", Phase::Banner, || Action::ReplyAndDrop("421 4.3.2 busy".to_owned())),
        ("drops-at-once", Phase::Banner, || Action::Drop),
        ("refuses-ehlo", Phase::Ehlo, || Action::ReplyAndDrop("451 4.3.0 broken".to_owned())),
        ("drops-in-mail", Phase::Mail, || Action::Drop),
        ("has-no-space", Phase::Mail, || Action::reply("452 4.3.1 disk full")),
    ];
    for (name, phase, action) in ways {
        let (first, second) = (Sink::start(Features::default()), Sink::start(Features::default()));
        first.script(move |step| if phase.is(step) { action() } else { Action::Default });
        let hosts = format!("hosts = [\"{}\", \"{}\"]", first.address, second.address);
        config = config.table("route", &format!("domain = \"{name}.example\"\n{hosts}"));
        sinks.push((name, first, second));
    }
    let engine = Engine::start(&config);
    let mut client = engine.client();
    for (name, ..) in ways {
        assert_eq!(client.send("s@test.example", &[&format!("r@{name}.example")], BODY).code, 250);
    }
    let deliveries = engine.await_records("Delivery", ways.len());
    assert!(deliveries.iter().all(|record| record.attempts() == 1), "{deliveries:?}");
    assert_eq!(engine.records().len(), 2 * ways.len(), "no failure is recorded: {:?}", engine.records());
    for (name, first, second) in &sinks {
        assert_eq!((first.count(), second.count()), (0, 1), "{name}");
        assert!(first.connections() >= 1, "{name}: the first host was tried");
    }
}

#[test]
fn what_may_have_got_through_says_so_when_it_ends() {
    let (expires, bounces) = (Sink::start(Features::default()), Sink::start(Features::default()));
    for sink in [&expires, &bounces] {
        sink.script(|step| if Phase::Dot.is(step) { Action::Drop } else { Action::Default });
    }
    let config = Config::default()
        .line("retry", "max_age = \"6s\"")
        .line("retry", "intervals = [\"2s\"]")
        .route("expires.example", expires.address)
        .route("bounces.example", bounces.address);
    let engine = Engine::start(&config);
    let mut client = engine.client();
    for domain in ["expires.example", "bounces.example"] {
        assert_eq!(client.send("s@test.example", &[&format!("r@{domain}")], BODY).code, 250);
    }
    until("both are lost after the dot", || !expires.attempts().is_empty() && !bounces.attempts().is_empty());
    bounces.script(|step| if Phase::Rcpt.is(step) { Action::reply("550 5.1.1 gone") } else { Action::Default });
    let bounce = engine.await_records("Bounce", 1).remove(0);
    assert_eq!((bounce.recipient(), bounce.code(), says_maybe(&bounce)), ("r@bounces.example", 550, true));
    let expiration = engine.await_records("Expiration", 1).remove(0);
    assert_eq!((expiration.recipient(), says_maybe(&expiration)), ("r@expires.example", true));
    let failed = engine.await_records("TransientFailure", 2);
    assert!(failed.iter().all(|record| says_maybe(record) && command(record) == "."), "{failed:?}");
}

#[test]
fn a_source_address_that_is_not_on_the_machine_defers_and_says_so() {
    let sink = Sink::start(Features::default());
    let config = Config::to(sink.address)
        .table("source", "name = \"elsewhere\"\naddress = \"192.0.2.77\"\nehlo = \"elsewhere.example\"");
    let engine = Engine::start(&config);
    assert_eq!(engine.client().send("s@test.example", &["r@d.example"], BODY).code, 250);
    let record = engine.await_records("TransientFailure", 1).remove(0);
    assert_eq!((record.code(), record.enhanced().as_str()), (451, "4.3.5"));
    assert!(record.content().contains("192.0.2.77"), "{record:?}");
    assert_eq!(record.text("egress_source"), "elsewhere");
    assert_eq!(sink.connections(), 0);
}
