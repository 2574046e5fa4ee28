//! What the operator decreed and the control core keeps.

pub mod schema;
pub mod store;
