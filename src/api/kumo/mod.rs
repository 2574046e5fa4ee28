//! KumoMTA's admin and inject API.

pub mod inspect;
