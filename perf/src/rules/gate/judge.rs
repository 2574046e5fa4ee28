//! What is a violation of the gate. It decides from what was seen and asks nobody.

/// A message whose end of data the destination has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// When it was read ([`crate::clock::now_ns`]).
    pub at_ns: u64,
    /// Octets that its connection had brought by then.
    pub octets: u64,
    /// Octets of these that the destination had read before it knew of the rule call's answer.
    pub octets_before: u64,
}

/// One round, as the destination and the caller saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// When the rule call's answer had been read.
    pub answered_ns: u64,
    /// Messages whose end of data had left before the rule was in force, as the answer says.
    pub in_flight: u64,
    /// All messages that the rule covers and that were completed while it was in force, or before.
    pub completed: Vec<Completion>,
    /// Octets that may lie between the two ends: the largest send buffer, the receive buffer, one read.
    pub buffers: u64,
}

/// What became of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Messages completed after the answer.
    pub late: u64,
    /// Of these, more than the answer allows: those beyond its `in_flight`, or those whose end cannot have left
    /// before the answer, because more of them was read behind it than both socket buffers hold.
    pub violations: u64,
}

/// Judges one round.
pub fn judge(seen: &Seen) -> Judgement {
    let late: Vec<&Completion> = seen.completed.iter().filter(|message| message.at_ns > seen.answered_ns).collect();
    let beyond_answer = (late.len() as u64).saturating_sub(seen.in_flight);
    let behind_buffers =
        late.iter().filter(|message| message.octets.saturating_sub(message.octets_before) > seen.buffers).count()
            as u64;
    Judgement { late: late.len() as u64, violations: beyond_answer.max(behind_buffers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Completions as (time, octets, octets before); `in_flight` of the answer; expected: late, violations.
    type Row = (&'static str, &'static [(u64, u64, u64)], u64, (u64, u64));

    #[test]
    fn only_what_left_before_the_answer_and_is_named_in_it_may_be_completed_after_it() {
        let rows: [Row; 9] = [
            ("nothing came", &[], 0, (0, 0)),
            ("all came before the answer", &[(10, 3_000, 3_000), (100, 6_000, 6_000)], 0, (0, 0)),
            ("one was in flight, and came", &[(101, 3_000, 1_000)], 1, (1, 0)),
            ("one was in flight, none came", &[], 1, (0, 0)),
            ("one came that was not in flight", &[(101, 3_000, 1_000)], 0, (1, 1)),
            ("three came, one was in flight", &[(101, 3_000, 0), (102, 6_000, 0), (103, 9_000, 0)], 1, (3, 2)),
            ("as much as the buffers hold", &[(101, 1_500, 500)], 1, (1, 0)),
            ("more than the buffers hold, whatever the answer says", &[(101, 10_501, 500)], 1, (1, 1)),
            ("a new connection brings all of it", &[(101, 20_000, 0), (102, 20_000, 19_999)], 2, (2, 1)),
        ];
        for (name, completed, in_flight, (late, violations)) in rows {
            let completed =
                completed.iter().map(|&(at_ns, octets, octets_before)| Completion { at_ns, octets, octets_before });
            let seen = Seen { answered_ns: 100, in_flight, completed: completed.collect(), buffers: 10_000 };
            assert_eq!(judge(&seen), Judgement { late, violations }, "{name}");
        }
    }
}
