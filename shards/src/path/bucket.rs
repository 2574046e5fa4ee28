//! A token bucket in whole numbers: what a configured rate has yielded and nobody has taken. It is told the
//! time and never waits.

use crate::limits::RATE_BURST_MS;
use crate::settings::Rate;
use crate::time::Instant;
use std::time::Duration;

/// What a rate has yielded. In any window at most `rate × window + burst` are taken, the burst being one and
/// what the rate yields in [`RATE_BURST_MS`]: enough that a late look loses nothing, too little to be felt.
///
/// Kept in parts of a token, of which one token has as many as the period has microseconds, and of which
/// each microsecond adds as many as the rate's count: so no fraction is ever lost.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    parts: u128,
    at: Instant,
    /// Tokens taken in advance, by ones that cannot use them yet; they still fill the bucket.
    claims: u32,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, now: Instant) -> Self {
        let mut bucket = Self { rate, parts: 0, at: now, claims: 0 };
        bucket.parts = bucket.capacity();
        bucket
    }

    /// The rate it was made of.
    #[must_use]
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Another rate from now on. What is in the bucket stays, up to the new burst.
    pub fn set_rate(&mut self, rate: Rate, now: Instant) {
        let (level, token) = (self.level(now), self.token());
        self.rate = rate;
        self.at = now;
        self.parts = (level * self.token() / token).min(self.capacity());
    }

    /// Whole tokens in it.
    #[must_use]
    pub fn available(&self, now: Instant) -> u32 {
        u32::try_from(self.level(now) / self.token()).unwrap_or(u32::MAX)
    }

    /// Takes `count` tokens, which must be available.
    pub fn take(&mut self, count: u32, now: Instant) {
        let cost = u128::from(count) * self.token();
        let level = self.level(now);
        assert!(level >= cost, "only available tokens are taken");
        self.parts = level - cost;
        self.at = self.at.max(now);
    }

    /// Takes `count` tokens, which must be available, for one who cannot use them yet. They go on filling the bucket,
    /// so that claims that are used together do not exceed the burst.
    pub fn claim(&mut self, count: u32, now: Instant) {
        self.take(count, now);
        self.claims += count;
    }

    /// `count` claimed tokens are used now.
    pub fn use_claim(&mut self, count: u32, now: Instant) {
        self.take(0, now);
        // A reload may have put a new bucket in the place of the one from which they were claimed.
        self.claims = self.claims.saturating_sub(count);
    }

    /// The claim of `count` tokens is given up.
    pub fn unclaim(&mut self, count: u32, now: Instant) {
        self.use_claim(count, now);
        self.parts = (self.parts + u128::from(count) * self.token()).min(self.capacity());
    }

    /// Puts back `count` tokens that were taken at `taken_at` and not used.
    ///
    /// What the bucket gained meanwhile is taken off, so that tokens that go to and fro unused do not pile up
    /// outside the bucket beyond its burst.
    pub fn put_back(&mut self, count: u32, taken_at: Instant, now: Instant) {
        let gained = now.since(taken_at).as_micros() * u128::from(self.rate.count);
        let back = (u128::from(count) * self.token()).saturating_sub(gained);
        self.parts = (self.level(now) + back).min(self.capacity());
        self.at = self.at.max(now);
    }

    /// What the rate yields in `time`, rounded down.
    #[must_use]
    pub fn yields_in(&self, time: Duration) -> u32 {
        u32::try_from(time.as_micros() * u128::from(self.rate.count) / self.token()).unwrap_or(u32::MAX)
    }

    /// When `count` tokens will be there; not after `now` when they are.
    #[must_use]
    pub fn ready_at(&self, count: u32, now: Instant) -> Instant {
        let missing = (u128::from(count) * self.token()).saturating_sub(self.level(now));
        let micros = missing.div_ceil(u128::from(self.rate.count.max(1)));
        now.after(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// Whether a new bucket would be no fuller.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.claims == 0 && self.level(now) >= self.capacity()
    }

    fn level(&self, now: Instant) -> u128 {
        let gained = now.since(self.at).as_micros() * u128::from(self.rate.count);
        (self.parts + gained).min(self.capacity())
    }

    fn token(&self) -> u128 {
        self.rate.period.as_micros().max(1)
    }

    fn capacity(&self) -> u128 {
        let burst = self.token() + u128::from(self.rate.count) * u128::from(RATE_BURST_MS) * 1000;
        burst.saturating_sub(u128::from(self.claims) * self.token())
    }
}

#[cfg(test)]
mod tests {
    use super::Bucket;
    use crate::settings::Rate;
    use crate::time::Instant;
    use std::time::Duration;

    #[test]
    fn yields_the_rate_and_no_more() {
        for (count, period_ms, step_us) in
            [(10, 1000, 1), (10, 1000, 7_919), (1000, 60_000, 50_000), (1, 3_600_000, 999_983)]
        {
            let rate = Rate { count, period: Duration::from_millis(period_ms) };
            let mut bucket = Bucket::new(rate, Instant(0));
            let burst = u64::from(bucket.available(Instant(0)));
            let (mut taken, mut now) = (0_u64, 0);
            while now < period_ms * 1000 * 3 {
                now += if count == 10 && step_us == 1 { 11 } else { step_us };
                let some = bucket.available(Instant(now));
                bucket.take(some, Instant(now));
                taken += u64::from(some);
            }
            let yielded = now * u64::from(count) / (period_ms * 1000);
            assert!((yielded..=yielded + burst).contains(&taken), "{count}/{period_ms} ms: {taken} of {yielded}");
        }
    }

    #[test]
    fn says_when_the_next_is_there() {
        let mut bucket = Bucket::new(Rate { count: 3, period: Duration::from_secs(1) }, Instant(0));
        bucket.take(bucket.available(Instant(0)), Instant(0));
        let at = bucket.ready_at(1, Instant(0));
        assert_eq!(bucket.available(Instant(at.0 - 1)), 0);
        assert_eq!(bucket.available(at), 1);
    }

    #[test]
    fn tokens_put_back_do_not_pile_up() {
        let rate = Rate { count: 1000, period: Duration::from_secs(1) };
        let mut bucket = Bucket::new(rate, Instant(0));
        let mut out: Vec<(u32, Instant)> = Vec::new();
        for turn in 1..1000_u64 {
            let now = Instant(turn * 10_000);
            if out.len() == 10 {
                let (count, taken_at) = out.remove(0);
                bucket.put_back(count, taken_at, now);
            }
            let some = bucket.available(now);
            bucket.take(some, now);
            out.push((some, now));
        }
        let outside: u32 = out.iter().map(|(count, _)| count).sum();
        assert!(outside <= 101 + 100, "{outside} tokens are outside");
    }

    #[test]
    fn a_slow_token_put_back_is_not_lost() {
        let mut bucket = Bucket::new(Rate { count: 1, period: Duration::from_secs(3600) }, Instant(0));
        bucket.take(1, Instant(0));
        bucket.put_back(1, Instant(0), Instant(100_000));
        assert_eq!(bucket.available(Instant(100_000)), 1);
    }

    /// One, and what the rate yields in a tenth of a second.
    #[test]
    fn a_bucket_begins_full_and_is_full_again_in_time() {
        let mut bucket = Bucket::new(Rate { count: 30, period: Duration::from_secs(1) }, Instant(0));
        assert_eq!((bucket.available(Instant(0)), bucket.is_full(Instant(0))), (4, true));
        bucket.take(4, Instant(0));
        assert_eq!((bucket.available(Instant(0)), bucket.is_full(Instant(0))), (0, false));
        for (micros, there) in [(33_333, 0), (33_334, 1), (66_666, 1), (66_667, 2), (99_999, 2), (100_000, 3)] {
            assert_eq!(bucket.available(Instant(micros)), there, "after {micros} µs");
        }
        assert_eq!((bucket.is_full(Instant(133_333)), bucket.is_full(Instant(133_334))), (false, true));
        assert_eq!(bucket.available(Instant(10_000_000)), 4, "never more");
        assert_eq!(bucket.yields_in(Duration::from_micros(99_999)), 2);
        assert_eq!(bucket.yields_in(Duration::from_millis(100)), 3);
    }

    /// Who has claimed tokens holds them against the burst until they are used.
    #[test]
    fn claims_fill_the_bucket_until_they_are_used_or_given_up() {
        let full = || Bucket::new(Rate { count: 30, period: Duration::from_secs(1) }, Instant(0));
        let later = Instant(10_000_000);
        let mut bucket = full();
        bucket.claim(3, Instant(0));
        assert_eq!((bucket.available(Instant(0)), bucket.available(later)), (1, 1));
        assert!(!bucket.is_full(later), "a new one would be fuller");
        bucket.use_claim(1, later);
        assert_eq!((bucket.available(later), bucket.available(Instant(later.0 + 33_334))), (1, 2));
        bucket.unclaim(1, later);
        assert_eq!(bucket.available(later), 2, "it is there at once");
        bucket.use_claim(1, later);
        let soon = Instant(later.0 + 70_000);
        assert_eq!((bucket.available(later), bucket.available(soon), bucket.is_full(soon)), (2, 4, true));
        let mut bucket = full();
        bucket.claim(2, Instant(0));
        bucket.unclaim(2, Instant(0));
        assert_eq!((bucket.available(Instant(0)), bucket.is_full(Instant(0))), (4, true));
    }

    /// What is in the bucket stays as many tokens, whatever they take of the new rate, up to the new burst.
    #[test]
    fn another_rate_keeps_the_tokens_that_are_there() {
        let per = |count, seconds| Rate { count, period: Duration::from_secs(seconds) };
        let mut bucket = Bucket::new(per(90, 1), Instant(0));
        assert_eq!(bucket.available(Instant(0)), 10);
        bucket.take(6, Instant(0));
        bucket.set_rate(per(600, 10), Instant(0));
        assert_eq!((bucket.available(Instant(0)), bucket.rate()), (4, per(600, 10)));
        assert_eq!(bucket.available(Instant(16_700)), 5, "at sixty in a second");
        bucket.set_rate(per(1, 3600), Instant(16_700));
        assert_eq!(bucket.available(Instant(16_700)), 1, "no more than the new burst");
        bucket.take(1, Instant(16_700));
        bucket.set_rate(per(90, 1), Instant(16_700));
        assert_eq!((bucket.available(Instant(16_700)), bucket.available(Instant(27_900))), (0, 1));
    }

    /// Of what is put back is taken off what came meanwhile.
    #[test]
    fn tokens_are_put_back_less_what_came_meanwhile() {
        let full = || Bucket::new(Rate { count: 90, period: Duration::from_secs(1) }, Instant(0));
        for (at, there) in [(0, 9), (11_112, 9), (33_334, 9), (66_668, 10)] {
            let mut bucket = full();
            bucket.take(4, Instant(0));
            bucket.put_back(3, Instant(0), Instant(at));
            assert_eq!(bucket.available(Instant(at)), there, "after {at} µs");
        }
        let mut bucket = full();
        bucket.put_back(3, Instant(0), Instant(0));
        assert_eq!(bucket.available(Instant(0)), 10);
    }
}
