//! The dialect of KumoMTA.

pub mod inject;
