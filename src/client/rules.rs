//! `pause`, `error`, `suppress`, `suspend`, `bounce`, `rules`, `audit`: the rules, by the REST API.

use super::import::{lines, watched};
use super::{Client, ClientArguments, Failed, table};
use crate::json::{self, Json};
use crate::report;
use clap::{Args, Subcommand};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// What can be done with one kind of rule.
#[derive(Debug, Subcommand)]
pub enum Edit<A: Args, R: Args> {
    /// Make one
    Add {
        #[command(flatten)]
        rule: A,
        /// Only show what it would match
        #[arg(long)]
        dry_run: bool,
    },
    /// List them
    List,
    /// Remove one
    Remove(R),
}

/// What can be done with suppressions.
#[derive(Debug, Subcommand)]
pub enum SuppressEdit {
    /// Add or overwrite one
    Add {
        #[command(flatten)]
        rule: SuppressionRule,
        /// Only show what it would match
        #[arg(long)]
        dry_run: bool,
    },
    /// List all
    List,
    /// Remove one
    Remove {
        /// Address or domain
        value: String,
    },
    /// Add those of a file: CSV with a header, or JSON lines
    Import {
        /// The file
        file: PathBuf,
    },
    /// Write all to stdout as JSON lines
    Export,
}

/// What a pause or a forced error covers.
#[derive(Args, Debug)]
pub struct Criteria {
    /// Sender pool
    #[arg(long, conflicts_with = "mta")]
    pool: Option<String>,
    /// Own address
    #[arg(long)]
    mta: Option<String>,
    /// Recipient domain
    #[arg(long, conflicts_with = "ip")]
    domain: Option<String>,
    /// Address of the remote host
    #[arg(long)]
    ip: Option<String>,
    /// Tag
    #[arg(long)]
    tag: Option<String>,
    /// On the whole cluster
    #[arg(long)]
    cluster: bool,
}

/// A pause.
#[derive(Args, Debug)]
pub struct PauseRule {
    #[command(flatten)]
    criteria: Criteria,
    /// When it ends: "YYYY-MM-DD HH:MM:SS" in UTC, or RFC 3339
    #[arg(long)]
    expire: Option<String>,
}

/// A forced error.
#[derive(Args, Debug)]
pub struct ErrorRule {
    /// 200 to 599
    code: u16,
    /// Enhanced status code
    #[arg(long)]
    extended: Option<String>,
    /// Text of the result
    #[arg(long)]
    description: Option<String>,
    #[command(flatten)]
    pause: PauseRule,
    /// All mail is meant, if no criterion is given
    #[arg(long)]
    everything: bool,
}

/// A suppression.
#[derive(Args, Debug)]
pub struct SuppressionRule {
    /// Address or domain
    value: String,
    /// 200 to 599
    #[arg(long, default_value_t = 550)]
    code: u16,
    /// Enhanced status code
    #[arg(long)]
    extended: Option<String>,
    /// Text of the result
    #[arg(long)]
    description: Option<String>,
}

/// A suspension or a bounce.
#[derive(Args, Debug)]
pub struct QueueRule {
    /// Why
    #[arg(long)]
    reason: String,
    /// Campaign
    #[arg(long)]
    campaign: Option<String>,
    /// Tenant
    #[arg(long)]
    tenant: Option<String>,
    /// Recipient domain
    #[arg(long)]
    domain: Option<String>,
    /// Routing domain
    #[arg(long)]
    routing_domain: Option<String>,
    /// Whole name of a queue, instead of the above; may be repeated
    #[arg(long = "queue")]
    queues: Vec<String>,
    /// How long, such as "1h 30m"; default five minutes
    #[arg(long)]
    duration: Option<String>,
    /// All mail is meant, if no criterion is given (bounce only)
    #[arg(long)]
    everything: bool,
}

/// A rule by its id.
#[derive(Args, Debug)]
pub struct ById {
    /// As `list` shows it
    id: String,
}

/// One of the commands.
#[derive(Debug)]
pub enum Ask<'a> {
    Pause(&'a Edit<PauseRule, Criteria>),
    Error(&'a Edit<ErrorRule, Criteria>),
    Suppress(&'a SuppressEdit),
    Suspend(&'a Edit<QueueRule, ById>),
    Bounce(&'a Edit<QueueRule, ById>),
    Rules,
    Audit { after: u64, limit: u16 },
}

/// Carries one out. Everything is said when this returns.
#[must_use]
pub fn run(arguments: &ClientArguments, ask: &Ask<'_>) -> ExitCode {
    match Client::new(arguments).and_then(|client| carry_out(&client, arguments.json, ask)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            let (Failed::Refused(text) | Failed::Unreachable(text)) = &failed;
            report::error(text);
            failed.exit()
        }
    }
}

fn carry_out(client: &Client, json: bool, ask: &Ask<'_>) -> Result<(), Failed> {
    let answer = match ask {
        Ask::Pause(edit) => edited(client, "/v1/pauses", edit, PauseRule::body, Criteria::body),
        Ask::Error(edit) => edited(client, "/v1/errors", edit, ErrorRule::body, Criteria::body),
        Ask::Suspend(edit) => edited(client, "/api/admin/suspend/v1", edit, QueueRule::body, ById::body),
        Ask::Bounce(edit) => edited(client, "/api/admin/bounce/v1", edit, QueueRule::body, ById::body),
        Ask::Rules => client.call("GET", "/v1/rules", None),
        Ask::Audit { after, limit } => client.call("GET", &format!("/v1/audit?after={after}&limit={limit}"), None),
        Ask::Suppress(SuppressEdit::Add { rule, dry_run }) => {
            client.call("POST", &thought("/v1/suppressions", *dry_run), Some(&rule.body()))
        }
        Ask::Suppress(SuppressEdit::List) => client.call("GET", "/v1/suppressions", None),
        Ask::Suppress(SuppressEdit::Remove { value }) => {
            client.call("DELETE", "/v1/suppressions", Some(&Json::object([("value", Some(value.as_str().into()))])))
        }
        Ask::Suppress(SuppressEdit::Import { file }) => import(client, file),
        Ask::Suppress(SuppressEdit::Export) => return export(client),
    }?;
    let text = match json::parse(&answer) {
        Ok(Json::Array(rows)) if !json => table(&rows),
        Ok(value) if !json => table(std::slice::from_ref(&value)),
        _ => format!("{}\n", String::from_utf8_lossy(&answer)),
    };
    write(text.as_bytes())
}

fn edited<A: Args, R: Args>(
    client: &Client,
    path: &str,
    edit: &Edit<A, R>,
    of_rule: fn(&A) -> Json,
    of_removed: fn(&R) -> Json,
) -> Result<Vec<u8>, Failed> {
    match edit {
        Edit::Add { rule, dry_run } => client.call("POST", &thought(path, *dry_run), Some(&of_rule(rule))),
        Edit::List => client.call("GET", path, None),
        Edit::Remove(removed) => client.call("DELETE", path, Some(&of_removed(removed))),
    }
}

fn thought(path: &str, dry_run: bool) -> String {
    if dry_run { format!("{path}?dry_run=true") } else { path.to_owned() }
}

fn import(client: &Client, path: &std::path::Path) -> Result<Vec<u8>, Failed> {
    let refused = |why: String| Failed::Refused(format!("{}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| refused(error.to_string()))?;
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    // Drawn only where somebody looks: it hides itself when stderr is no terminal.
    let bar = indicatif::ProgressBar::new(length);
    let body = lines(watched(file, &bar)).map_err(refused)?;
    let answer = client.upload("/v1/suppressions", "application/x-ndjson", body);
    bar.finish_and_clear();
    let answer = answer?;
    let wrong = json::parse(&answer).ok().and_then(|json| json.get("error_count").and_then(Json::integer)).unwrap_or(0);
    if wrong == 0 {
        return Ok(answer);
    }
    write(&answer)?;
    write(b"\n")?;
    Err(Failed::Refused(format!("{wrong} lines of {} were refused, the others are in", path.display())))
}

fn export(client: &Client) -> Result<(), Failed> {
    let mut answer = client.download("/v1/suppressions", "application/x-ndjson")?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = answer.read(&mut buffer).map_err(|error| Failed::Unreachable(error.to_string()))?;
        if count == 0 {
            return Ok(());
        }
        write(&buffer[..count])?;
    }
}

fn write(octets: &[u8]) -> Result<(), Failed> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(octets).and_then(|()| stdout.flush());
    written.map_err(|error| Failed::Refused(format!("stdout: {error}")))
}

fn text(value: &Option<String>) -> Option<Json> {
    value.as_deref().map(Json::from)
}

impl Criteria {
    fn body(&self) -> Json {
        Json::object([
            ("pool", text(&self.pool)),
            ("mta", text(&self.mta)),
            ("domain", text(&self.domain)),
            ("ip", text(&self.ip)),
            ("tag", text(&self.tag)),
            ("cluster", Some(self.cluster.into())),
        ])
    }
}

impl PauseRule {
    fn body(&self) -> Json {
        self.criteria.body().with([("expire", text(&self.expire))])
    }
}

impl ErrorRule {
    fn body(&self) -> Json {
        self.pause.body().with([
            ("code", Some(self.code.into())),
            ("extended", text(&self.extended)),
            ("description", text(&self.description)),
            ("everything", self.everything.then_some(true.into())),
        ])
    }
}

impl SuppressionRule {
    fn body(&self) -> Json {
        let kind = if self.value.contains('@') { "address" } else { "domain" };
        Json::object([
            ("value", Some(self.value.as_str().into())),
            ("type", Some(kind.into())),
            ("code", Some(self.code.into())),
            ("extended", text(&self.extended)),
            ("description", text(&self.description)),
        ])
    }
}

impl QueueRule {
    fn body(&self) -> Json {
        let queues = self.queues.iter().map(|name| Json::from(name.as_str())).collect::<Vec<_>>();
        Json::object([
            ("reason", Some(self.reason.as_str().into())),
            ("campaign", text(&self.campaign)),
            ("tenant", text(&self.tenant)),
            ("domain", text(&self.domain)),
            ("routing_domain", text(&self.routing_domain)),
            ("queue_names", (!queues.is_empty()).then(|| queues.into())),
            ("duration", text(&self.duration)),
            ("everything", self.everything.then_some(true.into())),
        ])
    }
}

impl ById {
    fn body(&self) -> Json {
        Json::object([("id", Some(self.id.as_str().into()))])
    }
}
