//! Retries: counted over restarts, ended by success or by age.

use crate::support::wait::linger;
use crate::support::{Action, Config, Engine, Features, Sink, Step, until};
use std::time::Duration;

const BODY: &[u8] = b"Subject: again\r\n\r\nagain\r\n";

fn deferring(sink: &Sink) {
    sink.script(|step| match step {
        Step::Recipient(_) => Action::reply("451 4.7.1 greylisted"),
        _ => Action::Default,
    });
}

fn attempts(engine: &Engine) -> Vec<u64> {
    let records = engine.records();
    records.iter().filter(|record| record.kind() == "TransientFailure").map(|record| record.attempts()).collect()
}

#[test]
fn attempts_are_counted_over_restarts_until_the_destination_takes_the_message() {
    let sink = Sink::start(Features::default());
    deferring(&sink);
    let config = Config::to(sink.address);
    let mut engine = Engine::start(&config);
    assert_eq!(engine.client().send("s@test.example", &["r@d.example"], BODY).code, 250);
    until("two attempts", || attempts(&engine).len() >= 2);
    engine.stop();
    let stopped_after = attempts(&engine).len();
    engine.run();
    until("further attempts after a stop", || attempts(&engine).len() > stopped_after);
    engine.kill();
    // The log is synced before the spool hears of the attempt: a crash may repeat the last number.
    let killed_after = attempts(&engine).len();
    engine.configure(&config.shards(1));
    engine.run();
    until("further attempts after a crash", || attempts(&engine).len() > killed_after);
    sink.script(|_| Action::Default);
    let delivery = engine.await_records("Delivery", 1).remove(0);
    let counted = attempts(&engine);
    let (before, after) = counted.split_at(killed_after);
    // Shards write to files of their own, so the order of the lines is not that of time.
    let mut before = before.to_vec();
    before.sort_unstable();
    let expected: Vec<u64> = (1..=before.len() as u64).collect();
    let mut all = counted.clone();
    all.sort_unstable();
    all.dedup();
    assert!(counted.len() - all.len() <= 1, "{counted:?}: at most the attempt of the crash is repeated");
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>(), "{before:?} {expected:?} {after:?}");
    assert_eq!(delivery.attempts(), all.len() as u64 + 1, "{counted:?}");
    assert_eq!(sink.await_messages(1).len(), 1);
}

#[test]
fn a_message_that_is_too_old_expires_with_a_record_also_over_a_restart() {
    let sink = Sink::start(Features::default());
    deferring(&sink);
    let config = Config::to(sink.address).line("retry", "max_age = \"4s\"");
    let mut engine = Engine::start(&config);
    assert_eq!(engine.client().send("s@test.example", &["a@d.example", "b@e.example"], BODY).code, 250);
    until("an attempt", || attempts(&engine).len() >= 2);
    engine.kill();
    engine.run();
    let expired = engine.await_records("Expiration", 2);
    assert_eq!(expired.len(), 2, "one for each recipient");
    assert!(expired.iter().all(|record| record.enhanced() == "5.4.7" && record.attempts() >= 1), "{expired:?}");
    // And it is gone: a further start knows nothing of it.
    assert!(engine.stop().success());
    let before = engine.records().len();
    sink.script(|_| Action::Default);
    engine.run();
    assert_eq!(engine.client().send("s@test.example", &["c@d.example"], BODY).code, 250);
    engine.await_records("Delivery", 1);
    assert_eq!(engine.records().len(), before + 2);
    assert_eq!(sink.count(), 1);
}

#[test]
fn a_destination_that_comes_back_gets_its_mail() {
    let address = crate::support::ports::free_address();
    let engine = Engine::start(&Config::to(address));
    for number in 0..50 {
        let reply = engine.client().send("s@test.example", &[&format!("r@d{number}.example")], BODY);
        assert_eq!(reply.code, 250);
    }
    let failed = engine.await_records("TransientFailure", 50);
    assert!(failed.iter().all(|record| record.content().contains("refused")), "{:?}", failed[0]);
    let sink = Sink::start_at(address, Features::default());
    let mut recipients: Vec<String> =
        sink.await_messages(50).into_iter().flat_map(|message| message.recipients).collect();
    recipients.sort();
    recipients.dedup();
    assert_eq!(recipients.len(), 50);
    assert_eq!(engine.await_records("Delivery", 50).len(), 50);
}

#[test]
fn connections_that_break_anywhere_lose_nothing() {
    let sink = Sink::start(Features::default());
    // Each third conversation ends at another place; a dot that was read is always answered.
    let steps = std::sync::atomic::AtomicUsize::new(0);
    sink.script(move |step| {
        let number = steps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match step {
            Step::Message(_) => Action::Default,
            _ if number % 7 == 3 => Action::Drop,
            Step::Recipient(_) if number % 11 == 5 => Action::ReplyAndDrop("421 4.3.2 shutting down".to_owned()),
            Step::Hello if number % 13 == 6 => Action::reply("421 4.3.2 busy"),
            _ => Action::Default,
        }
    });
    let engine = Engine::start(&Config::to(sink.address));
    let mut client = engine.client();
    for number in 0..30 {
        let reply = client.send("s@test.example", &[&format!("r{number}@d{}.example", number % 10)], BODY);
        assert_eq!(reply.code, 250);
    }
    // Give it some trouble first.
    until("some messages got through", || sink.count() >= 3);
    sink.script(|_| Action::Default);
    let mut recipients: Vec<String> =
        sink.await_messages(30).into_iter().flat_map(|message| message.recipients).collect();
    recipients.sort();
    let total = recipients.len();
    recipients.dedup();
    assert_eq!((total, recipients.len()), (30, 30), "each came once");
    assert_eq!(engine.await_records("Delivery", 30).len(), 30);
}

#[test]
fn a_slow_destination_holds_up_nobody_else() {
    let (slow, fast) = (Sink::start(Features::default()), Sink::start(Features::default()));
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    slow.script(move |step| {
        if matches!(step, Step::Hello) {
            // Until the test drops its end.
            let _ = held.lock().unwrap().recv();
        }
        Action::Default
    });
    let config = Config::default().route("slow.example", slow.address).route("fast.example", fast.address);
    let engine = Engine::start(&config.shards(1));
    let mut client = engine.client();
    for number in 0..100 {
        let recipients = [format!("r{number}@slow.example"), format!("r{number}@fast.example")];
        let reply = client.send("s@test.example", &[&recipients[0], &recipients[1]], BODY);
        assert_eq!(reply.code, 250);
    }
    fast.await_messages(100);
    assert_eq!(slow.count(), 0);
    linger(Duration::from_millis(100));
    drop(hold);
    slow.await_messages(100);
}
