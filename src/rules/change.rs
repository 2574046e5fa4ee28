//! What can be asked of the authoritative set, and what came of it. Everything in a request was checked and brought
//! into its normal form where it was read.

use super::entry::{Collection, Draft, RuleEntry, Verdict};
use super::shared::Follow;
use crate::json::Json;
use std::net::IpAddr;
use std::sync::Arc;

/// One change. All of it is made, or none.
#[derive(Clone, Debug)]
pub enum Request {
    /// Makes a rule, or replaces the one with the same identity.
    Put {
        /// Its id, unless one is replaced that keeps its own.
        id: Arc<str>,
        /// The rule.
        draft: Box<Draft>,
    },
    /// Removes the rule with an id; of that collection, if one is named.
    RemoveId(Option<Collection>, Arc<str>),
    /// Removes the rule with an identity.
    RemoveIdentity {
        /// Where it belongs.
        collection: Collection,
        /// What it is.
        identity: String,
        /// Whether that is one for the whole cluster.
        cluster: bool,
    },
    /// Adds or overwrites suppressions.
    Suppress(Vec<Suppression>),
    /// Removes suppressions by value.
    Unsuppress(Vec<Arc<str>>),
    /// Makes a pool, or changes its description.
    PutPool(Pool),
    /// Removes a pool and its membership.
    RemovePool(Arc<str>),
    /// Puts an address into a pool, out of any other.
    PutPoolIp(PoolIp),
    /// Takes an address out of its pool; out of that one only, if one is named.
    RemovePoolIp(Option<Arc<str>>, IpAddr),
    /// Adds or overwrites an external MTA.
    PutExternalMta(ExternalMta),
    /// Removes the one with that public address.
    RemoveExternalMta(IpAddr),
    /// Removes rules that are over, so many at most, but for those that etcd has while this engine is in a cluster.
    Sweep(usize),
    /// Does what was done in etcd.
    Follow(Box<Follow>),
}

/// An entry of the suppression list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppression {
    /// Address or domain, in its normal form.
    pub value: Arc<str>,
    /// What its records say.
    pub verdict: Verdict,
}

impl Suppression {
    /// As MailerQ's dialect shows it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let kind = if self.value.contains('@') { "address" } else { "domain" };
        Json::object([("value", Some(Json::from(&self.value))), ("type", Some(kind.into()))])
            .with(self.verdict.members())
    }
}

/// A pool made by the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique.
    pub name: Arc<str>,
    /// For people.
    pub description: Option<Arc<str>>,
}

impl Pool {
    /// As MailerQ's dialect shows it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        Json::object([
            ("name", Some(Json::from(&self.name))),
            ("description", self.description.as_ref().map(Json::from)),
        ])
    }
}

/// Membership of an address in a pool made by the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolIp {
    /// The pool.
    pub pool: Arc<str>,
    /// Own address, canonical.
    pub ip: IpAddr,
}

impl PoolIp {
    /// As MailerQ's dialect shows it: the documents say `ip`, its client reads `localip`.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let ip = self.ip.to_string();
        Json::object([
            ("name", Some(Json::from(&self.pool))),
            ("ip", Some(ip.as_str().into())),
            ("localip", Some(ip.as_str().into())),
        ])
    }
}

/// How mail from one of our public addresses gets out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalMta {
    /// The key.
    pub public_ip: IpAddr,
    /// Own address behind it.
    pub local_ip: IpAddr,
    /// Proxy's address, where it is another.
    pub connect_ip: Option<IpAddr>,
    /// Proxy's port.
    pub connect_port: Option<u16>,
    /// `nat`, `socks` or `http`.
    pub protocol: Arc<str>,
}

impl ExternalMta {
    /// As MailerQ's dialect shows it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        Json::object([
            ("public_ip", Some(self.public_ip.to_string().into())),
            ("local_ip", Some(self.local_ip.to_string().into())),
            ("connect_ip", self.connect_ip.map(|ip| ip.to_string().into())),
            ("connect_port", self.connect_port.map(Json::from)),
            ("protocol", Some(Json::from(&self.protocol))),
        ])
    }
}

/// What came of a request.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// How many are new.
    pub created: u64,
    /// How many were there and are other now.
    pub updated: u64,
    /// How many are gone.
    pub removed: u64,
    /// The rule that was made or changed.
    pub entry: Option<RuleEntry>,
    /// Nodes that may be delivering and have not applied it, where nobody waited for them.
    pub pending: Vec<Arc<str>>,
    /// What the cores have to hear, in this order.
    pub effects: Vec<Effect>,
}

/// What a change means to the cores.
#[derive(Clone, Debug)]
pub enum Effect {
    /// A rule is new, or other.
    Put(RuleEntry),
    /// A rule is gone.
    Remove(RuleEntry),
    /// A suppression is new, or other. The name is that of the token that made it.
    Suppress(Suppression, Arc<str>),
    /// A suppression is gone.
    Unsuppress(Arc<str>),
    /// Some pool is other.
    Pools,
}

/// Why a request was not carried out, although everything works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The field at fault.
    pub field: &'static str,
    /// Why.
    pub text: String,
}
