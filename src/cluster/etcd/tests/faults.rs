//! What may be done and what surely is not: members that are gone, silent or alone, nets that swallow, and servers that
//! send what no etcd would.

use super::ports::free_address;
use super::relay::{Flow, Relay};
use super::server::Etcd as Server;
use super::wait::until;
use super::{PATIENT, client, guarded, put, write};
use crate::cluster::etcd::{Etcd, EtcdError, EtcdSettings, Txn, after_prefix};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(2);

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// The value of a key, as the server knows it.
fn value(etcd: &Etcd, key: &str) -> Option<Vec<u8>> {
    let page = etcd.range(key.as_bytes(), b"", None, 0).unwrap();
    page.kvs.into_iter().next().map(|kv| kv.value)
}

fn one(key: &str) -> Txn {
    guarded(key, 0, vec![put(key, b"1")])
}

#[test]
fn what_was_not_sent_is_surely_not_done_and_what_was_sent_may_be() {
    let mut server = Server::start(1);
    let relay = Relay::to(server.address(0));
    let (etcd, direct) = (client(&[relay.url()]), client(&server.urls()));
    write(&etcd, vec![put("/known", b"1")]);
    // The answer is lost on its way: it is done, and nobody could know.
    relay.set(Flow::Swallow);
    let answer = etcd.txn(&one("/swallowed"), SOON);
    assert!(matches!(answer, Err(EtcdError::Unknown(_))), "{answer:?}");
    until("the one that was sent is done", || value(&direct, "/swallowed").is_some());
    // The net drops everything: it may yet arrive.
    relay.set(Flow::Stall);
    let answer = etcd.txn(&one("/stalled"), SOON);
    assert!(matches!(answer, Err(EtcdError::Unknown(_))), "{answer:?}");
    // Nobody is there.
    relay.set(Flow::Cut);
    let mut surely_not = Vec::new();
    until("connections are refused", || {
        let key = format!("/cut/{}", surely_not.len());
        let answer = etcd.txn(&one(&key), SOON);
        let refused = matches!(&answer, Err(EtcdError::Unreachable(_)));
        assert!(refused || matches!(&answer, Err(EtcdError::Unknown(_))), "{answer:?}");
        surely_not.extend(refused.then_some(key));
        surely_not.len() >= 5
    });
    // The net is back, and so is the client, by itself.
    relay.set(Flow::Pass);
    until("it works again", || etcd.txn(&one("/back"), SOON).is_ok());
    for key in &surely_not {
        assert_eq!(value(&direct, key), None, "{key}");
    }
    // A connection that a member has closed by its end is not used for what cannot be repeated.
    server.kill(0);
    let answer = etcd.txn(&one("/killed"), SOON);
    assert!(answer.is_err());
    let answer = direct.txn(&one("/killed"), SOON);
    assert!(matches!(answer, Err(EtcdError::Unreachable(_))), "{answer:?}");
    server.restart(0);
    until("the member answers again", || direct.range(b"/known", b"", None, 0).is_ok());
    assert_eq!(value(&direct, "/killed"), None);
}

#[test]
fn another_member_is_asked_when_one_is_gone_or_silent() {
    let mut server = Server::start(3);
    let mut endpoints = vec![url(free_address()), url(free_address())];
    endpoints.extend(server.urls());
    let etcd = client(&endpoints);
    // Two that nobody has ever heard of: the transaction is done at the third, which is remembered.
    write(&etcd, vec![put("/a", b"1")]);
    assert_eq!(etcd.endpoint(), server.url(0));
    server.kill(0);
    until("another leader, if it was that one", || etcd.txn(&one("/b"), PATIENT).is_ok());
    assert_ne!(etcd.endpoint(), server.url(0));
    server.restart(0);
    // One that keeps its connections and says nothing.
    let silent = (0..3).find(|&member| server.url(member) == etcd.endpoint()).expect("a member is asked");
    server.pause(silent);
    let answer = etcd.txn(&one("/c"), SOON);
    assert!(matches!(answer, Err(EtcdError::Unknown(_))), "{answer:?}");
    until("the next one is asked", || etcd.txn(&one("/d"), PATIENT).is_ok());
    // What may be repeated is not even seen to fail.
    let other = (0..3).find(|&member| server.url(member) == etcd.endpoint()).expect("a member is asked");
    server.resume(silent);
    // Without a leader nobody could answer.
    server.hand_over((other + 1) % 3);
    server.pause(other);
    assert!(etcd.range(b"/d", b"", None, 0).is_ok_and(|page| page.kvs.len() == 1));
    server.resume(other);
}

#[test]
fn a_member_without_the_others_does_nothing_and_says_so() {
    let mut server = Server::start(3);
    let etcd = client(&[server.url(0)]);
    write(&etcd, vec![put("/a", b"1")]);
    server.kill(1);
    server.kill(2);
    let mut surely_not = 0;
    until("it knows that it is alone", || match etcd.txn(&one(&format!("/alone/{surely_not}")), SOON) {
        Err(EtcdError::Unreachable(why)) => {
            assert!(why.contains("no leader"), "{why}");
            surely_not += 1;
            surely_not == 3
        }
        Err(EtcdError::Unknown(_)) => false,
        other => panic!("{other:?}"),
    });
    server.start_all();
    until("they are together again", || etcd.range(b"/a", b"", None, 0).is_ok());
    let page = etcd.range(b"/alone/1", &after_prefix(b"/alone/"), None, 0).unwrap();
    assert_eq!(page.kvs, [], "what was surely not done has not been done since");
}

/// A server that answers every request with these octets, each piece a while after the one before, and then closes.
struct Liar {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Liar {
    fn says(pieces: Vec<Vec<u8>>, pause: Duration, times: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if theirs.load(Ordering::SeqCst) {
                    return;
                }
                answer(stream, &pieces, pause, times, &theirs);
            }
        });
        Self { address, ended, thread: Some(thread) }
    }

    fn once(text: &str) -> Self {
        Self::says(vec![text.as_bytes().to_vec()], Duration::ZERO, 1)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(mut stream: TcpStream, pieces: &[Vec<u8>], pause: Duration, times: usize, ended: &AtomicBool) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    // The head and the body come at once from ours.
    let mut request = [0; 16 << 10];
    let _ = stream.read(&mut request);
    let _ = stream.set_write_timeout(Some(Duration::from_secs(1)));
    for _ in 0..times {
        for piece in pieces {
            if ended.load(Ordering::SeqCst) || stream.write_all(piece).is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
    }
}

const OK_CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

#[test]
fn an_answer_that_no_etcd_would_give_is_an_error_in_time() {
    let length = |text: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    let cases = [
        ("nothing", String::new()),
        ("no HTTP", "SSH-2.0-OpenSSH_9.2\r\n".to_owned()),
        ("a page", length("<html>It works!</html>")),
        ("half a page", "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"header\":".to_owned()),
        ("a proxy", "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno!".to_owned()),
        ("a chunk that ends early", format!("{OK_CHUNKED}ffff\r\n{{\"header\":")),
        ("a chunk of no size", format!("{OK_CHUNKED}zz\r\n{{}}\r\n0\r\n\r\n")),
        ("a chunk of more than there is", format!("{OK_CHUNKED}ffffffffffffffffff\r\n")),
        ("nothing in JSON", length("{}")),
        (
            "of no cluster",
            length(r#"{"header":{"revision":"5"},"kvs":[],"succeeded":true,"responses":[{"response_put":{}}]}"#),
        ),
        (
            "neither one nor the other",
            length(
                r#"{"header":{"cluster_id":"1","revision":"5"},"succeeded":true,"responses":[{}],"kvs":[{"key":"!!!"}]}"#,
            ),
        ),
        ("no number", length(r#"{"header":{"revision":"99999999999999999999"},"kvs":[]}"#)),
        ("a list", length("[[[[[[[[[[]]]]]]]]]]")),
        ("deep", length(&"[".repeat(100_000))),
        ("not UTF-8 at all", length("{\"header\":{\"revision\":\"\u{1}\u{2}\"}}")),
        (
            "elsewhere",
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_owned(),
        ),
        ("a head without an end", format!("HTTP/1.1 200 OK\r\n{}", "X-Filler: yes\r\n".repeat(20_000))),
    ];
    for (case, text) in cases {
        let liar = Liar::once(&text);
        let etcd = client(&[url(liar.address)]);
        let begun = Instant::now();
        let answer = etcd.txn(&one("/a"), SOON);
        assert!(matches!(&answer, Err(EtcdError::Unknown(why)) if !why.is_empty()), "{case}: {answer:?}");
        let answer = etcd.range(b"/a", b"", None, 0);
        assert!(matches!(&answer, Err(EtcdError::Unknown(_))), "{case}: {answer:?}");
        assert!(etcd.watch(b"/a", b"", 1).is_err(), "{case}");
        assert!(begun.elapsed() < PATIENT, "{case}");
    }
    // Something else that speaks HTTP there: nothing was done, and the operator hears what it said.
    let liar = Liar::once("HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n404 page not found\n");
    let answer = client(&[url(liar.address)]).txn(&one("/a"), SOON);
    assert!(matches!(&answer, Err(EtcdError::Refused(why)) if why.contains("404 page not found")), "{answer:?}");
}

#[test]
fn an_answer_without_an_end_costs_neither_time_nor_memory() {
    // An octet now and then keeps every read alive, but not the whole.
    let drip = Liar::says(
        vec![b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n".to_vec(), b" ".to_vec()],
        Duration::from_millis(100),
        600,
    );
    let begun = Instant::now();
    let answer = client(&[url(drip.address)]).txn(&one("/a"), SOON);
    assert!(matches!(answer, Err(EtcdError::Unknown(_))), "{answer:?}");
    assert!(begun.elapsed() < PATIENT, "it ends with its time");
    // More than any answer may have: a head, and then one piece again and again.
    let mut pieces = vec![OK_CHUNKED.as_bytes().to_vec()];
    pieces.extend(std::iter::repeat_n(chunk(&" ".repeat(1 << 20)).into_bytes(), 100));
    let endless = Liar::says(pieces.clone(), Duration::ZERO, 1);
    let answer = client(&[url(endless.address)]).range(b"/a", b"", None, 0);
    assert!(matches!(&answer, Err(EtcdError::Refused(why)) if why.contains("ask for less")), "{answer:?}");
    // And a line of a watch, at its beginning and later.
    let endless = Liar::says(pieces.clone(), Duration::ZERO, 1);
    let begun = client(&[url(endless.address)]).watch(b"/a", b"", 1);
    assert!(matches!(begun.map(|_| ()), Err(EtcdError::Unreachable(why)) if why.contains("a line of more than")));
    pieces.insert(1, chunk("{\"result\":{\"header\":{\"revision\":\"1\"},\"created\":true}}\n").into_bytes());
    let endless = Liar::says(pieces, Duration::ZERO, 1);
    let mut watch = client(&[url(endless.address)]).watch(b"/a", b"", 1).unwrap();
    let over = watch.next(PATIENT);
    assert!(matches!(&over, Err(EtcdError::Unreachable(why)) if why.contains("a line of more than")), "{over:?}");
}

#[test]
fn a_watch_that_says_what_no_etcd_would_is_over() {
    let created = "{\"result\":{\"header\":{\"revision\":\"1\"},\"created\":true}}\n";
    let event = |revision: &str| {
        format!("{{\"result\":{{\"events\":[{{\"kv\":{{\"key\":\"L2E=\",\"mod_revision\":\"{revision}\"}}}}]}}}}\n")
    };
    let cases = [
        ("backwards", chunk(&event("7")) + &chunk(&event("6")), 1),
        ("no revision", chunk(&event("0")), 0),
        ("below nothing", chunk(&event("-3")), 0),
        ("garbage", chunk(&event("5")) + &chunk("}{\n"), 1),
        ("half a line", chunk(&event("5")) + &chunk("{\"result\":{\"events\""), 1),
        ("a line cut within a chunk", format!("{}ff\r\n{{\"result\":", chunk(&event("5"))), 1),
        ("nothing more", chunk(&event("5")) + "0\r\n\r\n", 1),
        (
            "an error",
            chunk("{\"error\":{\"grpc_code\":14,\"http_code\":503,\"message\":\"etcdserver: no leader\"}}\n"),
            0,
        ),
        ("cancelled", chunk("{\"result\":{\"canceled\":true,\"cancel_reason\":\"etcdserver: server stopped\"}}\n"), 0),
    ];
    for (case, text, good) in cases {
        let liar = Liar::once(&format!("{OK_CHUNKED}{}{text}", chunk(created)));
        let mut watch = client(&[url(liar.address)]).watch(b"/a", b"", 1).unwrap();
        for _ in 0..good {
            assert!(watch.next(PATIENT).is_ok_and(|events| events.is_some()), "{case}");
        }
        let over = watch.next(PATIENT);
        assert!(matches!(&over, Err(EtcdError::Unreachable(why)) if !why.is_empty()), "{case}: {over:?}");
    }
    let first = |text: &str| {
        let liar = Liar::once(&format!("{OK_CHUNKED}{}", chunk(text)));
        client(&[url(liar.address)]).watch(b"/a", b"", 1).map(|_| ())
    };
    assert!(matches!(first(&event("5")), Err(EtcdError::Unreachable(why)) if why.contains("something else")));
    let denied = "{\"result\":{\"created\":true,\"canceled\":true,\"cancel_reason\":\"rpc error: code = PermissionDenied desc = etcdserver: permission denied\"}}\n";
    assert!(matches!(first(denied), Err(EtcdError::Refused(why)) if why.contains("permission denied")));
}

#[test]
fn a_member_that_is_silent_when_somebody_logs_in_keeps_the_others_but_once() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(1);
    let settings = EtcdSettings {
        endpoints: vec![url(silent.local_addr().unwrap()), server.url(0)],
        user: Some(("mailrace".to_owned(), "secret".to_owned())),
        ..EtcdSettings::default()
    };
    let etcd = Etcd::new(&settings).unwrap();
    std::thread::scope(|threads| {
        for _ in 0..6 {
            threads.spawn(|| etcd.range(b"/a", b"", None, 0).unwrap());
        }
    });
    silent.set_nonblocking(true).unwrap();
    let asked = std::iter::from_fn(|| silent.accept().ok()).count();
    assert!((1..=2).contains(&asked), "{asked} asked one after another");
}
