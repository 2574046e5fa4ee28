//! When a rule is meant to be in force, as the operator wrote it, and the absolute intervals that follow from
//! it. Reads no clock.

use crate::json::Json;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Span as Length, Timestamp as Moment, ToSpan};
use mailrace_shards::limits::RULE_SPANS_MAX;
use mailrace_shards::rules::{Span, Validity};
use mailrace_shards::time::Timestamp;

const DAY_MILLIS: i64 = 86_400_000;

/// Intervals are computed this far ahead; the native contract asks for eight days, and they are renewed daily.
const DAYS_AHEAD: i64 = 11;

/// And this far back, for a clock that is set back.
const DAYS_BACK: i64 = 2;

/// Windows of one rule; more are refused. Each makes at most one interval a day, and one more where the clocks
/// change.
pub const WINDOWS_MAX: usize = 64;

const _: () = assert!(
    WINDOWS_MAX * (DAYS_AHEAD + DAYS_BACK + 3) as usize <= RULE_SPANS_MAX,
    "the intervals of any schedule fit into one rule"
);

const MINUTES_A_DAY: u16 = 24 * 60;
const DAY_NAMES: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// When a rule is in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schedule {
    /// Not before.
    pub start: Option<Timestamp>,
    /// No longer from then on; the rule is over.
    pub end: Option<Timestamp>,
    /// Only inside any of these; empty for always.
    pub windows: Vec<Window>,
}

/// A recurring window of wall-clock time.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Days on which it begins, Monday first.
    days: [bool; 7],
    /// Minutes after midnight.
    from: u16,
    /// The same; at or before `from` it is on the next day; 1440 for midnight.
    to: u16,
    /// Whose wall clock.
    zone: TimeZone,
}

impl Window {
    /// Reads `{"days": ["mon", …], "from": "22:00", "to": "08:00", "tz": "Europe/Amsterdam"}`. Without `days` every
    /// day, without `tz` UTC.
    ///
    /// # Errors
    /// What is wrong, as a sentence without a subject.
    pub fn from_json(json: &Json) -> Result<Self, String> {
        let Json::Object(members) = json else { return Err("must hold objects".to_owned()) };
        let (mut days, mut from, mut to, mut zone) = ([true; 7], None, None, TimeZone::UTC);
        for (name, value) in members {
            match (name.as_str(), value) {
                ("days", Json::Array(names)) => days = days_named(names)?,
                ("from", Json::Text(text)) => from = Some(minutes(text)?),
                ("to", Json::Text(text)) => to = Some(minutes(text)?),
                ("tz", Json::Text(text)) => {
                    zone = TimeZone::get(text).map_err(|_| format!("names the unknown time zone {text:?}"))?;
                }
                ("days" | "from" | "to" | "tz", _) => return Err(format!("has a {name} of the wrong type")),
                _ => return Err(format!("has an unknown member {name:?}")),
            }
        }
        let (Some(from), Some(to)) = (from, to) else { return Err("needs from and to".to_owned()) };
        if from == to {
            return Err("has a window of no length; the whole day is 00:00 to 24:00".to_owned());
        }
        if from == MINUTES_A_DAY {
            return Err("begins a window at 24:00; write 00:00 and the next day".to_owned());
        }
        Ok(Self { days, from, to, zone })
    }

    /// As it was read.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let days = DAY_NAMES.iter().zip(self.days).filter(|(_, is)| *is).map(|(name, _)| Json::from(*name));
        let time = |minutes: u16| Json::from(format!("{:02}:{:02}", minutes / 60, minutes % 60));
        Json::object([
            ("days", Some(Json::Array(days.collect()))),
            ("from", Some(time(self.from))),
            ("to", Some(time(self.to))),
            ("tz", Some(self.zone.iana_name().unwrap_or("UTC").into())),
        ])
    }

    /// Its intervals between two moments.
    ///
    /// Wall-clock time is as written: where clocks are set back, an hour that comes twice counts twice; where they
    /// are set forward, what is left out is no time. So each stretch of one offset from UTC is treated by itself.
    fn spans(&self, from: Moment, to: Moment, spans: &mut Vec<Span>) {
        let mut begin = from;
        let mut offset = self.zone.to_offset(from);
        for transition in self.zone.following(from).take_while(|transition| transition.timestamp() < to) {
            self.spans_at(offset, begin, transition.timestamp(), spans);
            begin = transition.timestamp();
            offset = transition.offset();
        }
        self.spans_at(offset, begin, to, spans);
    }

    fn spans_at(&self, offset: jiff::tz::Offset, begin: Moment, end: Moment, spans: &mut Vec<Span>) {
        let last = offset.to_datetime(end).date();
        // A window over midnight belongs to the day on which it began.
        let mut date = offset.to_datetime(begin).date().yesterday().unwrap_or(Date::MIN);
        while date <= last {
            if self.days[usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())] {
                let length =
                    if self.to > self.from { self.to - self.from } else { self.to + MINUTES_A_DAY - self.from };
                let start = date.to_datetime(jiff::civil::Time::midnight()).checked_add(minute_span(self.from));
                let start = start.and_then(|start| offset.to_timestamp(start));
                if let Ok(start) = start {
                    let stop = start.as_millisecond() + i64::from(length) * 60_000;
                    let start = start.max(begin).as_millisecond();
                    let stop = stop.min(end.as_millisecond());
                    if start < stop {
                        spans.push(Span { start: Timestamp(start), end: Timestamp(stop) });
                    }
                }
            }
            let Ok(next) = date.tomorrow() else { return };
            date = next;
        }
    }
}

fn minute_span(minutes: u16) -> Length {
    i64::from(minutes).minutes()
}

fn days_named(names: &[Json]) -> Result<[bool; 7], String> {
    let mut days = [false; 7];
    for name in names {
        let known = name.text().and_then(|name| DAY_NAMES.iter().position(|day| name.eq_ignore_ascii_case(day)));
        let Some(day) = known else { return Err(format!("has days other than {}", DAY_NAMES.join(", "))) };
        days[day] = true;
    }
    if days == [false; 7] { Err("has a window on no day".to_owned()) } else { Ok(days) }
}

fn minutes(text: &str) -> Result<u16, String> {
    let wrong = || format!("has the time {text:?}; write \"22:00\"");
    let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|_| digits).ok_or_else(wrong)
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if minutes < 60 && (hours < 24 || (hours == 24 && minutes == 0)) { Ok(hours * 60 + minutes) } else { Err(wrong()) }
}

impl Schedule {
    /// The absolute intervals, known at least eight days ahead of `now`. The same for every `now` of one UTC day, so
    /// that a rule need not be sent anew more often.
    #[must_use]
    pub fn validity(&self, now: Timestamp) -> Validity {
        let start = self.start.unwrap_or(Timestamp(i64::MIN));
        let end = self.end.unwrap_or(Timestamp::NEVER);
        if self.windows.is_empty() {
            return Validity::between(start, end);
        }
        let today = now.0.div_euclid(DAY_MILLIS) * DAY_MILLIS;
        let moment = |millis: i64| Moment::from_millisecond(millis).unwrap_or(Moment::MAX);
        let from = moment(today - DAYS_BACK * DAY_MILLIS);
        let to = moment(today + DAYS_AHEAD * DAY_MILLIS);
        let mut spans = Vec::new();
        for window in &self.windows {
            window.spans(from, to, &mut spans);
        }
        spans.retain_mut(|span| {
            span.start = span.start.max(start);
            span.start < span.end
        });
        let validity = Validity::windows(&spans, end);
        validity.expect("no span is empty here, and WINDOWS_MAX windows make fewer than RULE_SPANS_MAX")
    }

    /// Whether time alone can make other intervals of it: it has windows.
    #[must_use]
    pub fn recurs(&self) -> bool {
        !self.windows.is_empty()
    }

    /// Whether it is over.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> bool {
        self.end.is_some_and(|end| end <= now)
    }
}

/// Whether the intervals that are still to come (or under way) differ: only then is a rule sent anew.
#[must_use]
pub fn differs(old: &Validity, new: &Validity, now: Timestamp) -> bool {
    let ahead = |validity: &Validity| -> Vec<Span> {
        let open = validity.spans().iter().filter(|span| span.end > now);
        open.map(|span| Span { start: span.start.max(now), end: span.end }).collect()
    };
    old.end() != new.end() || ahead(old) != ahead(new)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
