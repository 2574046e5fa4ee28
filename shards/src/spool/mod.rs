//! The spool: what was accepted and is not finished, on disk, one directory for each accepting core.
//!
//! A spool is an append-only log in segment files. A message is one record (envelope and body); what becomes
//! of its recipients is told by small records behind it. Recovery reads the whole log once, newest segment
//! first, and knows which recipients are open.
//!
//! Nothing in here opens a file: all of the disk is behind the [`disk::Disk`] trait, so that a test can take
//! it away after any operation. `runtime::spool_file` puts a thread around a [`journal::Journal`].
//!
//! | what a crash can leave | what recovery does |
//! |---|---|
//! | a torn tail | reads to the last valid record, cuts the rest off, says how much that was |
//! | a segment without its index | reads the segment, verifies everything, writes the index |
//! | a message in two segments (compaction was under way) | keeps the newer copy and removes the older segment before any later one |
//! | a segment whose sync failed | ignores what lies beyond the last good sync, as the `cut` record behind it says |
//! | a message without its `Reception` in the outcome log | reports what lies behind the last `recorded` record, for the record to be written again |
//! | a removed segment that is still there | finds nothing open and nothing needed in it, and removes it |

mod compact;
mod current;
pub mod disk;
pub mod envelope;
pub mod found;
mod group;
pub mod journal;
pub mod ledger;
mod load;
pub mod memory_disk;
mod open;
mod options;
pub mod record;
pub mod recover;
pub mod report;
pub mod search;
pub mod segment;
