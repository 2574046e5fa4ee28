//! The order of a server's calls: for each message of the sample, whether what holds it was synced when its 250 left.
//!
//! It must never give a message the benefit of a sync that began before the message was written, of one of another file,
//! or of one that failed. What it can't see it calls unseen, not durable.

use std::collections::{HashMap, HashSet};

use super::Durability;
use super::call::{Call, Reader, Seen};
use super::client::{Conversation, tokens};

/// One half of a message: its number, and whether it is the end.
type Half = (u32, bool);

/// Octets of a file's newest writes that are kept, since a token may lie across two of them.
const KEPT_OCTETS: usize = 64;

/// A file of the server.
#[derive(Default)]
struct File {
    /// What was written to it and isn't known to be on the disk.
    unsynced: HashSet<Half>,
    newest: Vec<u8>,
    /// Each write to it is a sync.
    is_synchronous: bool,
}

/// A connection of ours, as the server's side of it is seen.
#[derive(Default)]
struct Peer {
    messages: Vec<u32>,
    answered: usize,
    line: Vec<u8>,
    /// A 354 has gone, so the next reply is that to a message.
    is_data: bool,
}

/// Sees the calls in their order.
pub struct Judge {
    reader: Reader,
    needles: HashMap<String, Half>,
    peers: HashMap<u16, Peer>,
    files: HashMap<String, File>,
    /// Further names of files, as a call gave them: perhaps relative, or within another root.
    names: Vec<(String, String)>,
    /// What a sync that a thread has begun will have made durable.
    syncing: HashMap<u32, Vec<(String, Vec<Half>)>>,
    written: HashMap<Half, String>,
    synced: HashSet<Half>,
    found: Durability,
}

impl Judge {
    /// For the messages of these conversations.
    pub fn new(conversations: &[Conversation]) -> Judge {
        let mut needles = HashMap::new();
        let mut peers = HashMap::new();
        for conversation in conversations {
            for number in &conversation.messages {
                for (index, token) in tokens(*number).into_iter().enumerate() {
                    needles.insert(token, (*number, index == 1));
                }
            }
            let peer = Peer { messages: conversation.messages.clone(), ..Peer::default() };
            peers.insert(conversation.port, peer);
        }
        Judge {
            reader: Reader::default(),
            needles,
            peers,
            files: HashMap::new(),
            names: Vec::new(),
            syncing: HashMap::new(),
            written: HashMap::new(),
            synced: HashSet::new(),
            found: Durability::default(),
        }
    }

    /// The next line of the trace.
    pub fn see(&mut self, line: &str) {
        let Some(seen) = self.reader.read(line) else { return };
        match seen.call.name.as_str() {
            "fsync" | "fdatasync" | "sync" | "syncfs" => self.see_sync(&seen),
            "open" | "openat" => {
                let is_synchronous = seen.call.arguments.contains("O_SYNC") || seen.call.arguments.contains("O_DSYNC");
                if let Some(path) = seen.returned_path.filter(|_| is_synchronous) {
                    self.files.entry(path).or_default().is_synchronous = true;
                }
            }
            "rename" | "renameat" | "renameat2" | "link" | "linkat" => self.see_name(&seen),
            _ => match seen.call.place().and_then(our_port).filter(|port| self.peers.contains_key(port)) {
                // Nothing may leave before: the beginning of the call counts.
                Some(port) if seen.begins => self.see_replies(port, &seen.call.octets()),
                Some(_) => {}
                None => self.see_write(&seen),
            },
        }
    }

    /// What was found.
    pub fn verdict(self) -> Durability {
        self.found
    }

    fn see_sync(&mut self, seen: &Seen) {
        let Call { thread, name, .. } = &seen.call;
        let place = seen.call.place().filter(|_| !name.starts_with("sync"));
        if seen.begins {
            let named =
                |path: &str, place: &str| self.names.iter().any(|(name, of)| of == path && is_end_of(name, place));
            let meant = |path: &&String| place.is_none_or(|place| place == path.as_str() || named(path, place));
            let paths: Vec<String> = self.files.keys().filter(meant).cloned().collect();
            let covered = paths.into_iter().map(|path| {
                let halves = self.files[&path].unsynced.iter().copied().collect();
                (path, halves)
            });
            let covered = covered.collect();
            self.syncing.insert(*thread, covered);
        }
        let Some(returned) = seen.returned else { return };
        let covered = self.syncing.remove(thread).unwrap_or_default();
        // sync(2) can't fail, and returns nothing.
        if returned < 0 {
            return;
        }
        self.found.syncs += 1;
        for (path, halves) in covered {
            if let Some(file) = self.files.get_mut(&path) {
                file.unsynced.retain(|half| !halves.contains(half));
            }
            self.synced.extend(halves);
        }
    }

    /// A file that was written gets a name, under which it may be synced.
    fn see_name(&mut self, seen: &Seen) {
        let strings = seen.call.strings();
        let [old, new] = &strings[..] else { return };
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let (old, new) = (text(old), text(new));
        if seen.returned == Some(0) {
            let known = self.files.keys().filter(|path| is_end_of(&old, path));
            self.names.extend(known.map(|path| (new.clone(), path.clone())).collect::<Vec<_>>());
        }
    }

    fn see_write(&mut self, seen: &Seen) {
        let Some(path) = seen.call.place().filter(|place| place.starts_with('/')) else { return };
        let Some(length) = seen.returned.and_then(|returned| usize::try_from(returned).ok()) else { return };
        let mut octets = seen.call.octets();
        octets.truncate(length);
        let file = self.files.entry(path.to_owned()).or_default();
        let text = [file.newest.as_slice(), &octets].concat();
        file.newest = text[text.len().saturating_sub(KEPT_OCTETS)..].to_vec();
        let is_synchronous = file.is_synchronous
            || seen.call.arguments.contains("RWF_DSYNC")
            || seen.call.arguments.contains("RWF_SYNC");
        for half in halves(&text, &self.needles) {
            self.written.entry(half).or_insert_with(|| path.to_owned());
            if is_synchronous {
                self.synced.insert(half);
            } else {
                file.unsynced.insert(half);
            }
        }
    }

    fn see_replies(&mut self, port: u16, octets: &[u8]) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        let mut answers = Vec::new();
        for octet in octets {
            peer.line.push(*octet);
            if *octet != b'\n' {
                continue;
            }
            let line = std::mem::take(&mut peer.line);
            if line.get(3) == Some(&b'-') {
                continue;
            }
            if peer.is_data {
                let number = peer.messages.get(peer.answered).copied();
                peer.answered += 1;
                answers.extend(number.filter(|_| line.starts_with(b"250")));
            }
            peer.is_data = line.starts_with(b"354");
        }
        answers.into_iter().for_each(|number| self.acknowledged(number));
    }

    /// The 250 for a message is about to leave.
    fn acknowledged(&mut self, number: u32) {
        self.found.acknowledged += 1;
        let halves = [(number, false), (number, true)];
        if halves.iter().all(|half| self.synced.contains(half)) {
            self.found.synced_before += 1;
        } else if let Some(path) = halves.iter().find_map(|half| self.written.get(half)) {
            self.found.violations += 1;
            let what = || format!("message {number} was in {path}, which had not been synced since");
            self.found.first_violation.get_or_insert_with(what);
        } else {
            self.found.unseen += 1;
        }
    }
}

/// The peer's port of `TCP:[address:port->address:port]`.
fn our_port(place: &str) -> Option<u16> {
    let peer = place.strip_prefix("TCP")?.split_once("->")?.1;
    peer.strip_suffix(']')?.rsplit(':').next()?.parse().ok()
}

/// Whether a path is the last part of another.
fn is_end_of(path: &str, whole: &str) -> bool {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    whole.strip_suffix(path).is_some_and(|before| before.ends_with('/'))
}

/// The tokens in a text.
fn halves(text: &[u8], needles: &HashMap<String, Half>) -> Vec<Half> {
    let finder = memchr::memmem::Finder::new(b"perf-sample/");
    let token = |at: usize| {
        let end = text[at..].iter().take(KEPT_OCTETS).position(|octet| *octet == b';')?;
        needles.get(std::str::from_utf8(&text[at..=at + end]).ok()?).copied()
    };
    finder.find_iter(text).filter_map(token).collect()
}

#[cfg(test)]
mod tests;
