//! What the spool does with each message beside writing it: the record's head with its envelope, the checksums over
//! head and body, and reading the head again as a start does.

use divan::{Bencher, black_box, counter::BytesCount};
use mailrace_shards::message::{ContentFlags, Envelope, Extras, MessageId};
use mailrace_shards::spool::envelope;
use mailrace_shards::spool::record::{HEADER_BYTES, Kind, Mark, begin_head, decode_head, end_head, put_trailer};
use mailrace_shards::time::Timestamp;

const MARK: Mark = Mark(0x1234_5678_9abc_def0);

fn main() {
    divan::main();
}

fn given(size: u32) -> Envelope {
    let id = MessageId { generation: 1_800_000_000, core: 3, sequence: 77 };
    let extras = Extras {
        tags: vec!["newsletter".into(), "spring".into()],
        campaign: Some("spring-2026".into()),
        tenant: Some("tenant-17".into()),
        ..Extras::default()
    };
    let recipients = ["somebody.or.other@customer.example"];
    let (sender, received) = ("bounces+17@sender.example", Timestamp(1_800_000_000_000));
    Envelope::new(id, received, size, ContentFlags::default(), sender, &recipients, Some(Box::new(extras)))
}

fn encode(envelope: &Envelope, body: &[u8], out: &mut Vec<u8>) {
    let start = begin_head(out);
    envelope::encode(envelope, out);
    let length = u32::try_from(body.len()).expect("a small body");
    end_head(out, start, MARK, Kind::Message, envelope.id(), length);
    put_trailer(out, envelope.id(), body);
}

/// A whole record: nearly all of it is the checksum of the body.
#[divan::bench(args = [0, 4096, 65_536])]
fn write(bencher: Bencher<'_, '_>, size: usize) {
    let (envelope, body) = (given(u32::try_from(size).expect("a small body")), vec![b'x'; size]);
    let mut out = Vec::new();
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        out.clear();
        encode(black_box(&envelope), black_box(&body), &mut out);
        out.len()
    });
}

/// The head and its envelope, which is all that a start reads of a message.
#[divan::bench]
fn read(bencher: Bencher<'_, '_>) {
    let mut out = Vec::new();
    encode(&given(0), b"", &mut out);
    bencher.bench_local(|| {
        let header = decode_head(black_box(&out), MARK).expect("it was just written");
        let meta = HEADER_BYTES..header.head_bytes();
        envelope::decode(header.id, &out[meta]).expect("it was just written")
    });
}
