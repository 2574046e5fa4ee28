//! What each hot path of the engine executes for one operation, and what it allocates: `cargo bench -p mailrace-shards --bench
//! counts`. The figures in `counts.tsv` are those of the last commit that changed them.

#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panic")]

mod counted;
#[path = "counts/delivery.rs"]
mod delivery;

use counted::Case;
use mailrace_shards::event::{Mail, Post};
use mailrace_shards::message::{Body, ContentFlags, CoreId, Envelope, Extras, Location, MessageId};
use mailrace_shards::outcome::{Carrier, Outcome, RecordType, Response, Verb};
use mailrace_shards::queue::{Due, NewEntry, Queue};
use mailrace_shards::rules::{
    BucketFacts, Facts, HashKey, Kind, MessageFacts, Moment, PathFacts, Rule, RuleTable, Scope, Update, Validity,
};
use mailrace_shards::runtime::mailbox::mailboxes;
use mailrace_shards::runtime::outcome_line::Lines;
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::client::{ClientConfig, ClientEvent, Session, Transaction};
use mailrace_shards::smtp::reply::ReplyReader;
use mailrace_shards::spool::envelope;
use mailrace_shards::spool::record::{
    HEADER_BYTES, Kind as RecordKind, Mark, begin_head, decode_head, end_head, put_trailer,
};
use mailrace_shards::time::{Instant, Timestamp};
use smallvec::smallvec;
use std::hint::black_box;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

const NOW: Timestamp = Timestamp(1_800_000_000_000);
const MANY: u64 = 1_000;

const CASES: &[Case] = &[
    Case { name: "reply: parse four, pipelined", operations: MANY, ready: replies },
    Case { name: "verdict: 10,000 rules, three tags", operations: MANY, ready: || verdict(false) },
    Case { name: "verdict: the same, its bucket's answer kept", operations: MANY, ready: || verdict(true) },
    Case { name: "pick: into the queue, taken, out of it", operations: MANY, ready: pick },
    Case { name: "due heap: one of 100,000 becomes due, waits again", operations: MANY, ready: due },
    Case { name: "spool: record of 4 KiB with its checksums", operations: MANY, ready: || spool(4_096) },
    Case { name: "spool: read a record's head", operations: MANY, ready: spool_read },
    Case { name: "SMTP client: a message of 4 KiB", operations: MANY, ready: || client(false) },
    Case { name: "SMTP client: the same, each line dot-stuffed", operations: MANY, ready: || client(true) },
    Case { name: "mailbox: one of 16 letters to another core", operations: MANY * 16, ready: mailbox },
    Case { name: "log: record of a delivery as a line", operations: MANY, ready: log },
    Case { name: "brain: posted, picked, delivered, recorded", operations: MANY, ready: delivery::cached },
    Case { name: "brain: accepted, stored, posted to another core", operations: MANY, ready: delivery::accepted },
];

fn main() -> ExitCode {
    counted::main(CASES, Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/counts.tsv")))
}

fn envelope_of(number: u64, size: u32, dot_lines: bool) -> Envelope {
    let id = MessageId { generation: 1, core: 0, sequence: number };
    let flags = ContentFlags { dot_lines, ..ContentFlags::default() };
    let recipient = format!("somebody.or.other@d{}.example", number % 100);
    Envelope::new(id, NOW, size, flags, "bounces+17@sender.example", &[recipient], None)
}

fn replies() -> Box<dyn FnMut()> {
    let octets = b"250 2.0.0 Ok: queued as 4bXyz12345z9Qp\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 End data with <CR><LF>.<CR><LF>\r\n";
    let mut reader = ReplyReader::default();
    Box::new(move || {
        for _ in 0..MANY {
            let mut input = black_box(&octets[..]);
            while let Some(reply) = reader.next(&mut input) {
                black_box(reply.unwrap().code);
            }
        }
    })
}

fn verdict(keeps_bucket: bool) -> Box<dyn FnMut()> {
    let key = HashKey(3, 4);
    let mut table = RuleTable::new(key);
    for n in 0..10_000_u64 {
        let text = |prefix: &str| Some(format!("{prefix}{n}").into());
        let scope = match n % 4 {
            0 => Scope { domain: text("d"), ..Scope::default() },
            1 => Scope { tag: text("tag"), ..Scope::default() },
            2 => Scope { domain: text("d"), tag: text("tag"), ..Scope::default() },
            _ => Scope { campaign: text("campaign"), tenant: text("tenant"), ..Scope::default() },
        };
        let rule = Rule {
            id: format!("{n:032x}").into(),
            order: n,
            kind: Kind::Pause,
            scope,
            validity: Validity::until(Timestamp(NOW.0 + 3_600_000)),
            by: "bench".into(),
        };
        let change = mailrace_shards::rules::Change::Put(Arc::new(rule));
        table.apply(Update { after: n, epoch: n + 1, changes: vec![change] }, NOW).unwrap();
    }
    let tags: Vec<Box<str>> = ["newsletter", "spring", "customer-17"].map(Into::into).to_vec();
    let tag_hashes = key.tags(&tags);
    Box::new(move || {
        let bucket = BucketFacts {
            domain: "customer.example",
            routing_domain: None,
            campaign: Some("spring-2026"),
            tenant: Some("tenant"),
            pool: Some("default"),
            queue: "spring-2026:tenant@customer.example",
        };
        let message = MessageFacts { address: "somebody@customer.example", tags: &tags, tag_hashes: &tag_hashes };
        let facts = Facts { bucket, message: Some(message), path: PathFacts::default() };
        let kept = table.bucket(&facts.bucket, NOW);
        for _ in 0..MANY {
            let facts = black_box(&facts);
            let verdict = match keeps_bucket {
                true => table.complete(&kept, facts, Moment::Attempt, NOW),
                false => table.verdict(facts, Moment::Attempt, NOW),
            };
            assert!(black_box(verdict.passes()));
        }
    })
}

fn entry(envelope: &Arc<Envelope>, due: Option<Timestamp>) -> NewEntry {
    NewEntry {
        envelope: envelope.clone(),
        recipients: smallvec![0],
        location: Location { spool: 0, segment: 1, offset: 0, length: 4_096 },
        body: None,
        attempts: 0,
        due,
        expires: Timestamp(NOW.0 + 86_400_000),
        maybe_delivered: false,
    }
}

/// Beside 1,000 others that stay, in a hundred destinations.
fn pick() -> Box<dyn FnMut()> {
    let mut queue = Queue::default();
    let envelopes: Vec<_> = (0..MANY).map(|n| Arc::new(envelope_of(n, 4_096, false))).collect();
    for envelope in &envelopes {
        queue.insert(entry(envelope, None), NOW);
    }
    Box::new(move || {
        for envelope in &envelopes {
            let inserted = queue.insert(entry(envelope, None), NOW);
            let destination = queue.destination_of(queue.entry(inserted).bucket);
            let (_, next) = queue.next(destination, |_, _| true).unwrap();
            queue.take(next);
            black_box(queue.remove(next));
        }
    })
}

fn due() -> Box<dyn FnMut()> {
    const WAITING: i64 = 100_000;
    let mut queue = Queue::default();
    for n in 0..WAITING {
        let envelope = Arc::new(envelope_of(n.unsigned_abs(), 4_096, false));
        queue.insert(entry(&envelope, Some(Timestamp(NOW.0 + 1 + n * 7_919 % WAITING))), NOW);
    }
    let mut at = NOW.0;
    Box::new(move || {
        for _ in 0..MANY {
            at += 1;
            while let Some(found) = queue.pop_due(Timestamp(at)) {
                let Due::Ready(id) = found else { panic!("nothing expires") };
                queue.take(id);
                queue.defer(id, Timestamp(at + WAITING));
            }
        }
    })
}

const MARK: Mark = Mark(0x1234_5678_9abc_def0);

fn encode(envelope: &Envelope, body: &[u8], out: &mut Vec<u8>) {
    let start = begin_head(out);
    envelope::encode(envelope, out);
    end_head(out, start, MARK, RecordKind::Message, envelope.id(), u32::try_from(body.len()).unwrap());
    put_trailer(out, envelope.id(), body);
}

fn spool(size: usize) -> Box<dyn FnMut()> {
    let (envelope, body) = (envelope_of(1, 4_096, false), vec![b'x'; size]);
    let mut out = Vec::new();
    Box::new(move || {
        for _ in 0..MANY {
            out.clear();
            encode(black_box(&envelope), black_box(&body), &mut out);
            black_box(out.len());
        }
    })
}

fn spool_read() -> Box<dyn FnMut()> {
    let mut out = Vec::new();
    encode(&envelope_of(1, 0, false), b"", &mut out);
    Box::new(move || {
        for _ in 0..MANY {
            let header = decode_head(black_box(&out), MARK).unwrap();
            black_box(envelope::decode(header.id, &out[HEADER_BYTES..header.head_bytes()]).unwrap());
        }
    })
}

/// On a connection that stays, pipelined: two round trips.
fn client(dots: bool) -> Box<dyn FnMut()> {
    let line: &[u8] = if dots {
        b".dot-stuffed lines of a message, as many as there can be in it, octets\r\n"
    } else {
        b"plain lines of a message, none of which begins with a dot, seventy oct\r\n"
    };
    let body = Body::from(line.iter().cycle().take(line.len() * 56).copied().collect::<Vec<u8>>());
    let envelope = Arc::new(envelope_of(1, u32::try_from(body.len()).unwrap(), dots));
    let config = ClientConfig {
        ehlo: Arc::from("me.example"),
        host: Arc::from("mx.example"),
        tls: TlsPolicy::Disabled,
        pipelined_chunks: 4,
    };
    let now = Instant(0);
    let (mut out, mut marks) = (Vec::with_capacity(65_536), Vec::with_capacity(8));
    let mut session = Session::new(config, now);
    session.handle_bytes(b"220 hello\r\n", now);
    session.fill(&mut out, 60_000, &mut marks, now);
    session.handle_bytes(b"250-mx\r\n250 PIPELINING\r\n", now);
    assert!(matches!(session.poll_event(), Some(ClientEvent::Ready(_))));
    let mut token = 0;
    Box::new(move || {
        for _ in 0..MANY {
            token += 1;
            let transaction =
                Transaction { token, envelope: envelope.clone(), recipients: smallvec![0], body: body.clone() };
            session.submit(transaction, now);
            for replies in [&b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go\r\n"[..], b"250 2.0.0 queued as 12345\r\n"] {
                out.clear();
                marks.clear();
                session.fill(&mut out, 60_000, &mut marks, now);
                for mark in &marks {
                    session.handle_end_of_data_sent(mark.token, now);
                }
                session.handle_bytes(replies, now);
            }
            assert!(matches!(session.poll_event(), Some(ClientEvent::Finished { .. })));
        }
    })
}

fn letter(envelope: &Arc<Envelope>, number: u64) -> Mail {
    Mail::Post(Post {
        envelope: envelope.clone(),
        recipients: smallvec![0],
        location: Location { spool: 0, segment: 1, offset: number, length: envelope.size() },
        body: Some(Body::from_static(b"hi\r\n")),
        attempts: 0,
        due: None,
        maybe_delivered: false,
    })
}

fn mailbox() -> Box<dyn FnMut()> {
    let (postbox, boxes) = mailboxes(2);
    let envelope = Arc::new(envelope_of(1, 4, false));
    Box::new(move || {
        for _ in 0..MANY {
            let mut batch: Vec<Mail> = (0..16).map(|number| letter(&envelope, number)).collect();
            postbox.mail(CoreId(0), CoreId(1), &mut batch);
            let (from, mail) = boxes[1].next_mail().expect("it was sent");
            assert_eq!(black_box(mail).len(), 16);
            boxes[1].handled(from, 16);
        }
    })
}

fn log() -> Box<dyn FnMut()> {
    let extras = Extras {
        tags: vec!["newsletter".into(), "spring".into()],
        campaign: Some("spring-2026".into()),
        tenant: Some("tenant-17".into()),
        ..Extras::default()
    };
    let id = MessageId { generation: 1_800_000_000, core: 3, sequence: 77 };
    let recipients = ["somebody.or.other@customer.example"];
    let flags = ContentFlags::default();
    let envelope =
        Envelope::new(id, NOW, 4_096, flags, "bounces+17@sender.example", &recipients, Some(Box::new(extras)));
    let carrier = Carrier {
        session: 77,
        site: "mx1.customer.example".into(),
        peer_name: "mx1.customer.example".into(),
        peer: Some(([203, 0, 113, 7], 25).into()),
        pool: Some("default".into()),
        ..Carrier::default()
    };
    let outcome = Outcome {
        kind: RecordType::Delivery,
        envelope: Arc::new(envelope),
        recipient: Some(0),
        queue: "spring-2026:tenant-17@customer.example".into(),
        at: Timestamp(NOW.0 + 1_234),
        attempts: 1,
        response: Response {
            code: 250,
            enhanced: None,
            text: "2.0.0 Ok: queued as 4bXyz12345z9Qp".into(),
            verb: Verb::EndOfData,
        },
        carrier: Some(Arc::new(carrier)),
        reception_protocol: None,
        rule: None,
        maybe_delivered: false,
        unlogged: false,
    };
    let mut out = Vec::new();
    let mut lines = Lines::new("7d3e5c1a-0000-4000-8000-000000000001");
    Box::new(move || {
        for _ in 0..MANY {
            out.clear();
            lines.put(&mut out, black_box(&outcome));
            black_box(out.len());
        }
    })
}
