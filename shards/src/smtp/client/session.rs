//! The session: what it is told and what it is asked. Replies are understood in `greeting` and `transaction`, output
//! is made in `output`, ends are made in `ending`. Reads no clock: `now` comes with every call.

use super::flight::{Flight, Stage};
use super::state::{Awaited, State};
use super::{Capabilities, ClientConfig, ClientEvent, RecipientResult, Transaction};
use crate::limits::CLIENT_FLIGHTS_MAX;
use crate::outcome::Verb;
use crate::smtp::classify::{Failure, FailureKind};
use crate::smtp::command::is_safe_address;
use crate::smtp::reply::{Reply, ReplyReader};
use crate::time::Instant;
use std::collections::VecDeque;

/// One connection to one remote host. Owned by one core; made when TCP is connected, ends with
/// [`ClientEvent::Closed`], after which it ignores what it is told.
///
/// After each `handle_*`, [`submit`](Self::submit), [`finish`](Self::finish) and [`withdraw`](Self::withdraw) the
/// caller polls the events, submits what it wants to submit, fills and sends the output, and reads the deadline anew.
#[derive(Debug)]
pub struct Session {
    pub(super) config: ClientConfig,
    pub(super) state: State,
    /// The command of the state (EHLO, HELO, STARTTLS, QUIT) was not put out yet.
    pub(super) pending: bool,
    pub(super) capabilities: Capabilities,
    /// TLS is on.
    pub(super) secure: bool,
    /// No more transactions will come.
    pub(super) finishing: bool,
    /// A transaction was completed on this connection.
    pub(super) served: bool,
    /// Number of the flight whose transaction the peer may hold open: RSET before the next MAIL.
    pub(super) left_open: Option<u32>,
    /// The peer has said 421.
    pub(super) announced_end: bool,
    pub(super) reader: ReplyReader,
    /// Oldest first. Bounded by [`Session::window`].
    pub(super) flights: VecDeque<Flight>,
    /// Replies to come. Bounded by the commands of `flights`.
    pub(super) awaited: VecDeque<Awaited>,
    pub(super) events: VecDeque<ClientEvent>,
    pub(super) next_number: u32,
    /// From when the reply that comes next is timed.
    pub(super) reply_since: Instant,
    /// When the body that is being put out must be complete.
    pub(super) body_until: Option<Instant>,
    /// What `Closed` will tell.
    pub(super) failure: Option<Failure>,
}

impl Session {
    /// TCP is connected; the greeting is awaited.
    #[must_use]
    pub fn new(config: ClientConfig, now: Instant) -> Self {
        Self {
            config,
            state: State::Banner,
            pending: false,
            capabilities: Capabilities::default(),
            secure: false,
            finishing: false,
            served: false,
            left_open: None,
            announced_end: false,
            reader: ReplyReader::default(),
            flights: VecDeque::new(),
            awaited: VecDeque::new(),
            events: VecDeque::new(),
            next_number: 0,
            reply_since: now,
            body_until: None,
            failure: None,
        }
    }

    /// Octets came from the peer (decrypted, when TLS is on).
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        let mut input = bytes;
        let mut reader = std::mem::take(&mut self.reader);
        while !input.is_empty() && self.state != State::Closed {
            if self.state == State::Handshake {
                self.refuse_injected_plaintext();
                break;
            }
            match reader.next(&mut input) {
                None => break,
                Some(Ok(reply)) => self.handle_reply(reply, now),
                Some(Err(error)) => {
                    let text = format!("{error}: {:?}", reader.offending_line());
                    self.break_off(FailureKind::Protocol, &text);
                }
            }
        }
        self.reader = reader;
    }

    fn handle_reply(&mut self, reply: Reply<'_>, now: Instant) {
        match self.state {
            State::Banner => self.handle_banner(reply, now),
            State::Ehlo => self.handle_ehlo_reply(reply, now),
            State::Helo => self.handle_helo_reply(reply, now),
            State::StartTls => self.handle_starttls_reply(reply, now),
            State::Ready | State::Draining => self.handle_transaction_reply(reply, now),
            State::Quit => self.close(),
            State::Handshake | State::Closed => unreachable!("no reply is read in {:?}", self.state),
        }
    }

    /// The peer closed its side.
    pub fn handle_eof(&mut self, _now: Instant) {
        self.handle_loss("");
    }

    /// Reading or writing failed; `text` says how.
    pub fn handle_io_error(&mut self, text: &str, _now: Instant) {
        self.handle_loss(text);
    }

    /// Time passed. Does nothing before [`deadline`](Self::deadline).
    pub fn handle_deadline(&mut self, now: Instant) {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match self.state {
            State::Quit => self.close(),
            State::Handshake => self.break_off(FailureKind::TlsHandshake, "timed out"),
            _ => self.break_off(FailureKind::TimedOut, ""),
        }
    }

    /// The handshake that [`ClientEvent::StartTls`] asked for succeeded.
    pub fn handle_tls_ready(&mut self, now: Instant) {
        if self.state == State::Handshake {
            self.secure = true;
            // RFC 3207 §4.2: what was learned before the handshake is discarded.
            self.capabilities = Capabilities::default();
            self.reader.forget();
            self.enter(State::Ehlo, now);
        }
    }

    /// The handshake failed; `text` says how. The caller may reconnect in clear, if `classify` says so.
    pub fn handle_tls_failed(&mut self, text: &str, _now: Instant) {
        if self.state == State::Handshake {
            self.break_off(FailureKind::TlsHandshake, text);
        }
    }

    /// Whether a further transaction may be submitted now, also while others are under way.
    #[must_use]
    pub fn wants_transaction(&self) -> bool {
        self.state == State::Ready && !self.finishing && self.flights.len() < self.window()
    }

    /// Hands over a transaction. What the peer cannot take by its own word is finished at once without touching the
    /// wire; when none is wanted it is given back.
    pub fn submit(&mut self, transaction: Transaction, _now: Instant) {
        assert!(!transaction.recipients.is_empty(), "a transaction has recipients");
        let flight = Flight::new(self.next_number, transaction);
        self.next_number = self.next_number.wrapping_add(1);
        if !self.wants_transaction() {
            self.events.push_back(flight.aborted(super::AbortReason::NotSent));
            return;
        }
        self.admit(flight);
    }

    fn admit(&mut self, mut flight: Flight) {
        if let Some(failure) = self.obstacle(&flight.transaction) {
            let event = flight.settle(RecipientResult::Failed(failure));
            self.events.push_back(event);
            return;
        }
        flight.exclude_recipients(|address| {
            let text = "the recipient's address cannot be sent by SMTP";
            (!is_safe_address(address)).then(|| Failure::own(FailureKind::BadRecipient, Verb::None, text))
        });
        if flight.transaction.recipients.is_empty() {
            let event = flight.finished();
            self.events.push_back(event);
        } else {
            self.flights.push_back(flight);
        }
    }

    /// What keeps `transaction` from being sent to this peer at all.
    fn obstacle(&self, transaction: &Transaction) -> Option<Failure> {
        let (host, offers) = (&*self.config.host, &self.capabilities);
        let envelope = &*transaction.envelope;
        let flags = envelope.flags();
        let own = |kind, text| Some(Failure::own(kind, Verb::None, text));
        if !is_safe_address(envelope.sender()) {
            return own(FailureKind::BadSender, "the sender's address cannot be sent by SMTP".to_owned());
        }
        if flags.smtputf8 && !offers.smtputf8 {
            return own(
                FailureKind::NeedsSmtpUtf8,
                format!("{host} does not offer SMTPUTF8, which this message needs"),
            );
        }
        if flags.eight_bit && !offers.eight_bit_mime {
            let text = format!("{host} does not offer 8BITMIME, which this message's 8-bit content needs");
            return own(FailureKind::NeedsEightBitMime, text);
        }
        let size = self.transfer_size(&transaction.body);
        if offers.is_too_large(size) {
            let bound = offers.size.unwrap_or(0);
            let text = format!("the message has {size} octets, {host} accepts at most {bound}");
            return own(FailureKind::TooLarge, text);
        }
        None
    }

    /// No more transactions will come: QUIT once everything is answered.
    pub fn finish(&mut self, now: Instant) {
        self.finishing = true;
        self.quit_when_done(now);
    }

    /// The octet at the mark of `token` was passed to `send(2)`. Unknown tokens are ignored: the peer may have
    /// answered early.
    pub fn handle_end_of_data_sent(&mut self, token: u64, now: Instant) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.token() == token && !flight.settled) {
            assert_eq!(flight.stage, Stage::Done, "a mark was given for it");
            flight.end_of_data_sent = true;
            let number = flight.number;
            self.note_progress(number, now);
        }
    }

    /// More of a flight went out: a reply to it is timed from now, but not one to a flight before it, which would
    /// wait the longer the more is sent behind it.
    pub(super) fn note_progress(&mut self, number: u32, now: Instant) {
        if self.awaited.front().is_none_or(|head| head.flight == number) {
            self.reply_since = self.reply_since.max(now);
        }
    }

    /// What to do or know next.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// When [`handle_deadline`](Self::handle_deadline) is due. `None` when nothing is awaited: an idle connection's
    /// end is the caller's decision.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if let Some(timeout) = self.state.timeout() {
            return Some(self.reply_since.after(timeout));
        }
        self.body_until.or_else(|| self.awaited.front().map(|head| self.reply_since.after(head.step.timeout())))
    }

    /// Messages that may be under way at once: with DATA the one being answered and the one whose envelope follows
    /// its final dot; with BDAT as many as configured; without PIPELINING one.
    pub(super) fn window(&self) -> usize {
        match (self.capabilities.pipelining, self.capabilities.chunking) {
            (false, _) => 1,
            (true, false) => 2,
            (true, true) => usize::from(self.config.pipelined_chunks).clamp(1, CLIENT_FLIGHTS_MAX),
        }
    }

    /// Goes to a state outside of transactions whose command, if it has one, is now due.
    pub(super) fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.pending = matches!(state, State::Ehlo | State::Helo | State::StartTls | State::Quit);
        self.reply_since = now;
    }

    pub(super) fn flight_of(&mut self, awaited: Awaited) -> Option<usize> {
        self.flights.iter().position(|flight| flight.number == awaited.flight)
    }
}
