//! KumoMTA's admin and inject API.

pub mod inject;
pub mod inspect;
