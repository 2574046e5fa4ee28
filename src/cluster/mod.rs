//! One set of rules for several engines, agreed through etcd. The shards know nothing of it, and the control core never
//! waits for etcd: threads of this module do.
//!
//! | file | what it is |
//! |---|---|
//! | `etcd` | the client |
//! | `heard` | what the follower's thread asks of the packed suppressions |
//! | `suppressions` | a million suppressions in some dozens of keys |
//! | `waiting` | who must have applied what before a call is answered; decides, waits for nobody |

pub mod etcd;
pub mod heard;
pub mod suppressions;
pub mod waiting;
