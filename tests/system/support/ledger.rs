//! Books that outlive the engine: what injectors were told, what the destination received, and what the outcome log
//! says, each kept from outside and read on where it was left.

use super::log::Record;
use super::sink::{Action, Sink, Step};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// How often something was seen, by its name.
pub type Counts = HashMap<String, usize>;

/// The content of a test message: its key stands in it often enough to tell a part from the whole.
pub fn content(key: &str) -> String {
    format!("Subject: {key}\r\nX-Key: {key}\r\n\r\n{key} body\r\n")
}

/// The key of a test message, from a recipient `key.number@domain`.
pub fn key_of(recipient: &str) -> &str {
    recipient.split(['.', '@']).next().unwrap_or("")
}

/// What injectors were told: the recipients of messages that were answered with success, and under which id when
/// one was named. Shared by all injectors.
#[derive(Clone, Default)]
pub struct Acknowledged(Arc<Mutex<HashMap<String, Option<String>>>>);

impl Acknowledged {
    /// Success was answered.
    pub fn note<'a>(&self, recipients: impl IntoIterator<Item = &'a String>, id: Option<&str>) {
        let mut book = self.0.lock().unwrap();
        for recipient in recipients {
            let before = book.insert(recipient.clone(), id.map(str::to_owned));
            assert!(before.is_none(), "{recipient} is used once");
        }
    }

    /// How many recipients.
    pub fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// All recipients and ids.
    pub fn all(&self) -> HashMap<String, Option<String>> {
        self.0.lock().unwrap().clone()
    }
}

/// What a destination received, by recipient. It checks that each message is whole.
#[derive(Clone, Default)]
pub struct Receipts(Arc<Mutex<Counts>>);

impl Receipts {
    /// Of a destination that takes everything.
    pub fn of(sink: &Sink) -> Self {
        let receipts = Self::default();
        let book = receipts.clone();
        sink.script(move |step| {
            if let Step::Message(message) = step {
                for recipient in &message.recipients {
                    let whole = message.content.ends_with(content(key_of(recipient)).as_bytes());
                    let name = if whole { recipient.clone() } else { format!("a part or another's: {recipient}") };
                    *book.0.lock().unwrap().entry(name).or_default() += 1;
                }
            }
            Action::Default
        });
        receipts
    }

    /// So far.
    pub fn counts(&self) -> Counts {
        let counts = self.0.lock().unwrap().clone();
        let broken = counts.keys().find(|name| name.starts_with("a part"));
        assert!(broken.is_none(), "{broken:?}");
        counts
    }
}

/// What the outcome log says so far.
#[derive(Default)]
pub struct LogBook {
    directory: PathBuf,
    /// Octets read of each file.
    read: BTreeMap<PathBuf, u64>,
    /// Records of reception by message.
    pub receptions: Counts,
    /// Records that end a recipient, by recipient, and of which types they are.
    pub ends: HashMap<String, Vec<String>>,
}

impl LogBook {
    /// Of the files in a directory.
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf(), ..Self::default() }
    }

    /// Reads on, whole lines only.
    pub fn read_on(&mut self) {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            let from = self.read.get(&path).copied().unwrap_or(0);
            let mut text = String::new();
            let mut file = File::open(&path).unwrap();
            file.seek(SeekFrom::Start(from)).unwrap();
            file.read_to_string(&mut text).unwrap();
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            for line in text[..whole].lines() {
                self.take(&Record(serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))));
            }
            self.read.insert(path, from + whole as u64);
        }
    }

    fn take(&mut self, record: &Record) {
        match record.kind() {
            "Reception" => *self.receptions.entry(record.id().to_owned()).or_default() += 1,
            "TransientFailure" => {}
            end => self.ends.entry(record.recipient().to_owned()).or_default().push(end.to_owned()),
        }
    }
}
