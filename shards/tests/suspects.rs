//! Messages over which the engine died twice in a row.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by a panic")]

use mailrace_shards::message::{CoreId, MessageId};
use mailrace_shards::runtime::suspects::{forget, note, take};
use std::path::PathBuf;

fn id(sequence: u64) -> MessageId {
    MessageId { generation: 7, core: 1, sequence }
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mailrace-suspects-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[test]
fn what_was_in_flight_at_two_ends_in_a_row_is_quarantined() {
    let root = directory("twice");
    assert!(take(&root).unwrap().is_empty(), "nothing has happened");
    note(&root, CoreId(0), &[id(1), id(2)]).unwrap();
    note(&root, CoreId(1), &[id(3)]).unwrap();
    assert!(take(&root).unwrap().is_empty(), "once is no proof");
    note(&root, CoreId(1), &[id(2), id(4)]).unwrap();
    let quarantine = take(&root).unwrap();
    assert_eq!(quarantine.into_iter().collect::<Vec<_>>(), [id(2)]);
    std::fs::remove_dir_all(root).unwrap();
}

#[test]
fn an_end_between_that_was_none_clears_the_suspicion() {
    for orderly in [true, false] {
        let root = directory(if orderly { "stop" } else { "cut" });
        note(&root, CoreId(0), &[id(1)]).unwrap();
        assert!(take(&root).unwrap().is_empty());
        if orderly {
            forget(&root).unwrap();
        } else {
            // Killed from outside: the next start finds nothing in flight.
            assert!(take(&root).unwrap().is_empty());
        }
        note(&root, CoreId(0), &[id(1)]).unwrap();
        assert!(take(&root).unwrap().is_empty(), "orderly: {orderly}");
        std::fs::remove_dir_all(root).unwrap();
    }
}

#[test]
fn rubbish_in_the_files_is_passed_over() {
    let root = directory("rubbish");
    std::fs::write(root.join("suspects"), format!("{}\nabc\n{}", id(1), &id(2).to_string()[..20])).unwrap();
    std::fs::write(root.join("in-flight-000"), [id(1).to_string(), id(2).to_string()].join("\n")).unwrap();
    assert_eq!(take(&root).unwrap().into_iter().collect::<Vec<_>>(), [id(1)]);
    std::fs::remove_dir_all(root).unwrap();
}
