//! The rules that a core keeps, and the question that the delivery gate asks of them: may this go out now?
//!
//! One [`RuleTable`] a core, changed only by that core's mailbox (rule lane) through [`RuleTable::apply`]; it
//! lives as long as the core. The authoritative set is the control core's store; a table is a copy that may
//! be thrown away and filled again. Rules themselves are immutable and shared between cores by `Arc`.
//!
//! Nothing here reads a clock: `now` is passed in. Nothing here knows of queues, paths or sessions: what is
//! known of a message comes in as [`Facts`], what should become of it goes out as a [`Verdict`].

mod lookup;
mod mentioned;
pub mod precedence;
pub mod rule;
pub mod scope;
mod subtables;
pub mod suppression;
pub mod table;
pub mod update;
pub mod validity;
pub mod verdict;

pub use rule::{Action, Answer, BadAnswer, Kind, Rule};
pub use scope::{BucketFacts, Facts, Fields, MessageFacts, PathFacts, Scope, normal_address};
pub use suppression::{Cause, HashKey, SuppressionKey, Suppressions};
pub use table::{Phase, RuleTable, Transition};
pub use update::{Change, EpochGap, Update, concerns, concerns_suppression};
pub use validity::{BadValidity, Span, Validity};
pub use verdict::{BucketVerdict, Decision, Moment, Ruling, Stamp, Verdict};
