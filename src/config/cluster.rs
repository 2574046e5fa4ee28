//! `[cluster]`: the etcd that several engines share their rules by. Without the section there is one engine, alone.

use super::section::{Item, Section};
use super::server::{duration, path};
use super::units;
use mailrace_shards::settings::TlsFiles;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Members of etcd that may be named.
const ENDPOINTS_MAX: usize = 64;

/// Octets of the prefix, and of user and password.
const PREFIX_BYTES_MAX: usize = 200;
const SECRET_BYTES_MAX: usize = 1024;

/// How long a node that is silent counts as there.
const LEASE: Duration = Duration::from_secs(10);
const LEASE_MIN: Duration = Duration::from_secs(2);
const LEASE_MAX: Duration = Duration::from_secs(300);

/// How long a call waits for the other nodes.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const ANSWER_WITHIN_MIN: Duration = Duration::from_millis(50);
const ANSWER_WITHIN_MAX: Duration = Duration::from_secs(60);

/// How often an engine compares what it has with what etcd has.
const COMPARE_EVERY: Duration = Duration::from_secs(300);
const COMPARE_EVERY_MIN: Duration = Duration::from_secs(1);
const COMPARE_EVERY_MAX: Duration = Duration::from_secs(86_400);

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    /// `http://host:port` or `https://host:port` of etcd's members, without a slash at the end; at least one.
    pub endpoints: Vec<String>,
    /// Every key begins with it. Begins and ends with a slash.
    pub prefix: String,
    /// This engine's name in the cluster.
    pub node: Arc<str>,
    /// As whom etcd is asked, if it wants to know.
    pub user: Option<ClusterUser>,
    /// PEM file of the authority that signed etcd's certificates; the system's when there is none.
    pub ca: Option<PathBuf>,
    /// PEM chain and key of our own certificate for etcd.
    pub certificate: Option<TlsFiles>,
    /// What this engine does while etcd cannot be reached.
    pub on_partition: OnPartition,
    /// How long this engine counts as there when etcd hears nothing of it.
    pub lease: Duration,
    /// How long a call waits for the other nodes.
    pub answer_within: Duration,
    /// How often this engine compares what it has with what etcd has.
    pub compare_every: Duration,
}

/// What an engine does that does not hear of new rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPartition {
    /// It delivers by the rules that it knows. Calls elsewhere wait for it.
    Deliver,
    /// It holds all mail. Calls elsewhere need not wait for it.
    Hold,
}

/// A user of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterUser {
    /// Its name.
    pub name: String,
    /// Where its password is.
    pub password: Password,
}

/// A password, or where it stands.
#[derive(Clone, PartialEq, Eq)]
pub enum Password {
    /// In the configuration itself.
    Text(String),
    /// On the first line of a file.
    File(PathBuf),
}

impl fmt::Debug for Password {
    /// Without the password: settings are shown to people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(..)"),
            Self::File(path) => write!(f, "File({})", path.display()),
        }
    }
}

/// Reads it; `None` when the file has no such section. `base` is where relative paths start.
pub fn read(root: &Section<'_>, base: &Path, hostname: &Arc<str>) -> Option<ClusterSettings> {
    let is_there = root.has("cluster");
    let section = root.table("cluster");
    if !is_there {
        return None;
    }
    let endpoints = section.required("endpoints", |item| {
        if item.is_empty_list() {
            item.problem("is empty; name at least one member of etcd, such as \"http://127.0.0.1:2379\"");
        }
        Some(item.list(ENDPOINTS_MAX, |item| item.parse(endpoint)))
    });
    let settings = ClusterSettings {
        endpoints: endpoints.unwrap_or_default(),
        prefix: section.or("prefix", "/mailrace/".to_owned(), |item| item.parse(prefix)),
        node: section.or("node", hostname.clone(), |item| item.parse(node)),
        user: user(&section, base),
        ca: section.optional("ca", |item| path(item, base)),
        certificate: certificate(&section, base),
        on_partition: section.or("on_partition", OnPartition::Deliver, |item| {
            item.word(&[("deliver", OnPartition::Deliver), ("hold", OnPartition::Hold)])
        }),
        lease: section.or("lease", LEASE, |item| whole_seconds(item, LEASE_MIN..=LEASE_MAX)),
        answer_within: section
            .or("answer_within", ANSWER_WITHIN, |item| duration(item, ANSWER_WITHIN_MIN..=ANSWER_WITHIN_MAX)),
        compare_every: section
            .or("compare_every", COMPARE_EVERY, |item| duration(item, COMPARE_EVERY_MIN..=COMPARE_EVERY_MAX)),
    };
    section.finish();
    Some(settings)
}

fn whole_seconds(item: &Item<'_>, range: std::ops::RangeInclusive<Duration>) -> Option<Duration> {
    let value = duration(item, range)?;
    if value.subsec_nanos() != 0 {
        item.problem("must be whole seconds: etcd counts no others");
        return None;
    }
    Some(value)
}

fn user(section: &Section<'_>, base: &Path) -> Option<ClusterUser> {
    let name = section.take("user");
    let text = section.take("password");
    let file = section.take("password_file");
    if let (Some(_), Some(file)) = (&text, &file) {
        file.problem("stands beside cluster.password; leave one of them out");
    }
    let Some(name) = name else {
        for item in text.iter().chain(&file) {
            item.problem("needs cluster.user beside it");
        }
        return None;
    };
    if text.is_none() && file.is_none() {
        name.problem("needs cluster.password or cluster.password_file beside it");
    }
    let name = name.parse(secret)?;
    let password = match (text, file) {
        (Some(text), _) => Password::Text(text.parse_secret(secret)?),
        (None, Some(file)) => Password::File(path(&file, base)?),
        (None, None) => return None,
    };
    Some(ClusterUser { name, password })
}

fn certificate(section: &Section<'_>, base: &Path) -> Option<TlsFiles> {
    let certificate = section.take("certificate");
    let key = section.take("key");
    match (certificate, key) {
        (None, None) => None,
        (Some(one), None) => {
            one.problem("needs cluster.key beside it");
            None
        }
        (None, Some(one)) => {
            one.problem("needs cluster.certificate beside it");
            None
        }
        (Some(certificate), Some(key)) => {
            let (certificate, key) = (path(&certificate, base), path(&key, base));
            Some(TlsFiles { certificate: certificate?, key: key? })
        }
    }
}

fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || "is not an endpoint of etcd; write \"http://host:2379\" or \"https://host:2379\"".to_owned();
    let (scheme, authority) = text.split_once("://").ok_or_else(wrong)?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if !matches!(scheme, "http" | "https") {
        return Err(wrong());
    }
    units::route_host(authority).map_err(|_| wrong())?;
    // Without a port, the name alone would mean that of the web.
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { Ok(format!("{scheme}://{authority}")) } else { Err(wrong()) }
}

fn prefix(text: &str) -> Result<String, String> {
    let fits = text.len() <= PREFIX_BYTES_MAX
        && text.len() > 2
        && text.starts_with('/')
        && text.ends_with('/')
        && text.bytes().all(|b| b.is_ascii_graphic());
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "is not a prefix; write up to {PREFIX_BYTES_MAX} octets that begin and end with a slash, such as \"/mailrace/\""
        ))
    }
}

/// A slash would make two keys of it.
fn node(text: &str) -> Result<Arc<str>, String> {
    let fits = (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    if fits {
        Ok(text.into())
    } else {
        Err("is not a node's name; write 1 to 100 printable ASCII characters without spaces and slashes".to_owned())
    }
}

fn secret(text: &str) -> Result<String, String> {
    let fits = (1..=SECRET_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err(format!("must be 1 to {SECRET_BYTES_MAX} octets on one line")) }
}
