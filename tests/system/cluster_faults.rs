//! Random changes of rules on random nodes while engines and members of etcd are killed, stopped and cut off. At the end
//! every node holds the same rules, every answered change is there, all nodes saw the changes in one order, and no
//! message left after an answer that covered it.
//!
//! `MAILRACE_CLUSTER_SECONDS` sets how long faults go on (20), `MAILRACE_CLUSTER_SEED` which ones; it is printed.

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use crate::support::random::Random;
use crate::support::relay::Flow;
use crate::support::{Api, Client, Cluster, Node, setting, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Rules over which everybody quarrels.
const CONTESTED: usize = 12;

/// Who makes changes at once.
const MAKERS: usize = 3;

/// Campaigns that are cancelled in any case.
const CANCELLED_MIN: usize = 3;

/// A message that was on its way when its rule was made may be read by the destination's thread this much later.
const READ_LATE: Duration = Duration::from_millis(250);

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is in force everywhere, or stored and on its way.
    Stored,
    /// It may be stored, or yet become so.
    Unknown,
    /// It is surely not stored.
    Refused,
}

/// One change of a contested rule.
#[derive(Clone, Debug)]
struct Write {
    tag: String,
    /// The words of the rule that it made; `None`: it removed the rule.
    words: Option<String>,
    begun: Instant,
    ended: Instant,
    fate: Fate,
    /// It was answered with 200.
    answered: bool,
}

/// A campaign that was cancelled for ever, and since when.
struct Cancelled {
    tag: String,
    answered: Instant,
}

#[derive(Default)]
struct History {
    writes: Mutex<Vec<Write>>,
    cancelled: Mutex<Vec<Cancelled>>,
    /// Campaigns that are being sent, each to be cancelled once.
    campaigns: AtomicUsize,
    over: AtomicBool,
}

impl History {
    fn over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// What an answer, or its absence, says about a change.
fn fate(answer: &std::io::Result<crate::support::Answer>) -> Fate {
    match answer {
        Ok(answer) if answer.status == 200 => Fate::Stored,
        Ok(answer) if answer.status == 503 => {
            let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
            let may_be = answer.text.contains("may be stored");
            match (&body["stored"], may_be) {
                (Value::Bool(true), _) => Fate::Stored,
                (_, true) => Fate::Unknown,
                _ => Fate::Refused,
            }
        }
        Ok(answer) => panic!("{} {}", answer.status, answer.text),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Fate::Refused,
        Err(_) => Fate::Unknown,
    }
}

/// Makes and removes contested rules, and cancels campaigns, until it is over.
fn make(maker: usize, seed: u64, apis: &[Api], history: &History) {
    let mut random = Random::of(seed);
    for number in 0.. {
        if history.over() {
            return;
        }
        let api = &apis[random.below(apis.len())];
        if random.below(8) == 0 {
            cancel(api, history);
            continue;
        }
        let tag = format!("contested-{}", random.below(CONTESTED));
        let words = (random.below(3) > 0).then(|| format!("write-{maker}-{number}"));
        let local = if random.below(3) == 0 { "?wait=local" } else { "" };
        let begun = Instant::now();
        let answer = match &words {
            Some(words) => {
                let body = json!({"tag": tag, "code": 550, "description": words, "cluster": true});
                api.try_call("POST", &format!("/v1/errors{local}"), Some(&body))
            }
            None => {
                let body = json!({"tag": tag, "cluster": true});
                api.try_call("DELETE", &format!("/v1/errors{local}"), Some(&body))
            }
        };
        let answered = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        let write = Write { tag, words, begun, ended: Instant::now(), fate: fate(&answer), answered };
        history.writes.lock().unwrap().push(write);
        std::thread::sleep(Duration::from_millis(random.below(40) as u64));
    }
}

/// Ends the campaign that is being sent; the next one begins.
fn cancel(api: &Api, history: &History) {
    let tag = format!("campaign-{}", history.campaigns.fetch_add(1, Ordering::SeqCst));
    let body = json!({"tag": tag, "code": 550, "cluster": true});
    let answer = api.try_call("POST", "/v1/errors", Some(&body));
    if answer.is_ok_and(|answer| answer.status == 200) {
        history.cancelled.lock().unwrap().push(Cancelled { tag, answered: Instant::now() });
    }
}

/// Hands in mail of the campaigns around the present one, until it is over.
fn send(smtp: SocketAddr, history: &History) {
    while !history.over() {
        let Ok(mut client) = Client::try_connect(smtp) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        if client.try_command("EHLO injector.example").is_err() {
            continue;
        }
        while !history.over() {
            let now = history.campaigns.load(Ordering::SeqCst);
            let mut broken = false;
            for campaign in now.saturating_sub(2)..now + 2 {
                let body = format!("x-mq-tag: campaign-{campaign}\r\nX-Told: campaign-{campaign}\r\n\r\nread this\r\n");
                broken |= client.try_send("s@test.example", &["r@campaign.example"], body.as_bytes()).is_err();
            }
            if broken {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// One fault, and its end.
fn fault(cluster: &mut Cluster, random: &mut Random) {
    let (node, member) = (random.below(cluster.nodes.len()), random.below(cluster.etcd.count()));
    let pause =
        |random: &mut Random, most: usize| std::thread::sleep(Duration::from_millis(100 + random.below(most) as u64));
    let which = random.below(10);
    eprintln!("{:?} fault {which}, node {node}, member {member}", jiff::Timestamp::now());
    match which {
        0 => {
            cluster.nodes[node].engine.kill();
            pause(random, 2500);
            cluster.nodes[node].engine.run();
        }
        1 => {
            assert!(cluster.nodes[node].engine.stop().success());
            pause(random, 1500);
            cluster.nodes[node].engine.run();
        }
        2 => {
            cluster.nodes[node].engine.signal(Signal::STOP);
            pause(random, 4000);
            cluster.nodes[node].engine.signal(Signal::CONT);
        }
        3 => {
            cluster.etcd.kill(member);
            pause(random, 2000);
            cluster.etcd.spawn(member);
        }
        4 => {
            cluster.etcd.pause(member);
            pause(random, 3000);
            cluster.etcd.resume(member);
        }
        5 => {
            cluster.etcd.kill_all();
            pause(random, 1000);
            cluster.etcd.start_all();
        }
        6 => {
            if let Some(status) = cluster.etcd.status(member) {
                let revision = status["header"]["revision"].as_str().map_or(1, |text| text.parse().unwrap());
                let request = json!({"revision": revision.to_string()});
                // Another one may have been faster.
                let _ = cluster.etcd.try_call(member, "/v3/kv/compaction", &request);
            }
        }
        _ => {
            let flow = [Flow::Cut, Flow::Stall, Flow::Swallow, Flow::Late(Duration::from_millis(300))][random.below(4)];
            eprintln!("   {flow:?}");
            cluster.nodes[node].net(flow);
            pause(random, 4000);
            cluster.nodes[node].net(Flow::Pass);
        }
    }
    pause(random, 700);
}

/// The words of every contested rule at the end, by tag.
fn words(rules: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let contested = rules.values().filter_map(|rule| {
        let tag = rule["scope"]["tag"].as_str().filter(|tag| tag.starts_with("contested"))?;
        Some((tag.to_owned(), words_of(rule)))
    });
    contested.collect()
}

/// The words that say which write made a rule.
fn words_of(rule: &Value) -> String {
    let text = rule.to_string();
    let at = text.find("write-").unwrap_or_else(|| panic!("a rule without its words: {rule}"));
    text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect()
}

/// What is there at the end must be from a write after whose end no stored one began.
fn check_writes(writes: &[Write], end: &BTreeMap<String, String>) {
    for tag in (0..CONTESTED).map(|number| format!("contested-{number}")) {
        let of_tag: Vec<&Write> =
            writes.iter().filter(|write| write.tag == tag && write.fate != Fate::Refused).collect();
        let there = end.get(&tag);
        let last_stored = of_tag.iter().filter(|write| write.fate == Fate::Stored).map(|write| write.begun).max();
        let explains = |write: &&&Write| {
            write.words.as_ref() == there
                && (write.fate == Fate::Unknown || last_stored.is_none_or(|begun| write.ended >= begun))
        };
        let untouched = there.is_none() && last_stored.is_none();
        assert!(
            untouched || of_tag.iter().find(explains).is_some(),
            "{tag} has {there:?} at the end, which no write explains: {of_tag:#?}"
        );
        let refused =
            writes.iter().find(|write| write.fate == Fate::Refused && there.is_some() && write.words.as_ref() == there);
        assert!(refused.is_none(), "{tag} has what was said not to be stored: {refused:?}");
    }
}

/// A change of a contested rule in the trail of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// The revision of etcd that it names.
    revision: i64,
    tag: String,
    /// The words of the rule that it made; `None`: it removed the rule.
    words: Option<String>,
}

/// What a node saw.
struct Trail {
    /// The changes, in its order.
    changes: Vec<Seen>,
    /// How often it has missed changes that etcd had forgotten, and read everything anew.
    relisted: usize,
}

fn trail(node: &Node) -> Trail {
    let api = node.api();
    let mut changes = Vec::new();
    let mut after = 0;
    loop {
        let page = api.get(&format!("/v1/audit?after={after}&limit=1000"));
        let entries = page.as_array().unwrap();
        for entry in entries {
            let (made, gone) = (&entry["after"], &entry["before"]);
            let rule = if made.is_null() { gone } else { made };
            let Some(tag) = rule["scope"]["tag"].as_str().filter(|tag| tag.starts_with("contested")) else { continue };
            let revision = entry["revision"].as_i64().unwrap_or_else(|| panic!("{}: no revision: {entry}", node.name));
            let words = (!made.is_null()).then(|| words_of(made));
            changes.push(Seen { revision, tag: tag.to_owned(), words });
        }
        let Some(last) = entries.last() else {
            return Trail { changes, relisted: node.engine.stderr().matches("read anew").count() };
        };
        after = last["sequence"].as_u64().expect("an entry has its number");
    }
}

/// The fewest steps in which a node can have gone over more than one revision at once: places in its trail where what
/// stands before is not all older than what stands behind.
fn leaps(changes: &[Seen]) -> usize {
    let mut oldest_behind: Vec<i64> = changes.iter().map(|seen| seen.revision).collect();
    for at in (1..oldest_behind.len()).rev() {
        oldest_behind[at - 1] = oldest_behind[at - 1].min(oldest_behind[at]);
    }
    let (mut newest, mut leaps, mut within) = (0, 0, false);
    for (at, seen) in changes.iter().enumerate() {
        newest = newest.max(seen.revision);
        let is_open = oldest_behind.get(at + 1).is_some_and(|oldest| newest > *oldest);
        leaps += usize::from(is_open && !within);
        within = is_open;
    }
    leaps
}

/// Every node saw the changes in the order of their revisions, each thing once, and the same thing at the same revision;
/// what was answered somebody saw; and a change that was begun after another had been answered is the later one.
fn check_order(trails: &[Trail], writes: &[Write], end: &BTreeMap<String, String>) {
    let known: Vec<_> = trails.iter().map(|trail| (trail.changes.len(), trail.relisted)).collect();
    eprintln!("changes in the trails, and how often all was read anew: {known:?}");
    let mut revisions: HashMap<&str, i64> = HashMap::new();
    for (node, Trail { changes, relisted }) in trails.iter().enumerate() {
        let made: Vec<(&str, i64)> =
            changes.iter().filter_map(|seen| Some((seen.words.as_deref()?, seen.revision))).collect();
        let once: BTreeSet<&str> = made.iter().map(|(words, _)| *words).collect();
        assert_eq!(once.len(), made.len(), "node {node} saw something twice: {changes:?}");
        for (words, revision) in made {
            let known = *revisions.entry(words).or_insert(revision);
            assert_eq!(known, revision, "{words} has two revisions, one of them on node {node}");
        }
        // Who reads everything anew goes in one step over all that has changed.
        assert!(leaps(changes) <= *relisted, "node {node} saw changes out of their order: {changes:?}");
        for tag in (0..CONTESTED).map(|number| format!("contested-{number}")) {
            let of_tag: Vec<i64> = changes.iter().filter(|seen| seen.tag == tag).map(|seen| seen.revision).collect();
            assert!(of_tag.is_sorted(), "node {node} saw changes of {tag} out of their order: {of_tag:?}");
            let last = changes.iter().rfind(|seen| seen.tag == tag).and_then(|seen| seen.words.as_ref());
            assert_eq!(
                last,
                end.get(&tag),
                "node {node}: the trail of {tag} ends with something else than what is there"
            );
        }
    }
    let of = |fate: Fate| writes.iter().filter(move |write| write.fate == fate && write.words.is_some());
    for Write { words, .. } in of(Fate::Stored).filter(|write| write.answered) {
        let words = words.as_deref().expect("of a rule that was made");
        assert!(revisions.contains_key(words), "nobody's trail has {words}");
    }
    for Write { words, .. } in of(Fate::Refused) {
        let words = words.as_deref().expect("of a rule that was made");
        assert!(!revisions.contains_key(words), "{words} was said not to be stored, and was");
    }
    let mut stored: Vec<(&Write, i64)> =
        of(Fate::Stored).filter_map(|write| Some((write, *revisions.get(write.words.as_deref()?)?))).collect();
    stored.sort_by_key(|(write, _)| write.ended);
    let mut by_beginning = stored.clone();
    by_beginning.sort_by_key(|(write, _)| write.begun);
    let mut ended = stored.iter().peekable();
    let mut newest: Option<&(&Write, i64)> = None;
    for (write, revision) in &by_beginning {
        while let Some(before) = ended.next_if(|(before, _)| before.ended < write.begun) {
            newest = newest.filter(|(_, known)| known >= &before.1).or(Some(before));
        }
        if let Some((before, known)) = newest {
            assert!(
                known < revision,
                "{before:?} was over before {write:?}, and has revision {known}, not before {revision}"
            );
        }
    }
}

/// No message of a campaign was completed after its cancellation was answered.
fn check_mail(cluster: &Cluster, cancelled: &[Cancelled]) {
    let since: HashMap<&str, Instant> = cancelled.iter().map(|one| (&*one.tag, one.answered)).collect();
    for node in &cluster.nodes {
        for message in node.sink.attempts() {
            let tag = message.header("X-Told").expect("every message tells its campaign");
            let Some(answered) = since.get(&*tag) else { continue };
            let late = message.at.saturating_duration_since(*answered);
            assert!(late <= READ_LATE, "{}: a message of {tag} was completed {late:?} after the answer", node.name);
        }
    }
}

#[test]
fn random_faults_lose_no_answered_change_and_let_no_covered_message_out() {
    let mut random = Random::from_setting("MAILRACE_CLUSTER_SEED");
    let mut cluster = Cluster::with(3, |number, config| {
        let config = config.line("cluster", "answer_within = \"1s\"");
        if number == 2 { config.line("cluster", "on_partition = \"hold\"") } else { config }
    });
    let history = History::default();
    let apis: Vec<Api> = cluster.nodes.iter().map(|node| node.api()).collect();
    let doors: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.engine.smtp).collect();
    let end = Instant::now() + Duration::from_secs(setting("MAILRACE_CLUSTER_SECONDS", 20) as u64);
    std::thread::scope(|scope| {
        for maker in 0..MAKERS {
            let (seed, apis, history) = (random.below(usize::MAX >> 1) as u64, &apis, &history);
            scope.spawn(move || make(maker, seed, apis, history));
        }
        for &smtp in &doors {
            let history = &history;
            scope.spawn(move || send(smtp, history));
        }
        // Whatever fails here ends the others, too.
        let faults = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while Instant::now() < end {
                fault(&mut cluster, &mut random);
            }
            cluster.etcd.start_all();
        }));
        // However busy the machine is, something has to be cancelled.
        let calm = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cluster.await_together();
            until("campaigns are cancelled", || history.cancelled.lock().unwrap().len() >= CANCELLED_MIN);
        }));
        history.over.store(true, Ordering::SeqCst);
        if let Err(panic) = faults.and(calm) {
            std::panic::resume_unwind(panic);
        }
    });
    cluster.await_together();
    let rules = cluster.await_agreement();
    let (writes, cancelled) = (history.writes.into_inner().unwrap(), history.cancelled.into_inner().unwrap());
    let count = |fate: Fate| writes.iter().filter(|write| write.fate == fate).count();
    eprintln!(
        "{} changes stored, {} unknown, {} refused; {} campaigns cancelled; {} messages",
        count(Fate::Stored),
        count(Fate::Unknown),
        count(Fate::Refused),
        cancelled.len(),
        cluster.nodes.iter().map(|node| node.sink.count()).sum::<usize>()
    );
    assert!(count(Fate::Stored) > 0, "nothing was tried");
    let end = words(&rules);
    check_writes(&writes, &end);
    for one in &cancelled {
        assert!(rules.values().any(|rule| rule["scope"]["tag"] == one.tag), "{} is cancelled no more", one.tag);
    }
    let trails: Vec<Trail> = cluster.nodes.iter().map(trail).collect();
    check_order(&trails, &writes, &end);
    check_mail(&cluster, &cancelled);
}
