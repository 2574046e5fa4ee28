//! The dialect of MailerQ.

pub mod inject;
