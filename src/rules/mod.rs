//! What the operator decreed: the authoritative set, how it is changed, and how it reaches the cores.
//!
//! | file | what it is |
//! |---|---|
//! | `entry`, `schedule`, `stored` | a rule, when it is in force, how a row holds it |
//! | `change` | what can be asked for, and what came of it |
//! | `store`, `schema` | SQLite; the one door to it |
//! | `shared` | changes that came through etcd, from this engine or another |
//! | `counts` | how much each rule has ended, kept over every kind of stop |
//! | `publish` | which core is owed what, and who waits for it; decides, sends nothing |
//! | `publisher` | the thread that owns the publication |
//! | `authority` | how the store is reached: by whoever asks, and at a start |
//! | `keeper` | the thread that owns the store |
//! | `translate` | what was stored, as cores understand it |
//! | `pools` | pools made by the API, laid over those of the configuration |
//! | `preview` | what is asked of the cores about a rule: how much it covers |

pub mod authority;
pub mod change;
pub mod counts;
pub mod entry;
mod keeper;
pub mod pools;
pub mod preview;
pub mod publish;
mod publisher;
pub mod schedule;
pub mod schema;
pub mod shared;
pub mod store;
pub mod stored;
mod translate;
