//! Peers that mean harm, at the real sockets: what is put behind STARTTLS in clear, and what has no end, no sense or no
//! speed. Each is refused or ended; meanwhile others are served, and memory stays bounded.

use crate::support::certificate::Certificate;
use crate::support::wait::{PATIENCE, until};
use crate::support::wire::Wire;
use crate::support::{Api, Config, Engine, Features, Sink, guarded};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A line of a reply's end, its code alone.
fn code(wire: &mut Wire) -> u16 {
    loop {
        let line = String::from_utf8(wire.read_line().unwrap()).unwrap();
        assert!(line.ends_with("\r\n"), "the connection ended: {line:?}");
        if line.as_bytes()[3] == b' ' {
            return line[..3].parse().unwrap();
        }
    }
}

fn ask(wire: &mut Wire, line: &str) -> u16 {
    wire.write(format!("{line}\r\n").as_bytes()).unwrap();
    code(wire)
}

#[test]
fn commands_in_clear_behind_starttls_are_not_carried_out() {
    let sink = Sink::start(Features::default());
    let certificate = Certificate::new("localhost");
    let engine = guarded(&sink, &certificate);
    let injected = "EHLO evil.example\r\nAUTH PLAIN AGFsaWNlAG9wZW4gc2VzYW1l\r\nMAIL FROM:<evil@test.example>\r\n\
                    RCPT TO:<r@d.example>\r\nDATA\r\nSubject: injected\r\n\r\nx\r\n.\r\n";
    for injected in [injected, "NOOP\r\n", "MAIL FROM:<ev", "\n"] {
        let stream = TcpStream::connect(engine.smtp).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Wire::new(stream);
        assert_eq!(code(&mut wire), 220);
        assert_eq!(ask(&mut wire, "EHLO injector.example"), 250);
        // In one piece, as somebody in the middle would put it in.
        wire.write(format!("STARTTLS\r\n{injected}").as_bytes()).unwrap();
        assert_eq!(code(&mut wire), 220);
        wire.start_client(certificate.client(), "localhost").unwrap();
        // Each reply is the one to what was said inside, and nobody has greeted or logged in.
        assert_eq!(ask(&mut wire, "MAIL FROM:<s@test.example>"), 503, "after {injected:?}");
        assert_eq!(ask(&mut wire, "EHLO injector.example"), 250);
        assert_eq!(ask(&mut wire, "MAIL FROM:<s@test.example>"), 530);
        assert_eq!(ask(&mut wire, "QUIT"), 221);
    }
    assert_eq!(engine.records().len(), 0, "nothing was taken");
    assert_eq!(sink.connections(), 0);
}

/// A destination that puts `injected` behind its 220 to STARTTLS, and refuses everything inside. Remembers the commands.
fn injecting(listener: TcpListener, certificate: Certificate, injected: &'static str) -> Arc<Mutex<Vec<String>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hearing = heard.clone();
    // Ends with the test's process: it waits for connections that nobody makes any more.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut wire = Wire::new(stream);
            // Whatever ends a conversation, the next one comes.
            let _ = converse(&mut wire, &certificate, injected, &hearing);
        }
    });
    heard
}

fn converse(
    wire: &mut Wire,
    certificate: &Certificate,
    injected: &str,
    heard: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    wire.write(b"220 mx.example\r\n")?;
    loop {
        let line = String::from_utf8_lossy(&wire.read_line()?).trim_end().to_owned();
        if line.is_empty() {
            return Ok(());
        }
        let verb = line.split(' ').next().unwrap_or_default().to_owned();
        heard.lock().unwrap().push(if wire.is_tls() { format!("{verb} inside") } else { verb.clone() });
        match verb.as_str() {
            "EHLO" if wire.is_tls() => wire.write(b"250-mx.example\r\n250 PIPELINING\r\n")?,
            "EHLO" => wire.write(b"250-mx.example\r\n250-PIPELINING\r\n250 STARTTLS\r\n")?,
            "STARTTLS" => {
                wire.write(format!("220 go ahead\r\n{injected}").as_bytes())?;
                wire.start_server(certificate.server())?;
            }
            "QUIT" => return wire.write(b"221 bye\r\n"),
            _ => wire.write(b"451 4.3.0 not here\r\n")?,
        }
    }
}

#[test]
fn replies_in_clear_behind_the_answer_to_starttls_are_not_believed() {
    let injected = "250-evil.example\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n250 2.0.0 injected\r\n";
    for (injected, failing) in [(injected, true), ("2", true), ("\n", true), ("", false)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = injecting(listener, Certificate::new("127.0.0.1"), injected);
        let limit = "domain = \"d.example\"\ntls = \"required\"";
        let engine = Engine::start(&Config::to(address).table("limit", limit));
        let reply = engine.client().send("s@test.example", &["r@d.example"], b"Subject: x\r\n\r\nx\r\n");
        assert_eq!(reply.code, 250, "{reply:?}");
        let record = engine.await_records("TransientFailure", 1).remove(0);
        let heard = heard.lock().unwrap().clone();
        assert!(!heard.contains(&"MAIL".to_owned()), "{injected:?}: mail in clear: {heard:?}");
        // What is honest goes on inside; what is not ends there.
        assert_eq!(record.content().contains("TLS"), failing, "{injected:?}: {record:?}");
        assert_eq!(heard.contains(&"MAIL inside".to_owned()), !failing, "{injected:?}: {heard:?}");
        assert!(engine.records().iter().all(|record| record.kind() != "Delivery"), "{injected:?}");
    }
}

/// What somebody sends without end.
struct Flood {
    what: &'static str,
    first: Vec<u8>,
    again: Vec<u8>,
    /// Octets after which it should have been refused.
    most: usize,
    /// Words of the refusal.
    refusal: &'static str,
}

fn flood(what: &'static str, first: &str, again: &[u8], most: usize, refusal: &'static str) -> Flood {
    let first = first.as_bytes().to_vec();
    // In large pieces, so that it is quick.
    let again = again.repeat(1 + (16 << 10) / again.len().max(1));
    Flood { what, first, again, most, refusal }
}

const MAIL: &str = "EHLO x\r\nMAIL FROM:<a@test.example>\r\nRCPT TO:<r@d.example>\r\n";

fn smtp_floods() -> Vec<Flood> {
    const MIB: usize = 1 << 20;
    let octets: Vec<u8> = (0..=255).collect();
    let data = format!("{MAIL}DATA\r\n");
    vec![
        flood("a line without end", "NOOP ", b"x", MIB, "421 4.7.0 Line without end"),
        flood("commands without end", "EHLO x\r\n", b"NOOP\r\n", MIB, "421 4.7.0 Too many commands"),
        flood("binary commands", "", &octets, MIB, "421 4.7.0 Too many errors"),
        flood("a header without end", &format!("{data}X: "), b"x", 100 * MIB, "421 4.3.4 Message is far over"),
        flood("empty chunks", MAIL, b"BDAT 0\r\n", 4 * MIB, "421 4.7.0 Too many chunks"),
        flood("a huge chunk", &format!("{MAIL}BDAT 4294967295\r\n"), b"x", MIB, "421 4.3.4 Chunk is far over"),
        flood("a chunk of no size", &format!("{MAIL}BDAT 99999999999999999999 LAST\r\n"), b"x", MIB, "501 5.5.4 "),
        flood("HTTP", "GET / HTTP/1.1\r\n", b"Host: x\r\n", MIB, "421 4.7.0 This is not HTTP"),
    ]
}

fn http_floods(token: &str) -> Vec<Flood> {
    const MIB: usize = 1 << 20;
    let octets: Vec<u8> = (0..=255).collect();
    let chunk = [b"4000\r\n", &[b'x'; 0x4000][..], b"\r\n"].concat();
    let post = |more: &str| {
        format!(
            "POST /v1/pauses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\n{more}\r\n"
        )
    };
    vec![
        flood("a target without end", "GET /", b"x", MIB, "HTTP/1.1 414 "),
        flood("fields without end", "GET / HTTP/1.1\r\nHost: x\r\n", b"X: y\r\n", MIB, "HTTP/1.1 431 "),
        flood("a field without end", "GET / HTTP/1.1\r\nX: ", b"x", MIB, "HTTP/1.1 431 "),
        flood("binary", "", &octets, MIB, "HTTP/1.1 400 "),
        flood("a huge body", &post("Content-Length: 99999999999\r\n"), b"x", 64 * MIB, "HTTP/1.1 413 "),
        flood("chunks without end", &post("Transfer-Encoding: chunked\r\n"), &chunk, 64 * MIB, "HTTP/1.1 413 "),
        flood("an extension without end", &post("Transfer-Encoding: chunked\r\n"), b"1;x", MIB, "HTTP/1.1 400 "),
        flood("SMTP", "EHLO x\r\n\r\n", MAIL.as_bytes(), MIB, "HTTP/1.1 400 "),
    ]
}

impl Flood {
    /// Sends until it is refused. Gives the end of what was answered, and whether the connection was ended there.
    fn pour(&self, address: SocketAddr) -> (String, bool) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut reading = stream.try_clone().unwrap();
        let refusal = self.refusal;
        let refused = Arc::new(AtomicBool::new(false));
        let seen = refused.clone();
        let reader = std::thread::spawn(move || {
            let (mut tail, mut buffer) = (String::new(), [0; 4096]);
            let ended = loop {
                match reading.read(&mut buffer) {
                    Ok(0) => break true,
                    Ok(count) => tail.push_str(&String::from_utf8_lossy(&buffer[..count])),
                    // Nothing within all that time, or a reset.
                    Err(error) => break error.kind() == std::io::ErrorKind::ConnectionReset,
                }
                if tail.contains(refusal) {
                    seen.store(true, Ordering::SeqCst);
                } else if tail.len() > 8192 {
                    tail.drain(..4096);
                }
            };
            seen.store(true, Ordering::SeqCst);
            (tail, ended)
        });
        let mut sent = 0;
        let mut result = stream.write_all(&self.first);
        while result.is_ok() && sent < self.most && !refused.load(Ordering::SeqCst) {
            result = stream.write_all(&self.again);
            sent += self.again.len();
        }
        let _ = stream.shutdown(Shutdown::Write);
        let (tail, ended) = reader.join().unwrap();
        (tail, ended)
    }
}

/// Octets of memory that the process has.
fn resident(engine: &Engine) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

/// Octets that may come on top of what the engine has when nothing goes on. Messages and bodies of this test may have
/// one MiB, so the floods and the honest ones at once could fill less than half of it.
const GROWTH_BYTES_MAX: usize = 64 << 20;

fn small(sink: &Sink) -> Engine {
    let config = Config::to(sink.address).line("smtp", "max_message_bytes = 1048576");
    Engine::start(&config.line("api", "max_body_bytes = 1048576"))
}

#[test]
fn floods_are_refused_while_others_are_served_and_memory_stays_bounded() {
    let sink = Sink::start(Features::default());
    let engine = small(&sink);
    let api = Api::of(&engine);
    let send = |number: usize| {
        let sender = format!("{number}@test.example");
        engine.client().send(&sender, &["r@d.example"], b"Subject: x\r\n\r\nx\r\n").code
    };
    assert_eq!(send(0), 250);
    let before = resident(&engine);
    let floods = [(engine.smtp, smtp_floods()), (engine.api, http_floods(&engine.token()))];
    let floods: Vec<(SocketAddr, Flood)> = floods
        .into_iter()
        .flat_map(|(address, floods)| floods.into_iter().map(move |flood| (address, flood)))
        .collect();
    // They hold on, each with the beginning of a line.
    let idle: Vec<TcpStream> = (0..60)
        .map(|number| {
            let mut stream = TcpStream::connect(if number % 2 == 0 { engine.smtp } else { engine.api }).unwrap();
            stream.write_all(b"E").unwrap();
            stream
        })
        .collect();
    let left = AtomicUsize::new(floods.len());
    let (most, served) = std::thread::scope(|scope| {
        let pouring: Vec<_> = floods
            .iter()
            .map(|(address, flood)| {
                let left = &left;
                scope.spawn(move || {
                    let outcome = std::panic::catch_unwind(|| flood.pour(*address));
                    left.fetch_sub(1, Ordering::SeqCst);
                    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            })
            .collect();
        let (mut most, mut served) = (0, 0);
        while left.load(Ordering::SeqCst) > 0 {
            served += 1;
            assert_eq!(send(served), 250, "an honest client is served");
            api.get("/v1/rules");
            most = most.max(resident(&engine));
        }
        for ((_, flood), pouring) in floods.iter().zip(pouring) {
            let (tail, ended) = pouring.join().unwrap();
            // A reset may overtake the last words; that the connection was ended is then all that can be seen.
            assert!(ended, "{}: goes on after {tail:?}", flood.what);
            assert!(tail.contains(flood.refusal) || tail.is_empty(), "{}: {tail:?}", flood.what);
        }
        (most.max(resident(&engine)), served)
    });
    assert!(most < before + GROWTH_BYTES_MAX, "{before} octets of memory became {most}");
    drop(idle);
    assert_eq!(sink.await_messages(served + 1).len(), served + 1, "and nothing of the floods was mail");
}

#[test]
fn single_octets_are_understood_like_any_others() {
    let sink = Sink::start(Features::default());
    let engine = small(&sink);
    let slowly = |address: SocketAddr, octets: &[u8]| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        for octet in octets {
            stream.write_all(&[*octet]).unwrap();
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    };
    let text = "Subject: slow\r\n\r\n.\r\n..\r\nx\r\n";
    let stuffed = text.replace("\r\n.", "\r\n..");
    let mail = format!("{MAIL}DATA\r\n{stuffed}.\r\n{}BDAT {} LAST\r\n{text}QUIT\r\n", &MAIL[8..], text.len());
    let replies = slowly(engine.smtp, mail.as_bytes());
    assert_eq!(replies.matches(" queued\r\n").count(), 2, "{replies}");
    let messages = sink.await_messages(2);
    assert!(messages.iter().all(|message| message.body() == text.as_bytes()), "{messages:?}");

    let token = engine.token();
    let request = format!(
        "POST /v1/pauses HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\n{{\"ta\r\n6\r\ng\":\"x\"\r\n1\r\n}}\r\n0\r\n\r\n"
    );
    let answer = slowly(engine.api, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let rules = Api::of(&engine).get("/v1/rules");
    assert_eq!(rules[0]["scope"]["tag"], "x", "{rules}");
}

#[test]
fn a_client_that_never_pauses_does_not_have_a_core_to_itself() {
    const OCTETS: usize = 12 << 20;
    let sink = Sink::start(Features::default());
    let engine = Engine::start(&Config::to(sink.address).shards(1).line("smtp", "max_message_bytes = 1048576"));
    let mut flooding = engine.client();
    for line in MAIL.lines().skip(1) {
        assert_eq!(flooding.command(line).code, 250);
    }
    assert_eq!(flooding.command("DATA").code, 354);
    let mut client = engine.client();
    let (sent, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let answered = std::thread::scope(|scope| {
        scope.spawn(|| {
            let lines = b"text\r\n".repeat(10_000);
            while sent.fetch_add(lines.len(), Ordering::SeqCst) < OCTETS {
                flooding.write(&lines);
            }
            flooding.write(b".\r\n");
            let reply = flooding.reply();
            over.store(true, Ordering::SeqCst);
            assert_eq!(reply.code, 552, "{reply:?}");
        });
        until("the flood is under way", || sent.load(Ordering::SeqCst) > OCTETS / 4);
        let mut answered = 0;
        while !over.load(Ordering::SeqCst) {
            assert_eq!(client.command("RSET").code, 250);
            answered += 1;
        }
        answered
    });
    // There is a turn for others with each 64 KiB.
    assert!(answered >= 10, "another client was answered {answered} times meanwhile");
}
