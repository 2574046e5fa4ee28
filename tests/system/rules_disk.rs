//! The disk of rules.db fails: a change that is not on disk is answered by 503 and nothing of it is in force, now or
//! after a restart; what was answered by 200 stays in force. When the disk works again, so do the calls.

use crate::support::ledger::content;
use crate::support::mounts::{in_private_mounts, mount_small};
use crate::support::power::PowerCut;
use crate::support::strace::{finished, strace, tracer_of};
use crate::support::{Api, Config, Engine, Features, Sink, until};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write as _;

/// Pauses by their domains: what was answered by 200, and what by 503 since.
#[derive(Default)]
struct Called {
    in_force: BTreeSet<String>,
    refused: BTreeSet<String>,
    removals_refused: usize,
    number: usize,
}

impl Called {
    /// Makes a pause, or at each third call removes one. Whether that was done.
    fn call(&mut self, api: &Api) -> bool {
        self.number += 1;
        let removed = self.in_force.iter().nth(self.number % 5).filter(|_| self.number.is_multiple_of(3)).cloned();
        let (method, domain) = match &removed {
            Some(domain) => ("DELETE", domain.clone()),
            None => ("POST", format!("p{}.example", self.number)),
        };
        let answer = api.try_call(method, "/v1/pauses", Some(&json!({"domain": domain}))).unwrap();
        match (answer.status, removed) {
            (200, Some(domain)) => assert!(self.in_force.remove(&domain)),
            (200, None) => assert!(self.in_force.insert(domain)),
            (503, removed) => {
                assert!(answer.head.to_lowercase().contains("\r\nretry-after: "), "{}", answer.head);
                match removed {
                    Some(_) => self.removals_refused += 1,
                    None => assert!(self.refused.insert(domain)),
                }
                return false;
            }
            _ => panic!("{answer:?}"),
        }
        true
    }

    /// The lists name what was answered by 200 and nothing else.
    fn assert_listed(&self, api: &Api) {
        for list in ["/v1/pauses", "/v1/rules"] {
            let rules = api.get(list);
            let of = |rule: &serde_json::Value| {
                let domain = if list == "/v1/rules" { &rule["scope"]["domain"] } else { &rule["domain"] };
                domain.as_str().unwrap_or_else(|| panic!("{rule}")).to_owned()
            };
            let listed: BTreeSet<String> = rules.as_array().unwrap().iter().map(of).collect();
            assert_eq!(listed, self.in_force, "{list}");
        }
    }

    /// Mail waits that is under a rule that was answered by 200, and no other does.
    fn assert_in_force(&self, engine: &Engine, sink: &Sink) {
        let (mut client, before) = (engine.client(), sink.count());
        for domain in self.in_force.iter().chain(&self.refused) {
            let reply = client.send("s@test.example", &[&format!("r@{domain}")], content("m").as_bytes());
            assert_eq!(reply.code, 250);
        }
        let arrived = sink.await_messages(before + self.refused.len()).split_off(before);
        let held = |recipient: &String| recipient.split_once('@').is_some_and(|(_, of)| self.in_force.contains(of));
        assert!(!arrived.iter().flat_map(|message| &message.recipients).any(held), "a rule that was answered holds");
        let api = Api::of(engine);
        let waiting = || api.get("/v1/messages?state=held&limit=1000").as_array().unwrap().len();
        until("what is held is held", || waiting() >= self.in_force.len());
    }
}

/// From the n-th call on, as many as that fail, of the thread that writes the rules.
fn some_fail(call: &str, error: &str, times: &str) -> Option<(Engine, Sink)> {
    let sink = Sink::start(Features::default());
    let mut engine = Engine::prepare(&Config::to(sink.address));
    // Without a first start there is no file that could be named.
    engine.run();
    assert!(engine.stop().success());
    let files = ["rules.db", "rules.db-wal"].map(|name| engine.data().join(name));
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when={times}"));
    let mut options = vec!["-o", "/dev/null", "-e", &trace, "-e", &inject];
    options.extend(files.iter().flat_map(|file| ["-P", file.to_str().unwrap()]));
    engine.under(strace(&options)?);
    engine.run();
    Some((engine, sink))
}

/// Calls until some are refused and the disk works again, or else until a good number is refused.
fn call_through(api: &Api, is_repaired: bool) -> Called {
    let mut called = Called::default();
    until("calls are refused", || {
        called.call(api);
        called.refused.len() > 2 && called.removals_refused > 0 || is_repaired && !called.refused.is_empty()
    });
    if is_repaired {
        let mut well = 0;
        until("calls are carried out again", || {
            well = if called.call(api) { well + 1 } else { 0 };
            well > 12
        });
    }
    called
}

#[test]
fn a_change_of_rules_that_cannot_be_written_is_refused_and_leaves_no_trace() {
    let cases = [("pwrite64", "EIO", "60..75"), ("pwrite64", "ENOSPC", "60..75"), ("fsync", "EIO", "8..12")];
    for (call, error, times) in cases {
        let Some((mut engine, sink)) = some_fail(call, error, times) else { return };
        let api = Api::of(&engine);
        let called = call_through(&api, true);
        called.assert_listed(&api);
        called.assert_in_force(&engine, &sink);
        engine.kill();
        engine.under(Vec::new());
        engine.run();
        called.assert_listed(&Api::of(&engine));
        assert!(engine.stop().success());
    }
}

/// The engine dies while the disk still fails: the start after it does not find what was refused.
#[test]
fn a_change_that_was_refused_does_not_rise_after_a_kill() {
    for (call, error, times) in [("pwrite64", "EIO", "60+"), ("fsync", "EIO", "8+")] {
        let Some((mut engine, sink)) = some_fail(call, error, times) else { return };
        let called = call_through(&Api::of(&engine), false);
        called.assert_listed(&Api::of(&engine));
        engine.kill();
        engine.under(Vec::new());
        engine.run();
        called.assert_listed(&Api::of(&engine));
        called.assert_in_force(&engine, &sink);
        assert!(engine.stop().success());
    }
}

/// An engine on what `disk` holds of another one's rules.
fn after_a_power_cut(disk: &PowerCut, before: &Engine) -> Engine {
    let mut engine = Engine::prepare(&Config::default());
    disk.write_to(engine.data().parent().unwrap());
    std::fs::copy(before.data().join("token"), engine.data().join("token")).unwrap();
    engine.run();
    engine
}

/// The sync of a change fails although the disk has it, and so does that of what was written over it. Nobody makes
/// another change; some seconds after the disk works again, the power is cut.
#[test]
fn a_change_that_was_refused_does_not_rise_after_a_power_cut_once_the_disk_works() {
    let mut engine = Engine::start(&Config::default());
    assert!(engine.stop().success());
    let (trace, rules) = (engine.path("trace"), engine.data().join("rules.db"));
    let mut disk = PowerCut::of(engine.data().parent().unwrap());
    disk.has(&rules, std::fs::read(&rules).unwrap());
    disk.failed_but_kept = 1;
    let files = [rules, engine.data().join("rules.db-wal"), engine.data()];
    let mut options = vec!["-e", "inject=fsync:error=EIO:when=12..13"];
    options.extend(files.iter().flat_map(|file| ["-P", file.to_str().unwrap()]));
    options.extend(PowerCut::STRACE);
    options.push(trace.to_str().unwrap());
    let Some(strace) = strace(&options) else { return };
    engine.under(strace);
    engine.run();
    let (api, mut called) = (Api::of(&engine), Called::default());
    let mut refused = None;
    until("a change is refused", || {
        let domain = format!("p{}.example", called.in_force.len());
        let answer = api.try_call("POST", "/v1/pauses", Some(&json!({"domain": domain}))).unwrap();
        match answer.status {
            200 => assert!(called.in_force.insert(domain)),
            _ => refused = Some((domain, answer)),
        }
        refused.is_some()
    });
    let (domain, answer) = refused.unwrap();
    assert!(
        answer.status == 503 && answer.text.contains("in force after the start"),
        "it says what may be: {answer:?}"
    );
    until("it is certain", || engine.stderr().contains("no change that was refused is on disk"));
    let tracer = tracer_of(engine.id());
    engine.kill();
    let trace = finished(&trace, tracer);
    let lines: Vec<&str> = trace.lines().collect();
    let failed = lines.iter().rposition(|line| line.contains("EIO")).expect("a sync has failed");
    lines[..=failed].iter().for_each(|line| drop(disk.hear(line)));
    // Before that, nothing can help: this disk is as bad as it is meant to be.
    let cut = after_a_power_cut(&disk, &engine);
    let mut risen = Called { in_force: called.in_force.clone(), ..Called::default() };
    risen.in_force.insert(domain);
    risen.assert_listed(&Api::of(&cut));
    lines[failed + 1..].iter().for_each(|line| drop(disk.hear(line)));
    let cut = after_a_power_cut(&disk, &engine);
    called.assert_listed(&Api::of(&cut));
}

#[test]
fn rules_on_a_full_disk_are_refused_until_there_is_room() {
    if !in_private_mounts("rules_disk::rules_on_a_full_disk_are_refused_until_there_is_room") {
        return;
    }
    let sink = Sink::start(Features::default());
    let mut engine = Engine::prepare(&Config::to(sink.address).line("spool", "min_free_bytes = 0"));
    mount_small(&engine.data(), &engine.path("image"), 40);
    engine.run();
    let api = Api::of(&engine);
    let mut called = Called::default();
    (0..10).for_each(|_| assert!(called.call(&api)));
    let ballast = engine.data().join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    // All that is left, to the last block.
    for block in [1 << 20, 64 << 10, 4 << 10] {
        while file.write_all(&vec![7; block]).is_ok() {}
    }
    let _ = file.sync_all();
    // An open file keeps its blocks.
    drop(file);
    until("calls are refused", || {
        called.call(&api);
        called.refused.len() > 2 && called.removals_refused > 0
    });
    called.assert_listed(&api);
    std::fs::remove_file(&ballast).unwrap();
    until("there is room", || called.call(&api));
    (0..10).for_each(|_| assert!(called.call(&api)));
    called.assert_listed(&api);
    let mut client = engine.client();
    until("mail is taken again", || client.send("s@t.example", &["r@d.example"], b"a: b\r\n\r\nc\r\n").code == 250);
    called.assert_in_force(&engine, &sink);
    engine.kill();
    engine.run();
    called.assert_listed(&Api::of(&engine));
    assert!(engine.stop().success());
}
