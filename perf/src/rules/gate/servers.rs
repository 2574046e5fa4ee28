//! The servers of the gate's rounds: one, or a cluster of which one engine has the mail and another makes the rule.

use std::net::SocketAddr;

use super::super::api;
use super::super::cluster::Cluster;
use super::super::http::Api;
use crate::cli::{RunArgs, ShapeArgs};
use crate::error::Result;
use crate::mta::Mta;
use crate::scenario::{Scene, begin};

/// Where a lane's mail goes in, and who is asked for what.
pub struct Ways {
    /// Where mail is handed in.
    pub smtp: SocketAddr,
    /// The API of the engine that has the mail.
    pub mail: Api,
    /// The API by which rules are made.
    pub rules: Api,
    /// The rules are those of a whole cluster.
    pub shared: bool,
}

/// What runs.
pub enum Servers {
    /// One engine for everything.
    One(Scene),
    /// Engines that share their rules.
    Shared(Cluster),
}

impl Servers {
    /// Starts them.
    pub fn start(arguments: &RunArgs, shape: &ShapeArgs, shared: bool) -> Result<Servers> {
        if shared {
            return Ok(Servers::Shared(Cluster::start(&arguments.rules.cluster, shape)?));
        }
        Ok(Servers::One(begin(arguments.mta, shape, "gate")?))
    }

    /// For lane `number`.
    pub fn ways(&self, number: usize) -> Result<Ways> {
        match self {
            Servers::One(scene) => {
                let api = api(scene.mta.as_ref())?;
                Ok(Ways { smtp: scene.mta.address(), mail: api.clone(), rules: api, shared: false })
            }
            Servers::Shared(cluster) => {
                let count = cluster.nodes.len();
                let (mail, rules) = (&cluster.nodes[number % count].mta, &cluster.nodes[(number + 1) % count].mta);
                let (mail_api, rules_api) = (api(mail.as_ref())?, api(rules.as_ref())?);
                Ok(Ways { smtp: mail.address(), mail: mail_api, rules: rules_api, shared: true })
            }
        }
    }

    fn mtas(&mut self) -> Vec<&mut Box<dyn Mta>> {
        match self {
            Servers::One(scene) => vec![&mut scene.mta],
            Servers::Shared(cluster) => cluster.nodes.iter_mut().map(|node| &mut node.mta).collect(),
        }
    }

    /// Name and version.
    pub fn version(&mut self) -> String {
        self.mtas()[0].version().to_owned()
    }

    /// How one ended, if one did.
    pub fn exited(&mut self) -> Option<String> {
        let how = |mta: &mut &mut Box<dyn Mta>| {
            mta.exited().map(|how| format!("{} ended ({how}):\n{}", mta.version(), mta.log_tail()))
        };
        self.mtas().iter_mut().find_map(how)
    }

    /// Stops them; how each went that did not end well.
    pub fn stop(&mut self) -> Vec<String> {
        self.mtas().into_iter().filter_map(|mta| mta.stop().err()).map(|failure| failure.to_string()).collect()
    }
}
