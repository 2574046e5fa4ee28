//! A server that somebody else runs and has set to deliver to our sink: any MTA, on this host or another.
//!
//! It is neither started nor stopped nor configured from here. Without its processes or its control group its CPU time is
//! unknown, and the figures say so.

use std::net::SocketAddr;

use super::Mta;
use crate::cli::ServerArgs;
use crate::error::{Result, fail};
use crate::sampler::process::{Roots, tree};

/// The server under test.
pub struct External {
    version: String,
    address: SocketAddr,
    roots: Roots,
}

impl External {
    /// What the operator says of it.
    pub fn new(server: &ServerArgs) -> Result<External> {
        let Some(address) = server.target else {
            return fail("--mta external needs --target: where the server takes mail by SMTP");
        };
        let roots = Roots { pids: server.server_pid.clone(), group: server.server_group.clone() };
        if !roots.is_empty() && tree(&roots).is_empty() {
            return fail("there is no process with --server-pid, or none in --server-group");
        }
        Ok(External { version: format!("server at {address}"), address, roots })
    }
}

impl Mta for External {
    fn version(&self) -> &str {
        &self.version
    }

    fn address(&self) -> SocketAddr {
        self.address
    }

    fn roots(&self) -> Roots {
        self.roots.clone()
    }

    fn exited(&mut self) -> Option<String> {
        (!self.roots.is_empty() && tree(&self.roots).is_empty()).then(|| "its processes have gone".to_owned())
    }

    fn log_tail(&self) -> String {
        "(its log is where its operator keeps it)".to_owned()
    }

    fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}
