//! The scenarios that judge delivery control: what rules cost, how soon they are in force, and whether they are.
//!
//! They know a server by its ports alone; what a rule covers is taken from the API's documentation, never from the engine.

mod caller;
pub mod churn;
pub mod cluster;
pub mod gate;
pub mod http;
pub mod latency;
mod mix;

use clap::Args;

use self::http::Api;
use crate::error::{Result, fail};
use crate::mta::Mta;

/// What only these scenarios ask.
#[derive(Args, Clone)]
pub struct RuleArgs {
    /// rule_churn, rule_latency, cluster_latency: rule calls a second
    #[arg(long, default_value_t = 100.0, value_parser = crate::cli::positive)]
    pub rule_rate: f64,
    /// rule_latency, cluster_latency: rule calls in each half, at least
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub rule_calls: u32,
    #[command(flatten)]
    pub gate: gate::GateArgs,
    #[command(flatten)]
    pub cluster: cluster::ClusterArgs,
}

/// The API of the server under test.
fn api(mta: &dyn Mta) -> Result<Api> {
    mta.api().unwrap_or_else(|| fail(format!("{} has no API for rules", mta.version())))
}
