//! Awkward contents: octet for octet from one end to the other, by DATA and by BDAT on either side, or refused.

use crate::support::received::Received;
use crate::support::{Api, Config, Engine, Features, Sink, setting};
use serde_json::json;

/// Every octet that a message may hold beside line ends.
fn octets() -> Vec<u8> {
    let mut line: Vec<u8> = (1..=255_u8).filter(|octet| !matches!(octet, b'\r' | b'\n')).collect();
    line.extend_from_slice(b"\r\n");
    line
}

fn line_of(length: usize) -> Vec<u8> {
    let mut line = vec![b'x'; length];
    line.extend_from_slice(b"\r\n");
    line
}

fn with_header(text: &[u8]) -> Vec<u8> {
    [b"Subject: awkward\r\nFrom: <a@test.example>\r\n\r\n", text].concat()
}

/// Contents that end with CRLF or are empty: what DATA can carry.
fn whole_lines() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("one line end", b"\r\n".to_vec()),
        ("line ends", b"\r\n".repeat(50)),
        ("one octet", b"x\r\n".to_vec()),
        ("a dot", b".\r\n".to_vec()),
        ("dots in text", with_header(b".\r\n..\r\n...\r\n.a\r\n..b\r\n.\r\n")),
        ("a dot first", b".\r\n\r\n.\r\n".to_vec()),
        ("dots at the end", with_header(b"text\r\n.\r\n.\r\n")),
        ("no header", b"\r\nonly text\r\n".to_vec()),
        ("folded header", b"Subject: one\r\n two\r\n\tthree\r\n\r\ntext\r\n".to_vec()),
        ("line of 998", with_header(&line_of(998))),
        ("line of 5000", with_header(&line_of(5000))),
        ("line of dots", with_header(&[&b".".repeat(2000)[..], b"\r\n"].concat())),
        ("line of 300000", with_header(&line_of(300_000))),
        ("eight bits", with_header(&octets().repeat(20))),
        ("eight bits in the header", [b"Subject: caf\xc3\xa9\r\n\r\n".to_vec(), octets()].concat()),
        ("white space at line ends", with_header(b" \r\n\t\r\ntext  \r\n   \r\n")),
    ]
}

/// What only BDAT can carry: no line end at the end.
fn open_ended() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("one octet", b"x".to_vec()),
        ("one dot", b".".to_vec()),
        ("no final line end", with_header(b"text")),
        ("dot at the end", with_header(b"text\r\n.")),
        ("dots at the end", with_header(b"text\r\n..")),
        ("header without end", b"Subject: only".to_vec()),
    ]
}

/// An engine with a destination that has no CHUNKING (data.example) and one that has (bdat.example).
struct Bench {
    plain: Sink,
    chunking: Sink,
    engine: Engine,
}

impl Bench {
    fn start() -> Self {
        let plain = Sink::start(Features::default());
        let chunking = Sink::start(Features { chunking: true, ..Features::default() });
        let config = Config::default().route("data.example", plain.address).route("bdat.example", chunking.address);
        Self { engine: Engine::start(&config), plain, chunking }
    }

    /// Sends one content in both ways that there are, `by_data` only if it can be.
    fn send(&self, number: usize, body: &[u8], chunk: usize, by_data: bool) {
        let mut client = self.engine.client();
        assert!(client.offers("CHUNKING") && client.offers("8BITMIME"), "{:?}", client.features);
        let sender = |kind: &str| format!("{kind}-{number}@test.example BODY=8BITMIME");
        let recipients = ["r@data.example", "r@bdat.example"];
        if by_data {
            let reply = client.send(&sender("data"), &recipients, body);
            assert_eq!(reply.code, 250, "{reply:?}");
        }
        let reply = client.send_chunks(&sender("bdat"), &recipients, body, chunk);
        assert_eq!(reply.code, 250, "{reply:?}");
    }

    fn check(&self, cases: &[(&str, Vec<u8>)], ways: usize) {
        for (sink, chunked) in [(&self.plain, false), (&self.chunking, true)] {
            let messages = sink.await_messages(cases.len() * ways);
            assert_eq!(messages.len(), cases.len() * ways, "each message came once");
            for message in &messages {
                assert_eq!(message.chunked, chunked);
                let (_, number) = message.sender.split_once('@').unwrap().0.split_once('-').unwrap();
                let (name, body) = &cases[number.parse::<usize>().unwrap()];
                let mut expected = body.clone();
                // DATA cannot carry a text that does not end with a line end.
                if !chunked && !body.is_empty() && !body.ends_with(b"\r\n") {
                    expected.extend_from_slice(b"\r\n");
                }
                assert_arrived(message, &expected, &format!("{name:?} from {} chunked {chunked}", message.sender));
            }
        }
    }
}

/// The content is our Received header and the body, and nothing else.
fn assert_arrived(message: &Received, body: &[u8], what: &str) {
    assert!(message.content.ends_with(body), "{what}: the content is another one: {} octets", message.content.len());
    let own = String::from_utf8(message.content[..message.content.len() - body.len()].to_vec()).unwrap();
    assert!(own.starts_with("Received: ") && own.ends_with("\r\n"), "{what}: {own:?}");
    assert!(own.lines().skip(1).all(|line| line.starts_with([' ', '\t'])), "{what}: {own:?}");
    assert!(own.contains("by mailrace.example"), "{what}: {own:?}");
}

#[test]
fn awkward_contents_arrive_octet_for_octet() {
    let bench = Bench::start();
    let cases = whole_lines();
    for (number, (_, body)) in cases.iter().enumerate() {
        bench.send(number, body, 100_000, true);
    }
    bench.check(&cases, 2);
}

#[test]
fn contents_in_tiny_chunks_and_without_a_final_line_end_arrive_octet_for_octet() {
    let bench = Bench::start();
    let mut cases = open_ended();
    cases.extend(whole_lines().into_iter().filter(|(_, body)| body.len() < 300));
    for (number, (_, body)) in cases.iter().enumerate() {
        bench.send(number, body, 1, false);
    }
    bench.check(&cases, 1);
}

#[test]
fn a_large_message_arrives_octet_for_octet() {
    let size = setting("MAILRACE_SYSTEM_LARGE_MIB", 20) << 20;
    let mut body = with_header(b"");
    let mut number = 0_usize;
    while body.len() < size - 100 {
        // Lines of many lengths, every third of them begins with a dot.
        let start = if number.is_multiple_of(3) { "." } else { "" };
        body.extend_from_slice(format!("{start}{number:0width$}\r\n", width = number % 77 + 1).as_bytes());
        number += 1;
    }
    let bench = Bench::start();
    bench.send(0, &body, 3 << 20, true);
    bench.check(&[("large", body)], 2);
}

#[test]
fn contents_with_nul_or_bare_line_ends_are_refused_and_the_session_goes_on() {
    let bench = Bench::start();
    let mut client = bench.engine.client();
    let bodies: [&[u8]; 8] = [
        b"Subject: x\r\n\r\nbare\nline feed\r\n",
        b"Subject: x\r\n\r\nbare\rreturn\r\n",
        b"Subject: x\r\n\r\nnul\0octet\r\n",
        b"\nfirst\r\n",
        b"\rfirst\r\n",
        b"\0\r\n",
        b"two\r\r\nreturns\r\n",
        b"smuggled\n.\r\nMAIL FROM:<x@test.example>\r\n",
    ];
    for body in bodies {
        let recipients = ["r@data.example", "r@bdat.example"];
        let reply = client.send("s@test.example", &recipients, body);
        assert_eq!(reply.code, 550, "{reply:?} to {:?}", String::from_utf8_lossy(body));
        let reply = client.send_chunks("s@test.example", &recipients, body, 100_000);
        assert_eq!(reply.code, 550, "{reply:?} to {:?}", String::from_utf8_lossy(body));
    }
    let reply = client.send("good-0@test.example", &["r@data.example", "r@bdat.example"], b"Subject: y\r\n\r\ny\r\n");
    assert_eq!(reply.code, 250, "{reply:?}");
    bench.check(&[("good", b"Subject: y\r\n\r\ny\r\n".to_vec())], 1);
    assert_eq!(bench.engine.await_records("Reception", 1).len(), 1);
}

#[test]
fn contents_over_the_limits_are_refused() {
    let sink = Sink::start(Features::default());
    let engine = Engine::start(&Config::to(sink.address).line("smtp", "max_message_bytes = 100000"));
    let mut client = engine.client();
    assert!(client.offers("SIZE 100000"), "{:?}", client.features);
    assert_eq!(client.command("MAIL FROM:<s@test.example> SIZE=100001").code, 552);
    let large = with_header(&line_of(100_000));
    assert_eq!(client.send("s@test.example", &["r@d.example"], &large).code, 552);
    assert_eq!(client.send_chunks("s@test.example", &["r@d.example"], &large, 30_000).code, 552);
    client.command("RSET");
    assert_eq!(client.send("s@test.example", &["r@d.example"], &with_header(b"small\r\n")).code, 250);
    assert_eq!(sink.await_messages(1).len(), 1);
}

/// Mail whose segment was gone was tried ten times a second, with a connection each time, until it expired.
#[test]
fn a_body_whose_file_somebody_has_removed_fails_an_attempt_as_one_that_cannot_be_read() {
    let sink = Sink::start(Features::default());
    let mut engine = Engine::start(&Config::to(sink.address).line("spool", "body_memory_bytes = 0"));
    let api = Api::of(&engine);
    let pause = api.post("/v1/pauses", &json!({}));
    assert_eq!(engine.client().send("s@test.example", &["r@d.example"], &with_header(b"gone\r\n")).code, 250);
    let segments = engine.files("spool", |name| name.ends_with(".log"));
    assert!(!segments.is_empty());
    segments.iter().for_each(|segment| std::fs::remove_file(segment).unwrap());
    api.remove(pause["id"].as_str().unwrap());
    let failed = engine.await_records("TransientFailure", 1);
    assert_eq!((failed[0].code(), failed[0].recipient()), (451, "r@d.example"));
    assert_eq!(sink.count(), 0);
    engine.kill();
}
