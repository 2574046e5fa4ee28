//! SMTP smuggling: every pair of odd line ends round a dot, in the midst of a text whose rest reads as commands, sent to
//! the real listener by DATA and by BDAT. Such a text is refused or carried as data; it never becomes two messages, here
//! or at the next server: one that keeps every octet, and Postfix.

use crate::support::postfix::Postfix;
use crate::support::programs::SmtpSink;
use crate::support::{Client, Config, Engine, Features, Sink, until};
use std::collections::BTreeMap;

/// What somebody might take for the end of a line, and the one that is.
const ENDS: [&str; 15] = [
    "\r\n", "\n", "\r", "\n\r", "\r\r", "\n\n", "\r\r\n", "\r\n\n", "\r\n\r", "\r\0\n", "\0\r\n", "\0", "\u{b}",
    "\u{85}", "\u{2028}",
];

/// What stands behind the dot: a second message, for who takes the dot for an end.
const SMUGGLED: &str = "MAIL FROM:<smuggled@evil.example>\r\nRCPT TO:<victim@strict.example>\r\nDATA\r\n\
                        Subject: smuggled\r\n\r\nsmuggled\r\n";

/// How a text is sent.
#[derive(Clone, Copy, Debug)]
enum Way {
    Data,
    Chunk,
    /// A chunk's end before the dot and behind it.
    Chunks,
}

/// The text before the dot's line end, that line end with the dot, and the rest.
fn parts(before: &str, behind: &str) -> [String; 3] {
    ["Subject: x\r\n\r\nhonest".to_owned(), format!("{before}.{behind}"), SMUGGLED.to_owned()]
}

/// Whether the pair is what ends a message for everybody.
fn ends(before: &str, behind: &str) -> bool {
    before.ends_with("\r\n") && behind.starts_with("\r\n")
}

/// Whether the text holds nothing that must be refused.
fn is_canonical(text: &str) -> bool {
    let inner = text.replace("\r\n", "");
    !inner.contains(['\r', '\n', '\0'])
}

/// The replies to the text, in order. Whether it was one message is told by their number.
fn send(client: &mut Client, sender: &str, parts: &[String; 3], way: Way) -> Vec<u16> {
    assert_eq!(client.command(&format!("MAIL FROM:<{sender}> BODY=8BITMIME")).code, 250);
    for domain in ["keeps", "chunking", "plain"] {
        assert_eq!(client.command(&format!("RCPT TO:<r@{domain}.example>")).code, 250);
    }
    let text = parts.concat();
    let mut out = Vec::new();
    match way {
        Way::Data => {
            assert_eq!(client.command("DATA").code, 354);
            // The line that begins with the dot is meant to be one for us.
            out.extend_from_slice(text.as_bytes());
            out.extend_from_slice(b".\r\n");
        }
        Way::Chunk => {
            out.extend_from_slice(format!("BDAT {} LAST\r\n{text}", text.len()).as_bytes());
        }
        Way::Chunks => {
            for (number, part) in parts.iter().enumerate() {
                let last = if number == 2 { " LAST" } else { "" };
                out.extend_from_slice(format!("BDAT {}{last}\r\n{part}", part.len()).as_bytes());
            }
        }
    }
    // No other command is answered so.
    out.extend_from_slice(b"VRFY the-end\r\n");
    client.write(&out);
    let mut codes = Vec::new();
    loop {
        match client.reply().code {
            252 => return codes,
            code => codes.push(code),
        }
    }
}

/// What is sent of each case, by sender, and how it was answered.
fn inject(engine: &Engine) -> BTreeMap<String, Vec<u8>> {
    let mut accepted = BTreeMap::new();
    let mut refused = 0;
    for (row, before) in ENDS.iter().enumerate() {
        let mut client = engine.client();
        for (column, behind) in ENDS.iter().enumerate() {
            for way in [Way::Data, Way::Chunk, Way::Chunks] {
                let case = format!("{way:?} {before:?} . {behind:?}");
                if matches!(way, Way::Data) && ends(before, behind) {
                    continue;
                }
                let parts = parts(before, behind);
                let sender = format!("{way:?}-{row}-{column}@test.example").to_lowercase();
                let codes = send(&mut client, &sender, &parts, way);
                // A refused chunk is answered itself, and so is each behind it.
                let replies = if matches!(way, Way::Chunks) { 3 } else { 1 };
                assert_eq!(codes.len(), replies, "{case}: {codes:?}");
                let text = parts.concat();
                if is_canonical(&text) {
                    assert!(codes.iter().all(|code| *code == 250), "{case}: {codes:?}");
                    let dot = matches!(way, Way::Data).then(|| text.replace("\r\n.", "\r\n"));
                    accepted.insert(sender, dot.unwrap_or(text).into_bytes());
                } else {
                    assert!(codes.contains(&550) && !codes[codes.len() - 1..].contains(&250), "{case}: {codes:?}");
                    refused += 1;
                    client.command("RSET");
                }
            }
        }
        assert_eq!(client.command("QUIT").code, 221);
    }
    assert!(refused > 400 && accepted.len() > 40, "{refused} refused, {} taken", accepted.len());
    accepted
}

#[test]
fn no_pair_of_line_ends_round_a_dot_makes_two_messages_of_one() {
    let keeps = Sink::start(Features::default());
    let behind_postfix = Sink::start(Features::default());
    let postfix = Postfix::start(behind_postfix.address);
    // Without root Postfix' own test server has to do: it takes a bare LF for a line end, too.
    let instead = postfix.is_none().then(|| [SmtpSink::start(), SmtpSink::start()]);
    let (chunking, plain) = match (&postfix, &instead) {
        (Some(postfix), _) => (postfix.chunking, postfix.plain),
        (None, Some([chunking, plain])) => (chunking.address, plain.address),
        (None, None) => unreachable!("one or the other was started"),
    };
    let routes = [("keeps", keeps.address), ("chunking", chunking), ("plain", plain)];
    let config = routes
        .iter()
        .fold(Config::default(), |config, (name, address)| config.route(&format!("{name}.example"), *address));
    let engine = Engine::start(&config);
    let accepted = inject(&engine);

    let delivered = engine.await_records("Delivery", 3 * accepted.len());
    assert_eq!(delivered.len(), 3 * accepted.len());
    let messages = keeps.await_messages(accepted.len());
    assert_eq!(messages.len(), accepted.len());
    for message in &messages {
        let sent = &accepted[&message.sender];
        assert!(message.body() == sent, "{}: {}", message.sender, message.content.escape_ascii());
    }
    match &instead {
        Some(sinks) => sinks.iter().for_each(|sink| assert_eq!(sink.count(), accepted.len())),
        None => {
            until("Postfix has passed on what it took", || behind_postfix.count() >= 2 * accepted.len());
            let passed = behind_postfix.messages();
            assert_eq!(passed.len(), 2 * accepted.len(), "what was one message before Postfix is one behind it");
            for message in &passed {
                assert!(accepted.contains_key(&message.sender), "a message from {}", message.sender);
            }
        }
    }
    assert_eq!(engine.await_records("Reception", accepted.len()).len(), accepted.len());
}
