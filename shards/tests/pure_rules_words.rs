//! What the rules say in words of what they refuse: it is read by whoever made the rule, or runs the engine.

#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use mailrace_shards::limits::RULE_SPANS_MAX;
use mailrace_shards::rules::{Answer, EpochGap, Span, Validity};
use mailrace_shards::time::Timestamp;

#[test]
fn answers_outside_the_codes_of_smtp_are_named() {
    assert_eq!(Answer::new(199, None, "no".into()).unwrap_err().to_string(), "code 199 is not between 200 and 599");
    assert_eq!(Answer::new(600, None, "no".into()).unwrap_err().to_string(), "code 600 is not between 200 and 599");
}

#[test]
fn bad_spans_are_named() {
    let span = Span { start: Timestamp(7), end: Timestamp(7) };
    let empty = Validity::windows(&[span], Timestamp::NEVER).unwrap_err();
    assert_eq!(empty.to_string(), "the span from 7 to 7 is empty");
    let spans: Vec<Span> =
        (0..=RULE_SPANS_MAX as i64).map(|at| Span { start: Timestamp(3 * at), end: Timestamp(3 * at + 1) }).collect();
    assert!(Validity::windows(&spans[1..], Timestamp::NEVER).is_ok());
    let many = Validity::windows(&spans, Timestamp::NEVER).unwrap_err();
    assert_eq!(many.to_string(), format!("{} spans, at most {RULE_SPANS_MAX}", RULE_SPANS_MAX + 1));
}

#[test]
fn an_update_out_of_turn_is_named() {
    let gap = EpochGap { at: 3, after: 5, epoch: 6 };
    assert_eq!(gap.to_string(), "rule update 6 follows 5, but this core is at 3");
}
