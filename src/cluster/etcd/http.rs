//! One request to one etcd member by HTTP, blocking: the place that names the HTTP client. Knows no key and no JSON; says
//! of what failed whether it may have been done.

use super::types::EtcdError;
use crate::certificate;
use crate::files::read_bounded;
use mailrace_shards::limits::{
    ETCD_ANSWER_BYTES_MAX, ETCD_CONNECT_WITHIN, ETCD_LINE_BYTES_MAX, ETCD_REFUSAL_BYTES_MAX, ETCD_SILENT_MAX,
};
use mailrace_shards::settings::TlsFiles;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::WithBody;
use ureq::{Agent, Body, RequestBuilder, SendBody};

/// Connections to members that are kept for the next request; more than threads that ask.
const IDLE_MAX: usize = 16;

/// Octets of a PEM file; a longer one is refused.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// How members prove themselves, and we to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// PEM file with the authorities that sign the members' certificates; the public ones without it.
    pub ca: Option<PathBuf>,
    /// What we show, where they want to see something.
    pub own: Option<TlsFiles>,
}

/// Members and the connections to them.
pub struct Members {
    agent: Agent,
    urls: Vec<String>,
}

/// What is asked of a member.
#[derive(Clone, Copy)]
pub struct Post<'a> {
    /// Below the member's URL.
    pub path: &'a str,
    /// JSON.
    pub content: &'a str,
    /// As who, where the members want to know.
    pub token: Option<&'a str>,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long the whole may take.
    pub within: Duration,
}

/// How a member answered.
pub enum Reply {
    /// 200, and the body.
    Done(Vec<u8>),
    /// Another status, and the first of the body.
    Refused(u16, Vec<u8>),
}

impl Members {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// An endpoint that is none, or a file that does not hold what it should.
    pub fn new(endpoints: &[String], tls: Option<&EtcdTls>) -> Result<Self, String> {
        if endpoints.is_empty() {
            return Err("etcd has no endpoints".to_owned());
        }
        let urls = endpoints.iter().map(|endpoint| url(endpoint)).collect::<Result<_, _>>()?;
        let tls = tls.map_or_else(|| Ok(TlsConfig::default()), tls_config)?;
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Members are asked directly: a proxy that is meant for the web does not know them.
            .proxy(None)
            .max_redirects(0)
            .tls_config(tls)
            .user_agent(concat!("mailrace/", env!("CARGO_PKG_VERSION")))
            .timeout_per_write(Some(ETCD_SILENT_MAX))
            // Every thread that asks keeps its connection.
            .max_idle_connections(IDLE_MAX)
            .max_idle_connections_per_host(IDLE_MAX)
            .build();
        Ok(Self { agent: config.into(), urls })
    }

    /// How many there are, never 0.
    #[must_use]
    pub fn count(&self) -> usize {
        self.urls.len()
    }

    /// Its URL, for people.
    #[must_use]
    pub fn url(&self, member: usize) -> &str {
        &self.urls[member % self.urls.len()]
    }

    /// Asks one of them; the whole answer.
    ///
    /// # Errors
    /// [`EtcdError::Unreachable`] when the request was not sent in whole, so it cannot have been done, and
    /// [`EtcdError::Unknown`] after that; [`EtcdError::Refused`] when the answer is too long.
    pub fn post(&self, member: usize, post: &Post<'_>) -> Result<Reply, EtcdError> {
        let request = self.request(member, post).config().timeout_per_read(Some(ETCD_SILENT_MAX));
        let response = self.sent(member, post, request.timeout_global(Some(post.within)).build())?;
        let status = response.status().as_u16();
        let limit = if status == 200 { ETCD_ANSWER_BYTES_MAX } else { ETCD_REFUSAL_BYTES_MAX };
        let body = response.into_body().into_with_config().limit(limit).read_to_vec();
        match body {
            Ok(body) if status == 200 => Ok(Reply::Done(body)),
            Ok(body) => Ok(Reply::Refused(status, body)),
            Err(ureq::Error::BodyExceedsLimit(limit)) => {
                Err(EtcdError::Refused(format!("an answer of more than {limit} octets; ask for less at once")))
            }
            Err(error) => Err(EtcdError::Unknown(self.words(member, &error))),
        }
    }

    /// Asks for lines without an end, on a connection of its own; the first octet must come within `post.within`.
    ///
    /// # Errors
    /// As [`Members::post`]; an answer that is not 200 as its status and text.
    pub fn stream(&self, member: usize, post: &Post<'_>) -> Result<Result<Stream, (u16, Vec<u8>)>, EtcdError> {
        let alone = Self { agent: self.agent.config().new_agent(), urls: self.urls.clone() };
        let request = alone.request(member, post).config().timeout_recv_response(Some(post.within));
        let response = alone.sent(member, post, request.build())?;
        let status = response.status().as_u16();
        if status != 200 {
            let body = response.into_body().into_with_config().limit(ETCD_REFUSAL_BYTES_MAX).read_to_vec();
            return Ok(Err((status, body.unwrap_or_default())));
        }
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        Ok(Ok(Stream { lines: Lines(BufReader::new(Box::new(reader))), stop: Stop(alone.agent) }))
    }

    fn request(&self, member: usize, post: &Post<'_>) -> RequestBuilder<WithBody> {
        let mut builder = self.agent.post(format!("{}{}", self.url(member), post.path));
        builder = builder
            .header("Content-Type", "application/json")
            .header("Content-Length", post.content.len())
            // A member that has lost the others says so at once, instead of after seconds.
            .header("Grpc-Metadata-hasleader", "true");
        if let Some(token) = post.token {
            builder = builder.header("Authorization", token);
        }
        let connect = post.connect.min(ETCD_CONNECT_WITHIN);
        builder.config().timeout_resolve(Some(connect)).timeout_connect(Some(connect)).build()
    }

    fn sent(
        &self,
        member: usize,
        post: &Post<'_>,
        request: RequestBuilder<WithBody>,
    ) -> Result<Response<Body>, EtcdError> {
        let mut content = Content { left: post.content.as_bytes(), handed_over: false };
        let sent = request.send(SendBody::from_reader(&mut content));
        sent.map_err(|error| {
            let words = self.words(member, &error);
            // Without its last octet it is no JSON, so nobody can have acted on it.
            if content.handed_over { EtcdError::Unknown(words) } else { EtcdError::Unreachable(words) }
        })
    }

    fn words(&self, member: usize, error: &ureq::Error) -> String {
        format!("{}: {error}", self.url(member))
    }
}

/// A body that remembers whether its last octet was taken.
struct Content<'a> {
    left: &'a [u8],
    handed_over: bool,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.left.read(buffer)?;
        self.handed_over |= self.left.is_empty();
        Ok(taken)
    }
}

/// An answer that goes on, and the way to end it from another thread.
pub struct Stream {
    /// To be read by one thread.
    pub lines: Lines,
    /// To be kept by another.
    pub stop: Stop,
}

/// Lines, one after another.
pub struct Lines(BufReader<Box<dyn Read + Send>>);

impl Lines {
    /// The next one, without its end; waits for it as long as it takes. `None`: there are no more.
    ///
    /// # Errors
    /// The connection broke, or the line is too long.
    pub fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let limit = ETCD_LINE_BYTES_MAX;
        (&mut self.0).take(limit).read_until(b'\n', &mut line)?;
        if line.last() == Some(&b'\n') {
            return Ok(Some(line));
        }
        if line.len() as u64 >= limit {
            return Err(io::Error::other(format!("a line of more than {limit} octets")));
        }
        // The last one may have no line end; half of one is no JSON, which its reader will say.
        Ok((!line.is_empty()).then_some(line))
    }
}

/// Ends the stream when dropped, also under a reader that waits.
pub struct Stop(Agent);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.clone().shutdown();
    }
}

/// A member's URL, without a slash at its end.
fn url(endpoint: &str) -> Result<String, String> {
    let refused = |why: &str| Err(format!("etcd endpoint {endpoint:?} {why}"));
    let Ok(uri) = endpoint.parse::<Uri>() else {
        return refused("is no URL; it must be like http://127.0.0.1:2379");
    };
    match (uri.scheme_str(), uri.host(), uri.path_and_query().map_or("/", |path| path.as_str())) {
        (Some("http" | "https"), Some(host), "/") if !host.is_empty() => Ok(endpoint.trim_end_matches('/').to_owned()),
        (Some("http" | "https"), Some(_), _) => refused("has a path; it must end after the port"),
        _ => refused("must begin with http:// or https://"),
    }
}

fn tls_config(tls: &EtcdTls) -> Result<TlsConfig, String> {
    let mut builder = TlsConfig::builder();
    if let Some(ca) = &tls.ca {
        let authorities = certificates(ca)?;
        if authorities.is_empty() {
            return Err(format!("{} holds no certificate; it must be PEM", ca.display()));
        }
        builder = builder.root_certs(RootCerts::Specific(Arc::new(authorities)));
    }
    if let Some(own) = &tls.own {
        // Whether the two belong together; the client would find out too late.
        certificate::load(own)?;
        let key = PrivateKey::from_pem(&read_bounded(&own.key, PEM_BYTES_MAX)?)
            .map_err(|error| format!("{} holds no private key in PEM: {error}", own.key.display()))?;
        let chain = certificates(&own.certificate)?;
        builder = builder.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(builder.build())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, String> {
    let pem = read_bounded(path, PEM_BYTES_MAX)?;
    let items = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(format!("{} is not PEM: {error}", path.display()))),
    });
    items.collect()
}
