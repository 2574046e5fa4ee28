//! Windows against the calendar: midnight, weekdays, and both changes of the clocks.

use super::{Schedule, Window, differs};
use crate::json::parse;
use jiff::Timestamp as Moment;
use mailrace_shards::time::Timestamp;

fn at(text: &str) -> Timestamp {
    Timestamp(text.parse::<Moment>().unwrap().as_millisecond())
}

fn schedule(windows: &str) -> Schedule {
    let json = parse(format!("[{windows}]").as_bytes()).unwrap();
    let crate::json::Json::Array(windows) = json else { panic!() };
    Schedule {
        windows: windows.iter().map(|window| Window::from_json(window).unwrap()).collect(),
        ..Schedule::default()
    }
}

fn spans(schedule: &Schedule, now: &str, from: &str, to: &str) -> Vec<String> {
    let (from, to) = (at(from), at(to));
    let validity = schedule.validity(at(now));
    let inside = validity.spans().iter().filter(|span| span.end > from && span.start < to);
    let show = |at: Timestamp| Moment::from_millisecond(at.0).unwrap().strftime("%m-%dT%H:%M").to_string();
    inside.map(|span| format!("{} {}", show(span.start), show(span.end))).collect()
}

#[test]
fn windows_by_the_calendar() {
    let night = r#"{"days":["fri"],"from":"22:00","to":"08:00","tz":"Europe/Amsterdam"}"#;
    let cases: &[(&str, &str, &str, &str, &[&str])] = &[
        // 2026-03-06 is a Friday; the window belongs to it also after midnight.
        (night, "2026-03-05T12:00:00Z", "2026-03-05T00:00:00Z", "2026-03-10T00:00:00Z", &["03-06T21:00 03-07T07:00"]),
        // Begun the day before.
        (night, "2026-03-07T03:00:00Z", "2026-03-06T00:00:00Z", "2026-03-10T00:00:00Z", &["03-06T21:00 03-07T07:00"]),
        // Clocks go forward on 2026-03-29 at 02:00: Saturday night is nine hours long.
        (
            r#"{"days":["sat"],"from":"22:00","to":"08:00","tz":"Europe/Amsterdam"}"#,
            "2026-03-28T12:00:00Z",
            "2026-03-28T00:00:00Z",
            "2026-03-30T00:00:00Z",
            &["03-28T21:00 03-29T06:00"],
        ),
        // And back on 2026-10-25 at 03:00: half past two comes twice.
        (
            r#"{"from":"02:15","to":"02:45","tz":"Europe/Amsterdam"}"#,
            "2026-10-24T12:00:00Z",
            "2026-10-25T00:00:00Z",
            "2026-10-25T12:00:00Z",
            &["10-25T00:15 10-25T00:45", "10-25T01:15 10-25T01:45"],
        ),
        // Left out in spring.
        (
            r#"{"from":"02:15","to":"02:45","tz":"Europe/Amsterdam"}"#,
            "2026-03-28T12:00:00Z",
            "2026-03-29T00:00:00Z",
            "2026-03-29T12:00:00Z",
            &[],
        ),
        // Two windows that touch are one interval.
        (
            r#"{"days":["mon"],"from":"00:00","to":"12:00"},{"days":["mon"],"from":"12:00","to":"24:00"}"#,
            "2026-03-08T12:00:00Z",
            "2026-03-08T00:00:00Z",
            "2026-03-11T00:00:00Z",
            &["03-09T00:00 03-10T00:00"],
        ),
    ];
    for (windows, now, from, to, expected) in cases {
        assert_eq!(spans(&schedule(windows), now, from, to), *expected, "{windows} at {now}");
    }
}

#[test]
fn intervals_are_known_eight_days_ahead_and_end_with_the_rule() {
    let mut every_day = schedule(r#"{"from":"10:00","to":"11:00"}"#);
    for now in ["2026-03-01T00:00:00Z", "2026-03-01T23:59:59Z"] {
        let last = every_day.validity(at(now)).spans().last().unwrap().end;
        assert!(last.since(at(now)).as_secs() >= 8 * 86_400, "{now}");
    }
    every_day.start = Some(at("2026-03-03T10:30:00Z"));
    every_day.end = Some(at("2026-03-05T10:30:00Z"));
    assert_eq!(
        spans(&every_day, "2026-03-02T00:00:00Z", "2026-03-01T00:00:00Z", "2026-03-20T00:00:00Z"),
        ["03-03T10:30 03-03T11:00", "03-04T10:00 03-04T11:00", "03-05T10:00 03-05T10:30"]
    );
}

#[test]
fn a_rule_is_sent_anew_only_when_its_future_changes() {
    let mut rule = schedule(r#"{"from":"10:00","to":"11:00"}"#);
    let (first, second) = (at("2026-03-01T12:00:00Z"), at("2026-03-02T12:00:00Z"));
    assert!(differs(&rule.validity(first), &rule.validity(second), second), "another day has come into sight");
    assert!(!differs(&rule.validity(first), &rule.validity(Timestamp(first.0 + 60_000)), second));
    rule.end = Some(at("2026-03-04T00:00:00Z"));
    assert!(!differs(&rule.validity(first), &rule.validity(second), second), "all of it was known");
}

#[test]
fn windows_that_make_no_sense_are_refused() {
    for (json, expected) in [
        (r#"{"from":"22:00"}"#, "needs from and to"),
        (r#"{"from":"22:00","to":"22:00"}"#, "no length"),
        (r#"{"from":"25:00","to":"22:00"}"#, "has the time \"25:00\""),
        (r#"{"from":"24:00","to":"22:00"}"#, "begins a window at 24:00"),
        (r#"{"from":"2:00","to":"22:00"}"#, "has the time \"2:00\""),
        (r#"{"from":"22:60","to":"22:00"}"#, "has the time \"22:60\""),
        (r#"{"from":"22:00","to":"08:00","tz":"Europe/Atlantis"}"#, "unknown time zone"),
        (r#"{"from":"22:00","to":"08:00","days":["someday"]}"#, "days other than mon"),
        (r#"{"from":"22:00","to":"08:00","days":[]}"#, "on no day"),
        (r#"{"from":"22:00","to":"08:00","days":"mon"}"#, "days of the wrong type"),
        (r#"{"from":"22:00","to":"08:00","zone":"UTC"}"#, "unknown member \"zone\""),
        ("[]", "must hold objects"),
    ] {
        let error = Window::from_json(&parse(json.as_bytes()).unwrap()).unwrap_err();
        assert!(error.contains(expected), "{json}: {error}");
    }
    let json = r#"{"days":["mon","sun"],"from":"22:00","to":"24:00","tz":"Europe/Amsterdam"}"#;
    assert_eq!(Window::from_json(&parse(json.as_bytes()).unwrap()).unwrap().to_json().to_text(), json);
}
