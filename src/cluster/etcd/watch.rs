//! A watch: a thread reads its lines, its owner takes whole revisions and can stop waiting at any time. Never hands out a
//! part of a revision, and never skips one without an error.

use super::assemble::Assembler;
use super::http::{Lines, Stop, Stream};
use super::types::{EtcdError, Events};
use super::verdict::{Verdict, verdict, watch_over};
use super::wire::{self, Line, Watched};
use mailrace_shards::limits::ETCD_WATCH_AHEAD;
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// The changes of a range of keys, from a revision on. Ends its connection and its thread when dropped.
pub struct Watch {
    answers: Receiver<Result<Watched, Verdict>>,
    assembler: Assembler,
    ready: VecDeque<Events>,
    /// Why there will be no more.
    over: Option<EtcdError>,
    _stop: Stop,
}

impl Watch {
    /// Waits for etcd to say that the watch stands.
    pub(super) fn begin(stream: Stream, within: Duration) -> Result<Self, Verdict> {
        let (sender, answers) = sync_channel(ETCD_WATCH_AHEAD);
        let lines = stream.lines;
        std::thread::Builder::new()
            .name("etcd-watch".into())
            .spawn(move || read(lines, &sender))
            .map_err(|error| Verdict::Is(EtcdError::Unreachable(format!("no thread for a watch: {error}"))))?;
        let watch =
            Self { answers, assembler: Assembler::default(), ready: VecDeque::new(), over: None, _stop: stream.stop };
        match watch.answers.recv_timeout(within) {
            Ok(Ok(Watched { created: true, canceled: false, .. })) => Ok(watch),
            Ok(Ok(Watched { canceled: true, compact_revision, reason, .. })) => Err(over(compact_revision, &reason)),
            Ok(Ok(_)) => Err(broken("its watch begins with something else")),
            Ok(Err(verdict)) => Err(verdict),
            Err(_) => Err(broken("its watch does not begin")),
        }
    }

    /// The next whole revision; `None` when nothing has come for `within`, which says nothing of the watch's health.
    ///
    /// # Errors
    /// The watch is over, and stays so: [`EtcdError::Compacted`] wants a relist, [`EtcdError::Unreachable`] another
    /// watch from the revision after the last one, [`EtcdError::Refused`] somebody's attention.
    pub fn next(&mut self, within: Duration) -> Result<Option<Events>, EtcdError> {
        loop {
            if let Some(events) = self.ready.pop_front() {
                return Ok(Some(events));
            }
            if let Some(error) = &self.over {
                return Err(error.clone());
            }
            match self.answers.recv_timeout(within) {
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Ok(Ok(watched)) => self.take(watched),
                Ok(Err(verdict)) => self.end(verdict),
                Err(RecvTimeoutError::Disconnected) => self.end(broken("its watch has ended")),
            }
        }
    }

    fn take(&mut self, watched: Watched) {
        if watched.canceled {
            return self.end(over(watched.compact_revision, &watched.reason));
        }
        match self.assembler.take(watched) {
            Ok(whole) => self.ready.extend(whole),
            Err(why) => self.end(broken(&why)),
        }
    }

    fn end(&mut self, verdict: Verdict) {
        self.over = Some(match verdict {
            // The next watch will find out.
            Verdict::LogInAgain => EtcdError::Unreachable("the watch's token is no longer valid".to_owned()),
            Verdict::Is(EtcdError::Unknown(why)) => EtcdError::Unreachable(why),
            Verdict::Is(error) => error,
        });
    }
}

fn broken(why: &str) -> Verdict {
    Verdict::Is(EtcdError::Unreachable(why.to_owned()))
}

fn over(compact_revision: i64, reason: &str) -> Verdict {
    if compact_revision > 0 {
        return Verdict::Is(EtcdError::Compacted { oldest: compact_revision });
    }
    watch_over(if reason.is_empty() { "the watch was cancelled" } else { reason })
}

/// The thread: ends with the lines, or when nobody takes them any more.
fn read(mut lines: Lines, sender: &SyncSender<Result<Watched, Verdict>>) {
    loop {
        let said = match lines.next() {
            Ok(Some(line)) => match wire::watched(&line) {
                Ok(Line::Said(watched)) => Ok(watched),
                Ok(Line::Ended(code, words)) => Err(verdict(code, &words)),
                Err(why) => Err(broken(&why)),
            },
            Ok(None) => Err(broken("its watch has ended")),
            Err(error) => Err(broken(&format!("its watch broke: {error}"))),
        };
        let last = said.is_err();
        if sender.send(said).is_err() || last {
            return;
        }
    }
}
