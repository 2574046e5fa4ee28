//! A disk in memory that fails when told to, and that a crash can be taken of at any operation: for tests and
//! for simulation. It keeps apart what was synced from what was only written.

use super::disk::Disk;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::rc::Rc;

/// Octets that reach a real disk together or not at all.
const SECTOR: usize = 512;

/// What a failing operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This operation and all later ones fail: the machine has stopped.
    Crash,
    /// This operation alone fails, with nothing done.
    Error(io::ErrorKind),
    /// A write reaches the file by half and reports an error, a sync does its work and reports one; any other
    /// operation fails with nothing done.
    Torn,
}

/// What of the unsynced data survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// Nothing: only what was synced.
    Nothing,
    /// All of it, and it stays unsynced: the process died, the machine went on.
    Everything,
    /// Sectors, and directory changes up to some one, chosen by this number.
    Some(u64),
}

/// See the module. A clone is the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    /// Directory changes since the last sync of the directory, oldest first.
    changes: Vec<Change>,
    durable_names: BTreeMap<String, usize>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    crashed: bool,
    free: Option<u64>,
    octets_read: u64,
}

#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone)]
enum Change {
    Link(String, usize),
    Unlink(String),
}

impl MemoryDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Operations that changed or synced something so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.borrow().operations
    }

    /// Octets read so far.
    #[must_use]
    pub fn octets_read(&self) -> u64 {
        self.0.borrow().octets_read
    }

    /// Makes the operation with this number (from 0) fail.
    pub fn fail_at(&self, operation: u64, fault: Fault) {
        self.0.borrow_mut().faults.insert(operation, fault);
    }

    /// Takes back what [`Self::fail_at`] has said.
    pub fn forgive(&self) {
        self.0.borrow_mut().faults.clear();
    }

    /// What [`Disk::free_bytes`] answers; a write beyond it fails as on a full disk.
    pub fn set_free(&self, octets: u64) {
        self.0.borrow_mut().free = Some(octets);
    }

    /// The disk as the machine finds it after a crash at this moment.
    #[must_use]
    pub fn after_crash(&self, survival: Survival) -> Self {
        let state = self.0.borrow();
        let seed = match survival {
            Survival::Everything => {
                let (files, names) = (state.files.clone(), state.names.clone());
                let (changes, durable_names) = (state.changes.clone(), state.durable_names.clone());
                let state = State { files, names, changes, durable_names, ..State::default() };
                return Self(Rc::new(RefCell::new(state)));
            }
            Survival::Nothing => None,
            Survival::Some(seed) => Some(seed),
        };
        let mut random = Random(seed.unwrap_or_default());
        let mut names = state.durable_names.clone();
        // A journalling file system keeps the order of such changes; others need not.
        let in_order = random.below(2) == 0;
        let kept = seed.map_or(0, |_| random.below(state.changes.len() + 1));
        for (index, change) in state.changes.iter().enumerate().filter(|_| seed.is_some()) {
            let survives = if in_order { index < kept } else { random.below(2) == 0 };
            if survives {
                apply(&mut names, change);
            }
        }
        let mut files = Vec::new();
        for content in &state.files {
            let now = if seed.is_some() { mixed(content, &mut random) } else { content.durable.clone() };
            files.push(Content { durable: now.clone(), now });
        }
        Self(Rc::new(RefCell::new(State { files, durable_names: names.clone(), names, ..State::default() })))
    }

    /// Octets of all files that have a name.
    #[must_use]
    pub fn octets(&self) -> u64 {
        let state = self.0.borrow();
        state.names.values().map(|file| state.files[*file].now.len() as u64).sum()
    }

    /// Content of a file.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.0.borrow();
        state.names.get(name).map(|file| state.files[*file].now.clone())
    }

    /// Replaces or makes a file, durably.
    pub fn put(&self, name: &str, octets: &[u8]) {
        let mut state = self.0.borrow_mut();
        state.files.push(Content { now: octets.to_vec(), durable: octets.to_vec() });
        let file = state.files.len() - 1;
        state.names.insert(name.to_owned(), file);
        state.durable_names.insert(name.to_owned(), file);
    }

    /// Replaces the content of a file that may be open.
    pub fn damage(&self, name: &str, octets: &[u8]) {
        let mut state = self.0.borrow_mut();
        let Some(&file) = state.names.get(name) else { return };
        state.files[file].now = octets.to_vec();
    }

    /// Counts an operation and says what is to happen to it.
    fn operation(&self) -> Result<Option<Fault>, io::Error> {
        let mut state = self.0.borrow_mut();
        if state.crashed {
            return Err(io::Error::other("the machine has stopped"));
        }
        let fault = state.faults.get(&state.operations).copied();
        state.operations += 1;
        match fault {
            Some(Fault::Crash) => {
                state.crashed = true;
                Err(io::Error::other("the machine has stopped"))
            }
            Some(Fault::Error(kind)) => Err(kind.into()),
            fault => Ok(fault),
        }
    }

    fn whole_operation(&self) -> io::Result<()> {
        match self.operation()? {
            Some(_) => Err(io::Error::other("failed on demand")),
            None => Ok(()),
        }
    }

    fn change(&self, change: Change) {
        let mut state = self.0.borrow_mut();
        apply(&mut state.names, &change);
        state.changes.push(change);
    }
}

impl Disk for MemoryDisk {
    type File = usize;

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<usize> {
        self.whole_operation()?;
        if self.0.borrow().names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.0.borrow_mut().files.push(Content::default());
        let file = self.0.borrow().files.len() - 1;
        self.change(Change::Link(name.to_owned(), file));
        Ok(file)
    }

    fn open(&self, name: &str) -> io::Result<usize> {
        self.0.borrow().names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn length(&self, file: &usize) -> io::Result<u64> {
        Ok(self.0.borrow().files[*file].now.len() as u64)
    }

    fn write_at(&self, file: &usize, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let fault = self.operation()?;
        let mut octets: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        if fault.is_some() {
            octets.truncate(octets.len() / 2);
        }
        let mut state = self.0.borrow_mut();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + octets.len();
        let grown = end.saturating_sub(state.files[*file].now.len()) as u64;
        if let Some(free) = state.free {
            if grown > free {
                return Err(io::ErrorKind::StorageFull.into());
            }
            state.free = Some(free - grown);
        }
        let content = &mut state.files[*file].now;
        content.resize(content.len().max(end), 0);
        content[start..end].copy_from_slice(&octets);
        if fault.is_some() { Err(io::Error::other("torn on demand")) } else { Ok(()) }
    }

    fn read_exact_at(&self, file: &usize, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        state.octets_read += buffer.len() as u64;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let found = state.files[*file].now.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync(&self, file: &usize) -> io::Result<()> {
        let fault = self.operation()?;
        let mut state = self.0.borrow_mut();
        let content = &mut state.files[*file];
        content.durable = content.now.clone();
        if fault.is_some() { Err(io::Error::other("failed on demand, but done")) } else { Ok(()) }
    }

    fn set_length(&self, file: &usize, length: u64) -> io::Result<()> {
        self.whole_operation()?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.0.borrow_mut().files[*file].now.resize(length, 0);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.whole_operation()?;
        let file = self.open(from)?;
        // One change, as a journalling file system makes it: both names or neither.
        let mut state = self.0.borrow_mut();
        for change in [Change::Link(to.to_owned(), file), Change::Unlink(from.to_owned())] {
            apply(&mut state.names, &change);
            state.changes.push(change);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.whole_operation()?;
        self.open(name)?;
        self.change(Change::Unlink(name.to_owned()));
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.whole_operation()?;
        let mut state = self.0.borrow_mut();
        state.durable_names = state.names.clone();
        state.changes.clear();
        // What has no name any more is gone, but for those who hold it open; nobody here does.
        let named: BTreeSet<usize> = state.names.values().copied().collect();
        for (_, content) in state.files.iter_mut().enumerate().filter(|(number, _)| !named.contains(number)) {
            *content = Content::default();
        }
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.0.borrow().free.unwrap_or(u64::MAX))
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: &Change) {
    match change {
        Change::Link(name, file) => drop(names.insert(name.clone(), *file)),
        Change::Unlink(name) => drop(names.remove(name)),
    }
}

/// The durable content, with some of the sectors that were written since.
fn mixed(content: &Content, random: &mut Random) -> Vec<u8> {
    let longer = content.now.len().max(content.durable.len());
    let length = if random.below(2) == 0 { content.durable.len() } else { longer };
    let mut octets = content.durable.clone();
    octets.resize(length, 0);
    for start in (0..length).step_by(SECTOR) {
        let end = (start + SECTOR).min(length).min(content.now.len());
        if start < end && random.below(2) == 0 {
            octets[start..end].copy_from_slice(&content.now[start..end]);
        }
    }
    octets
}

/// SplitMix64: good enough to choose sectors.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)) >> 11) as usize % bound
    }
}
