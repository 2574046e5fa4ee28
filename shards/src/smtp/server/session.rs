//! One conversation with an injector. Holds its state, its deadlines and its bounds, and talks
//! to the runtime; lines are acted on in `line`, `greeting`, `auth` and `envelope`, text in `content`. Never answers
//! for what the runtime has to do.

use super::envelope::Transaction;
use super::received::TlsFacts;
use super::state::{Counters, Greeting, State};
use super::{PeerFacts, ServerConfig, ServerEvent, StoreRefusal};
use crate::limits::{
    BODY_RESERVE_BYTES, COMMAND_WAIT, SERVER_HANDSHAKE_WAIT, SESSION_ERRORS_MAX, SESSION_FAILED_LOGINS_MAX,
    SESSION_IDLE_COMMANDS_MAX, SESSION_OUTPUT_BYTES_MAX,
};
use crate::message::MessageId;
use crate::time::{Instant, Now};
use std::fmt;
use std::io::Write;
use std::sync::Arc;

/// The server's side of one SMTP connection. Lives on the core that accepted it, in the task that serves it.
#[derive(Debug)]
pub struct Session {
    pub(super) config: Arc<ServerConfig>,
    pub(super) peer: PeerFacts,
    /// The id of the next message that is complete.
    pub(super) next_id: MessageId,
    pub(super) state: State,
    pub(super) greeting: Greeting,
    /// What the peer calls itself, printable.
    pub(super) greeted_as: Box<str>,
    pub(super) tls: Option<TlsFacts>,
    pub(super) authenticated: bool,
    pub(super) transaction: Option<Transaction>,
    /// The last MAIL was refused, and what belonged to it may still come.
    pub(super) mail_refused: bool,
    pub(super) counters: Counters,
    /// Octets for which room is made when a message's size is not announced.
    pub(super) usual_bytes: usize,
    pub(super) pressure: Option<Box<StoreRefusal>>,
    pub(super) event: Option<ServerEvent>,
    /// Beginning of a line whose end has not come.
    pub(super) partial: Vec<u8>,
    output: Vec<u8>,
    deadline: Instant,
    stopping: bool,
    input_ended: bool,
    close_announced: bool,
}

impl Session {
    /// A session whose greeting is in the output. `next_id` is used by the first message that is complete.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, peer: PeerFacts, next_id: MessageId, now: Now) -> Self {
        let mut session = Self {
            config,
            peer,
            next_id,
            state: State::Command,
            greeting: Greeting::None,
            greeted_as: Box::default(),
            tls: None,
            authenticated: false,
            transaction: None,
            mail_refused: false,
            counters: Counters::default(),
            usual_bytes: BODY_RESERVE_BYTES,
            pressure: None,
            event: None,
            partial: Vec::new(),
            output: Vec::with_capacity(256),
            deadline: now.instant.after(COMMAND_WAIT),
            stopping: false,
            input_ended: false,
            close_announced: false,
        };
        let hostname = session.config.hostname.clone();
        session.reply(&format!("220 {hostname} ESMTP mailrace"));
        session
    }

    /// Replies that wait to be written; the runtime takes them out.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What the runtime must do next, after writing the output.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        if let Some(event) = self.event.take() {
            return Some(event);
        }
        let announce = matches!(self.state, State::Closed) && !self.close_announced;
        self.close_announced |= announce;
        announce.then_some(ServerEvent::Close)
    }

    /// Whether octets of the peer would be taken now. While false, do not read, except for the TLS handshake.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        match self.state {
            State::Command | State::Skipping | State::Data | State::Chunk(_) | State::Exchange(_) => {
                self.output.len() < SESSION_OUTPUT_BYTES_MAX
            }
            State::Authenticating | State::Storing | State::StartingTls | State::Closed => false,
        }
    }

    /// When [`Session::handle_deadline`] is due; `None` while the session waits for the runtime.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Authenticating | State::Storing | State::Closed => None,
            State::Data | State::Chunk(_) => Some(self.content_deadline().unwrap_or(self.deadline)),
            State::Command => Some(self.deadline.min(self.content_end().unwrap_or(self.deadline))),
            State::Skipping | State::Exchange(_) | State::StartingTls => Some(self.deadline),
        }
    }

    /// Octets of memory that the session holds on the heap, for the memory budget: the content received so far, and
    /// its buffers.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.partial.capacity() + self.output.capacity() + self.content_memory()
    }

    /// What the peer called itself in EHLO or HELO, with unprintable octets replaced; empty before.
    #[must_use]
    pub fn greeted_as(&self) -> &str {
        &self.greeted_as
    }

    /// Takes octets of the peer and says how many. Fewer than given only when the session stopped wanting
    /// input; the rest is given again once [`Session::wants_input`]. Behind STARTTLS and behind the end of
    /// the session everything is taken and thrown away: what was sent in clear must not be read as if it had
    /// come through TLS.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Now) -> usize {
        let mut taken = 0;
        while taken < bytes.len() && self.wants_input() {
            let rest = &bytes[taken..];
            taken += match self.state {
                State::Data => self.take_data(rest, now),
                State::Chunk(chunk) => self.take_chunk(chunk, rest, now),
                State::Skipping => self.skip_line(rest, now),
                _ => self.take_line(rest, now),
            };
        }
        if matches!(self.state, State::StartingTls | State::Closed) { bytes.len() } else { taken }
    }

    /// The peer sends nothing more. Give the session all octets first. What is being stored is still answered.
    pub fn handle_eof(&mut self) {
        match self.state {
            State::Storing | State::Authenticating => self.input_ended = true,
            _ => self.close(),
        }
    }

    /// The deadline may have passed.
    pub fn handle_deadline(&mut self, now: Now) {
        match self.deadline() {
            Some(deadline) if now.instant >= deadline => {}
            _ => return,
        }
        match self.state {
            // There is no channel for words in the midst of a handshake.
            State::StartingTls => self.close(),
            _ => self.end("421 4.4.2 Timed out"),
        }
    }

    /// The handshake that [`ServerEvent::StartTls`] asked for is done. The peer must greet again, and nothing
    /// that it said in clear is remembered (RFC 3207 §4.2).
    pub fn handle_tls_ready(&mut self, version: &'static str, suite: &'static str, now: Now) {
        assert!(matches!(self.state, State::StartingTls), "TLS is begun only by STARTTLS");
        self.state = State::Command;
        self.tls = Some(TlsFacts { version, suite });
        self.greeting = Greeting::None;
        self.greeted_as = Box::default();
        self.authenticated = false;
        self.transaction = None;
        self.partial = Vec::new();
        self.ready(now);
    }

    /// Whether the credentials of [`ServerEvent::Authenticate`] are right.
    pub fn handle_authenticated(&mut self, right: bool, now: Now) {
        assert!(matches!(self.state, State::Authenticating), "only credentials asked for are answered");
        self.state = State::Command;
        if right {
            self.authenticated = true;
            self.reply("235 2.7.0 Authenticated");
        } else {
            self.refuse_login("535 5.7.8 Credentials are not right");
        }
        self.ready(now);
    }

    /// What became of [`ServerEvent::Message`]. `next_id` is for the next message.
    pub fn handle_stored(&mut self, result: Result<MessageId, StoreRefusal>, next_id: MessageId, now: Now) {
        assert!(matches!(self.state, State::Storing), "only a message handed out is answered");
        self.state = State::Command;
        self.next_id = next_id;
        match result {
            Ok(id) => {
                self.counters.errors = 0;
                self.counters.commands = 0;
                self.reply_with(format_args!("250 2.0.0 {id} queued"));
            }
            Err(refusal) => self.reply_refusal(&refusal),
        }
        self.ready(now);
    }

    /// While `Some`, MAIL and DATA are answered with it: no new mail is begun. A message whose content is
    /// already coming is not affected. A code of 421 also ends the session.
    pub fn set_pressure(&mut self, refusal: Option<StoreRefusal>) {
        self.pressure = refusal.map(Box::new);
    }

    /// Whether the handshake that [`ServerEvent::StartTls`] asked for still makes sense: its time is not over, and the
    /// engine does not stop. Else the connection is closed; nobody can be told why.
    #[must_use]
    pub fn awaits_tls(&self) -> bool {
        matches!(self.state, State::StartingTls)
    }

    /// The engine stops: an idle session is ended with 421 at once, another after its transaction. In the midst of a
    /// handshake there is none, and no channel for words.
    pub fn shutdown(&mut self, now: Now) {
        self.stopping = true;
        if self.awaits_tls() {
            return self.close();
        }
        if matches!(self.state, State::Command | State::Skipping | State::Exchange(_)) && self.transaction.is_none() {
            self.state = State::Command;
            self.ready(now);
        }
    }

    /// A line was answered, or the runtime's answer passed on: what comes next.
    pub(super) fn ready(&mut self, now: Now) {
        match self.state {
            State::StartingTls => self.deadline = now.instant.after(SERVER_HANDSHAKE_WAIT),
            State::Exchange(_) => self.deadline = now.instant.after(COMMAND_WAIT),
            _ => {}
        }
        if !matches!(self.state, State::Command) {
            return;
        }
        self.deadline = now.instant.after(COMMAND_WAIT);
        if self.counters.errors >= SESSION_ERRORS_MAX || self.counters.failed_logins >= SESSION_FAILED_LOGINS_MAX {
            self.end("421 4.7.0 Too many errors");
        } else if self.counters.commands >= SESSION_IDLE_COMMANDS_MAX {
            self.end("421 4.7.0 Too many commands without a message");
        } else if self.input_ended {
            self.close();
        } else if self.stopping && self.transaction.is_none() {
            self.end("421 4.3.2 Shutting down");
        }
    }

    /// Queues one reply line.
    pub(super) fn reply(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    /// Queues one reply line with values in it.
    pub(super) fn reply_with(&mut self, line: fmt::Arguments<'_>) {
        write!(self.output, "{line}\r\n").expect("a vector takes any octets");
    }

    /// Queues a reply to a command that has to follow MAIL. It is no error of the peer's when MAIL was refused and the
    /// rest was sent along with it (RFC 2920 §3.1).
    pub(super) fn out_of_order(&mut self, line: &str) {
        if self.mail_refused {
            self.counters.commands += 1;
            self.reply(line);
        } else {
            self.error(line);
        }
    }

    /// Queues a reply that counts as the peer's error.
    pub(super) fn error(&mut self, line: &str) {
        self.counters.errors += 1;
        self.reply(line);
    }

    pub(super) fn reply_refusal(&mut self, refusal: &StoreRefusal) {
        let StoreRefusal { code, enhanced, text } = refusal;
        self.reply(&format!("{code} {enhanced} {text}"));
        if *code == 421 {
            self.close();
        }
    }

    /// Says the last words and closes.
    pub(super) fn end(&mut self, line: &str) {
        self.reply(line);
        self.close();
    }

    pub(super) fn close(&mut self) {
        self.state = State::Closed;
        self.transaction = None;
        self.partial = Vec::new();
    }

    pub(super) fn wait_until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }
}
