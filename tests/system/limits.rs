//! Limits and sources on the real binary. Rates are only checked for being kept: how fast a busy machine is says
//! nothing.

#![allow(clippy::disallowed_methods, reason = "the tests are outside the engine and watch it by the clock")]

use crate::support::{Config, Engine, Features, Sink};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const BODY: &[u8] = b"Subject: limited\r\n\r\nlimited\r\n";

fn send(engine: &Engine, recipients: impl Iterator<Item = String>, body: &[u8]) {
    let mut client = engine.client();
    for recipient in recipients {
        assert_eq!(client.send("s@test.example", &[&recipient], body).code, 250);
    }
}

fn with_headers(headers: &[&str]) -> Vec<u8> {
    [headers.concat().as_bytes(), BODY].concat()
}

#[test]
fn two_hundred_domains_share_two_connections_over_eight_shards() {
    const DOMAINS: usize = 200;
    let sink = Sink::start(Features::default());
    let config = Config::to(sink.address).shards(8).table("limit", "per = \"path\"\nconnections = 2");
    let engine = Engine::start(&config);
    send(&engine, (0..2 * DOMAINS).map(|at| format!("r{at}@d{}.example", at % DOMAINS)), BODY);
    let messages = sink.await_messages(2 * DOMAINS);
    let mut by_domain: BTreeMap<&str, usize> = BTreeMap::new();
    for message in &messages {
        *by_domain.entry(message.recipients[0].split_once('@').unwrap().1).or_default() += 1;
    }
    assert_eq!(by_domain.len(), DOMAINS);
    assert!(by_domain.values().all(|count| *count == 2), "{by_domain:?}");
    assert!(sink.most_open_connections() <= 2, "{} connections at once", sink.most_open_connections());
    let deliveries = engine.await_records("Delivery", 2 * DOMAINS);
    assert!(deliveries.iter().all(|record| record.attempts() == 1), "waiting for a connection is no attempt");
}

/// Sends `count` messages and gives the time from before the first until all have arrived.
fn time_for(count: usize, limit: &str) -> (Duration, Sink) {
    let sink = Sink::start(Features::default());
    let engine = Engine::start(&Config::to(sink.address).table("limit", limit));
    let start = Instant::now();
    send(&engine, (0..count).map(|at| format!("r{at}@d{}.example", at % 10)), BODY);
    sink.await_messages(count);
    (start.elapsed(), sink)
}

#[test]
fn rates_are_not_exceeded() {
    // A burst of one and a tenth of a second's worth comes on top.
    let (elapsed, _) = time_for(100, "per = \"path\"\nmessage_rate = \"40/s\"");
    assert!(elapsed >= Duration::from_millis(2300), "95 messages at 40 a second took {elapsed:?}");
    let (elapsed, sink) = time_for(14, "per = \"path\"\nconnection_rate = \"5/s\"\nmessages_per_connection = 1");
    assert!(elapsed >= Duration::from_millis(2300), "12 connections at 5 a second took {elapsed:?}");
    assert!(sink.connections() >= 14);
}

#[test]
fn a_connection_carries_as_many_messages_as_it_may() {
    let sink = Sink::start(Features::default());
    let engine = Engine::start(&Config::to(sink.address).table("limit", "messages_per_connection = 7"));
    send(&engine, (0..60).map(|at| format!("r{at}@one.example")), BODY);
    let mut by_connection: HashMap<usize, usize> = HashMap::new();
    for message in sink.await_messages(60) {
        *by_connection.entry(message.connection).or_default() += 1;
    }
    assert!(by_connection.values().all(|count| *count <= 7), "{by_connection:?}");
}

/// Two sources, a pool of both with weights, and a pool of each.
fn sources(config: Config) -> Config {
    let source = |number: u8| {
        format!("name = \"ip-{number}\"\naddress = \"127.0.0.{number}\"\nehlo = \"ip-{number}.mailrace.example\"")
    };
    let pool = |name: &str, members: &str| format!("name = \"{name}\"\nsources = [{members}]");
    let (two, three) = ("{ name = \"ip-2\", weight = 3 }", "{ name = \"ip-3\", weight = 1 }");
    config
        .table("source", &source(2))
        .table("source", &source(3))
        .table("pool", &pool("default", &format!("{two}, {three}")))
        .table("pool", &pool("second", two))
        .table("pool", &pool("third", three))
}

#[test]
fn a_pool_uses_its_sources_by_their_weights_with_their_own_names() {
    const MESSAGES: usize = 120;
    let sink = Sink::start(Features::default());
    let config = sources(Config::to(sink.address)).shards(1).table("limit", "messages_per_connection = 1");
    let engine = Engine::start(&config);
    send(&engine, (0..MESSAGES).map(|at| format!("r{at}@one.example")), BODY);
    let messages = sink.await_messages(MESSAGES);
    let mut by_client: BTreeMap<(IpAddr, &str), usize> = BTreeMap::new();
    for message in &messages {
        *by_client.entry((message.client, &message.hello)).or_default() += 1;
    }
    let (second, third): (IpAddr, IpAddr) = ([127, 0, 0, 2].into(), [127, 0, 0, 3].into());
    let keys: Vec<_> = by_client.keys().copied().collect();
    assert_eq!(keys, [(second, "ip-2.mailrace.example"), (third, "ip-3.mailrace.example")]);
    let heavy = by_client[&keys[0]];
    assert!((75..=105).contains(&heavy), "{heavy} of {MESSAGES} from the heavy source, 90 expected");
    for record in engine.await_records("Delivery", MESSAGES) {
        let address = record.0["source_address"]["address"].as_str().unwrap().to_owned();
        let name = record.text("egress_source");
        assert!(address.starts_with(&name.replace("ip-", "127.0.0.")), "{name} at {address}");
        assert_eq!(record.text("egress_pool"), "default");
    }
}

#[test]
fn a_trusted_client_chooses_pool_and_address_and_no_other_does() {
    let sink = Sink::start(Features::default());
    let config = sources(Config::to(sink.address));
    let mut engine = Engine::start(&config);
    let cases = [
        ("X-MQ-Pool: third\r\n", [127, 0, 0, 3]),
        ("x-mq-pool: second\r\n", [127, 0, 0, 2]),
        ("X-MQ-IP: 127.0.0.3\r\n", [127, 0, 0, 3]),
        ("x-mq-ip: 127.0.0.2\r\n", [127, 0, 0, 2]),
    ];
    for (at, (header, _)) in cases.iter().enumerate() {
        // Several of each, so that chance alone does not choose right.
        let recipients = (0..5).map(|number| format!("case-{at}-{number}@one.example"));
        send(&engine, recipients, &with_headers(&[header]));
    }
    for message in sink.await_messages(cases.len() * 5) {
        let case: usize = message.recipients[0].split('-').nth(1).unwrap().parse().unwrap();
        assert_eq!(message.client, IpAddr::from(cases[case].1), "{}", cases[case].0);
        let head = String::from_utf8_lossy(&message.content).to_ascii_lowercase();
        assert!(!head.contains("x-mq-"), "control headers do not leave: {head}");
    }
    send(&engine, ["pool@one.example".to_owned()].into_iter(), &with_headers(&["X-MQ-Pool: none\r\n"]));
    send(&engine, ["ip@one.example".to_owned()].into_iter(), &with_headers(&["X-MQ-IP: 192.0.2.1\r\n"]));
    // Either may be configured yet.
    for deferral in engine.await_records("TransientFailure", 2) {
        assert_eq!((deferral.code(), &*deferral.enhanced()), (451, "4.3.5"), "{deferral:?}");
        let named = if deferral.recipient().starts_with("pool") { "none" } else { "192.0.2.1" };
        assert!(deferral.content().contains(named), "{deferral:?}");
    }
    engine.stop();
    sink.clear();
    engine.configure(&config.line("smtp", "trust_headers_from = [\"192.0.2.0/24\"]"));
    engine.run();
    let recipients = (0..8).map(|number| format!("r{number}@d{number}.example"));
    send(&engine, recipients, &with_headers(&["X-MQ-Pool: none\r\n", "X-MQ-IP: 192.0.2.1\r\n"]));
    let clients: HashSet<IpAddr> = sink.await_messages(8).iter().map(|message| message.client).collect();
    let own: HashSet<IpAddr> = [[127, 0, 0, 2].into(), [127, 0, 0, 3].into()].into_iter().collect();
    assert!(clients.is_subset(&own), "{clients:?}");
}
