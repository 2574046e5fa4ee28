//! How sessions end, and which transaction is charged with it: the one whose command was being answered, or whose
//! data was under way; and every one whose end of data was sent, because it may have got through. The others are
//! given back.

use super::flight::{Flight, Stage};
use super::session::Session;
use super::state::{State, Step};
use super::{AbortReason, ClientEvent, RecipientResult, Withdrawal};
use crate::outcome::Verb;
use crate::smtp::classify::{Failure, FailureKind};
use crate::time::Instant;

impl Session {
    /// A rule now covers the recipients `covered` (indexes in the envelope; none named means all) of the transaction
    /// `token`. All of its recipients are given back, for the caller to submit again those that are not covered.
    ///
    /// Once DATA is out there is no way back but to hang up: a lone dot would deliver an empty message, and RSET is
    /// no command there. From this call on the end of its data is not put out any more.
    pub fn withdraw(&mut self, token: u64, covered: &[u16], now: Instant) -> Withdrawal {
        let open = |flight: &Flight| flight.token() == token && !flight.settled && !flight.end_of_data_sent;
        let Some(index) = self.flights.iter().position(open) else {
            return Withdrawal::TooLate;
        };
        if !self.flights[index].is_open_for(covered) {
            return Withdrawal::TooLate;
        }
        match self.flights[index].stage {
            Stage::Queued | Stage::Recipients(_) | Stage::Envelope => {
                if self.flights[index].stage != Stage::Queued {
                    self.left_open = Some(self.flights[index].number);
                }
                self.give_back(index, AbortReason::Withdrawn);
                self.quit_when_done(now);
                Withdrawal::GivenBack
            }
            _ => {
                self.stop(Some(token));
                Withdrawal::Ending
            }
        }
    }

    /// Nothing more is sent. Gives back what is not complete, and waits for the replies to what is.
    pub(super) fn stop(&mut self, withdrawn: Option<u64>) {
        self.state = State::Draining;
        self.pending = false;
        self.body_until = None;
        for flight in std::mem::take(&mut self.flights) {
            if flight.settled {
                continue;
            }
            if flight.end_of_data_sent {
                self.flights.push_back(flight);
                continue;
            }
            let reason = match withdrawn {
                Some(token) if token == flight.token() => AbortReason::Withdrawn,
                _ if flight.stage == Stage::Queued => AbortReason::NotSent,
                Some(_) => AbortReason::OtherWithdrawn,
                None => AbortReason::Behind,
            };
            self.events.push_back(flight.aborted(reason));
        }
        self.close_when_drained();
    }

    pub(super) fn close_when_drained(&mut self) {
        if self.flights.is_empty() {
            self.close();
        }
    }

    /// The peer closed, or the connection broke (`text` says how, when it is not empty).
    pub(super) fn handle_loss(&mut self, text: &str) {
        let idle = self.awaited.is_empty() && self.flights.iter().all(|flight| flight.stage == Stage::Queued);
        match self.state {
            State::Quit | State::Closed => self.close(),
            State::Ready if idle => self.close_in_order(),
            // Who cannot shake hands mostly just closes: another way to fail at it, for which the same helps.
            State::Handshake => {
                let text = if text.is_empty() { "closed the connection" } else { text };
                self.break_off(FailureKind::TlsHandshake, text);
            }
            _ => self.break_off(FailureKind::Lost, text),
        }
    }

    /// The peer ended an idle connection.
    pub(super) fn close_in_order(&mut self) {
        while !self.flights.is_empty() {
            self.give_back(0, AbortReason::NotSent);
        }
        self.close();
    }

    /// The session breaks off by `kind`; `detail` adds to our words.
    pub(super) fn break_off(&mut self, kind: FailureKind, detail: &str) {
        let head = self.awaited.front().copied();
        let stalled = self.flights.iter().find(|flight| flight.stage.is_under_way());
        let owner = head.map(|head| head.flight).or(stalled.map(|flight| flight.number));
        let mut verb = match (head, stalled) {
            (Some(head), _) => head.step.verb(),
            (None, Some(flight)) => flight.stage.verb(),
            (None, None) => self.state.verb(),
        };
        let late = self.served && kind == FailureKind::Lost;
        for mut flight in std::mem::take(&mut self.flights) {
            if flight.settled {
                continue;
            }
            let owns = owner == Some(flight.number);
            let charged = match flight.stage {
                // The peer had said that it would serve no more, and indeed it said nothing to this one.
                _ if self.announced_end && !flight.mail_answered => Err(AbortReason::Behind),
                _ if flight.end_of_data_sent => Ok((Verb::EndOfData, true)),
                Stage::Queued => Err(AbortReason::NotSent),
                _ if !owns => Err(AbortReason::Behind),
                _ if head.is_some_and(|head| head.step == Step::Reset) => Err(AbortReason::SessionOver),
                _ if late && !flight.mail_answered => Err(AbortReason::SessionOver),
                Stage::Body(_) | Stage::Dot | Stage::Done => Ok((Verb::EndOfData, false)),
                _ => Ok((verb, false)),
            };
            let event = match charged {
                Err(reason) => flight.aborted(reason),
                Ok((at, maybe_delivered)) => {
                    if owns {
                        verb = at;
                    }
                    let failure = self.own_failure(kind, at, maybe_delivered, detail);
                    flight.settle(RecipientResult::Failed(failure))
                }
            };
            self.events.push_back(event);
        }
        // What the peer said before it hung up tells more than that it did.
        let failure = self.failure.take().unwrap_or_else(|| self.own_failure(kind, verb, false, detail));
        self.close_with(failure);
    }

    fn own_failure(&self, kind: FailureKind, verb: Verb, maybe_delivered: bool, detail: &str) -> Failure {
        let what = match kind {
            FailureKind::TimedOut => "timed out",
            FailureKind::Lost => "closed the connection",
            FailureKind::TlsHandshake => "failed the TLS handshake",
            _ => "broke the protocol",
        };
        let place = match verb {
            Verb::None => " between messages",
            Verb::Connect | Verb::Banner => " before its greeting",
            Verb::Ehlo => " at EHLO",
            Verb::StartTls => " at STARTTLS",
            Verb::MailFrom => " at MAIL FROM",
            Verb::RcptTo => " at RCPT TO",
            Verb::Data => " at DATA",
            Verb::EndOfData if maybe_delivered => " after the end of the data; the message may have been delivered",
            Verb::EndOfData => " before the end of the data was sent",
        };
        let colon = if detail.is_empty() { "" } else { ": " };
        let text = format!("{} {what}{place}{colon}{detail}", self.config.host);
        Failure { maybe_delivered, ..Failure::own(kind, verb, text) }
    }

    /// Gives flight `index` back.
    pub(super) fn give_back(&mut self, index: usize, reason: AbortReason) {
        if let Some(flight) = self.flights.remove(index) {
            self.events.push_back(flight.aborted(reason));
        }
    }

    /// Says QUIT when no more is to come and everything is answered.
    pub(super) fn quit_when_done(&mut self, now: Instant) {
        if self.state == State::Ready && self.finishing && self.flights.is_empty() && self.awaited.is_empty() {
            self.quit(None, now);
        }
    }

    /// Says QUIT and closes when it is answered; `failure` is what `Closed` then tells.
    pub(super) fn quit(&mut self, failure: Option<Failure>, now: Instant) {
        self.failure = failure;
        self.enter(State::Quit, now);
    }

    pub(super) fn close_with(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.close();
    }

    pub(super) fn close(&mut self) {
        if self.state != State::Closed {
            assert!(self.flights.iter().all(|flight| flight.settled), "no transaction is forgotten");
            self.state = State::Closed;
            self.pending = false;
            self.body_until = None;
            self.awaited.clear();
            self.flights.clear();
            self.events.push_back(ClientEvent::Closed { failure: self.failure.take() });
        }
    }
}
