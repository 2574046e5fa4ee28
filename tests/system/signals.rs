//! SIGTERM and SIGHUP.

use crate::support::names::NameServer;
use crate::support::{Action, Config, Engine, Features, Sink, Step, until};
use rustix::process::Signal;
use std::sync::Mutex;
use std::sync::mpsc::channel;

const BODY: &[u8] = b"Subject: stop\r\n\r\nstop\r\n";

#[test]
fn sigterm_lets_transactions_finish_and_loses_nothing() {
    let sink = Sink::start(Features::default());
    let (release, held) = channel::<()>();
    let (arrived, here) = channel::<()>();
    let (held, arrived) = (Mutex::new(held), Mutex::new(arrived));
    sink.script(move |step| {
        if let Step::Message(message) = step
            && message.recipients[0].starts_with("slow")
        {
            let _ = arrived.lock().unwrap().send(());
            let _ = held.lock().unwrap().recv();
        }
        Action::Default
    });
    let mut engine = Engine::start(&Config::to(sink.address));
    // One delivery has its dot sent and no answer, one injection is in the middle of its data.
    assert_eq!(engine.client().send("s@test.example", &["slow@d.example"], BODY).code, 250);
    here.recv().unwrap();
    let mut client = engine.client();
    assert_eq!(client.command("MAIL FROM:<s@test.example>").code, 250);
    assert_eq!(client.command("RCPT TO:<late@e.example>").code, 250);
    assert_eq!(client.command("DATA").code, 354);
    client.write(b"Subject: late\r\n");
    let mut idle = engine.client();
    engine.signal(Signal::TERM);
    // An idle session is told to go.
    let reply = idle.reply();
    assert_eq!(reply.code, 421, "{reply:?}");
    // Refused, not left to wait for a greeting: then clients go elsewhere.
    until("nobody new can connect", || std::net::TcpStream::connect(engine.smtp).is_err());
    assert!(engine.is_running(), "transactions are in progress");
    client.write(b"\r\nlate\r\n.\r\n");
    let reply = client.try_reply();
    assert!(reply.as_ref().is_ok_and(|reply| reply.code == 250), "the transaction in progress finishes: {reply:?}");
    release.send(()).unwrap();
    let status = engine.await_end();
    assert!(status.success(), "{status}");
    let delivered = engine.await_records("Delivery", 1);
    assert_eq!(delivered[0].recipient(), "slow@d.example", "the answer to the dot was waited for");
    let before: Vec<String> = sink.messages().into_iter().flat_map(|message| message.recipients).collect();
    assert!(before.contains(&"slow@d.example".to_owned()));
    engine.run();
    until("what was accepted last is delivered", || {
        sink.messages().iter().any(|message| message.recipients == ["late@e.example"])
    });
    assert_eq!(sink.count(), 2, "nothing twice");
    assert!(engine.stop().success());
}

#[test]
fn sigterm_ends_within_its_bound_whatever_a_destination_does() {
    let sink = Sink::start(Features::default());
    let (release, held) = channel::<()>();
    let (arrived, here) = channel::<()>();
    let (held, arrived) = (Mutex::new(held), Mutex::new(arrived));
    sink.script(move |step| {
        if matches!(step, Step::Message(_)) {
            let _ = arrived.lock().unwrap().send(());
            // Longer than the engine will wait.
            let _ = held.lock().unwrap().recv();
        }
        Action::Default
    });
    let mut engine = Engine::start(&Config::to(sink.address).line("server", "stop_within = \"2s\""));
    assert_eq!(engine.client().send("s@test.example", &["stuck@d.example"], BODY).code, 250);
    here.recv().unwrap();
    // An injector that says nothing more is no reason to stay either.
    let mut client = engine.client();
    assert_eq!(client.command("MAIL FROM:<s@test.example>").code, 250);
    let status = engine.stop();
    assert!(status.success(), "{status}: {}", engine.stderr());
    drop(release);
    engine.run();
    // It may have got through the first time; it is never lost.
    engine.await_records("Delivery", 1);
    until("it is at the destination", || sink.count() >= 1);
}

#[test]
fn sigterm_under_load_loses_nothing_and_repeats_nothing() {
    let sink = Sink::start(Features::default());
    let mut engine = Engine::start(&Config::to(sink.address));
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut client = engine.client();
        for number in 0..300 {
            let recipient = format!("r-{round}-{number}@d{}.example", number % 7);
            assert_eq!(client.send("s@test.example", &[&recipient], BODY).code, 250);
            acknowledged.push(recipient);
        }
        let status = engine.stop();
        assert!(status.success(), "{status}");
        engine.run();
    }
    sink.await_messages(acknowledged.len());
    engine.await_records("Delivery", acknowledged.len());
    assert!(engine.stop().success());
    let mut received: Vec<String> = sink.messages().into_iter().flat_map(|message| message.recipients).collect();
    received.sort();
    acknowledged.sort();
    assert_eq!(received, acknowledged);
}

#[test]
fn a_route_that_a_reload_changes_takes_effect_for_mail_that_comes_and_mail_that_waits() {
    let (old, new) = (Sink::start(Features::default()), Sink::start(Features::default()));
    let engine = Engine::start(&Config::default().route("*", old.address));
    let send = |recipient: &str| {
        let reply = engine.client().send("s@test.example", &[recipient], BODY);
        assert_eq!(reply.code, 250);
    };
    send("first@d.example");
    send("first@e.example");
    old.await_messages(2);
    old.script(|step| match step {
        Step::Recipient(_) => Action::reply("451 4.2.0 not here any more"),
        _ => Action::Default,
    });
    send("waiting@d.example");
    engine.await_records("TransientFailure", 1);
    engine.configure(&Config::default().route("e.example", new.address).route("d.example", new.address));
    engine.reload();
    send("second@e.example");
    send("second@d.example");
    let mut arrived: Vec<String> = new.await_messages(3).into_iter().flat_map(|message| message.recipients).collect();
    arrived.sort();
    assert_eq!(arrived, ["second@d.example", "second@e.example", "waiting@d.example"]);
    assert_eq!(old.count(), 2);
}

/// The route that a reload took away was being looked up just then.
#[test]
fn an_answer_to_a_question_from_before_a_reload_does_not_bring_the_old_route_back() {
    let (old, new) = (Sink::start(Features::default()), Sink::start(Features::default()));
    let names = NameServer::silent();
    let config = |sink: &Sink| {
        let route = format!("domain = \"*\"\nhosts = [\"host.test.example:{}\"]", sink.address.port());
        Config::default().line("dns", &format!("servers = [\"{}\"]", names.address)).table("route", &route)
    };
    let engine = Engine::start(&config(&old));
    assert_eq!(engine.client().send("s@test.example", &["r@d.example"], BODY).code, 250);
    until("the host's address is asked for", || names.asked() > 0);
    engine.configure(&config(&new));
    engine.reload();
    // The cores take orders in turn: what comes after the reload finds it done.
    assert_eq!(engine.client().send("s@test.example", &["r@e.example"], BODY).code, 250);
    names.answer();
    new.await_messages(2);
    assert_eq!(old.connections(), 0);
}

#[test]
fn a_reload_with_a_mistake_changes_nothing_and_names_it() {
    let sink = Sink::start(Features::default());
    let engine = Engine::start(&Config::to(sink.address));
    engine.configure(&Config::default().line("retry", "intervals = [\"soon\"]"));
    engine.reload();
    assert!(engine.stderr().contains("everything stays as it was"), "{}", engine.stderr());
    assert_eq!(engine.client().send("s@test.example", &["r@d.example"], BODY).code, 250);
    sink.await_messages(1);
}

#[test]
fn a_reload_that_takes_sources_away_does_not_disturb_their_connections() {
    let sink = Sink::start(Features::default());
    let (release, held) = channel::<()>();
    let (arrived, here) = channel::<()>();
    let (held, arrived) = (Mutex::new(held), Mutex::new(arrived));
    sink.script(move |step| {
        if matches!(step, Step::Message(message) if message.sender.starts_with("slow")) {
            let _ = arrived.lock().unwrap().send(());
            let _ = held.lock().unwrap().recv();
        }
        Action::Default
    });
    let with = |numbers: &[u8]| {
        numbers.iter().fold(Config::to(sink.address).shards(1), |config, number| {
            config.table("source", &format!("name = \"s{number}\"\naddress = \"127.0.0.{number}\""))
        })
    };
    let engine = Engine::start(&with(&[2, 3, 4]));
    let send = |sender: &str| {
        let reply = engine.client().send(sender, &["r@d.example"], BODY);
        assert_eq!(reply.code, 250);
    };
    // Each takes the next source, since the connections before it are busy.
    for _ in 0..3 {
        send("slow@test.example");
        here.recv().unwrap();
    }
    engine.configure(&with(&[5]));
    engine.reload();
    send("quick@test.example");
    let quick = engine.await_records("Delivery", 1).remove(0);
    assert_eq!((quick.text("sender"), quick.text("egress_source")), ("quick@test.example", "s5"));
    drop(release);
    let mut sources: Vec<String> =
        engine.await_records("Delivery", 4).iter().map(|record| record.text("egress_source").to_owned()).collect();
    sources.sort();
    assert_eq!(sources, ["s2", "s3", "s4", "s5"]);
    assert_eq!(sink.count(), 4);
}
