//! The corpus of spool directories, made by a spool: so it is always of the formats that the program writes.
//!
//! After a wanted change of a format run with `UPDATE_EXPECTED=1`.

use mailrace_shards::message::{Body, ContentFlags, Envelope, Extras, MessageId};
use mailrace_shards::spool::disk::Disk;
use mailrace_shards::spool::journal::{Journal, JournalOptions};
use mailrace_shards::spool::memory_disk::{Fault, MemoryDisk};
use mailrace_shards::spool::recover::open;
use mailrace_shards::spool::report::{Progress, Standing};
use mailrace_shards::time::Timestamp;
use smallvec::smallvec;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

fn start(disk: &MemoryDisk, segment_bytes: u64, slack_bytes: u64) -> Journal<MemoryDisk> {
    let options = JournalOptions { segment_bytes, slack_bytes, ..JournalOptions::new(true, 7) };
    open(disk.clone(), 2, options).unwrap().0
}

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 3, core: 2, sequence }
}

fn store(journal: &mut Journal<MemoryDisk>, sequence: u64, extras: Option<Box<Extras>>) {
    let recipients = ["a@d.example", "b@d.example"];
    let body = Body::from_static(b"Subject: x\r\n\r\n.text\r\n");
    let flags = ContentFlags { dot_lines: true, ..ContentFlags::default() };
    let size = u32::try_from(body.len()).unwrap();
    let envelope = Envelope::new(id(sequence), Timestamp(1), size, flags, "s@o.example", &recipients, extras);
    journal.store(sequence, Arc::new(envelope), body, &mut Vec::new());
}

fn tell(journal: &mut Journal<MemoryDisk>) {
    let standing = Standing { attempts: 2, due: Timestamp(99), maybe_delivered: true };
    journal.progress(Progress::Attempt { id: id(1), recipients: smallvec![1], standing });
    journal.progress(Progress::Done { id: id(1), recipients: smallvec![0] });
    journal.progress(Progress::Done { id: id(2), recipients: smallvec![0, 1] });
}

fn commit(journal: &mut Journal<MemoryDisk>) {
    journal.commit(true, &mut Vec::new());
}

/// Every file, as `spool::check` takes them apart.
fn packed(disk: &MemoryDisk) -> Vec<u8> {
    let mut names = disk.list().unwrap();
    names.sort();
    let mut out = Vec::new();
    for name in names {
        let (number, ending) = name.strip_prefix("segment-").unwrap().split_once('.').unwrap();
        let mut content = disk.content(&name).unwrap();
        // Of the room that is reserved ahead, a little is as good as all.
        let written = content.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
        content.truncate(written + 24);
        out.push(u8::from(ending == "idx"));
        out.push(number.parse().unwrap());
        out.extend_from_slice(&u16::try_from(content.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&content);
    }
    out
}

fn directories() -> Vec<(&'static str, Vec<u8>)> {
    let mut made = Vec::new();

    let disk = MemoryDisk::new();
    let mut journal = start(&disk, 1 << 16, 1 << 16);
    (1..=2).for_each(|sequence| store(&mut journal, sequence, None));
    commit(&mut journal);
    made.push(("two-messages", packed(&disk)));
    tell(&mut journal);
    commit(&mut journal);
    made.push(("two-messages-and-progress", packed(&disk)));
    journal.close(&mut Vec::new());
    made.push(("closed-in-order", packed(&disk)));

    let disk = MemoryDisk::new();
    let mut journal = start(&disk, 1 << 16, 1 << 16);
    let full = Extras {
        tags: vec!["spring".into()],
        campaign: Some("c".into()),
        tenant: Some("t".into()),
        routing_domain: Some("r.example".into()),
        pool: Some("p".into()),
        ips: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        smarthost: Some("h.example:25".into()),
        not_before: Some(Timestamp(5)),
        expires: Some(Timestamp(6)),
        max_attempts: Some(3),
        retries: vec![1, 2],
        meta: "{}".into(),
        ..Extras::default()
    };
    store(&mut journal, 1, Some(Box::new(full)));
    commit(&mut journal);
    made.push(("every-extra", packed(&disk)));

    let disk = MemoryDisk::new();
    let mut journal = start(&disk, 300, 1 << 16);
    for sequence in 1..=4 {
        store(&mut journal, sequence, None);
        commit(&mut journal);
    }
    tell(&mut journal);
    commit(&mut journal);
    made.push(("several-segments-with-indexes", packed(&disk)));
    drop(journal);
    let mut journal = start(&disk, 300, 0);
    (0..8).for_each(|_| journal.idle(&mut Vec::new()));
    commit(&mut journal);
    made.push(("compacted", packed(&disk)));

    let disk = MemoryDisk::new();
    let mut journal = start(&disk, 1 << 16, 1 << 16);
    store(&mut journal, 1, None);
    commit(&mut journal);
    disk.fail_at(disk.operations() + 1, Fault::Error(ErrorKind::Other));
    store(&mut journal, 2, None);
    commit(&mut journal);
    store(&mut journal, 3, None);
    commit(&mut journal);
    made.push(("cut-behind-a-failed-sync", packed(&disk)));
    made
}

#[test]
fn the_corpus_of_the_spool_is_what_the_spool_writes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/fuzz/spool");
    for (name, octets) in directories() {
        let path = directory.join(name);
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&path, &octets).unwrap();
        }
        assert!(std::fs::read(&path).unwrap() == octets, "{name} is of another format");
    }
}
