//! DATA and BDAT: the content of a message, from the command to the reply or to the runtime.

use super::control::Wishes;
use super::decoder::{Content, ContentRefusal, Decoder};
use super::envelope::Transaction;
use super::received::{self, Received};
use super::session::Session;
use super::state::{Chunk, DataClock, State};
use super::{Accepted, ServerEvent, StoreRefusal};
use crate::limits::{
    BODY_RESERVE_BYTES_MAX, BODY_RESERVE_USUAL_BYTES_MAX, CONTENT_BYTES_PER_SECOND_MIN, CONTENT_DURATION_MAX,
    CONTENT_WAIT, DISCARDED_BYTES_MAX, MESSAGE_CHUNKS_MAX, PRESSED_CONTENT_BYTES_MAX,
};
use crate::message::ContentFlags;
use crate::time::{Instant, Now};
use std::time::Duration;

/// Octets of our own header: room for it is reserved with the body.
const OWN_HEADER_BYTES: usize = 512;

impl DataClock {
    /// When the content comes too slowly: nothing for a while, too little on the whole, or for too long.
    fn deadline(&self) -> Instant {
        let earned = Duration::from_secs(self.octets / CONTENT_BYTES_PER_SECOND_MIN);
        self.progress.after(CONTENT_WAIT).min(self.started.after(CONTENT_WAIT + earned)).min(self.end())
    }

    /// When all of it has to have come, whatever the rate and the pauses.
    fn end(&self) -> Instant {
        self.began.after(CONTENT_DURATION_MAX)
    }

    /// Another chunk begins.
    fn resume(&mut self, now: Now) {
        self.started = self.started.after(now.instant.since(self.progress));
        self.progress = now.instant;
    }
}

impl Session {
    /// Memory is short: content that is more than [`PRESSED_CONTENT_BYTES_MAX`] already is let go, and answered with
    /// `refusal` at its end. Whatever was begun before, by however many, could fill what is left.
    pub fn relieve(&mut self, refusal: &StoreRefusal) {
        if let Some((decoder, _)) = self.content()
            && decoder.octets() > PRESSED_CONTENT_BYTES_MAX
        {
            decoder.refuse(ContentRefusal::Pressure(Box::new(refusal.clone())));
        }
    }

    pub(super) fn data(&mut self, now: Now) {
        match &self.transaction {
            None => return self.out_of_order("503 5.5.1 MAIL first"),
            Some(transaction) if transaction.content.is_some() || transaction.spoilt => {
                return self.error("503 5.5.1 DATA and BDAT do not mix");
            }
            Some(transaction) if transaction.recipients.len() == 0 => return self.no_recipients(),
            Some(_) => {}
        }
        if let Some(refusal) = self.pressure.take() {
            self.reply_refusal(&refusal);
            self.pressure = Some(refusal);
            return;
        }
        self.begin_content(now);
        self.state = State::Data;
        self.reply("354 End data with <CR><LF>.<CR><LF>");
    }

    /// The octets of a chunk come whatever the answer will be, so they are always read (RFC 3030 §2).
    pub(super) fn bdat(&mut self, octets: u64, last: bool, now: Now) {
        let bound = u64::from(self.config.max_message_bytes) + DISCARDED_BYTES_MAX;
        if octets > bound {
            return self.end("421 4.3.4 Chunk is far over the size limit");
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.chunks += 1;
            if transaction.chunks > MESSAGE_CHUNKS_MAX {
                return self.end("421 4.7.0 Too many chunks");
            }
            if transaction.content.is_none() && !transaction.spoilt && transaction.recipients.len() > 0 {
                self.begin_content(now);
            }
        }
        let chunk = Chunk { octets, left: octets, last };
        self.state = State::Chunk(chunk);
        match self.content() {
            Some((_, clock)) => clock.resume(now),
            None => self.wait_until(now.instant.after(CONTENT_WAIT)),
        }
        if octets == 0 {
            self.chunk_ended(chunk, now);
        }
    }

    pub(super) fn take_data(&mut self, bytes: &[u8], now: Now) -> usize {
        let (decoder, clock) = self.content().expect("DATA began the content");
        let (taken, ended) = decoder.data(bytes);
        clock.progress = now.instant;
        clock.octets += taken as u64;
        if ended {
            self.state = State::Command;
            self.end_of_data(now);
        } else {
            self.bound_waste();
        }
        taken
    }

    pub(super) fn take_chunk(&mut self, chunk: Chunk, bytes: &[u8], now: Now) -> usize {
        let taken = bytes.len().min(usize::try_from(chunk.left).unwrap_or(usize::MAX));
        if let Some((decoder, clock)) = self.content() {
            decoder.chunk(&bytes[..taken]);
            clock.progress = now.instant;
            clock.octets += taken as u64;
        }
        let chunk = Chunk { left: chunk.left - taken as u64, ..chunk };
        self.state = State::Chunk(chunk);
        self.bound_waste();
        if chunk.left == 0 && !matches!(self.state, State::Closed) {
            self.chunk_ended(chunk, now);
        }
        taken
    }

    /// When content that is coming has to have come.
    pub(super) fn content_deadline(&self) -> Option<Instant> {
        let (_, clock) = self.transaction.as_ref()?.content.as_ref()?;
        Some(clock.deadline())
    }

    /// Between chunks: when all of the content has to have come.
    pub(super) fn content_end(&self) -> Option<Instant> {
        let (_, clock) = self.transaction.as_ref()?.content.as_ref()?;
        Some(clock.end())
    }

    pub(super) fn content_memory(&self) -> usize {
        let content = self.transaction.as_ref().and_then(|transaction| transaction.content.as_ref());
        content.map_or(0, |(decoder, _)| decoder.memory())
    }

    fn content(&mut self) -> Option<(&mut Decoder, &mut DataClock)> {
        let (decoder, clock) = self.transaction.as_mut()?.content.as_mut()?;
        Some((decoder, clock))
    }

    /// 554 when all were refused, so that a client that pipelines learns why; 503 when none was named.
    fn no_recipients(&mut self) {
        match self.transaction.as_ref().is_some_and(|transaction| transaction.refused > 0) {
            true => self.reply("554 5.5.1 No valid recipients"),
            false => self.error("503 5.5.1 RCPT first"),
        }
    }

    /// Makes the decoder, over a body that begins with our Received header.
    fn begin_content(&mut self, now: Now) {
        let Some(transaction) = &mut self.transaction else { return };
        let announced = usize::try_from(transaction.announced_bytes).unwrap_or(usize::MAX);
        // Who announces no size mostly sends one message like another: what the last one took, and a little more.
        let expected = if announced == 0 { self.usual_bytes } else { announced };
        let mut body = Vec::with_capacity(OWN_HEADER_BYTES + expected.min(BODY_RESERVE_BYTES_MAX));
        let tls = self.tls;
        let received = Received {
            greeted_as: &self.greeted_as,
            peer: self.peer.address,
            hostname: &self.config.hostname,
            protocol: received::protocol(self.greeting, tls.is_some(), self.authenticated, transaction.smtputf8),
            tls,
            id: self.next_id,
            at: now.utc,
        };
        received.write(&mut body);
        let decoder = Decoder::new(body, self.config.clone(), self.peer.trusted_headers);
        let clock = DataClock { began: now.instant, started: now.instant, progress: now.instant, octets: 0 };
        transaction.content = Some((decoder, clock));
    }

    /// A message over the limit is read to its end, but not for ever.
    fn bound_waste(&mut self) {
        let bound = u64::from(self.config.max_message_bytes) + DISCARDED_BYTES_MAX;
        if self.content().is_some_and(|(decoder, _)| decoder.octets() > bound) {
            self.end("421 4.3.4 Message is far over the size limit");
        }
    }

    fn chunk_ended(&mut self, chunk: Chunk, now: Now) {
        self.state = State::Command;
        let Some(transaction) = &mut self.transaction else {
            self.out_of_order("503 5.5.1 MAIL first");
            return self.ready(now);
        };
        let refusal = transaction.content.as_ref().and_then(|(decoder, _)| decoder.refusal()).cloned();
        if transaction.spoilt {
            self.reply("503 5.5.1 A chunk was refused; RSET first");
        } else if transaction.content.is_none() {
            // What follows it alone would be a message without its beginning, should a recipient be named yet.
            transaction.spoilt = true;
            self.no_recipients();
        } else if chunk.last {
            return self.end_of_data(now);
        } else if let Some(refusal) = refusal {
            transaction.spoilt = true;
            transaction.content = None;
            self.refuse_content(&refusal);
        } else {
            self.reply_with(format_args!("250 2.0.0 {} octets", chunk.octets));
        }
        if chunk.last {
            self.transaction = None;
        }
        self.ready(now);
    }

    /// The message is complete: hands it out, or says why not.
    fn end_of_data(&mut self, now: Now) {
        let transaction = self.transaction.take().expect("content belongs to a transaction");
        match self.accepted(transaction) {
            Ok(accepted) => {
                let usual = accepted.body.len() + accepted.body.len() / 16;
                self.usual_bytes = usual.min(BODY_RESERVE_USUAL_BYTES_MAX);
                self.state = State::Storing;
                self.event = Some(ServerEvent::Message(Box::new(accepted)));
            }
            Err(refusal) => self.refuse_content(&refusal),
        }
        self.ready(now);
    }

    fn accepted(&self, transaction: Transaction) -> Result<Accepted, ContentRefusal> {
        let Transaction { sender, smtputf8, recipients, content, .. } = transaction;
        let (decoder, _) = content.expect("the content has begun");
        let Content { body, header_end, eight_bit, dot_lines, marks } = decoder.finish()?;
        let Wishes { envelope, extras } =
            marks.into_wishes().map_err(|(name, why)| ContentRefusal::Control(name.into(), why))?;
        let sender = envelope.unwrap_or(sender);
        // A reverse-path from a control header needs SMTPUTF8 as much as one from MAIL.
        let smtputf8 = smtputf8 || !sender.is_ascii();
        let recipients = recipients.into_list();
        // Many libraries say SMTPUTF8 whenever it is offered. Who needs nothing of it must not ask the next hop for it
        // (RFC 6531 §3.2): one that does not offer it could not be sent to.
        let plain = sender.is_ascii() && recipients.iter().all(|recipient| recipient.is_ascii());
        let needed = smtputf8 && !(plain && body[..header_end].is_ascii());
        Ok(Accepted {
            id: self.next_id,
            protocol: received::protocol(self.greeting, self.tls.is_some(), self.authenticated, smtputf8),
            sender,
            recipients,
            flags: ContentFlags { eight_bit, smtputf8: needed, dot_lines },
            extras,
            body,
        })
    }

    fn refuse_content(&mut self, refusal: &ContentRefusal) {
        let max = self.config.max_message_bytes;
        match refusal {
            ContentRefusal::Pressure(refusal) => self.reply_refusal(refusal),
            ContentRefusal::TooLarge => self.reply(&format!("552 5.3.4 Message is over {max} octets")),
            ContentRefusal::BareLineEnd => self.reply("550 5.6.11 Message holds a CR or LF that stands alone"),
            ContentRefusal::Nul => self.reply("550 5.6.0 Message holds a NUL octet"),
            ContentRefusal::LongLine => self.reply("550 5.6.0 Message holds a line that is too long"),
            ContentRefusal::LargeHeader => self.reply("552 5.3.4 Header is too large"),
            ContentRefusal::Loop => self.reply("554 5.4.6 Too many Received headers, a loop"),
            ContentRefusal::Control(name, why) => self.reply(&format!("550 5.6.0 {name}: {why}")),
        }
    }
}
