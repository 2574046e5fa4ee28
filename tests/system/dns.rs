//! Where mail goes by the DNS: dnsmasq as an ordinary name server, a stub for what it cannot answer. MX hosts are
//! sinks at port 25 of loopback addresses.

use crate::support::dns::{A, Answer, Data, Dnsmasq, MX, Question, Stub, mail_host};
use crate::support::ports::free_address;
use crate::support::{Config, Engine, Features, Record, Sink};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const BODY: &[u8] = b"Subject: where\r\n\r\nwhere\r\n";

fn config(servers: &[SocketAddr]) -> Config {
    let quoted: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    Config::default().line("dns", &format!("servers = [{}]", quoted.join(", "))).line("egress", "allow_private = true")
}

fn send(engine: &Engine, domains: &[&str]) {
    let mut client = engine.client();
    for domain in domains {
        assert_eq!(client.send("s@test.example", &[&format!("r@{domain}")], BODY).code, 250);
    }
}

fn v4(address: SocketAddr) -> Ipv4Addr {
    match address.ip() {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => unreachable!("mail hosts are at IPv4 addresses"),
    }
}

/// The domain, and at which peer it was delivered.
fn peer_of<'a>(deliveries: &'a [Record], domain: &str) -> (&'a str, &'a str) {
    let found = deliveries.iter().find(|record| record.recipient() == format!("r@{domain}"));
    let peer = &found.unwrap_or_else(|| panic!("{domain} was not delivered: {deliveries:?}")).0["peer_address"];
    (peer["name"].as_str().unwrap(), peer["addr"].as_str().unwrap())
}

#[test]
fn mail_goes_where_the_mx_records_say() {
    let (Some(one), Some(two), Some(nobody)) = (mail_host(), mail_host(), mail_host()) else { return };
    let (first, second) = (Sink::start_at(one, Features::default()), Sink::start_at(two, Features::default()));
    let hosts = format!(
        "host-record=one.hosts.example,{}\nhost-record=two.hosts.example,{}\nhost-record=nobody.hosts.example,{}\n",
        one.ip(),
        two.ip(),
        nobody.ip()
    );
    let lines = [
        // Given in the wrong order: the smaller number comes first.
        "mx-host=preferred.example,two.hosts.example,20",
        "mx-host=preferred.example,one.hosts.example,10",
        "mx-host=first-is-down.example,nobody.hosts.example,5",
        "mx-host=first-is-down.example,two.hosts.example,20",
        "mx-host=dangling.example,missing.hosts.example,5",
        "mx-host=dangling.example,two.hosts.example,20",
        "mx-host=all-dangling.example,missing.hosts.example,5",
        "mx-host=real.example,two.hosts.example,10",
        "host-record=real.example,127.0.0.99",
        "cname=alias.example,real.example",
        &format!("host-record=implicit.example,{}", one.ip()),
    ];
    let dnsmasq = Dnsmasq::start(&(hosts + &lines.join("\n") + "\n"));
    let engine = Engine::start(&config(&[dnsmasq.address]));
    let literal = format!("[{}]", one.ip());
    let cases = [
        ("preferred.example", "one.hosts.example", one),
        ("first-is-down.example", "two.hosts.example", two),
        ("dangling.example", "two.hosts.example", two),
        ("alias.example", "two.hosts.example", two),
        ("implicit.example", "implicit.example", one),
    ];
    let domains: Vec<&str> = cases.iter().map(|(domain, ..)| *domain).collect();
    send(&engine, &domains);
    send(&engine, &[&literal, "missing.example", "all-dangling.example"]);
    let deliveries = engine.await_records("Delivery", cases.len() + 1);
    for (domain, name, address) in cases {
        assert_eq!(peer_of(&deliveries, domain), (name, address.ip().to_string().as_str()), "{domain}");
    }
    assert_eq!(peer_of(&deliveries, &literal).1, one.ip().to_string());
    assert!(deliveries.iter().all(|record| record.attempts() == 1), "{deliveries:?}");
    assert_eq!((first.count(), second.count()), (3, 3));
    let bounces = engine.await_records("Bounce", 2);
    for (domain, code, enhanced) in [("missing.example", 550, "5.1.2"), ("all-dangling.example", 550, "5.4.4")] {
        let bounce = bounces.iter().find(|record| record.recipient() == format!("r@{domain}")).unwrap();
        assert_eq!((bounce.code(), bounce.enhanced().as_str()), (code, enhanced), "{bounce:?}");
    }
}

/// What the stub answers in its tests, all at one mail host.
fn answer(question: &Question, host: Ipv4Addr, healed: &AtomicBool) -> Answer {
    let healthy = |kind| match kind {
        MX => Answer::Records(vec![Data::Mx(10, "mx.example".to_owned())]),
        _ => Answer::Records(Vec::new()),
    };
    match (question.name.as_str(), question.kind) {
        ("mx.example", A) => Answer::Records(vec![Data::A(host)]),
        ("null.example", MX) => Answer::Records(vec![Data::Mx(0, String::new())]),
        ("servfail.example", _) if !healed.load(Ordering::SeqCst) => Answer::Code(2),
        ("truncated.example", _) if !question.by_tcp => Answer::Truncated,
        ("gone.example", _) => Answer::Code(3),
        ("no-host.example", _) => Answer::Records(Vec::new()),
        (_, kind) => healthy(kind),
    }
}

#[test]
fn answers_out_of_the_ordinary_end_or_defer_as_they_should() {
    let Some(host) = mail_host() else { return };
    let sink = Sink::start_at(host, Features::default());
    let healed = Arc::new(AtomicBool::new(false));
    let of_stub = healed.clone();
    let stub = Stub::start(move |question| answer(question, v4(host), &of_stub));
    let engine = Engine::start(&config(&[stub.address]));
    send(&engine, &["null.example", "servfail.example", "truncated.example", "gone.example", "no-host.example"]);
    let bounces = engine.await_records("Bounce", 3);
    let expected = [("null.example", 556, "5.1.10"), ("gone.example", 550, "5.1.2"), ("no-host.example", 550, "5.4.4")];
    for (domain, code, enhanced) in expected {
        let bounce = bounces.iter().find(|record| record.recipient() == format!("r@{domain}"));
        let bounce = bounce.unwrap_or_else(|| panic!("{domain} did not bounce: {bounces:?}"));
        assert_eq!((bounce.code(), bounce.enhanced().as_str(), bounce.attempts()), (code, enhanced, 1), "{bounce:?}");
    }
    let deferred = engine.await_records("TransientFailure", 1).remove(0);
    assert_eq!((deferred.recipient(), deferred.code()), ("r@servfail.example", 451));
    assert_eq!((deferred.enhanced().as_str(), deferred.attempts()), ("4.4.3", 1));
    sink.await_messages(1);
    assert!(stub.questions().1 > 0, "the truncated answer was asked for by TCP");
    healed.store(true, Ordering::SeqCst);
    let deliveries = engine.await_records("Delivery", 2);
    let mut to: Vec<&str> = deliveries.iter().map(|record| record.recipient()).collect();
    to.sort_unstable();
    assert_eq!(to, ["r@servfail.example", "r@truncated.example"]);
}

#[test]
fn another_server_is_asked_when_one_is_dead_or_fails() {
    let Some(host) = mail_host() else { return };
    let sink = Sink::start_at(host, Features::default());
    let good = Stub::start(move |question| answer(question, v4(host), &AtomicBool::new(true)));
    let broken = Stub::start(|_| Answer::Code(2));
    // Bound, so that the machine does not say that nobody is there.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (name, server) in
        [("closed", free_address()), ("silent", silent.local_addr().unwrap()), ("broken", broken.address)]
    {
        let engine = Engine::start(&config(&[server, good.address]));
        send(&engine, &[&format!("{name}.example")]);
        let delivery = engine.await_records("Delivery", 1).remove(0);
        assert_eq!(delivery.attempts(), 1, "{name}: {:?}", engine.records());
    }
    assert_eq!(sink.count(), 3);
}

#[test]
fn private_addresses_from_the_dns_are_refused_unless_allowed() {
    let Some(host) = mail_host() else { return };
    let sink = Sink::start_at(host, Features::default());
    let stub = Stub::start(move |question| answer(question, v4(host), &AtomicBool::new(true)));
    let refusing = config(&[stub.address]).line("egress", "allow_private = false");
    let mut engine = Engine::start(&refusing);
    send(&engine, &["private.example"]);
    let smart = format!("X-MQ-Smarthost-Hostname: {}\r\n", host.ip());
    let body = [smart.as_bytes(), BODY].concat();
    assert_eq!(engine.client().send("s@test.example", &["r@smart.example"], &body).code, 250);
    for bounce in engine.await_records("Bounce", 2) {
        assert_eq!((bounce.code(), bounce.enhanced().as_str()), (550, "5.4.4"), "{bounce:?}");
    }
    assert_eq!(sink.connections(), 0);
    engine.stop();
    engine.configure(&config(&[stub.address]));
    engine.run();
    send(&engine, &["private.example"]);
    assert_eq!(engine.client().send("s@test.example", &["r@smart.example"], &body).code, 250);
    sink.await_messages(2);
}
