//! What mailrace adds to both dialects (`/v1/…` paths that MailerQ does not have).

pub mod queues;
