//! The commands that ask a running engine by its REST API. Knows the API's paths and bodies, nothing of what is behind
//! them.

mod import;
pub mod rules;

use crate::cli::PlaceArguments;
use crate::json::{self, Json};
use crate::serve;
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

/// Octets of an answer that is held in memory.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// A call answers when every core has applied it; nothing takes longer than this but an import.
const WAIT: Duration = Duration::from_secs(60);

/// Which engine, and as whom.
#[derive(clap::Args, Debug)]
pub struct ClientArguments {
    #[command(flatten)]
    pub place: PlaceArguments,
    /// Base URL of the API. Default: the local listener
    #[arg(long, global = true, value_name = "URL")]
    pub endpoint: Option<String>,
    /// API token. Default: the environment's MAILRACE_TOKEN, else the token file in the data directory
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Print the API's JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failed {
    /// The engine, or this command, refused.
    Refused(String),
    /// Nobody answered.
    Unreachable(String),
}

impl Failed {
    /// 1 refused, 3 unreachable.
    fn exit(&self) -> ExitCode {
        match self {
            Self::Refused(_) => ExitCode::from(1),
            Self::Unreachable(_) => ExitCode::from(3),
        }
    }
}

/// Speaks to one engine.
pub struct Client {
    agent: ureq::Agent,
    endpoint: String,
    authorization: String,
}

impl Client {
    /// For the engine that the arguments name.
    pub fn new(arguments: &ClientArguments) -> Result<Self, Failed> {
        let located = serve::locate(&arguments.place).map_err(|errors| Failed::Refused(errors.join("\n")));
        let endpoint = match &arguments.endpoint {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let mut listen = located.as_ref().map_err(|failed| Failed::Refused(format!("{failed:?}")))?.api.listen;
                if listen.ip().is_unspecified() {
                    let local: std::net::IpAddr =
                        if listen.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1_u16].into() };
                    listen.set_ip(local);
                }
                format!("http://{listen}")
            }
        };
        let token = match arguments.token.clone().or_else(|| std::env::var("MAILRACE_TOKEN").ok()) {
            Some(token) => token,
            None => {
                let path = located?.settings.data_dir.join("token");
                std::fs::read_to_string(&path)
                    .map_err(|error| Failed::Refused(format!("{}: {error}; give --token", path.display())))?
            }
        };
        // A proxy of the environment is for the world, not for this.
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_connect(Some(Duration::from_secs(5))).build().new_agent();
        Ok(Self { agent, endpoint, authorization: format!("Bearer {}", token.trim()) })
    }

    /// One call; the answer's octets when it succeeded.
    pub fn call(&self, method: &str, path: &str, body: Option<&Json>) -> Result<Vec<u8>, Failed> {
        let text = body.map(Json::to_text);
        let url = format!("{}{path}", self.endpoint);
        let request = ureq::http::Request::builder().method(method).uri(&url);
        let request = request.header("Authorization", &self.authorization).header("Content-Type", "application/json");
        let request =
            request.body(text.unwrap_or_default()).map_err(|error| Failed::Refused(format!("{url}: {error}")))?;
        let request = self.agent.configure_request(request).timeout_global(Some(WAIT)).allow_non_standard_methods(true);
        let answer = self.agent.run(request.build());
        Self::answer(&url, answer)
    }

    /// A long body, as it is read.
    pub fn upload(&self, path: &str, content_type: &str, body: impl Read + 'static) -> Result<Vec<u8>, Failed> {
        let url = format!("{}{path}", self.endpoint);
        let request = self.agent.post(&url).header("Authorization", &self.authorization);
        let answer = request.header("Content-Type", content_type).send(ureq::SendBody::from_owned_reader(body));
        Self::answer(&url, answer)
    }

    /// A long answer, to be read.
    pub fn download(&self, path: &str, accept: &str) -> Result<impl Read, Failed> {
        let url = format!("{}{path}", self.endpoint);
        let request = self.agent.get(&url).header("Authorization", &self.authorization).header("Accept", accept);
        let answer = request.call().map_err(|error| Failed::Unreachable(format!("{url}: {error}")))?;
        if answer.status().is_success() {
            return Ok(answer.into_body().into_reader());
        }
        match Self::answer(&url, Ok(answer)) {
            Err(failed) => Err(failed),
            Ok(_) => Err(Failed::Refused(format!("{url}: no such answer was expected"))),
        }
    }

    fn answer(url: &str, answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Vec<u8>, Failed> {
        let unreachable = |error: ureq::Error| Failed::Unreachable(format!("{url}: {error}"));
        let mut answer = answer.map_err(unreachable)?;
        let octets = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(unreachable)?;
        if answer.status().is_success() {
            return Ok(octets);
        }
        let text = String::from_utf8_lossy(&octets);
        let said = json::parse(&octets).ok().and_then(|json| json.get("error")?.text().map(str::to_owned));
        Err(Failed::Refused(format!("{} ({})", said.as_deref().unwrap_or(&text), answer.status().as_u16())))
    }
}

/// Rows and columns for people: one column for each member that some row has.
fn table(rows: &[Json]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for row in rows {
        let Json::Object(members) = row else { continue };
        for (name, value) in members {
            if *value != Json::Null && !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
    }
    let cell = |row: &Json, column: &str| match row.get(column) {
        None | Some(Json::Null) => String::new(),
        Some(Json::Text(text)) => text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect(),
        Some(value) => value.to_text(),
    };
    let mut lines = vec![columns.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|column| cell(row, column)).collect()));
    let widths: Vec<usize> =
        (0..columns.len()).map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0)).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(text, width)| format!("{text:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(padded).collect()
}

#[cfg(test)]
mod tests {
    use super::table;
    use crate::json::{Json, parse};

    #[test]
    fn tables() {
        let Json::Array(rows) = parse(br#"[{"id":"a","n":1},{"id":"bcd","x":null,"s":{"t":"u"}}]"#).unwrap() else {
            panic!()
        };
        assert_eq!(table(&rows), "ID   N  S\na    1\nbcd     {\"t\":\"u\"}\n");
        assert_eq!(table(&[]), "\n");
    }
}
