//! Paths: from which own source, to which site, over how many connections and how fast.
//!
//! A path is (source, site). Everything here is pure: settings, names, `now` and messages of other cores go
//! in; choices, permits and messages to other cores come out. Nothing here opens a connection.
//!
//! Of a message's way to the wire: [`pool`] says which sources are eligible and turns through them, [`site`]
//! names the set of hosts, [`limit`] says what is counted for (domain, site, source, pool), [`permit`] gets
//! leave to open a connection and to send a message where a limit counts, [`window`] follows what the site
//! can take, [`idle`] keeps open connections for the next message.

pub mod bucket;
mod counter;
pub mod holder;
pub mod home;
pub mod idle;
pub mod limit;
pub mod permit;
pub mod pool;
pub mod site;
pub mod source;
pub mod window;

pub use idle::Idle;
pub use limit::{Arbiter, Combination, Counter, CounterKey, LimitTable, Limits, ShareKey, TokenKey};
pub use permit::{PermitEvent, PermitId, PermitMessage, PermitState, Permits, Tokens};
pub use pool::{Eligible, Member, PoolError, Pools, Rotation};
pub use site::{path_name, site_name};
pub use source::{Source, SourceIndex, Sources, UNSPECIFIED};
pub use window::{Verdict, Window};

/// A path on one core: an index that the shard's slab gives out. It means nothing on another core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);
