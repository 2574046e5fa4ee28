//! Connections as pairs of octet pipes with latency, bounded room and an end. It only carries: who is at the far end
//! of a connection, and what goes wrong there, is decided elsewhere.

use std::collections::VecDeque;

pub type ConnId = u64;

/// A point of the simulation: microseconds, and the step, which orders what happens at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub step: u64,
    pub time: u64,
}

/// Which pipe of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    FromCore,
    ToCore,
}

/// What a pipe carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    Octets(Vec<u8>),
    /// The sender closed its side.
    End,
    /// The connection broke.
    Reset,
}

#[derive(Clone, Debug)]
pub struct Chunk {
    pub load: Load,
    /// When it was passed to the pipe.
    pub sent: Moment,
    /// Messages of which it carries the good answer, by the oracle's numbers.
    pub answers: Vec<usize>,
}

#[derive(Debug, Default)]
pub struct Pipe {
    travelling: VecDeque<Chunk>,
    /// At its end, not taken yet.
    pub arrived: VecDeque<Chunk>,
    last_arrival: u64,
    octets: usize,
    /// Nothing that is sent from now on arrives.
    pub swallows: bool,
    /// Its end was sent.
    pub ended: bool,
}

impl Pipe {
    /// Puts a chunk into it; when it arrives, or nothing if it never does.
    pub fn put(&mut self, chunk: Chunk, earliest: u64) -> Option<u64> {
        if self.ended {
            return None;
        }
        self.ended = !matches!(chunk.load, Load::Octets(_));
        if self.swallows {
            return None;
        }
        if let Load::Octets(octets) = &chunk.load {
            self.octets += octets.len();
        }
        self.last_arrival = self.last_arrival.max(earliest);
        self.travelling.push_back(chunk);
        Some(self.last_arrival)
    }

    /// The oldest chunk arrives.
    pub fn arrive(&mut self) {
        if let Some(chunk) = self.travelling.pop_front() {
            if let Load::Octets(octets) = &chunk.load {
                self.octets -= octets.len();
            }
            self.arrived.push_back(chunk);
        }
    }
}

/// Who is at the far end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    /// A host that takes mail.
    Sink,
    /// A client that hands mail in.
    Injector,
}

/// One connection of a core.
#[derive(Debug)]
pub struct Conn {
    pub far: Far,
    pub life: u32,
    pub core: usize,
    pub from_core: Pipe,
    pub to_core: Pipe,
    /// One way, microseconds.
    pub latency: u64,
    /// Octets from the core that may travel at once.
    pub room: usize,
    /// Octets that one write passes at most.
    pub write_max: usize,
    /// The core waits until it may write again.
    pub blocked: bool,
    /// The core has closed it, or is gone.
    pub closed_by_core: bool,
}

impl Conn {
    pub fn new(far: Far, life: u32, core: usize, latency: u64, room: usize, write_max: usize) -> Self {
        Self {
            far,
            life,
            core,
            from_core: Pipe::default(),
            to_core: Pipe::default(),
            latency,
            room,
            write_max,
            blocked: false,
            closed_by_core: false,
        }
    }

    pub fn pipe(&mut self, way: Way) -> &mut Pipe {
        match way {
            Way::FromCore => &mut self.from_core,
            Way::ToCore => &mut self.to_core,
        }
    }

    /// Octets that the core may write now.
    pub fn writable(&self) -> usize {
        self.room.saturating_sub(self.from_core.octets).min(self.write_max)
    }

    /// Whether the other side has broken it.
    pub fn is_reset(&self) -> bool {
        self.to_core.arrived.iter().any(|chunk| chunk.load == Load::Reset)
    }
}
