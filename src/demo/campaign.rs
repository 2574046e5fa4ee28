//! The demonstration's mail: a campaign in two parts, and afterwards a trickle, so that there is something to control.

use crate::inject::client::{Failure, Message, Session};
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};

const HELO: &str = "newsletter.example";
const SENDER: &str = "news@newsletter.example";

/// Tags of the campaign; the messages of each destination carry them in turn.
pub const TAGS: [&str; 2] = ["spring", "summer"];

/// Threads that hand in a campaign, one for each destination.
pub struct Campaign(Vec<JoinHandle<Result<(), String>>>);

impl Campaign {
    /// Begins to hand in `each` messages for each of the domains.
    pub fn start(smtp: SocketAddr, domains: &'static [&'static str], each: u32) -> std::io::Result<Self> {
        let hand_in = |domain: &'static str| {
            let work = move || {
                let mut mail = Mail::new(smtp);
                (0..each).try_for_each(|number| {
                    let tag = TAGS[number as usize % TAGS.len()];
                    mail.hand_in(&recipient(number, domain), tag)
                })
            };
            thread::Builder::new().name("campaign".to_owned()).spawn(work)
        };
        domains.iter().copied().map(hand_in).collect::<Result<_, _>>().map(Self)
    }

    /// Whether all is handed in, or something failed.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }

    /// What came of it. Waits for the end.
    pub fn result(self) -> Result<(), String> {
        self.0.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(_) => Err("a thread of the campaign panicked".to_owned()),
        })
    }
}

/// An invented subscriber.
#[must_use]
pub fn recipient(number: u32, domain: &str) -> String {
    format!("person{number:04}@{domain}")
}

/// A connection for single messages, opened when it is needed.
pub struct Mail {
    smtp: SocketAddr,
    session: Option<Session>,
}

impl Mail {
    /// Does not connect yet.
    #[must_use]
    pub fn new(smtp: SocketAddr) -> Self {
        Self { smtp, session: None }
    }

    /// One message.
    pub fn hand_in(&mut self, recipient: &str, tag: &str) -> Result<(), String> {
        let body = format!(
            "From: News <{SENDER}>\nTo: {recipient}\nSubject: Our {tag} news\nX-MQ-Tag: {tag}\n\n\
             Dear subscriber,\n\nthis is the {tag} edition. It was made for a demonstration and sells nothing.\n"
        );
        let recipients = [recipient.to_owned()];
        let message = Message { helo: HELO, sender: SENDER, recipients: &recipients, body: body.as_bytes() };
        let words = |failure| match failure {
            Failure::Refused(text) | Failure::Unreachable(text) => text,
        };
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::open(self.smtp, HELO).map_err(words)?,
        };
        session.hand_in(&message).map_err(words)?;
        self.session = Some(session);
        Ok(())
    }
}
