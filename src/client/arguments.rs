//! What can be typed to ask a running engine: rules, suppressions, queues, messages, the audit trail. Says nothing
//! of what becomes of it; `request` does.

use crate::cli::PlaceArguments;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// A command that asks a running engine by REST.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Hold matching mail and keep it
    Pause(Asking<PauseAction>),
    /// End or defer matching mail with a code of your own
    Error(Asking<ErrorAction>),
    /// Never mail an address or a domain
    Suppress(Asking<SuppressAction>),
    /// Hold the queues of a campaign, a tenant, a domain
    Suspend(Asking<SuspendAction>),
    /// Fail the queues of a campaign, a tenant, a domain
    Bounce(Asking<BounceAction>),
    /// What waits: destination by age in minutes
    Queue {
        #[command(flatten)]
        server: ServerArguments,
        /// Destinations, largest first
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Where one message is, why it waits, its attempts
    Message {
        #[command(flatten)]
        server: ServerArguments,
        /// As the 250 to the injector and every record name it
        id: String,
        /// Make it due now, or end it
        action: Option<MessageAction>,
    },
    /// Every rule in force
    Rules {
        #[command(flatten)]
        server: ServerArguments,
        /// Only this one
        id: Option<String>,
    },
    /// The engines that share their rules: what each has in force, and whether all is well
    ///
    /// Exits with 1 when something is not: this engine does not follow etcd, another one is lost, or clocks differ by
    /// more than a second. What it is stands on stderr.
    Cluster {
        #[command(flatten)]
        server: ServerArguments,
        #[command(subcommand)]
        action: Option<ClusterAction>,
    },
    /// Who changed what
    Audit {
        #[command(flatten)]
        server: ServerArguments,
        /// Only changes after this number
        #[arg(long, value_name = "N")]
        after: Option<u64>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
}

/// An action and the server that it is asked of.
#[derive(Args, Debug)]
pub struct Asking<A: Subcommand> {
    #[command(flatten)]
    pub server: ServerArguments,
    #[command(subcommand)]
    pub action: A,
}

/// Whom to ask, and as who.
#[derive(Args, Debug, Default)]
pub struct ServerArguments {
    /// The REST API; by default that of the configuration, or http://127.0.0.1:8000
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint: Option<String>,
    /// API token; by default MAILRACE_TOKEN, or the token file in the data directory
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Print the server's answer as it is
    #[arg(long, global = true)]
    pub json: bool,
    #[command(flatten)]
    pub place: PlaceArguments,
}

/// Actions on the cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterAction {
    /// Wait no longer for a node that will not come back
    ///
    /// Refused while it is there. One that was cut off and still runs delivers by the rules that it knows: stop it first.
    Forget {
        /// Its name, as `mailrace cluster` shows it
        node: String,
    },
}

/// Actions on pauses.
#[derive(Debug, Subcommand)]
pub enum PauseAction {
    /// Hold what matches all of the criteria; without any, all mail
    Add {
        #[command(flatten)]
        criteria: Criteria,
        #[command(flatten)]
        time: Time,
        #[command(flatten)]
        common: Common,
    },
    /// Those in force or to come
    List,
    /// Release: by id, or by exactly the criteria that it was made with
    Remove(RemoveByCriteria),
}

/// Actions on forced errors.
#[derive(Debug, Subcommand)]
pub enum ErrorAction {
    /// 5xx ends matching mail, 4xx defers it, 2xx and 3xx end it too
    Add {
        #[command(flatten)]
        criteria: Criteria,
        #[command(flatten)]
        verdict: Verdict,
        #[command(flatten)]
        time: Time,
        #[command(flatten)]
        common: Common,
        /// Without criteria: really end all mail
        #[arg(long)]
        everything: bool,
    },
    /// Those in force or to come
    List,
    /// By id, or by exactly the criteria that it was made with
    Remove(RemoveByCriteria),
}

/// Actions on suppressions.
#[derive(Debug, Subcommand)]
pub enum SuppressAction {
    /// Add an address or a domain
    Add {
        /// An address when it has an @, else a domain
        value: String,
        #[command(flatten)]
        verdict: Verdict,
        /// Make nothing; say what would match
        #[arg(long)]
        dry_run: bool,
    },
    /// All, or a page
    List {
        /// Only those that sort after this value
        #[arg(long, value_name = "VALUE")]
        after: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Mail it again
    Remove {
        /// As added
        value: String,
    },
    /// Add all entries of a file, of any length: CSV or JSON lines
    Import {
        /// The file; - is stdin
        file: PathBuf,
        /// By default what the name or the first octet says
        #[arg(long)]
        format: Option<Format>,
        #[command(flatten)]
        verdict: Verdict,
    },
    /// Write all entries
    Export {
        /// The file; by default stdout
        file: Option<PathBuf>,
        /// By default CSV for a name that ends so, else JSON lines
        #[arg(long)]
        format: Option<Format>,
    },
}

/// How a file of suppressions is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// value,type,code,extended,description; the first line may name the columns
    Csv,
    /// One JSON object a line
    Jsonl,
}

/// Actions on suspensions.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "a process makes one of it")]
pub enum SuspendAction {
    /// Hold queues; without criteria all of them
    Add {
        #[command(flatten)]
        queues: Queues,
        /// One egress path by its name, instead of queues
        #[arg(long, value_name = "NAME", conflicts_with_all = ["campaign", "tenant", "domain", "routing_domain", "queue"])]
        ready_queue: Option<String>,
        /// For people
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        time: Time,
        #[command(flatten)]
        common: Common,
    },
    /// Those in force or to come
    List {
        /// Those of egress paths
        #[arg(long)]
        ready_queue: bool,
    },
    /// Release
    Remove {
        id: String,
        /// It is one of an egress path
        #[arg(long)]
        ready_queue: bool,
    },
}

/// Actions on bounces.
#[derive(Debug, Subcommand)]
pub enum BounceAction {
    /// Fail what is queued and what comes
    Add {
        #[command(flatten)]
        queues: Queues,
        /// For people, and in the records
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Write no records
        #[arg(long)]
        suppress_logging: bool,
        #[command(flatten)]
        time: Time,
        #[command(flatten)]
        common: Common,
        /// Without criteria: really end all mail
        #[arg(long)]
        everything: bool,
    },
    /// Those in force or to come
    List,
    /// Take mail again
    Remove { id: String },
}

/// What can be done to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MessageAction {
    /// Make it due now
    Retry,
    /// End it with 550 5.7.1
    Cancel,
}

/// What a pause or a forced error covers.
#[derive(Args, Debug, Default)]
pub struct Criteria {
    /// Recipient domain
    #[arg(long, value_name = "DOMAIN", conflicts_with = "ip")]
    pub domain: Option<String>,
    /// Address of the remote host
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// Own address
    #[arg(long, value_name = "ADDRESS", conflicts_with = "pool")]
    pub mta: Option<String>,
    /// Pool of own addresses
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// Tag of the message
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
}

/// What a suspension or a bounce covers.
#[derive(Args, Debug, Default)]
pub struct Queues {
    #[arg(long, value_name = "CAMPAIGN")]
    pub campaign: Option<String>,
    #[arg(long, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Recipient domain
    #[arg(long, value_name = "DOMAIN")]
    pub domain: Option<String>,
    #[arg(long, value_name = "DOMAIN")]
    pub routing_domain: Option<String>,
    /// Scheduled queue by its name; may be given several times
    #[arg(long, value_name = "NAME")]
    pub queue: Vec<String>,
}

/// Which rule goes: an id, or criteria and scope.
#[derive(Args, Debug, Default)]
pub struct RemoveByCriteria {
    /// As the list shows it, instead of criteria
    #[arg(long, value_name = "ID", conflicts_with_all = ["domain", "ip", "mta", "pool", "tag", "cluster"])]
    pub id: Option<String>,
    #[command(flatten)]
    pub criteria: Criteria,
    /// The one for all nodes of the cluster
    #[arg(long)]
    pub cluster: bool,
}

/// When a rule is in force.
#[derive(Args, Debug, Default)]
pub struct Time {
    /// So long: 90s, 2h, 1d 6h. Without it pauses and errors have no end; suspensions and bounces last five minutes
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until", value_parser = humantime::parse_duration)]
    pub duration: Option<std::time::Duration>,
    /// Until then: RFC 3339, or "YYYY-MM-DD HH:MM:SS" in UTC
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<i64>,
    /// From then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub start: Option<i64>,
    /// Only inside such a window: "mon,fri 22:00-08:00 Europe/Amsterdam"; may be given several times
    #[arg(long, value_name = "WINDOW", value_parser = window)]
    pub window: Vec<serde_json::Value>,
}

/// What every rule may say.
#[derive(Args, Debug, Default)]
pub struct Common {
    /// Make nothing; say what would match
    #[arg(long)]
    pub dry_run: bool,
    /// For all nodes of the cluster
    #[arg(long)]
    pub cluster: bool,
}

/// The answer that matching mail gets.
#[derive(Args, Debug)]
pub struct Verdict {
    /// Reply code
    #[arg(long, default_value_t = 550, value_parser = clap::value_parser!(u16).range(200..600))]
    pub code: u16,
    /// Enhanced status code, such as 5.7.1
    #[arg(long, value_name = "CODE")]
    pub extended: Option<String>,
    /// Words
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

/// A moment in milliseconds since 1970.
fn moment(text: &str) -> Result<i64, String> {
    let at = crate::api::fields::moment(text);
    at.map(|at| at.0).ok_or_else(|| "write RFC 3339, \"YYYY-MM-DD HH:MM:SS\" in UTC, or seconds since 1970".to_owned())
}

/// Whether days and zones exist is for the server to say.
fn window(text: &str) -> Result<serde_json::Value, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if let [days, times, zone] = words[..]
        && let Some((from, to)) = times.split_once('-')
    {
        let days: Vec<&str> = match days {
            "daily" => vec!["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
            days => days.split(',').collect(),
        };
        return Ok(serde_json::json!({ "days": days, "from": from, "to": to, "tz": zone }));
    }
    Err("write days, times and zone: \"mon,fri 22:00-08:00 Europe/Amsterdam\", or \"daily\" for all days".to_owned())
}
