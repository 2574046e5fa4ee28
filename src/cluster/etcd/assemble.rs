//! Whole revisions out of the answers of a watch, which may come in parts. Pure; never hands out a part of a revision.

use super::types::{Event, Events, Revision};
use super::wire::Watched;
use mailrace_shards::limits::ETCD_REVISION_BYTES_MAX;

/// What has come of a revision that may not be whole yet.
#[derive(Debug, Default)]
pub struct Assembler {
    events: Vec<Event>,
    bytes: usize,
    /// Of the last event that came.
    newest: Revision,
}

impl Assembler {
    /// Takes the next answer in; the revisions that are whole with it, in their order.
    ///
    /// # Errors
    /// Revisions that go backwards, or one without an end: nothing of this watch can be trusted then.
    pub fn take(&mut self, watched: Watched) -> Result<Vec<Events>, String> {
        let mut whole = Vec::new();
        for event in watched.events {
            let revision = event.revision();
            if revision < self.newest || revision <= 0 {
                return Err(format!("revision {revision} after {}", self.newest));
            }
            if revision > self.newest {
                whole.extend(self.finish());
                self.newest = revision;
            }
            self.bytes += size(&event);
            if self.bytes > ETCD_REVISION_BYTES_MAX {
                return Err(format!("revision {revision} has more than {ETCD_REVISION_BYTES_MAX} octets"));
            }
            self.events.push(event);
        }
        if !watched.fragment {
            whole.extend(self.finish());
        }
        Ok(whole)
    }

    fn finish(&mut self) -> Option<Events> {
        self.bytes = 0;
        let events = std::mem::take(&mut self.events);
        (!events.is_empty()).then_some(Events { revision: self.newest, events })
    }
}

fn size(event: &Event) -> usize {
    let content = match event {
        Event::Put(kv) => kv.key.len() + kv.value.len(),
        Event::Delete { key, .. } => key.len(),
    };
    content + size_of::<Event>()
}
