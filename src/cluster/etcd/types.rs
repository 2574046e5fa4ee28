//! What is said to etcd and what it says, as plain values: keys, values, revisions, transactions. Knows no JSON and no
//! socket.

use std::fmt;

/// A number that orders every change of the whole store; the first change is 2, absent is 0.
pub type Revision = i64;

/// A lease by etcd's number; never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease(pub i64);

/// Who answered, and how far the store was then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The same on every member; another one is another cluster.
    pub cluster_id: u64,
    /// The member that answered.
    pub member_id: u64,
    /// The store's newest revision when the answer was made; of a transaction that wrote, its own.
    pub revision: Revision,
}

/// One key and what is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key, the prefix included.
    pub key: Vec<u8>,
    /// Empty where only keys were asked for.
    pub value: Vec<u8>,
    /// When the key was made, for the last time.
    pub create_revision: Revision,
    /// When it was put, for the last time.
    pub mod_revision: Revision,
    /// How often it was put since it was made.
    pub version: i64,
    /// With which it ends, if with one.
    pub lease: Option<Lease>,
}

/// A part of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Its revision is the store's newest, also where an older one was asked for.
    pub header: Header,
    /// In the order of their keys.
    pub kvs: Vec<KeyValue>,
    /// There are more keys after the last one of these.
    pub more: bool,
}

/// All or nothing: `success` where every comparison holds, or else `failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All of them must hold; none always holds.
    pub compare: Vec<Compare>,
    /// At most 128 operations by etcd's default.
    pub success: Vec<Op>,
    /// As many.
    pub failure: Vec<Op>,
}

/// One condition of a transaction: nobody has put or removed the key since it was at that revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    /// Whose.
    pub key: Vec<u8>,
    /// Its [`KeyValue::mod_revision`]; 0: there is no such key.
    pub revision: Revision,
}

impl Compare {
    /// Nobody has put or removed the key since this revision of it; 0: there is no such key.
    #[must_use]
    pub fn unchanged(key: &[u8], mod_revision: Revision) -> Self {
        Self { key: key.to_vec(), revision: mod_revision }
    }

    /// There is no such key.
    #[must_use]
    pub fn absent(key: &[u8]) -> Self {
        Self::unchanged(key, 0)
    }
}

/// One operation of a transaction. A key may be put once in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes the key or changes it.
    Put {
        /// Which.
        key: Vec<u8>,
        /// To what; see `ETCD_VALUE_BYTES_MAX`.
        value: Vec<u8>,
        /// With which it is to end.
        lease: Option<Lease>,
    },
    /// Removes the key, if there is one.
    Delete {
        /// Which.
        key: Vec<u8>,
    },
    /// Reads `from` up to, but without, `end`; one key where `end` is empty.
    Range {
        /// The first.
        from: Vec<u8>,
        /// After the last.
        end: Vec<u8>,
        /// Keys at most; 0: all of them.
        limit: u32,
    },
}

/// Whether the comparisons held, and what came of each operation of that branch, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TxnAnswer {
    /// Its revision is that of the transaction, if it wrote.
    pub header: Header,
    /// Whether `success` was done.
    pub succeeded: bool,
    /// One for each operation.
    pub answers: Vec<Answer>,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was put.
    Put,
    /// So many keys were removed.
    Deleted(i64),
    /// What was read; the header is that of the transaction.
    Range(Page),
}

/// A change that a watch has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A key was made or changed.
    Put(KeyValue),
    /// A key was removed, or ended with its lease.
    Delete {
        /// Which.
        key: Vec<u8>,
        /// When.
        mod_revision: Revision,
    },
}

impl Event {
    /// Of which change it is a part.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// One whole revision: everything that it changed in the watched range, never a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Events {
    /// Larger than that of the one before.
    pub revision: Revision,
    /// Never empty.
    pub events: Vec<Event>,
}

/// Why there is no answer to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EtcdError {
    /// Nobody could be asked: what was wanted is surely not done.
    Unreachable(String),
    /// It was sent and nobody answered: it may be done, or still become so.
    Unknown(String),
    /// What was asked for is forgotten: a relist is needed.
    Compacted {
        /// The oldest revision that is still known; 0 where etcd does not say.
        oldest: Revision,
    },
    /// etcd, or we before it was asked, say no: it is not done.
    Refused(String),
}

impl fmt::Display for EtcdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "etcd cannot be reached: {why}"),
            Self::Unknown(why) => write!(f, "etcd did not answer: {why}"),
            Self::Compacted { .. } => f.write_str("etcd has compacted the revisions that were asked for"),
            Self::Refused(why) => write!(f, "etcd refuses: {why}"),
        }
    }
}

impl std::error::Error for EtcdError {}

/// The end of the range of everything that begins with `prefix`: the next key that does not.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Nothing but 0xff, or nothing: etcd's way to say "to the end".
    vec![0]
}
