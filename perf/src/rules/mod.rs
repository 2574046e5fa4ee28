//! The scenarios that judge delivery control: what rules cost, how soon they are in force, and whether they are.
//!
//! They know a server by its ports alone; what a rule covers is taken from the API's documentation, never from the engine.

pub mod http;
