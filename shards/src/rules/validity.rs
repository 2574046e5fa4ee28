//! When a rule is in force: absolute half-open intervals of UTC, computed by the control core. A shard
//! never deals with time zones, weekdays or durations.

use crate::limits::RULE_SPANS_MAX;
use crate::time::Timestamp;
use smallvec::SmallVec;
use std::fmt;

/// A half-open interval: in force at `start`, no longer at `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// First moment in force.
    pub start: Timestamp,
    /// First moment no longer in force; [`Timestamp::NEVER`] for open.
    pub end: Timestamp,
}

/// When a rule is in force, and when it is over for good.
///
/// The two differ for a rule with recurring windows: its spans are known some days ahead only, and running
/// out of them must not drop the rule, because the control core sends it again with the next spans.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Validity {
    /// Ordered, apart from each other, none empty.
    spans: SmallVec<[Span; 1]>,
    end: Timestamp,
}

/// The spans given cannot be a validity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadValidity {
    /// A span ends at or before its start.
    Empty(Span),
    /// More spans than [`RULE_SPANS_MAX`].
    TooMany(usize),
}

impl fmt::Display for BadValidity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty(span) => write!(f, "the span from {} to {} is empty", span.start.0, span.end.0),
            Self::TooMany(count) => write!(f, "{count} spans, at most {RULE_SPANS_MAX}"),
        }
    }
}

impl std::error::Error for BadValidity {}

/// The state of a validity at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Whether it is in force.
    pub in_force: bool,
    /// When that changes by time alone; [`Timestamp::NEVER`] if it does not.
    pub next: Timestamp,
}

impl Validity {
    /// From now on and for ever.
    #[must_use]
    pub fn always() -> Self {
        Self::between(Timestamp(i64::MIN), Timestamp::NEVER)
    }

    /// Until `end`; never in force when `end` is past.
    #[must_use]
    pub fn until(end: Timestamp) -> Self {
        Self::between(Timestamp(i64::MIN), end)
    }

    /// From `start` until `end`; never in force when `end` is not after `start`.
    #[must_use]
    pub fn between(start: Timestamp, end: Timestamp) -> Self {
        let mut spans = SmallVec::new();
        if start < end {
            spans.push(Span { start, end });
        }
        Self { spans, end }
    }

    /// In force inside the spans, which may overlap and come in any order; over at `end`, after which no
    /// span counts.
    ///
    /// # Errors
    /// A span that is empty, or too many of them.
    pub fn windows(spans: &[Span], end: Timestamp) -> Result<Self, BadValidity> {
        if spans.len() > RULE_SPANS_MAX {
            return Err(BadValidity::TooMany(spans.len()));
        }
        if let Some(empty) = spans.iter().find(|span| span.start >= span.end) {
            return Err(BadValidity::Empty(*empty));
        }
        let mut ordered: SmallVec<[Span; 1]> = spans
            .iter()
            .filter(|span| span.start < end)
            .map(|span| Span { start: span.start, end: span.end.min(end) })
            .collect();
        ordered.sort_by_key(|span| span.start);
        ordered.dedup_by(|later, earlier| {
            let touches = later.start <= earlier.end;
            if touches {
                earlier.end = earlier.end.max(later.end);
            }
            touches
        });
        Ok(Self { spans: ordered, end })
    }

    /// Whether it is in force at `now`, and until when that holds.
    #[must_use]
    pub fn at(&self, now: Timestamp) -> At {
        let first_open = self.spans.partition_point(|span| span.end <= now);
        match self.spans.get(first_open) {
            Some(span) if span.start <= now => At { in_force: true, next: span.end },
            Some(span) => At { in_force: false, next: span.start },
            None => At { in_force: false, next: if now < self.end { self.end } else { Timestamp::NEVER } },
        }
    }

    /// Whether it is over for good.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> bool {
        now >= self.end && self.end != Timestamp::NEVER
    }

    /// When it is over for good; [`Timestamp::NEVER`] for never.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.end
    }

    /// The spans in order.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::{Span, Validity};
    use crate::time::Timestamp;

    #[test]
    fn tells_when_it_is_over_for_good() {
        let at = Timestamp;
        for (validity, end) in [
            (Validity::always(), Timestamp::NEVER),
            (Validity::until(at(5)), at(5)),
            (Validity::between(at(3), at(9)), at(9)),
        ] {
            assert_eq!(validity.end(), end);
            assert_eq!(validity.ended(end), end != Timestamp::NEVER);
            assert!(!validity.ended(at(4)));
        }
    }

    /// A span that begins where the validity ends is none of it.
    #[test]
    fn spans_behind_the_end_do_not_count() {
        let span = |start, end| Span { start: Timestamp(start), end: Timestamp(end) };
        let all = Validity::windows(&[span(10, 20), span(30, 40), span(50, 60)], Timestamp(30)).expect("it is one");
        assert_eq!(all, Validity::windows(&[span(10, 20)], Timestamp(30)).expect("it is one"));
        let cut = Validity::windows(&[span(10, 20), span(29, 40)], Timestamp(30)).expect("it is one");
        assert_eq!(cut, Validity::windows(&[span(10, 20), span(29, 30)], Timestamp(30)).expect("it is one"));
    }
}
