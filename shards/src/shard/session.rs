//! What the brain knows of one connection to a remote host: from the wish to have it until it is gone.

use crate::outcome::Carrier;
use crate::path::{Limits, Member, PathId, PermitId, ShareKey};
use crate::queue::{DestinationId, EntryId};
use crate::rules::Stamp;
use crate::settings::TlsPolicy;
use crate::time::Instant;
use smallvec::SmallVec;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::site::SiteId;

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Waits for leave to connect.
    AwaitingPermit,
    /// Has leave to connect, and stands in line for one of the core's places.
    InLine,
    /// Connecting, or greeting.
    Opening,
    /// Asked for a message and got one, or is about to ask.
    Busy,
    /// Asked for a message and there was none, since then.
    Idle(Instant),
    /// Was told to end.
    Finishing,
}

/// A message with a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    /// Its name in the SMTP session.
    pub token: u64,
    /// The entry.
    pub entry: EntryId,
    /// The last verdict that let it go, and how long that holds.
    pub stamp: Stamp,
    /// The octet that completes it was passed to `send(2)`.
    pub end_of_data_sent: bool,
}

/// One session. Owned by the shard; ends in `handle_closed`.
#[derive(Debug)]
pub(super) struct Session {
    pub phase: Phase,
    pub site: SiteId,
    pub path: PathId,
    /// The destination for which it was opened. It may be gone meanwhile, and its number be another's…
    pub destination: DestinationId,
    /// …but not its domain.
    pub domain: Arc<str>,
    /// Its source, and to which hosts the mail for which it was opened may go from there.
    pub member: Member,
    /// It may carry the mail whose limits have this key.
    pub share: ShareKey,
    /// Under which it was opened, and asks for leave to connect.
    pub limits: Arc<Limits>,
    pub permit: PermitId,
    /// It has one of the core's places for connections.
    pub has_place: bool,
    /// Hosts to try, in order, as (name, address); `host` is the one in use.
    pub hosts: SmallVec<[(Arc<str>, SocketAddr); 2]>,
    pub host: usize,
    /// STARTTLS policy of the path.
    pub tls: TlsPolicy,
    /// The handshake with this host failed before, and the policy allows to go without.
    pub in_clear: bool,
    /// It has been ready: its greeting was good.
    pub served: bool,
    pub carrier: Arc<Carrier>,
    pub flights: SmallVec<[Flight; 2]>,
    /// Messages handed to it.
    pub messages: u32,
    pub messages_max: u32,
    /// To so many its path's window may open.
    pub connections_max: u32,
    pub idle_timeout: Duration,
    /// It takes no further message, or only its first: its permit is wanted back, or its host turned out not to work.
    pub recalled: bool,
}

impl Session {
    /// The peer in use.
    pub fn peer(&self) -> SocketAddr {
        self.hosts[self.host].1
    }

    /// From which pool the mail for which it was opened goes.
    pub fn pool(&self) -> Option<Arc<str>> {
        self.carrier.pool.clone()
    }

    /// Whether it is the one of that number, and not another one: ids are used again.
    pub fn is_number(&self, number: u64) -> bool {
        self.carrier.session == number
    }

    /// Whether it has not begun to connect.
    pub fn waits(&self) -> bool {
        matches!(self.phase, Phase::AwaitingPermit | Phase::InLine)
    }

    /// Whether its connection stands: it was greeted.
    pub fn stands(&self) -> bool {
        !self.waits() && self.phase != Phase::Opening
    }

    /// Whether it takes no further message. One that is recalled still takes its first.
    pub fn retiring(&self) -> bool {
        self.recalled && self.messages > 0 || self.phase == Phase::Finishing
    }
}
