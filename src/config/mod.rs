//! The operator's configuration: a TOML file to [`Settings`], with every mistake named by its place. What is
//! not in the file comes from the [`Machine`]. Opens the file and nothing else; whether the machine can do
//! what was asked is `preflight`'s question.

mod cluster;
mod connections;
mod egress;
mod problem;
mod reload;
mod section;
mod server;
mod units;

pub use cluster::{ClusterSettings, ClusterUser, OnPartition, Password};
pub use problem::Problem;
pub use reload::reload;
pub use units::{domain, host_name};

use crate::machine::Machine;
use mailrace_shards::settings::{Network, Settings, TlsFiles};
use problem::Problems;
use section::Section;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Octets of a configuration file; a longer one is refused.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Everything configured.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the engine is given.
    pub settings: Settings,
    /// What the control core listens to.
    pub api: ApiSettings,
    /// By what rules are shared with other engines, when they are.
    pub cluster: Option<ClusterSettings>,
    /// What is allowed but probably not meant, for the operator to read.
    pub warnings: Vec<String>,
}

/// `[api]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiSettings {
    /// Listening address.
    pub listen: SocketAddr,
    /// Peers that need no token.
    pub trusted_hosts: Vec<Network>,
    /// Octets of one request's body.
    pub max_body_bytes: u32,
    /// PEM chain and key; both or none.
    pub tls: Option<TlsFiles>,
}

/// What the command line puts in the file's place.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--smtp`: instead of all of `smtp.listen`.
    pub smtp: Option<SocketAddr>,
    /// `--api`: instead of `api.listen`.
    pub api: Option<SocketAddr>,
}

/// Reads `file`, or takes the defaults when there is none. All problems at once, in the file's order.
pub fn load(file: Option<&Path>, overrides: &Overrides, machine: &Machine) -> Result<Config, Vec<Problem>> {
    let (path, text) = match file {
        None => (Path::new("defaults"), String::new()),
        Some(path) => match read(path) {
            Ok(text) => (path, text),
            Err(text) => {
                return Err(vec![Problem { file: path.to_owned(), position: None, key: String::new(), text }]);
            }
        },
    };
    parse(path, &text, overrides, machine)
}

fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    let mut text = String::new();
    match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text) {
        Ok(_) if text.len() as u64 > FILE_BYTES_MAX => Err(format!("is longer than {FILE_BYTES_MAX} octets")),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => Err("is not UTF-8 text".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// As [`load`], of `text` already read from `path`. Relative paths in the text start at the file's directory,
/// so that the file means the same from wherever the program was started.
pub fn parse(path: &Path, text: &str, overrides: &Overrides, machine: &Machine) -> Result<Config, Vec<Problem>> {
    let problems = Problems::new(path, text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        problems.add(&error.span().unwrap_or(0..0), "", error.message());
    }
    if !errors.is_empty() {
        // The parser's recovery may have cut keys and values in two: what it left would be blamed for nothing.
        return Err(problems.into_list());
    }
    let base = path.parent().unwrap_or(Path::new(""));
    let mut warnings = Vec::new();
    let root = Section::root(&problems, &document);
    let core = server::read(&root, base, overrides, machine, &mut warnings);
    let egress = egress::read(&root, &core.hostname, &mut warnings);
    let cluster = cluster::read(&root, base, &core.hostname);
    root.finish();
    if problems.count() > 0 {
        return Err(problems.into_list());
    }
    let settings = Settings {
        data_dir: core.data_dir,
        hostname: core.hostname,
        shards: core.shards,
        stop_within: core.stop_within,
        memory_bytes: core.memory_bytes,
        connections: core.connections,
        smtp: core.smtp,
        spool: core.spool,
        log: core.log,
        dns: core.dns,
        allow_private: egress.allow_private,
        sources: egress.sources,
        pools: egress.pools,
        routes: egress.routes,
        limits: egress.limits,
        retry: egress.retry,
    };
    Ok(Config { settings, api: core.api, cluster, warnings })
}

#[cfg(test)]
mod tests;
