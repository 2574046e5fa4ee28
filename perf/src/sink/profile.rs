//! How a sink behaves: what it offers, how slow it is, what it refuses.
//!
//! Nothing here is state; a profile is the same for every connection and never changes while the sink runs.

use std::time::Duration;

/// The command whose reply carries a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RefusalStage {
    /// The reply to MAIL.
    Mail,
    /// The reply to RCPT.
    Rcpt,
    /// The reply to the end of data.
    Dot,
}

/// The behaviour of a sink.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Offer PIPELINING (RFC 2920).
    pub pipelining: bool,
    /// Offer STARTTLS (RFC 3207), with a certificate of its own making.
    pub tls: bool,
    /// Offer CHUNKING, hence accept BDAT (RFC 3030).
    pub chunking: bool,
    /// How long the reply to each end of data is withheld.
    pub delay: Duration,
    /// How long octets are under way, in each direction.
    pub line: Duration,
    /// Share of messages at which the connection is closed without a reply, from 0 to 1.
    pub drop_share: f64,
    /// Share of messages answered with 451, from 0 to 1.
    pub tempfail_share: f64,
    /// Share of messages answered with 550, from 0 to 1.
    pub permfail_share: f64,
    /// Where refusals happen.
    pub stage: RefusalStage,
    /// Start of the pseudo-random sequence that picks the refused messages.
    pub seed: u64,
    /// Connections served at once; further ones are greeted with 421.
    pub max_connections: usize,
    /// After so many messages a connection is closed with 421 at the next MAIL; 0 means never.
    pub messages_per_connection: u64,
    /// Largest message announced in SIZE (RFC 1870).
    pub max_message_octets: u64,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            pipelining: true,
            tls: false,
            chunking: false,
            delay: Duration::ZERO,
            line: Duration::ZERO,
            drop_share: 0.0,
            tempfail_share: 0.0,
            permfail_share: 0.0,
            stage: RefusalStage::Dot,
            seed: 1,
            max_connections: 65_536,
            messages_per_connection: 0,
            max_message_octets: 100 << 20,
        }
    }
}

/// What the sink decides about one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take it.
    Accept,
    /// 451.
    Tempfail,
    /// 550.
    Permfail,
    /// Close without a word.
    Drop,
}

impl Profile {
    /// Share of messages that are not taken.
    pub fn refused_share(&self) -> f64 {
        self.tempfail_share + self.permfail_share + self.drop_share
    }
}

/// A repeatable sequence of verdicts.
pub struct Dice(u64);

impl Dice {
    /// The sequence that belongs to the profile's seed.
    pub fn new(profile: &Profile) -> Dice {
        Dice(profile.seed)
    }

    /// The next verdict.
    pub fn throw(&mut self, profile: &Profile) -> Verdict {
        if profile.refused_share() <= 0.0 {
            return Verdict::Accept;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let share = (mix(self.0) >> 11) as f64 / (1_u64 << 53) as f64;
        if share < profile.tempfail_share {
            Verdict::Tempfail
        } else if share < profile.tempfail_share + profile.permfail_share {
            Verdict::Permfail
        } else if share < profile.refused_share() {
            Verdict::Drop
        } else {
            Verdict::Accept
        }
    }
}

/// The finishing step of SplitMix64: spreads a counter over all 64 bits.
pub fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_met() {
        let profile = Profile { tempfail_share: 0.1, permfail_share: 0.05, drop_share: 0.2, ..Profile::default() };
        let mut dice = Dice::new(&profile);
        let verdicts: Vec<Verdict> = (0..100_000).map(|_| dice.throw(&profile)).collect();
        let count = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
        assert!((9_500..10_500).contains(&count(Verdict::Tempfail)));
        assert!((4_500..5_500).contains(&count(Verdict::Permfail)));
        assert!((19_000..21_000).contains(&count(Verdict::Drop)));
    }
}
