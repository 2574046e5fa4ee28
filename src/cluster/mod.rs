//! One set of rules for several engines, agreed through etcd. The shards know nothing of it, and the control core never
//! waits for etcd: threads of this module do.
//!
//! | file | what it is |
//! |---|---|
//! | `board` | what the threads and the control core know together |
//! | `calls` | those who asked for a change, and what they are told |
//! | `compare` | now and then: whether what is here is what etcd has |
//! | `etcd` | a blocking client of etcd; knows nothing of what the keys mean |
//! | `fence` | whether all mail of this engine has to wait, and why; decides only |
//! | `follow` | the thread that does here what happens in etcd |
//! | `heard` | what the follower's thread asks of the packed suppressions |
//! | `join` | brings into etcd what was made while this engine was alone |
//! | `node` | this engine's part in the cluster: begins and ends it; where calls come in |
//! | `place` | whether etcd is the right one, and this engine still a node of the cluster |
//! | `presence` | the thread that keeps the lease, announces this node and shuts the fence |
//! | `record` | keys and what stands in them, as values |
//! | `relist` | how etcd differs from what is stored here |
//! | `segments` | where packed suppressions meet etcd and the table that is stored here |
//! | `status` | how it is with the cluster, for people |
//! | `suppressions` | a million suppressions in some dozens of keys |
//! | `tend` | what one node does for all, without haste: ends rules that are over, merges segments |
//! | `waiting` | who must have applied what before a call is answered; decides, waits for nobody |
//! | `word` | the thread that says what is in force here |
//! | `write` | the threads that write changes into etcd |

mod board;
mod calls;
mod compare;
pub mod etcd;
mod fence;
mod follow;
pub mod heard;
mod join;
mod node;
mod place;
mod presence;
mod record;
mod relist;
mod segments;
mod status;
pub mod suppressions;
mod tend;
#[cfg(test)]
mod test_etcd;
mod waiting;
mod word;
mod write;

pub use node::{Cluster, Prepared, Running, check_files, prepare};
pub use status::{NodeStatus, Status};
