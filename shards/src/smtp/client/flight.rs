//! One transaction on its way: how much of it was put out, and what was answered. Knows nothing of the session.

use super::{AbortReason, ClientEvent, Failure, RecipientResult, Results, Transaction};
use crate::outcome::Verb;
use smallvec::SmallVec;

/// How much of a transaction was put out. Only forward, in this order; `Data → Go` with DATA, `Data → Body` with BDAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Nothing.
    Queued,
    /// MAIL, and RCPT for so many recipients.
    Recipients(usize),
    /// All of the envelope.
    Envelope,
    /// DATA; 354 is awaited.
    Go,
    /// 354 has come, or BDAT is out; and so many octets of the body.
    Body(usize),
    /// All of the body; the final dot is due.
    Dot,
    /// 354 has come although every recipient was refused; a lone dot is due.
    LoneDot,
    /// Everything.
    Done,
}

impl Stage {
    /// Something of the transaction was put out, and more of it is due.
    pub(super) fn is_under_way(self) -> bool {
        !matches!(self, Self::Queued | Self::Done)
    }

    /// The command that is due or awaited.
    pub(super) fn verb(self) -> Verb {
        match self {
            Self::Queued => Verb::MailFrom,
            Self::Recipients(_) => Verb::RcptTo,
            Self::Envelope | Self::Go => Verb::Data,
            Self::Body(_) | Self::Dot | Self::LoneDot | Self::Done => Verb::EndOfData,
        }
    }
}

#[derive(Debug)]
pub(super) struct Flight {
    /// Names it among the session's flights.
    pub(super) number: u32,
    pub(super) transaction: Transaction,
    pub(super) stage: Stage,
    /// MAIL was answered, whatever the answer.
    pub(super) mail_answered: bool,
    /// MAIL was accepted, so the peer holds a transaction open.
    pub(super) mail_accepted: bool,
    /// The caller has passed the octet that completes the message to `send(2)`.
    pub(super) end_of_data_sent: bool,
    /// Its results were given out.
    pub(super) settled: bool,
    /// How many recipients it had when it was submitted.
    submitted: usize,
    /// How many RCPTs were answered.
    answered: usize,
    /// Recipients that were accepted and have no result yet.
    accepted: SmallVec<[u16; 4]>,
    /// Results so far.
    results: Results,
}

impl Flight {
    pub(super) fn new(number: u32, transaction: Transaction) -> Self {
        Self {
            number,
            submitted: transaction.recipients.len(),
            transaction,
            stage: Stage::Queued,
            mail_answered: false,
            mail_accepted: false,
            end_of_data_sent: false,
            settled: false,
            answered: 0,
            accepted: SmallVec::new(),
            results: Results::new(),
        }
    }

    pub(super) fn token(&self) -> u64 {
        self.transaction.token
    }

    /// Takes out the recipients to whose address `obstacle` has something to say, with that as their result.
    pub(super) fn exclude_recipients(&mut self, obstacle: impl Fn(&str) -> Option<Failure>) {
        let Self { transaction: Transaction { envelope, recipients, .. }, results, .. } = self;
        recipients.retain(|index| match obstacle(envelope.recipient((*index).into())) {
            None => true,
            Some(failure) => {
                results.push((*index, RecipientResult::Failed(failure)));
                false
            }
        });
    }

    /// The next RCPT in order was accepted.
    pub(super) fn accept_recipient(&mut self) {
        self.accepted.push(self.transaction.recipients[self.answered]);
        self.answered += 1;
    }

    /// The next RCPT in order was refused.
    pub(super) fn refuse_recipient(&mut self, result: RecipientResult) {
        self.results.push((self.transaction.recipients[self.answered], result));
        self.answered += 1;
    }

    /// Whether any recipient was accepted and is still without a result.
    pub(super) fn has_accepted(&self) -> bool {
        !self.accepted.is_empty()
    }

    pub(super) fn all_recipients_answered(&self) -> bool {
        self.answered == self.transaction.recipients.len()
    }

    /// Whether any of `covered` has no result yet. None named means all.
    pub(super) fn is_open_for(&self, covered: &[u16]) -> bool {
        let unanswered = &self.transaction.recipients[self.answered..];
        covered.is_empty() || covered.iter().any(|index| self.accepted.contains(index) || unanswered.contains(index))
    }

    /// Gives every recipient that has none `result`, and the results out.
    pub(super) fn settle(&mut self, result: RecipientResult) -> ClientEvent {
        let mut open = std::mem::take(&mut self.accepted);
        open.extend_from_slice(&self.transaction.recipients[self.answered..]);
        self.answered = self.transaction.recipients.len();
        if let Some((last, others)) = open.split_last() {
            for index in others {
                self.results.push((*index, result.clone()));
            }
            self.results.push((*last, result));
        }
        self.finished()
    }

    /// Gives the results out; every recipient has one.
    pub(super) fn finished(&mut self) -> ClientEvent {
        assert_eq!(self.results.len(), self.submitted, "every recipient has one result");
        assert!(!self.settled, "results are given out once");
        self.settled = true;
        ClientEvent::Finished { token: self.token(), results: std::mem::take(&mut self.results) }
    }

    /// Gives it back, with the recipients that were refused or taken out, whose results are forgotten.
    pub(super) fn aborted(self, reason: AbortReason) -> ClientEvent {
        assert!(!self.settled, "a transaction with results is not given back");
        let mut recipients = self.transaction.recipients;
        for (index, _) in &self.results {
            if !recipients.contains(index) {
                recipients.push(*index);
            }
        }
        ClientEvent::Aborted { token: self.transaction.token, recipients, reason }
    }
}
