//! Replies to MAIL, RCPT, DATA and the end of data, RFC 5321 §3.3 and RFC 2920 §3.1: each goes to the flight whose
//! command it answers.

use super::flight::Stage;
use super::session::Session;
use super::state::{Awaited, State, Step, body_timeout};
use super::{AbortReason, ClientEvent, RecipientResult};
use crate::outcome::Verb;
use crate::smtp::classify::{Failure, FailureKind};
use crate::smtp::reply::Reply;
use crate::time::Instant;

impl Session {
    pub(super) fn handle_transaction_reply(&mut self, reply: Reply<'_>, now: Instant) {
        let Some(&head) = self.awaited.front() else {
            return self.handle_unasked_reply(reply);
        };
        // A reply that fits nowhere leaves its command at the head of the queue, so that the end of the session is
        // charged to it.
        if reply.code != 421 && !fits(head.step, reply.code) {
            let text = format!("an unexpected reply {}", reply.code);
            return self.break_off(FailureKind::Protocol, &text);
        }
        // A peer may refuse what it has not read to its end, but not take it. One reply too many to an earlier command
        // would else count as the acceptance of a message that never got through.
        if head.step == Step::EndOfData && reply.code < 300 && self.awaits_end_of_data(head) {
            return self.break_off(FailureKind::Protocol, "an acceptance before the end of the data");
        }
        self.awaited.pop_front();
        self.reply_since = now;
        if reply.code == 421 {
            return self.handle_announced_end(head, reply);
        }
        if let Some(index) = self.flight_of(head) {
            match head.step {
                Step::Reset => {}
                Step::Mail => self.handle_mail_reply(index, reply),
                Step::Rcpt => self.handle_rcpt_reply(index, reply),
                Step::Data => self.handle_data_reply(index, reply, now),
                Step::EndOfData => self.handle_end_of_data_reply(index, reply),
                Step::LoneDot => self.remove(index),
            }
        }
        match self.state {
            State::Draining => self.close_when_drained(),
            _ => self.quit_when_done(now),
        }
    }

    fn handle_mail_reply(&mut self, index: usize, reply: Reply<'_>) {
        let flight = &mut self.flights[index];
        flight.mail_answered = true;
        if reply.code < 300 {
            flight.mail_accepted = true;
        } else if !flight.settled {
            let event = flight.settle(refusal(reply, Verb::MailFrom));
            self.settled(index, event);
        }
    }

    fn handle_rcpt_reply(&mut self, index: usize, reply: Reply<'_>) {
        let flight = &mut self.flights[index];
        if flight.settled {
            return;
        }
        if reply.code < 300 {
            return flight.accept_recipient();
        }
        let mut failure =
            Failure { kind: FailureKind::Refused, response: reply.response(Verb::RcptTo), maybe_delivered: false };
        if flight.has_accepted() && says_too_many(&failure) {
            failure.kind = FailureKind::TooManyRecipients;
        }
        flight.refuse_recipient(RecipientResult::Failed(failure));
        if flight.all_recipients_answered() && !flight.has_accepted() {
            let event = flight.finished();
            self.settled(index, event);
        }
    }

    fn handle_data_reply(&mut self, index: usize, reply: Reply<'_>, now: Instant) {
        let flight = &mut self.flights[index];
        if reply.code < 400 {
            if flight.settled {
                // RFC 2920 §3.1: the peer goes on although it refused every recipient.
                flight.stage = Stage::LoneDot;
            } else {
                flight.stage = Stage::Body(0);
                self.body_until = Some(now.after(body_timeout(flight.transaction.body.len())));
            }
            return;
        }
        if !flight.settled {
            let event = flight.settle(refusal(reply, Verb::Data));
            self.events.push_back(event);
        }
        // The end of data never came, so what the peer holds of the transaction is still there.
        self.leave_open(index);
        self.remove(index);
    }

    fn handle_end_of_data_reply(&mut self, index: usize, reply: Reply<'_>) {
        let flight = &mut self.flights[index];
        if !flight.settled {
            let result = match reply.code {
                200..=299 => RecipientResult::Delivered(reply.response(Verb::EndOfData)),
                _ => refusal(reply, Verb::EndOfData),
            };
            let event = flight.settle(result);
            self.events.push_back(event);
        }
        if reply.code < 300 && self.left_open == Some(self.flights[index].number) {
            // A message that was taken has cleared the peer's buffers, RFC 5321 §4.1.1.4.
            self.left_open = None;
        }
        self.remove(index);
    }

    /// Whether the message that `head` answers was not passed to `send(2)` as a whole.
    fn awaits_end_of_data(&self, head: Awaited) -> bool {
        self.flights.iter().any(|flight| flight.number == head.flight && !flight.settled && !flight.end_of_data_sent)
    }

    /// Nothing was asked, and yet the peer speaks.
    fn handle_unasked_reply(&mut self, reply: Reply<'_>) {
        let under_way = self.flights.iter().position(|flight| flight.stage.is_under_way() && !flight.settled);
        let verb = under_way.map(|index| self.flights[index].stage.verb());
        let (index, kind) = match (reply.code, under_way) {
            (421, Some(index)) => (index, FailureKind::Closing),
            // A peer that has read enough of a body says so at once; the rest cannot be kept back but by hanging up.
            (400..=599, Some(index)) if verb == Some(Verb::EndOfData) => (index, FailureKind::Refused),
            // The usual end of an idle connection.
            (421, None) if self.flights.iter().all(|flight| flight.stage == Stage::Queued) => {
                return self.close_in_order();
            }
            _ => return self.break_off(FailureKind::Protocol, "a reply that nothing asked for"),
        };
        let response = reply.response(verb.unwrap_or(Verb::None));
        let failure = Failure { kind, response, maybe_delivered: false };
        let event = self.flights[index].settle(RecipientResult::Failed(failure.clone()));
        self.events.push_back(event);
        self.failure = Some(failure);
        self.stop(None);
    }

    /// 421: the session is over, RFC 5321 §3.8. It is charged to the flight whose command it answers, unless that
    /// flight only comes too late for a peer that has served enough.
    fn handle_announced_end(&mut self, head: Awaited, reply: Reply<'_>) {
        self.announced_end = true;
        let failure =
            Failure { kind: FailureKind::Closing, response: reply.response(head.step.verb()), maybe_delivered: false };
        if let Some(index) = self.flight_of(head) {
            let flight = &mut self.flights[index];
            let late = head.step == Step::Reset || (head.step == Step::Mail && self.served);
            if late && !flight.settled {
                self.give_back(index, AbortReason::SessionOver);
            } else if !flight.settled {
                let event = flight.settle(RecipientResult::Failed(failure.clone()));
                self.events.push_back(event);
            }
        }
        self.failure = Some(failure);
        self.stop(None);
    }

    /// Every recipient of flight `index` has its result, before the end of its data. What of the envelope was not
    /// put out yet stays away.
    fn settled(&mut self, index: usize, event: ClientEvent) {
        self.events.push_back(event);
        if self.flights[index].stage <= Stage::Envelope {
            self.leave_open(index);
            self.remove(index);
        }
    }

    /// The peer will get no end of data for flight `index`, and keeps what it has accepted of it.
    fn leave_open(&mut self, index: usize) {
        if self.flights[index].mail_accepted {
            self.left_open = Some(self.flights[index].number);
        }
    }

    fn remove(&mut self, index: usize) {
        self.flights.remove(index);
        self.served = true;
    }
}

/// Whether a reply with `code` can answer `step` at all.
fn fits(step: Step, code: u16) -> bool {
    match step {
        Step::Reset => code < 300,
        Step::Mail | Step::Rcpt | Step::EndOfData | Step::LoneDot => !(300..=399).contains(&code),
        Step::Data => code >= 300,
    }
}

fn refusal(reply: Reply<'_>, verb: Verb) -> RecipientResult {
    let response = reply.response(verb);
    RecipientResult::Failed(Failure { kind: FailureKind::Refused, response, maybe_delivered: false })
}

/// Whether the refusal of one RCPT after others were accepted is about their number, RFC 5321 §4.5.3.1.10: 452, or
/// the 552 of old, unless an enhanced code says something else than X.5.3.
fn says_too_many(failure: &Failure) -> bool {
    match failure.response.enhanced {
        Some(code) => (code.subject, code.detail) == (5, 3),
        None => matches!(failure.response.code, 452 | 552),
    }
}

#[cfg(test)]
mod tests {
    use super::{Step, fits, says_too_many};
    use crate::outcome::{EnhancedCode, Verb};
    use crate::smtp::classify::{Failure, FailureKind};

    /// RFC 5321 §4.3.2: which replies a command has, by their first digits.
    #[test]
    fn a_reply_answers_the_commands_that_have_such_replies() {
        let taken = |step| (200..600).filter(|code| fits(step, *code)).collect::<Vec<u16>>();
        assert_eq!(taken(Step::Reset), (200..300).collect::<Vec<u16>>());
        assert_eq!(taken(Step::Data), (300..600).collect::<Vec<u16>>());
        for step in [Step::Mail, Step::Rcpt, Step::EndOfData, Step::LoneDot] {
            assert_eq!(taken(step), (200..300).chain(400..600).collect::<Vec<u16>>(), "{step:?}");
        }
    }

    #[test]
    fn too_many_recipients_are_told_by_an_enhanced_code_or_else_by_the_code() {
        let told = |code, enhanced: Option<(u16, u16)>| {
            let mut failure = Failure::own(FailureKind::Refused, Verb::RcptTo, "as the test wants it");
            let enhanced = enhanced.map(|(subject, detail)| EnhancedCode { class: 4, subject, detail });
            (failure.response.code, failure.response.enhanced) = (code, enhanced);
            says_too_many(&failure)
        };
        assert!(told(452, None) && told(552, None) && told(452, Some((5, 3))) && told(450, Some((5, 3))));
        assert!(!told(451, None) && !told(550, None));
        assert!(!told(452, Some((5, 2))) && !told(452, Some((3, 3))) && !told(552, Some((3, 1))));
    }
}
