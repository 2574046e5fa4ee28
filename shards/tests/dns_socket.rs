//! The resolver over real sockets, against servers in threads on 127.0.0.1.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod dns_stub;

use dns_stub::{Question, UDP_MAX, Zone, question, reply};
use glommio::{LocalExecutorBuilder, Placement};
use mailrace_shards::dns::{DnsFailure, NamedBy};
use mailrace_shards::runtime::dns_socket::DnsClient;
use mailrace_shards::settings::DnsSettings;
use mailrace_shards::time::{Instant, Now, Timestamp};
use std::collections::HashSet;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

#[expect(clippy::disallowed_methods, reason = "the test stands in for runtime::clock")]
fn clock() -> Now {
    static START: OnceLock<std::time::Instant> = OnceLock::new();
    let passed = START.get_or_init(std::time::Instant::now).elapsed();
    Now { instant: Instant(passed.as_micros() as u64), utc: Timestamp(0) }
}

type Seen = Arc<Mutex<Vec<(SocketAddr, Question)>>>;

/// A server for UDP and TCP that answers from `zone`, and what it was asked by UDP.
fn serve(zone: Zone, before: fn(&UdpSocket, SocketAddr, &[u8])) -> (SocketAddr, Seen) {
    let (udp, tcp) = std::iter::repeat_with(|| {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind(udp.local_addr().unwrap());
        (udp, tcp)
    })
    .find_map(|(udp, tcp)| Some((udp, tcp.ok()?)))
    .unwrap();
    let (address, seen) = (udp.local_addr().unwrap(), Seen::default());
    let (asked, tcp_zone) = (seen.clone(), zone.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let query = &buffer[..length];
            asked.lock().unwrap().push((from, question(query)));
            before(&udp, from, query);
            if let Some(octets) = zone.reply(query, UDP_MAX) {
                udp.send_to(&octets, from).ok();
            }
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let Some(octets) = tcp_zone.reply(&query, 65_535) else { continue };
            stream.write_all(&u16::try_from(octets.len()).unwrap().to_be_bytes()).unwrap();
            // In two parts, as a network might.
            stream.write_all(&octets[..5]).unwrap();
            stream.write_all(&octets[5..]).unwrap();
        }
    });
    (address, seen)
}

fn quietly(_: &UdpSocket, _: SocketAddr, _: &[u8]) {}

/// Runs `test` in an executor with a resolver that asks `servers`.
fn with_client<F: Future<Output = ()> + 'static>(
    servers: Vec<SocketAddr>,
    test: impl FnOnce(DnsClient) -> F + Send + 'static,
) {
    LocalExecutorBuilder::new(Placement::Unbound)
        .io_memory(0)
        .spawn(move || async move {
            let client = DnsClient::start(&DnsSettings { servers }, true, 1, clock).unwrap();
            test(client).await;
        })
        .unwrap()
        .join()
        .unwrap();
}

fn big_zone() -> Zone {
    let mut text =
        String::from("d.test 300 MX 10 m.test\nm.test 300 A 127.0.0.9\nn.test 300 MX 0 .\nf.test 300 SERVFAIL\n");
    (0..100).for_each(|n| text += &format!("big.test 300 A 127.0.1.{n}\n"));
    (0..2000).for_each(|n| text += &format!("d{n}.test 300 A 127.0.0.1\n"));
    Zone::new(&text)
}

#[test]
fn answers_come_by_udp_and_tcp() {
    let (server, seen) = serve(big_zone(), quietly);
    with_client(vec![server], move |client| async move {
        let mail = client.mail_hosts("d.test").await.unwrap();
        assert_eq!((&*mail.hosts[0].name, mail.hosts[0].addresses[0].to_string()), ("m.test", "127.0.0.9".into()));
        assert_eq!(client.mail_hosts("n.test").await, Err(DnsFailure::NullMx));
        assert_eq!(client.mail_hosts("none.test").await, Err(DnsFailure::NoSuchDomain));
        assert!(client.mail_hosts("f.test").await.unwrap_err().is_temporary());
        assert_eq!(client.mail_hosts("big.test").await.unwrap().hosts[0].addresses.len(), 16);
        assert_eq!(client.stats().queries_tcp, 1);
        let relay = client.host_addresses("m.test", NamedBy::Operator).await.unwrap();
        assert_eq!(relay.hosts[0].addresses[0].to_string(), "127.0.0.9");
        let asked = seen.lock().unwrap().len();
        assert!(Arc::ptr_eq(&mail, &client.mail_hosts("D.test").await.unwrap()));
        assert_eq!(seen.lock().unwrap().len(), asked, "the second time comes from the cache");
    });
}

#[test]
fn many_tasks_share_queries_and_sockets_are_replaced() {
    let (server, seen) = serve(big_zone(), quietly);
    with_client(vec![server], move |client| async move {
        let mut tasks = Vec::new();
        for n in 0..4000 {
            let client = client.clone();
            tasks.push(glommio::spawn_local(async move {
                let mail = client.mail_hosts(&format!("d{}.test", n % 2000)).await;
                assert_eq!(mail.unwrap().hosts[0].addresses[0].to_string(), "127.0.0.1");
            }));
        }
        for task in tasks {
            task.await;
        }
        let stats = client.stats();
        assert_eq!((stats.cache_misses, stats.in_flight, stats.waiting), (2000, 0, 0));
        assert!(stats.replies == 6000, "{stats:?}");
        let ports: HashSet<u16> = seen.lock().unwrap().iter().map(|(from, _)| from.port()).collect();
        assert!(ports.len() > 20, "{} ports for 6000 queries", ports.len());
        // Replaced sockets close when no reply is due any more.
        glommio::timer::sleep(Duration::from_millis(2_500)).await;
        assert!(open_to(server) <= 4, "{} sockets are open", open_to(server));
        drop(client);
        glommio::timer::sleep(Duration::from_millis(100)).await;
        assert_eq!(open_to(server), 0, "sockets close with the client");
    });
}

/// Connected UDP sockets of this machine to `server`.
fn open_to(server: SocketAddr) -> usize {
    let remote = format!("0100007F:{:04X}", server.port());
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    table.lines().filter(|line| line.split_whitespace().nth(2) == Some(&remote)).count()
}

#[test]
fn a_forged_reply_from_elsewhere_or_with_another_id_is_ignored() {
    fn forge(server: &UdpSocket, client: SocketAddr, query: &[u8]) {
        let records = Zone::new("d.test 300 MX 0 .").records;
        let mut asked = question(query);
        let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
        elsewhere.send_to(&reply(&asked, 0, &records, None), client).unwrap();
        asked.id ^= 1;
        server.send_to(&reply(&asked, 0, &records, None), client).unwrap();
        server.send_to(&[], client).unwrap();
    }
    let (server, _) = serve(big_zone(), forge);
    with_client(vec![server], |client| async move {
        assert_eq!(&*client.mail_hosts("d.test").await.unwrap().hosts[0].name, "m.test");
        // Each of three queries: the wrong id and the empty datagram; the other source never arrives.
        assert!(client.stats().mismatched >= 2 && client.stats().mismatched <= 6, "{:?}", client.stats());
    });
}

#[test]
fn dead_servers_are_got_round() {
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (server, _) = serve(big_zone(), quietly);
    with_client(vec![closed, silent.local_addr().unwrap(), server], move |client| async move {
        let start = clock().instant;
        client.mail_hosts("d.test").await.unwrap();
        // Refused at once; two seconds of silence for each of two stages.
        let passed = clock().instant.since(start);
        assert!(passed > Duration::from_secs(2) && passed < Duration::from_secs(6), "{passed:?}");
        let stats = client.stats();
        assert!(stats.unreachable > 0 && stats.timeouts > 0, "{stats:?}");
    });
    drop(silent);
}

#[test]
fn no_server_at_all_is_a_temporary_failure() {
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    with_client(vec![closed], move |client| async move {
        let start = clock().instant;
        let failure = client.mail_hosts("d.test").await.unwrap_err();
        assert!(failure.is_temporary() && failure.to_string().contains(&closed.to_string()), "{failure}");
        assert!(clock().instant.since(start) < Duration::from_secs(15));
    });
    let none = DnsSettings { servers: Vec::new() };
    assert!(DnsClient::start(&none, true, 1, clock).is_err());
}

#[test]
fn a_dropped_request_does_not_disturb_the_others() {
    let (server, _) = serve(big_zone(), quietly);
    with_client(vec![server], |client| async move {
        let mut first = Box::pin(client.mail_hosts("d.test"));
        assert!(futures_lite::future::poll_once(&mut first).await.is_none());
        drop(first);
        client.mail_hosts("d.test").await.unwrap();
        client.mail_hosts("d1.test").await.unwrap();
    });
}
