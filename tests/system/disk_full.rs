//! A file system that fills up: mail is refused while there is no room, none that was taken is lost, and everything
//! goes on when there is room again.

use crate::support::ledger::Receipts;
use crate::support::mail::Handed;
use crate::support::mounts::{in_private_mounts, mount_small};
use crate::support::ports::free_address;
use crate::support::{Api, Config, Engine, Features, Sink, until};
use std::path::Path;

const MEBIBYTES: u64 = 40;

/// An engine that is not started, on a small disk of which a good part is taken by something else.
fn on_a_small_disk(config: &Config) -> Engine {
    let engine = Engine::prepare(config);
    mount_small(&engine.data(), &engine.path("image"), MEBIBYTES);
    fill(&engine.data().join("ballast"), 20 << 20);
    engine
}

/// A file of at most so many octets, fewer when the disk is full. Gives how many.
fn fill(path: &Path, octets: u64) -> u64 {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    let block = vec![7; 64 << 10];
    let mut written = 0;
    while written < octets && file.write_all(&block).is_ok() {
        written += block.len() as u64;
    }
    let _ = file.sync_all();
    written
}

/// Fills the disk by mail that waits, and goes on for a while when it is refused.
fn hand_in_until_full(engine: &Engine) -> Handed {
    let (mut handed, mut client) = (Handed::default(), engine.client());
    until("mail is refused", || handed.hand(&mut client, 100_000) != 250);
    for _ in 0..20 {
        handed.hand(&mut client, 100_000);
        handed.hand(&mut client, 10);
    }
    assert!(handed.taken.count() > 20, "{} taken before it was full", handed.taken.count());
    let rules = Api::of(engine).try_call("GET", "/v1/rules", None).unwrap();
    assert_eq!(rules.status, 200, "the control side lives: {}", rules.text);
    handed
}

/// There is room again, and the destination is there: mail is taken as before, and all of it arrives.
fn make_room(engine: &Engine, mut handed: Handed) {
    std::fs::remove_file(engine.data().join("ballast")).unwrap();
    let mut client = engine.client();
    until("mail is taken again", || handed.hand(&mut client, 10) == 250);
    let sink = Sink::start(Features::default());
    let receipts = Receipts::of(&sink);
    engine.configure(&Config::to(sink.address));
    engine.reload();
    handed.assert_arrived(engine, &receipts);
}

#[test]
fn a_disk_that_is_full_refuses_mail_and_loses_none() {
    if !in_private_mounts("disk_full::a_disk_that_is_full_refuses_mail_and_loses_none") {
        return;
    }
    let config = Config::to(free_address()).line("spool", "min_free_bytes = 0");
    let mut engine = on_a_small_disk(&config);
    engine.run();
    let handed = hand_in_until_full(&engine);
    let said = engine.stderr();
    assert!(said.contains("new mail is refused: spool") && said.contains("full"), "it says why: {said}");
    make_room(&engine, handed);
    assert!(engine.stderr().contains("is written again, new mail is taken"), "and when it is over");
    assert!(engine.stop().success());
}

#[test]
fn mail_is_refused_before_the_disk_is_full() {
    if !in_private_mounts("disk_full::mail_is_refused_before_the_disk_is_full") {
        return;
    }
    let config = Config::to(free_address()).line("spool", "min_free_bytes = 6291456");
    let mut engine = on_a_small_disk(&config);
    engine.run();
    let handed = hand_in_until_full(&engine);
    assert!(!engine.stderr().contains("cannot be written"), "no write has failed");
    make_room(&engine, handed);
    assert!(engine.stop().success());
}

#[test]
fn an_engine_started_on_a_full_disk_keeps_its_mail() {
    if !in_private_mounts("disk_full::an_engine_started_on_a_full_disk_keeps_its_mail") {
        return;
    }
    let config = Config::to(free_address()).line("spool", "min_free_bytes = 0");
    let mut engine = on_a_small_disk(&config);
    engine.run();
    let (mut handed, mut client) = (Handed::default(), engine.client());
    (0..30).for_each(|_| assert_eq!(handed.hand(&mut client, 1000), 250));
    engine.kill();
    fill(&engine.data().join("more"), u64::MAX);
    fill(&engine.data().join("a little more"), 1 << 16);
    // What recovery gives back of the old segments may be room enough to start.
    if let Some(said) = engine.try_run() {
        assert!(said.contains("No space left") || said.contains("disk is full"), "{said}");
        std::fs::remove_file(engine.data().join("more")).unwrap();
        engine.run();
    }
    make_room(&engine, handed);
    assert!(engine.stop().success());
}
