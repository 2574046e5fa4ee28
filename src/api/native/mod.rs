//! What is neither dialect's: every rule in one list, who changed what, and suppressions by the million.

pub mod audit;
pub mod cluster;
pub mod queues;
pub mod rules;
pub mod suppression_stream;
