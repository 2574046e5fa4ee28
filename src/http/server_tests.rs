//! The server as its peers see it, over real sockets.

use super::super::limits::{ANSWER_BYTES_FREE, ANSWERS_BYTES_MAX, CONNECTIONS_PER_PEER_MAX, Deadlines};
use super::super::{Chunk, Refusal, Request, Response, Service, Stream, Waiting};
use super::{Server, Statistics};
use flate2::Compression;
use flate2::write::GzEncoder;
use mailrace_shards::runtime::control::ControlThread;
use mailrace_shards::runtime::reply::reply;
use mailrace_shards::runtime::socket;
use mailrace_shards::runtime::tls::{ClientTls, ServerTls, Tls};
use mailrace_shards::settings::TlsFiles;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What the tests ask for, by path.
struct Echo {
    control: mailrace_shards::runtime::control::Control,
    tls: Option<Arc<ServerTls>>,
}

const LIMIT: usize = 100_000;

impl Echo {
    async fn respond(&self, request: &mut Request) -> Result<Response, Refusal> {
        match &*request.head.path {
            "/echo" => Ok(Response::full(200, "a/b", request.body.collect(LIMIT).await?)),
            "/count" => {
                let (mut octets, mut most) = (0, 0);
                while let Some(chunk) = request.body.chunk().await? {
                    octets += chunk.len();
                    most = most.max(chunk.len());
                }
                assert!(most <= 64 * 1024, "a piece of {most} octets");
                Ok(Response::text(200, octets.to_string()))
            }
            "/stream" => {
                let (left, end) = request.head.query.split_once('-').unwrap_or((&request.head.query, ""));
                let countdown = Countdown { left: left.parse().unwrap_or(0), end: end.to_owned() };
                Ok(Response::stream(200, "a/b", Box::new(countdown)))
            }
            "/silence" => Ok(Response::stream(200, "a/b", Box::new(Silence))),
            "/zeros" => Ok(Response::stream(200, "a/b", Box::new(Zeros))),
            "/thread" => {
                // As a handler that waits for a shard.
                let (replier, answer) = reply();
                std::thread::spawn(move || replier.say("from afar".to_owned()));
                let words = answer.within(&self.control, Duration::from_secs(10)).await;
                Ok(Response::text(200, words.unwrap_or_else(|why| format!("{why:?}"))))
            }
            "/late" => {
                let (replier, answer) = reply::<()>();
                let words = format!("{:?}", answer.within(&self.control, Duration::from_millis(50)).await);
                drop(replier);
                Ok(Response::text(200, words))
            }
            "/slow" => {
                let (replier, answer) = reply::<()>();
                std::thread::spawn(move || {
                    pause(Duration::from_millis(300));
                    drop(replier);
                });
                let words = format!("{:?}", answer.within(&self.control, Duration::from_secs(10)).await);
                Ok(Response::text(200, words))
            }
            "/large" => Ok(Response::full(200, "a/b", vec![0; request.head.query.parse().unwrap()])),
            "/panic" => panic!("as asked"),
            "/peer" => Ok(Response::text(200, format!("{} {}", request.peer.ip(), request.secure))),
            path => Ok(Response::text(200, format!("{} {path}", request.head.method))),
        }
    }
}

impl Service for Echo {
    fn answer<'a>(self: &'a Rc<Self>, request: &'a mut Request) -> Waiting<'a, Response> {
        Box::pin(async { self.respond(request).await.unwrap_or_else(Response::from) })
    }

    fn refuse(&self, _: &str, refusal: &Refusal) -> Response {
        refusal.to_text()
    }

    fn tls(&self) -> Option<Arc<ServerTls>> {
        self.tls.clone()
    }
}

/// Counts down to its end, every second part empty.
struct Countdown {
    left: u32,
    end: String,
}

impl Stream for Countdown {
    fn next(&mut self) -> Waiting<'_, Chunk> {
        Box::pin(async {
            let left = self.left;
            self.left = left.saturating_sub(1);
            match (left, &*self.end) {
                (0, "broken") => Chunk::Broken("as asked".to_owned()),
                (0, "panic") => panic!("as asked"),
                (0, _) => Chunk::End,
                _ if left.is_multiple_of(2) => Chunk::Octets(Vec::new()),
                _ => Chunk::Octets(format!("{left} ").into_bytes()),
            }
        })
    }
}

/// Never waits, never says anything, and never ends.
struct Silence;

impl Stream for Silence {
    fn next(&mut self) -> Waiting<'_, Chunk> {
        Box::pin(async { Chunk::Octets(Vec::new()) })
    }
}

/// Never ends.
struct Zeros;

impl Stream for Zeros {
    fn next(&mut self) -> Waiting<'_, Chunk> {
        Box::pin(async { Chunk::Octets(vec![0; 64 * 1024]) })
    }
}

fn pause(duration: Duration) {
    let (_sender, never) = crossbeam::channel::bounded::<()>(0);
    let _ = never.recv_timeout(duration);
}

const SHORT: Deadlines =
    Deadlines { head: Duration::from_millis(400), idle: Duration::from_millis(800), stall: Duration::from_millis(400) };

fn start(deadlines: Deadlines, with_tls: bool) -> (ControlThread, SocketAddr) {
    let (socket, address) = socket::listen(([127, 0, 0, 1], 0).into(), 16).unwrap();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tls");
    let files = TlsFiles { certificate: directory.join("chain.pem"), key: directory.join("key.pem") };
    let tls = with_tls.then(|| ServerTls::load(&files).unwrap());
    let begin = move |control: &mailrace_shards::runtime::control::Control| {
        let service = Rc::new(Echo { control: control.clone(), tls });
        Server::start(control, socket, deadlines, service, Rc::new(Statistics::default()));
        Ok(())
    };
    (ControlThread::start(None, begin).unwrap().0, address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends everything and reads to the end.
fn converse(address: SocketAddr, octets: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(octets).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    to_end(&mut stream)
}

fn to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    without_date(&all)
}

fn without_date(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    let common = "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n";
    let lines = text.split_inclusive('\n').filter(|line| !line.starts_with("Date: "));
    lines.collect::<String>().replace(common, "")
}

/// Reads until the text ends so.
fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let mut octet = [0];
        stream.read_exact(&mut octet).unwrap();
        all.push(octet[0]);
    }
    without_date(&all)
}

fn text(words: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n", words.len())
}

const CLOSE: &str = "Connection: close\r\n\r\n";

/// An answer that refuses and ends the connection.
fn refused(status: &str, words: &str) -> String {
    let length = words.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n{CLOSE}{words}"
    )
}

/// An answer of `/echo`; `end` is what ends its head.
fn echo(body: &str, end: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: {}\r\n{end}{body}", body.len())
}

#[test]
fn conversations() {
    let (mut server, address) = start(Deadlines::default(), false);
    let stream = "HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n";
    let countdown = "2\r\n3 \r\n2\r\n1 \r\n0\r\n\r\n";
    for (request, expected) in [
        ("", String::new()),
        ("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", format!("{}{CLOSE}GET /a", text("GET /a"))),
        ("GET /a HTTP/1.0\r\n\r\n", format!("{}{CLOSE}GET /a", text("GET /a"))),
        (
            "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            format!("{}Connection: keep-alive\r\n\r\nGET /a", text("GET /a")),
        ),
        ("HEAD /a HTTP/1.0\r\n\r\n", format!("{}{CLOSE}", text("HEAD /a"))),
        // Pipelined, answered in order, the unread body of the first among them.
        (
            "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nnullPOST /echo HTTP/1.1\r\nHost: a\r\n\
             Content-Length: 2\r\n\r\nhiHEAD /b HTTP/1.1\r\nHost: a\r\n\r\nGET /c HTTP/1.0\r\n\r\nGET /never",
            format!(
                "{}\r\nGET /a{}{}\r\n{}{CLOSE}GET /c",
                text("GET /a"),
                echo("hi", "\r\n"),
                text("HEAD /b"),
                text("GET /c")
            ),
        ),
        ("GET /stream?4 HTTP/1.1\r\nHost: a\r\n\r\n", format!("{stream}\r\n{countdown}")),
        ("HEAD /stream?4 HTTP/1.1\r\nHost: a\r\n\r\n", format!("{stream}\r\n")),
        (
            "GET /stream?4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
            format!("HTTP/1.1 200 OK\r\nContent-Type: a/b\r\n{CLOSE}3 1 "),
        ),
        // A broken stream has no last chunk.
        ("GET /stream?0-broken HTTP/1.1\r\nHost: a\r\n\r\nGET /a", format!("{stream}\r\n")),
        ("GET /stream?1-panic HTTP/1.1\r\nHost: a\r\n\r\nGET /a", format!("{stream}\r\n2\r\n1 \r\n")),
        (
            "GET /panic HTTP/1.1\r\nHost: a\r\n\r\nGET /never",
            refused("500 Internal Server Error", "an error of ours; the log of the server tells more"),
        ),
        ("GET /thread HTTP/1.1\r\nHost: a\r\n\r\n", format!("{}\r\nfrom afar", text("from afar"))),
        ("GET /late HTTP/1.1\r\nHost: a\r\n\r\n", format!("{}\r\nErr(Late)", text("Err(Late)"))),
    ] {
        assert_eq!(converse(address, request.as_bytes()), expected, "{request}");
    }
    server.stop(Duration::from_secs(10)).unwrap();
}

#[test]
fn conversations_that_end_badly() {
    let (mut server, address) = start(Deadlines::default(), false);
    for (request, expected) in [
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nGET",
            echo("hi", "\r\n"),
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhiX",
            refused("400 Bad Request", "a chunk is longer than its size"),
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhi",
            refused("400 Bad Request", "the connection ended within the body"),
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n",
            refused("413 Content Too Large", "the body is longer than the 100000 octets allowed"),
        ),
        // An answer before the body was asked for: it may come or not, so nothing can follow.
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nGET /never",
            format!("{}{CLOSE}POST /a", text("POST /a")),
        ),
        (
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Encoding: br\r\n\r\nhi",
            refused(
                "415 Unsupported Media Type",
                "only gzip and deflate are taken as Content-Encoding, and one of them alone",
            )
            .replace("\r\nContent-Length", "\r\nAccept-Encoding: gzip, deflate\r\nContent-Length"),
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            refused("505 HTTP Version Not Supported", "only HTTP/1.0 and HTTP/1.1 are spoken here"),
        ),
        ("GET / HTTP/1.1\r\n\r\nGET /never", refused("400 Bad Request", "the Host field is missing")),
    ] {
        assert_eq!(converse(address, request.as_bytes()), expected, "{request}");
    }
    server.stop(Duration::from_secs(10)).unwrap();
}

#[test]
fn bodies_are_asked_for_and_bounded() {
    let (mut server, address) = start(Deadlines::default(), false);
    let mut stream = connect(address);
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(until(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hi").unwrap();
    assert!(until(&mut stream, "\r\n\r\nhi").starts_with("HTTP/1.1 200 OK"));

    // A body of any length is streamed through; a collected one is refused while it still comes.
    let request = |path: &str, length: usize, coding: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{coding}\r\n").into_bytes()
    };
    let long = vec![b'x'; 5_000_000];
    let sent = [request("/count", long.len(), ""), long.clone()].concat();
    assert!(converse(address, &sent).ends_with("\r\n\r\n5000000"));
    let sent = [request("/echo", long.len(), ""), long].concat();
    assert!(converse(address, &sent).starts_with("HTTP/1.1 413 "), "the answer is read, not lost by a reset");

    // 50 MB in 50 kB.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    (0..50).for_each(|_| bomb.write_all(&vec![0; 1_000_000]).unwrap());
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < LIMIT);
    let gzip = "Content-Encoding: gzip\r\n";
    let sent = [request("/echo", bomb.len(), gzip), bomb.clone()].concat();
    assert!(converse(address, &sent).starts_with("HTTP/1.1 413 "));
    let sent = [request("/count", bomb.len(), gzip), bomb].concat();
    assert!(converse(address, &sent).ends_with("\r\n\r\n50000000"), "who counts may have it all");

    let mut small = GzEncoder::new(Vec::new(), Compression::best());
    small.write_all(b"hello").unwrap();
    let small = small.finish().unwrap();
    let sent = [request("/echo", small.len(), gzip), small.clone(), request("/a", 0, "")].concat();
    let found = converse(address, &sent);
    assert!(found.contains("\r\n\r\nhelloHTTP/1.1 200 OK") && found.ends_with("POST /a"), "{found}");
    let sent = [request("/echo", small.len() - 1, gzip), small[..small.len() - 1].to_vec()].concat();
    assert!(converse(address, &sent).starts_with("HTTP/1.1 400 "));
    server.stop(Duration::from_secs(10)).unwrap();
}

#[test]
fn slow_peers_are_let_go() {
    let (mut server, address) = start(SHORT, false);
    let drip = |first: &str, octet: &[u8]| {
        let mut stream = connect(address);
        stream.write_all(first.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let mut all = Vec::new();
        let mut buffer = [0; 1000];
        for _ in 0..200 {
            match stream.read(&mut buffer) {
                Ok(0) => return without_date(&all),
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => drop(stream.write_all(octet)),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return without_date(&all),
                Err(error) => panic!("{error}"),
            }
        }
        panic!("a slow peer was kept: {all:?}");
    };
    // Nothing at all, a head in drips, a body in drips, nothing after an answer.
    assert_eq!(drip("", b""), "");
    assert!(drip("GET / HTTP/1.1\r\n", b"x").starts_with("HTTP/1.1 408 "));
    let body = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    assert!(drip(body, b"x").starts_with("HTTP/1.1 408 "));
    assert!(drip(body, b"").starts_with("HTTP/1.1 408 "));
    let idle = drip("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", b"");
    assert!(idle.ends_with("GET /a") && !idle.contains("Connection: close"), "{idle}");

    // One that asks for much and reads nothing: there is an end, although the answer has none.
    let mut stream = connect(address);
    stream.write_all(b"GET /zeros HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    pause(SHORT.stall * 3);
    let mut buffer = vec![0; 1 << 20];
    let mut octets = 0_u64;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        octets += count as u64;
        assert!(octets < 100 << 20, "the server still sends");
    }
    server.stop(Duration::from_secs(10)).unwrap();
}

#[test]
fn peers_have_so_many_connections() {
    let (mut server, address) = start(Deadlines::default(), false);
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert!(until(stream, "GET /a").starts_with("HTTP/1.1 200 OK"));
    };
    let mut open: Vec<TcpStream> = (0..CONNECTIONS_PER_PEER_MAX).map(|_| connect(address)).collect();
    open.iter_mut().for_each(ask);
    let refused = converse(address, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("Retry-After: 1\r\n"), "{refused}");
    open.iter_mut().for_each(ask);
    drop(open.pop());
    let until_free = (0..100).any(|_| {
        let answer = converse(address, b"GET /a HTTP/1.0\r\n\r\n");
        answer.starts_with("HTTP/1.1 200 OK")
    });
    assert!(until_free, "a place that was given up is taken again");
    server.stop(Duration::from_secs(10)).unwrap();
}

#[test]
fn one_busy_connection_leaves_the_others_their_turn() {
    let (mut server, address) = start(Deadlines::default(), false);
    let mut busy: Vec<TcpStream> = (0..3).map(|_| connect(address)).collect();
    for (stream, path) in busy.iter_mut().zip(["/silence", "/silence", "/zeros"]) {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        until(stream, "\r\n\r\n");
    }
    for _ in 0..20 {
        assert!(converse(address, b"GET /a HTTP/1.0\r\n\r\n").ends_with("GET /a"));
    }
    // What never ends is cut off by a stop.
    server.stop(Duration::from_millis(200)).unwrap();
}

/// What peers have asked for and do not read stays in memory, and was bounded by nothing but the number of peers.
#[test]
fn answers_that_nobody_reads_are_bounded_together() {
    let (mut server, address) = start(Deadlines::default(), false);
    let large = ANSWERS_BYTES_MAX / 5 * 2;
    let ask = |octets: usize| {
        let mut stream = connect(address);
        stream.write_all(format!("GET /large?{octets} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        let head = until(&mut stream, "\r\n\r\n");
        (head[9..12].to_owned(), stream)
    };
    let (one, other) = (ask(large), ask(large));
    assert_eq!((&*one.0, &*other.0), ("200", "200"));
    assert_eq!(ask(large).0, "503");
    assert_eq!(ask(ANSWER_BYTES_FREE).0, "200", "what is not large goes out");
    drop(one);
    let mut tries = 0;
    while ask(large).0 == "503" {
        tries += 1;
        assert!(tries < 300, "its room is given back");
        pause(Duration::from_millis(50));
    }
    drop(other);
    let mut whole = ask(3 * ANSWER_BYTES_FREE + 5).1;
    whole.shutdown(Shutdown::Write).unwrap();
    let mut body = Vec::new();
    whole.read_to_end(&mut body).unwrap();
    assert!(body.len() == 3 * ANSWER_BYTES_FREE + 5 && body.iter().all(|octet| *octet == 0));
    server.stop(Duration::from_secs(10)).unwrap();
}

#[test]
fn a_stop_finishes_what_was_begun() {
    let (mut server, address) = start(Deadlines::default(), false);
    let mut idle = connect(address);
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until(&mut idle, "GET /a");
    let mut busy = connect(address);
    busy.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /slow HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    until(&mut busy, "GET /a");
    server.stop(Duration::from_secs(10)).unwrap();
    assert_eq!(to_end(&mut idle), "");
    let expected = format!("{}Connection: close\r\n\r\nErr(Dropped)", text("Err(Dropped)"));
    assert_eq!(to_end(&mut busy), expected);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn tls_is_spoken() {
    let (mut server, address) = start(Deadlines::default(), true);
    let mut stream = connect(address);
    let mut tls = Tls::client(&ClientTls::new(), "127.0.0.1", false).unwrap();
    tls.encrypt(
        b"GET /peer HTTP/1.1\r\nHost: a\r\n\r\nGET /stream?60001 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let (mut plain, mut buffer) = (Vec::new(), vec![0; 10_000]);
    while !tls.peer_closed() {
        let mut out = Vec::new();
        tls.pull(&mut out);
        stream.write_all(&out).unwrap();
        let count = stream.read(&mut buffer).unwrap();
        assert!(count > 0, "ended without close_notify");
        tls.feed(&buffer[..count], &mut plain).unwrap();
    }
    let found = without_date(&plain);
    assert!(found.starts_with(&format!("{}\r\n127.0.0.1 true", text("127.0.0.1 true"))), "{found}");
    let (first, last) = ("\r\n\r\n6\r\n60001 \r\n", "2\r\n1 \r\n0\r\n\r\n");
    assert!(found.contains(first) && found.ends_with(last), "{}", &found[found.len() - 100..]);
    let plain = converse(address, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(!plain.contains("HTTP"), "{plain}");
    server.stop(Duration::from_secs(10)).unwrap();
}
