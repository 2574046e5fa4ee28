//! How many connections a path may open, learned from what the site answers. Counts nothing itself: the
//! caller says how many connections are open and what became of them.

use crate::limits::{
    WINDOW_BACKOFF_MAX_MS, WINDOW_BACKOFF_MIN_MS, WINDOW_DEAD_FAILURES, WINDOW_RAMP_STEP_MS, WINDOW_START,
};
use crate::time::Instant;
use std::time::Duration;

/// What a host failure made of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is used on, more carefully.
    Alive,
    /// It is left alone until then; then one connection tries it.
    DeadUntil(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In use.
    Alive,
    /// Left alone.
    Dead { until: Instant },
    /// One connection tries it, since the back-off ended.
    Probing,
}

/// The adaptive concurrency of one path on one core, after Postfix's destination concurrency scheduler.
///
/// Starts at [`WINDOW_START`]. Until the first host failure each success opens it by one; afterwards by one
/// for each window of successes. A host failure (no connection, 4yz or 5yz to the connection, 421, connection
/// lost) halves it, at most once for each window of results, never below one. After
/// [`WINDOW_DEAD_FAILURES`] failures in a row the path is dead; after the back-off one connection probes it.
#[derive(Clone, Debug)]
pub struct Window {
    size: u32,
    /// Below it a success opens the window by one, above it by a fraction.
    threshold: u32,
    successes: u32,
    failures_in_row: u32,
    /// Results until another failure may halve the window again.
    calm: u32,
    backoff: Duration,
    state: State,
    ramp: Option<Ramp>,
}

/// A rising bound after a hold ended.
#[derive(Clone, Copy, Debug)]
struct Ramp {
    start: u32,
    since: Instant,
}

impl Default for Window {
    fn default() -> Self {
        Self::new()
    }
}

impl Window {
    /// A path of which nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self {
            size: WINDOW_START,
            threshold: u32::MAX,
            successes: 0,
            failures_in_row: 0,
            calm: 0,
            backoff: Duration::from_millis(WINDOW_BACKOFF_MIN_MS),
            state: State::Alive,
            ramp: None,
        }
    }

    /// How many more connections may be opened now, when `open` are open or being opened and the limits
    /// allow `most` on this core.
    pub fn room(&mut self, open: u32, most: u32, now: Instant) -> u32 {
        if let State::Dead { until } = self.state
            && now >= until
        {
            self.state = State::Probing;
        }
        let allowed = match self.state {
            State::Dead { .. } => 0,
            State::Probing => 1,
            State::Alive => self.ramped(now),
        };
        allowed.min(most).saturating_sub(open)
    }

    /// When [`room`](Self::room) may grow by itself: the end of a back-off or the next step of a ramp.
    #[must_use]
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        match (self.state, self.ramp) {
            (State::Dead { until }, _) => Some(until),
            (State::Alive, Some(ramp)) => {
                let step = Duration::from_millis(WINDOW_RAMP_STEP_MS);
                let steps = now.since(ramp.since).as_micros() / step.as_micros() + 1;
                Some(ramp.since.after(step * u32::try_from(steps).unwrap_or(u32::MAX)))
            }
            _ => None,
        }
    }

    /// The site took a message, or (for a probe) answered EHLO, while `open` connections were open. `most` is what
    /// the limits allow on this core. A window that is not used does not grow.
    pub fn succeeded(&mut self, open: u32, most: u32) {
        self.failures_in_row = 0;
        self.calm = self.calm.saturating_sub(1);
        match self.state {
            State::Alive => {}
            State::Dead { .. } | State::Probing => {
                self.state = State::Alive;
                self.backoff = Duration::from_millis(WINDOW_BACKOFF_MIN_MS);
            }
        }
        if self.size >= open.saturating_add(WINDOW_START) {
            return;
        }
        self.successes += 1;
        if self.size < self.threshold || self.successes >= self.size {
            self.successes = 0;
            self.size = (self.size + 1).min(most.max(1));
        }
    }

    /// The host failed: no connection, 4yz or 5yz to the connection, 421, connection lost. Failures of one message
    /// or one recipient are not the host's and do not come here.
    pub fn host_failed(&mut self, now: Instant) -> Verdict {
        self.failures_in_row += 1;
        match self.state {
            // A connection that was under way when the path was declared dead tells nothing new.
            State::Dead { until } => return Verdict::DeadUntil(until),
            State::Probing => {
                self.backoff = (self.backoff * 2).min(Duration::from_millis(WINDOW_BACKOFF_MAX_MS));
                return self.die(now);
            }
            State::Alive if self.failures_in_row >= WINDOW_DEAD_FAILURES => return self.die(now),
            State::Alive => {}
        }
        if self.calm > 0 {
            self.calm -= 1;
        } else {
            self.size = (self.size / 2).max(1);
            self.threshold = self.size;
            self.successes = 0;
            self.calm = self.size;
        }
        Verdict::Alive
    }

    /// A hold over the path's mail ended, when `before` connections were in use at its start: begin with
    /// half of them and double in each step.
    pub fn released(&mut self, before: u32, now: Instant) {
        self.ramp = Some(Ramp { start: (before / 2).max(1), since: now });
    }

    /// Connections allowed without regard of open ones, back-off, ramp and limits.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Until when the path is left alone, if it is.
    #[must_use]
    pub fn dead_until(&self) -> Option<Instant> {
        match self.state {
            State::Dead { until } => Some(until),
            State::Alive | State::Probing => None,
        }
    }

    fn die(&mut self, now: Instant) -> Verdict {
        let until = now.after(self.backoff);
        self.state = State::Dead { until };
        self.threshold = (self.size / 2).max(WINDOW_START);
        self.size = 1;
        self.calm = 0;
        self.successes = 0;
        Verdict::DeadUntil(until)
    }

    fn ramped(&mut self, now: Instant) -> u32 {
        let Some(ramp) = self.ramp else { return self.size };
        let steps = now.since(ramp.since).as_millis() / u128::from(WINDOW_RAMP_STEP_MS);
        let bound =
            if steps >= 32 { u64::from(u32::MAX) } else { u64::from(ramp.start) << u32::try_from(steps).unwrap_or(31) };
        if bound >= u64::from(self.size) {
            self.ramp = None;
            return self.size;
        }
        u32::try_from(bound).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict, Window};
    use crate::limits::{
        WINDOW_BACKOFF_MAX_MS, WINDOW_BACKOFF_MIN_MS, WINDOW_DEAD_FAILURES, WINDOW_RAMP_STEP_MS, WINDOW_START,
    };
    use crate::time::Instant;
    use std::time::Duration;

    fn at(millis: u64) -> Instant {
        Instant::default().after(Duration::from_millis(millis))
    }

    fn grown(size: u32) -> Window {
        let mut window = Window::new();
        while window.size() < size {
            window.succeeded(window.size(), u32::MAX);
        }
        window
    }

    #[test]
    fn a_ramp_says_of_each_step_when_the_next_one_comes() {
        let mut window = grown(1000);
        window.released(2, at(5000));
        let step = WINDOW_RAMP_STEP_MS;
        for number in 0..9 {
            let begins = 5000 + number * step;
            for now in [begins, begins + 1, begins + step - 1] {
                assert_eq!(window.room(0, u32::MAX, at(now)), 1 << number);
                assert_eq!(window.next_change(at(now)), Some(at(begins + step)), "step {number}");
            }
        }
    }

    /// However long it takes until somebody asks, a ramp ends.
    #[test]
    fn a_ramp_that_nobody_followed_is_over_at_any_time_later() {
        for steps in [10, 31, 32, 33, 63, 64, 65, 1 << 33] {
            let mut window = grown(700);
            window.released(2, at(0));
            assert_eq!(window.room(0, u32::MAX, at(steps * WINDOW_RAMP_STEP_MS)), 700, "{steps} steps");
            assert_eq!(window.next_change(at(0)), None, "{steps} steps");
        }
    }

    #[test]
    fn a_ramp_ends_where_it_reaches_the_window() {
        let mut window = grown(8);
        window.released(16, at(0));
        assert_eq!((window.room(0, 100, at(0)), window.next_change(at(0))), (8, None));
        window.released(15, at(0));
        assert_eq!((window.room(0, 100, at(0)), window.next_change(at(0)).is_some()), (7, true));
    }

    /// Half as many after a failure, and as many results pass before the next one halves it again.
    #[test]
    fn a_failure_halves_the_window_once_for_each_window_of_results() {
        let mut window = grown(40);
        assert_eq!(window.host_failed(at(0)), Verdict::Alive);
        assert_eq!(window.size(), 20);
        // Nineteen good results and a bad one are these twenty.
        for _ in 0..19 {
            window.succeeded(0, 100);
        }
        window.host_failed(at(0));
        assert_eq!(window.size(), 20);
        window.host_failed(at(0));
        assert_eq!(window.size(), 10);
        for size in [10, 10, 10, 10] {
            window.succeeded(0, 100);
            window.host_failed(at(0));
            assert_eq!(window.size(), size);
        }
    }

    /// After the first failure it opens by one for as many successes as it is wide.
    #[test]
    fn a_window_that_knows_a_failure_opens_slowly() {
        let mut window = grown(20);
        window.host_failed(at(0));
        assert_eq!(window.size(), 10);
        for (successes, size) in [(9, 10), (1, 11), (10, 11), (1, 12), (11, 12), (1, 13)] {
            for _ in 0..successes {
                window.succeeded(12, 100);
            }
            assert_eq!(window.size(), size);
        }
        for _ in 0..1000 {
            window.succeeded(20, 15);
        }
        assert_eq!(window.size(), 15, "not beyond what the limits allow");
    }

    #[test]
    fn a_window_grows_only_as_far_ahead_of_its_use_as_it_begins() {
        let mut window = grown(10);
        for _ in 0..1000 {
            window.succeeded(9, 100);
        }
        assert_eq!(window.size(), 9 + WINDOW_START);
        window.succeeded(10, 0);
        assert_eq!(window.size(), 1, "at least one, whatever the limits");
    }

    /// The failures that make a path dead are counted in a row; the back-off doubles with each probe that fails, up to
    /// its bound, and begins anew after a success.
    #[test]
    fn a_path_is_dead_after_failures_in_a_row_and_for_longer_each_time() {
        let mut window = Window::new();
        for _ in 0..3 {
            for _ in 1..WINDOW_DEAD_FAILURES {
                assert_eq!(window.host_failed(at(0)), Verdict::Alive);
            }
            window.succeeded(1, 100);
        }
        for _ in 1..WINDOW_DEAD_FAILURES {
            window.host_failed(at(0));
        }
        let (mut now, mut backoff) = (7, WINDOW_BACKOFF_MIN_MS);
        for _ in 0..8 {
            let until = at(now + backoff);
            assert_eq!(window.host_failed(at(now)), Verdict::DeadUntil(until));
            assert_eq!(window.host_failed(at(now + 1)), Verdict::DeadUntil(until), "nothing new");
            assert_eq!((window.dead_until(), window.next_change(at(now))), (Some(until), Some(until)));
            now += backoff;
            assert_eq!(window.room(0, 100, at(now - 1)), 0);
            assert_eq!((window.room(0, 100, at(now)), window.room(1, 100, at(now))), (1, 0), "one probe");
            backoff = (2 * backoff).min(WINDOW_BACKOFF_MAX_MS);
        }
        window.succeeded(1, 100);
        assert_eq!((window.dead_until(), window.room(0, 100, at(now)) > 1), (None, true));
        for _ in 1..WINDOW_DEAD_FAILURES {
            window.host_failed(at(now));
        }
        assert_eq!(window.host_failed(at(now)), Verdict::DeadUntil(at(now + WINDOW_BACKOFF_MIN_MS)));
    }

    /// A path that was wide comes back to half of that quickly.
    #[test]
    fn a_path_that_comes_back_opens_quickly_to_half_of_what_it_had() {
        let mut window = grown(64);
        // One failure halves it to 32; with the fifth it is dead, and 16 is where it will be careful.
        for _ in 0..WINDOW_DEAD_FAILURES {
            window.host_failed(at(0));
        }
        assert_eq!(window.size(), 1);
        window.room(0, 100, at(WINDOW_BACKOFF_MIN_MS));
        let mut successes = 0;
        while window.size() < 16 {
            window.succeeded(window.size(), 100);
            successes += 1;
        }
        assert_eq!(successes, 15);
        window.succeeded(16, 100);
        assert_eq!(window.size(), 16);
    }
}
