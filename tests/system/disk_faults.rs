//! A disk that fails, and files that are not what they were: a clear message, no false 250, no mail lost, and
//! everything goes on once it is repaired.

use crate::support::ledger::Receipts;
use crate::support::mail::Handed;
use crate::support::mounts::{SmallDisk, abort, in_private_mounts, mount_small, repair};
use crate::support::ports::free_address;
use crate::support::strace::strace;
use crate::support::{Api, Config, Engine, Features, Sink, until};
use serde_json::json;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

/// Mail that waits in a stopped engine.
fn waiting(count: usize) -> (Engine, Handed) {
    let mut engine = Engine::start(&Config::to(free_address()).shards(1));
    let (mut handed, mut client) = (Handed::default(), engine.client());
    (0..count).for_each(|_| assert_eq!(handed.hand(&mut client, 1000), 250));
    engine.await_records("Reception", count);
    assert!(engine.stop().success());
    (engine, handed)
}

/// The destination is there, and the engine runs.
fn deliver(engine: &mut Engine) -> (Sink, Receipts) {
    let sink = Sink::start(Features::default());
    let receipts = Receipts::of(&sink);
    engine.configure(&Config::to(sink.address).shards(1));
    engine.run();
    (sink, receipts)
}

/// The segment with the most in it.
fn segment(engine: &Engine) -> PathBuf {
    let segments = engine.files("spool", |name| name.ends_with(".log"));
    segments.into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_disk_that_goes_read_only_refuses_mail_and_keeps_what_it_has() {
    if !in_private_mounts("disk_faults::a_disk_that_goes_read_only_refuses_mail_and_keeps_what_it_has") {
        return;
    }
    let mut engine = Engine::prepare(&Config::to(free_address()).shards(1));
    let image = engine.path("image");
    if mount_small(&engine.data(), &image, 40) != SmallDisk::Ext4 {
        return eprintln!("SKIPPED: there is no loop device for a file system that can break");
    }
    engine.run();
    let (mut handed, mut client) = (Handed::default(), engine.client());
    (0..30).for_each(|_| assert_eq!(handed.hand(&mut client, 1000), 250));
    abort(&engine.data());
    until("mail is refused", || handed.hand(&mut client, 10) != 250);
    (0..20).for_each(|_| assert_ne!(handed.hand(&mut client, 1000), 250));
    let said = engine.stderr();
    assert!(said.contains("new mail is refused: spool 000 cannot be written"), "{said}");
    assert!(engine.is_running(), "it stays, and answers");
    let rules = Api::of(&engine).try_call("POST", "/v1/pauses", Some(&json!({"domain": "x.example"}))).unwrap();
    assert!((500..600).contains(&rules.status), "a rule that cannot be kept is not answered with 200: {rules:?}");
    engine.kill();
    let said = engine.try_run().expect("it does not start on a disk that cannot be written");
    assert!(said.contains("data") && (said.contains("Read-only") || said.contains("cannot be")), "{said}");
    repair(&engine.data(), &image);
    let (_sink, receipts) = deliver(&mut engine);
    handed.assert_arrived(&engine, &receipts);
    assert!(engine.stop().success());
}

/// Some calls of each thread fail, then the disk works again.
fn some_fail(call: &str, error: &str, first: u32) {
    let inject = format!("inject={call}:error={error}:when={first}..{}", first + 7);
    let trace = format!("trace={call}");
    let sink = Sink::start(Features::default());
    let receipts = Receipts::of(&sink);
    let mut engine = Engine::prepare(&Config::to(sink.address));
    let logs = ["delivery-000.jsonl", "delivery-001.jsonl"].map(|log| engine.data().join("log").join(log));
    let mut options = vec!["-o", "/dev/null", "-e", &trace, "-e", &inject];
    if call == "pwrite64" {
        // The rules' store writes so too, and begins with it.
        options.extend(logs.iter().flat_map(|log| ["-P", log.to_str().unwrap()]));
    }
    let Some(strace) = strace(&options) else { return };
    engine.under(strace);
    engine.run();
    let mut handed = Handed::default();
    // Each connection is on a core of the system's choice.
    for _ in 0..4 {
        let mut client = engine.client();
        for _ in 0..40 {
            handed.hand(&mut client, 100);
        }
    }
    let mut client = engine.client();
    until("mail is taken", || handed.hand(&mut client, 10) == 250);
    handed.assert_arrived(&engine, &receipts);
    let said = engine.stderr();
    let told =
        ["new mail is refused: spool", "delivery is stopped: the outcome log"].iter().any(|what| said.contains(what));
    assert!(told, "it was no silent failure: {said}");
    // What was refused does not rise again.
    engine.kill();
    engine.under(Vec::new());
    engine.run();
    handed.assert_arrived(&engine, &receipts);
    assert!(engine.stop().success());
}

#[test]
fn a_failed_write_or_sync_is_never_followed_by_250() {
    // The spool writes by pwritev, the outcome log by pwrite64.
    let cases = [("fdatasync", "EIO", 12), ("fdatasync", "ENOSPC", 8), ("pwritev", "EIO", 12), ("pwrite64", "EIO", 3)];
    let cases = cases.map(|(call, error, first)| std::thread::spawn(move || some_fail(call, error, first)));
    for case in cases {
        case.join().unwrap();
    }
}

#[test]
fn a_segment_that_is_cut_short_loses_only_what_was_cut() {
    let (mut engine, handed) = waiting(40);
    let segment = segment(&engine);
    let index = segment.with_extension("idx");
    let length = std::fs::metadata(&segment).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(length / 2).unwrap();
    let (sink, receipts) = deliver(&mut engine);
    until("what is left arrives", || sink.count() >= 15);
    let said = engine.stderr();
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(name) && said.contains("cut"), "it names the file: {said}");
    assert!(index.exists() || said.contains(name));
    assert!(receipts.counts().keys().all(|recipient| handed.taken.all().contains_key(recipient)));
    assert!(engine.stop().success());
}

#[test]
fn a_damaged_record_costs_one_message_and_is_reported() {
    for sealed in [true, false] {
        let (mut engine, handed) = waiting(40);
        let segment = segment(&engine);
        let mut octets = std::fs::read(&segment).unwrap();
        let last = octets.iter().rposition(|octet| *octet != 0).unwrap();
        // In a body: what stands before it is not read where there is an index.
        let head_end = octets[last / 2..].windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        octets[last / 2 + head_end + 8] ^= 0x20;
        std::fs::write(&segment, &octets).unwrap();
        if !sealed {
            // Then the whole segment is read at the start.
            std::fs::remove_file(segment.with_extension("idx")).unwrap();
        }
        let (sink, receipts) = deliver(&mut engine);
        until("the others arrive", || sink.count() >= 39);
        until("the damage is reported", || {
            let records = engine.records();
            engine.stderr().contains("damaged") || records.iter().any(|r| r.content().contains("body cannot be read"))
        });
        let arrived = receipts.counts();
        let missing = handed.taken.all().keys().filter(|recipient| !arrived.contains_key(*recipient)).count();
        assert_eq!(missing, 1, "sealed: {sealed}");
        assert!(engine.stop().success());
    }
}

#[test]
fn rules_that_cannot_be_read_stop_the_start() {
    let (mut engine, handed) = waiting(5);
    engine.run();
    Api::of(&engine).post("/v1/pauses", &json!({"domain": "d1.example"}));
    assert!(engine.stop().success());
    let path = engine.data().join("rules.db");
    let good = std::fs::read(&path).unwrap();
    let damaged: [&[u8]; 3] =
        [b"not a database at all, but long enough to look like one", &good[..good.len() / 2], &[0; 8192]];
    for bad in damaged {
        std::fs::write(&path, bad).unwrap();
        let said = engine.try_run().expect("nothing is delivered without rules");
        assert!(said.contains("rules.db"), "{said}");
    }
    std::fs::remove_file(&path).unwrap();
    let said = engine.try_run().expect("nothing is delivered without rules");
    assert!(said.contains("rules.db is missing"), "{said}");
    std::fs::create_dir(&path).unwrap();
    let said = engine.try_run().expect("nothing is delivered without rules");
    assert!(said.contains("rules.db"), "{said}");
    std::fs::remove_dir(&path).unwrap();
    std::fs::write(&path, &good).unwrap();
    let (_sink, receipts) = deliver(&mut engine);
    let api = Api::of(&engine);
    assert_eq!(api.get("/v1/pauses").as_array().unwrap().len(), 1, "the rule is there again");
    api.delete("/v1/pauses", &json!({"domain": "d1.example"}));
    handed.assert_arrived(&engine, &receipts);
}

#[test]
fn missing_directories_are_made_and_what_is_in_their_place_is_named() {
    let (mut engine, handed) = waiting(5);
    std::fs::remove_dir_all(engine.data().join("log")).unwrap();
    std::fs::write(engine.data().join("log"), "a file").unwrap();
    let said = engine.try_run().expect("no outcome could be written");
    assert!(said.contains("data/log"), "{said}");
    std::fs::remove_file(engine.data().join("log")).unwrap();
    let (_sink, receipts) = deliver(&mut engine);
    until("all arrives", || receipts.counts().len() == handed.taken.count());
    engine.await_records("Delivery", 5);
}

#[test]
fn a_spool_that_is_removed_under_the_engine_takes_no_mail_into_nowhere() {
    let mut engine = Engine::start(&Config::to(free_address()).shards(1));
    let mut client = engine.client();
    (0..5).for_each(|_| assert_eq!(Handed::default().hand(&mut client, 10), 250));
    let spool = engine.data().join("spool/shard-000");
    std::fs::remove_dir_all(&spool).unwrap();
    let mut handed = Handed::default();
    (0..20).for_each(|_| assert_ne!(handed.hand(&mut client, 10), 250));
    assert!(engine.stderr().contains("somebody has removed the file"), "{}", engine.stderr());
    std::fs::create_dir(&spool).unwrap();
    until("mail is taken again", || handed.hand(&mut client, 10) == 250);
    engine.kill();
    let (_sink, receipts) = deliver(&mut engine);
    handed.assert_arrived(&engine, &receipts);
    assert!(engine.stop().success());
}

#[test]
fn a_spool_that_is_moved_away_under_the_engine_takes_no_mail_with_it() {
    let mut engine = Engine::start(&Config::to(free_address()).shards(1));
    let mut client = engine.client();
    let mut handed = Handed::default();
    (0..5).for_each(|_| assert_eq!(handed.hand(&mut client, 10), 250));
    let (spool, elsewhere) = (engine.data().join("spool/shard-000"), engine.data().join("spool/elsewhere"));
    std::fs::rename(&spool, &elsewhere).unwrap();
    (0..20).for_each(|_| assert_ne!(handed.hand(&mut client, 10), 250));
    assert!(engine.stderr().contains("moved its directory away"), "{}", engine.stderr());
    std::fs::rename(&elsewhere, &spool).unwrap();
    until("mail is taken again", || handed.hand(&mut client, 10) == 250);
    engine.kill();
    let (_sink, receipts) = deliver(&mut engine);
    handed.assert_arrived(&engine, &receipts);
    assert!(engine.stop().success());
}

#[test]
fn an_owner_who_is_not_the_user_is_named() {
    let (mut engine, handed) = waiting(5);
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    std::fs::set_permissions(engine.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut look = Command::new(nobody[0]);
    look.args(&nobody[1..]).args(["test", "-x"]).arg(engine.command().get_program());
    if !look.status().is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: the binary cannot be run as another user here");
    }
    engine.under(nobody.map(str::to_owned).to_vec());
    let said = engine.try_run().expect("the directory is not its own");
    assert!(said.contains("data") && said.contains("Permission denied"), "{said}");
    let given = Command::new("chown").args(["-R", "65534:65534"]).arg(engine.data()).status().unwrap();
    assert!(given.success());
    // One file that still is not its own.
    let spool = segment(&engine);
    std::os::unix::fs::chown(&spool, Some(0), Some(0)).unwrap();
    std::fs::set_permissions(&spool, std::fs::Permissions::from_mode(0o600)).unwrap();
    let said = engine.try_run().expect("mail that cannot be read is not passed over");
    assert!(said.contains(spool.file_name().unwrap().to_str().unwrap()) && said.contains("Permission"), "{said}");
    std::os::unix::fs::chown(&spool, Some(65534), Some(65534)).unwrap();
    let (_sink, receipts) = deliver(&mut engine);
    handed.assert_arrived(&engine, &receipts);
    assert!(engine.stop().success());
}
