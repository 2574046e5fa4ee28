//! No server at all: the generator talks to the sink. What this reaches, no server can be measured beyond.

use std::net::SocketAddr;

use super::Mta;
use crate::error::Result;
use crate::sampler::process::Roots;

/// The sink in the place of a server.
pub struct Direct {
    sink: SocketAddr,
}

impl Direct {
    /// Nothing has to be started.
    pub fn new(sink: SocketAddr) -> Direct {
        Direct { sink }
    }
}

impl Mta for Direct {
    fn version(&self) -> &str {
        "none (generator to sink)"
    }

    fn address(&self) -> SocketAddr {
        self.sink
    }

    fn roots(&self) -> Roots {
        Roots::default()
    }

    fn exited(&mut self) -> Option<String> {
        None
    }

    fn log_tail(&self) -> String {
        String::new()
    }

    fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}
