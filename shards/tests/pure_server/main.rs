//! The SMTP server session at its boundary: octets of a client in, replies and events out. Each table is run
//! with the input whole, octet by octet and in random pieces; the outcome must be the same.

mod auth;
mod bounds;
mod content;
mod conversation;
mod driver;
mod headers;
mod limits;
mod random;
