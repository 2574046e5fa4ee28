//! The board without threads: what is on its way, and what callers are told.

use super::{Board, Link};
use crate::cluster::fence::Gate;
use crate::cluster::waiting::{Member, Word};
use crate::rules::authority::Failure;
use crate::rules::change::{Changed, Refused};
use futures_lite::future::{block_on, poll_once};
use mailrace_shards::runtime::reply::{Reply, reply};
use std::time::Duration;

type Told = Reply<Result<Changed, Failure>>;

fn board() -> Board {
    Board::new("a".into(), Gate::new(false, Duration::ZERO, true), 10)
}

fn created(created: u64) -> Changed {
    Changed { created, ..Changed::default() }
}

fn call(board: &Board, local: bool) -> (u64, Told) {
    let (replier, told) = reply();
    let call = board.with(|state| state.call(local, replier));
    assert!(board.with(|state| state.take_up(call)));
    (call, told)
}

fn told(told: &mut Told) -> Option<Result<Changed, Failure>> {
    block_on(poll_once(told)).map(|said| said.expect("whoever waits is told"))
}

/// Another node that is there, with this in force.
fn other(board: &Board, applied: i64) {
    board.change(|state| {
        let member = Member { uuid: "ub".into(), running: true, delivers_when_lost: true };
        state.waiting.announced(&"b".into(), Some(member));
        state.waiting.said(&"b".into(), Some(Word { uuid: "ub".into(), run: "".into(), applied }));
    });
}

#[test]
fn everything_up_to_a_revision_is_in_force_when_all_before_it_are() {
    let board = board();
    let own = || board.with(|state| state.waiting.own());
    board.change(|state| state.begin(12, 1));
    board.change(|state| state.begin(15, 1));
    board.change(|state| state.saw(16));
    assert_eq!(own(), 11);
    board.change(|state| state.end(15, Ok(created(1))));
    assert_eq!(own(), 11, "an earlier one is still on its way");
    board.change(|state| state.end(12, Ok(created(1))));
    assert_eq!(own(), 16);
}

#[test]
fn nothing_after_a_revision_that_could_not_be_stored_counts() {
    let board = board();
    board.change(|state| state.begin(12, 1));
    board.change(|state| state.begin(13, 1));
    let refused = Refused { field: "", text: "gap".to_owned() };
    board.change(|state| state.end(12, Err(Failure::Unavailable("disk full".to_owned()))));
    assert!(board.with(|state| state.is_broken() && state.broken().is_none() && !state.has_room()));
    board.change(|state| state.end(13, Err(Failure::Refused(refused))));
    assert_eq!(
        board.with(|state| state.broken()).as_deref(),
        Some("disk full"),
        "the cause, not what followed from it"
    );
    board.change(|state| state.saw(20));
    assert_eq!(board.with(|state| state.waiting.own()), 10);
    board.change(|state| state.resume(11));
    board.change(|state| state.begin(12, 1));
    board.change(|state| state.end(12, Ok(created(1))));
    assert_eq!(board.with(|state| state.waiting.own()), 12);
}

#[test]
fn a_caller_is_told_what_came_of_the_change_here_whenever_that_is_known() {
    let board = board();
    other(&board, 10);
    // It is in force everywhere before the one who wrote it hears of its revision.
    let (first, mut hears) = call(&board, false);
    board.change(|state| state.begin(12, 1));
    board.change(|state| state.end(12, Ok(created(7))));
    other(&board, 12);
    assert!(told(&mut hears).is_none());
    board.change(|state| state.stored(first, vec![12], created(0)));
    assert_eq!(told(&mut hears).unwrap().unwrap().created, 7);
    // One that was written in two parts is the sum of both.
    let (second, mut hears) = call(&board, true);
    board.change(|state| state.stored(second, vec![13, 14], created(0)));
    for revision in [13, 14] {
        board.change(|state| state.begin(revision, 1));
        assert!(told(&mut hears).is_none());
        board.change(|state| state.end(revision, Ok(created(2))));
    }
    let changed = told(&mut hears).unwrap().unwrap();
    assert_eq!((changed.created, changed.pending.join(" ")), (4, "b".to_owned()), "who waited for this node only");
}

#[test]
fn what_is_so_already_is_answered_when_it_is_so_everywhere() {
    let board = board();
    other(&board, 10);
    // A removal that was answered as pending, and is asked for again.
    board.change(|state| state.begin(12, 1));
    board.change(|state| state.end(12, Ok(created(7))));
    let (again, mut hears) = call(&board, false);
    board.change(|state| state.found_so(again, created(0)));
    assert!(told(&mut hears).is_none(), "what made it so is not in force everywhere");
    other(&board, 12);
    assert_eq!(told(&mut hears).unwrap().unwrap().created, 0, "what another call made is not told of this one");
    let (late, _told) = call(&board, false);
    board.change(|state| state.begin(14, 1));
    board.change(|state| state.end(14, Ok(created(1))));
    board.change(|state| state.found_so(late, created(0)));
    match board.with(|state| state.give_up(late)) {
        Some(Failure::Pending(nodes, _)) => assert_eq!(nodes.join(" "), "b"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_waits_no_longer_is_told_how_far_it_came() {
    let board = board();
    other(&board, 10);
    let text = |failure: Option<Failure>| match failure {
        Some(Failure::Unavailable(text)) => text,
        other => panic!("{other:?}"),
    };
    let (replier, _told) = reply();
    let queued = board.with(|state| state.call(false, replier));
    assert!(text(board.with(|state| state.give_up(queued))).contains("nothing of this one is stored"));
    assert!(!board.with(|state| state.take_up(queued)), "nobody wants it any more");
    let (writing, _told) = call(&board, false);
    assert!(text(board.with(|state| state.give_up(writing))).contains("may be stored"));
    board.change(|state| state.stored(writing, vec![11], created(1)));
    let (stored, _told) = call(&board, false);
    board.change(|state| state.stored(stored, vec![12], created(1)));
    board.change(|state| state.begin(12, 1));
    board.change(|state| state.end(12, Ok(created(1))));
    match board.with(|state| state.give_up(stored)) {
        Some(Failure::Pending(nodes, changed)) => assert_eq!((nodes.join(" "), changed.created), ("b".to_owned(), 1)),
        other => panic!("{other:?}"),
    }
    assert!(board.with(|state| state.give_up(stored)).is_none(), "it is said once");
    assert_eq!(board.with(|state| state.calls()), 0);
}

#[test]
fn who_goes_away_leaves_no_call_behind() {
    let board = board();
    other(&board, 10);
    let (replier, told) = reply();
    let (call, asking) = board.asked(false, replier);
    assert!(board.with(|state| state.take_up(call)));
    board.change(|state| state.stored(call, vec![11], created(1)));
    assert_eq!(board.with(|state| state.calls()), 1, "it waits for the other node");
    // As the task of a client that has closed its connection is: nothing says so but the end of what it kept.
    drop((told, asking));
    assert_eq!(board.with(|state| state.calls()), 0);
}

#[test]
fn a_link_is_so_since_it_became_so() {
    let board = board();
    let since = |why: &str| {
        board.change(|state| {
            state.set_link(Link::CutOff(why.to_owned()));
            state.since
        })
    };
    let first = since("refused");
    std::thread::park_timeout(Duration::from_millis(5));
    assert_eq!(since("timed out"), first, "each try may fail in its own way");
    assert_eq!(board.with(|state| state.link.why().map(str::to_owned)).as_deref(), Some("timed out"));
}
