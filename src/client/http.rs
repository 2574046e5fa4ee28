//! One request by HTTP, blocking: the one place that names the HTTP client. Knows no endpoint and prints nothing.

use super::is_loopback;
use super::request::{Method, Request};
use crate::api::RECOVERY_HEADER;
use serde_json::Value;
use std::cell::RefCell;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use ureq::config::Config;
use ureq::http::Response;
use ureq::tls::TlsConfig;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport};
use ureq::{Agent, Body, Error, SendBody};

/// How long a connection may take, and how long the other side may be silent.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const SILENT_MAX: Duration = Duration::from_secs(120);

/// Octets of an answer that is read as a whole; lists of a million rules stay below.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// Octets of a refusal that are shown.
const REFUSAL_BYTES_MAX: u64 = 64 << 10;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// Why there is no answer to use.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server, or we before it was asked, say no.
    Refused(String),
    /// The command line makes no sense.
    Usage(String),
    /// No connection, or one that broke.
    Unreachable(String),
}

/// What a request carries.
enum Content<'a> {
    None,
    Json(&'a str),
    Lines(&'a mut dyn Read),
}

/// A server, and as who it is asked.
#[derive(Debug)]
pub struct Server {
    agent: Agent,
    /// `http://host:port`, without a slash at its end.
    pub endpoint: String,
    /// Sent with each request, when there is one.
    pub token: Option<String>,
    recovery: RefCell<Option<String>>,
}

impl Server {
    /// Does not connect yet.
    #[must_use]
    pub fn new(endpoint: &str, token: Option<String>) -> Self {
        // On the loopback nobody is between us, and a certificate names another host than 127.0.0.1.
        let tls = TlsConfig::builder().disable_verification(is_loopback(endpoint)).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The API is asked directly: a proxy that is meant for the web does not know our loopback.
            .proxy(None)
            .max_redirects(0)
            .tls_config(tls)
            .user_agent(concat!("mailrace/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_per_read(Some(SILENT_MAX))
            .timeout_per_write(Some(SILENT_MAX))
            .build();
        Self {
            agent: config.into(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            recovery: RefCell::default(),
        }
    }

    /// What the last answer said that it lacks: mail of earlier runs that is not in the queues yet.
    #[must_use]
    pub fn recovery(&self) -> Option<String> {
        self.recovery.borrow().clone()
    }

    /// One request; the whole body of its answer.
    ///
    /// # Errors
    /// See [`Failure`]; every status but 2xx is a refusal.
    pub fn ask(&self, request: &Request) -> Result<Vec<u8>, Failure> {
        let text = request.body.as_ref().map(Value::to_string);
        let content = text.as_deref().map_or(Content::None, Content::Json);
        self.whole(self.send(request, JSON, content)?)
    }

    /// As [`Server::ask`], with lines as the body, however many.
    ///
    /// # Errors
    /// As there.
    pub fn upload(&self, request: &Request, lines: &mut dyn Read) -> Result<Vec<u8>, Failure> {
        self.whole(self.send(request, JSON, Content::Lines(lines))?)
    }

    /// The answer as lines, however many, to be read as they come.
    ///
    /// # Errors
    /// As [`Server::ask`].
    pub fn download(&self, request: &Request) -> Result<impl Read + use<>, Failure> {
        Ok(self.send(request, NDJSON, Content::None)?.into_body().into_with_config().limit(u64::MAX).reader())
    }

    fn send(&self, request: &Request, wanted: &str, content: Content<'_>) -> Result<Response<Body>, Failure> {
        let url = format!("{}{}", self.endpoint, request.target());
        let (agent, deaf) = match content {
            Content::None | Content::Json(_) => (self.agent.clone(), Deaf::default()),
            Content::Lines(_) => patient_agent(self.agent.config()),
        };
        let mut builder = match request.method {
            Method::Get => agent.get(&url).force_send_body(),
            Method::Delete => agent.delete(&url).force_send_body(),
            Method::Post => agent.post(&url),
        };
        builder = builder.header("Accept", wanted);
        if let Some(token) = &self.token {
            builder = builder.header("Authorization", format!("Bearer {token}"));
        }
        let sent = match content {
            Content::None => builder.send_empty(),
            Content::Json(text) => builder.content_type(JSON).send(text),
            // Whoever may not is told so before the lines are sent (RFC 9110 section 10.1.1).
            Content::Lines(body) => {
                let lines = &mut Sent { body, deaf };
                builder.content_type(NDJSON).header("Expect", "100-continue").send(SendBody::from_reader(lines))
            }
        };
        let mut response = sent.map_err(|error| self.failure(&error))?;
        if response.status().is_success() {
            let recovery = response.headers().get(RECOVERY_HEADER).and_then(|value| value.to_str().ok());
            *self.recovery.borrow_mut() = recovery.map(str::to_owned);
            return Ok(response);
        }
        let status = response.status();
        let text = response.body_mut().with_config().limit(REFUSAL_BYTES_MAX).lossy_utf8(true).read_to_string();
        let text = text.map_err(|error| self.failure(&error))?;
        Err(Failure::Refused(refusal(status.as_u16(), &text)))
    }

    fn whole(&self, mut response: Response<Body>) -> Result<Vec<u8>, Failure> {
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        body.map_err(|error| self.failure(&error))
    }

    fn failure(&self, error: &Error) -> Failure {
        match error {
            Error::BadUri(_) | Error::Http(_) | Error::TlsRequired | Error::RequireHttpsOnly(_) => {
                Failure::Usage(format!("{} is no endpoint: {error}", self.endpoint))
            }
            Error::BodyExceedsLimit(_) => Failure::Refused(format!("the answer is too long: {error}")),
            error => {
                Failure::Unreachable(format!("{} cannot be reached: {error}; is mailrace running?", self.endpoint))
            }
        }
    }
}

/// The server's words: of its JSON the error, or else the text as it is.
fn refusal(status: u16, text: &str) -> String {
    let json: Option<Value> = serde_json::from_str(text).ok();
    let words = json.as_ref().and_then(|json| json.get("error")).and_then(Value::as_str).unwrap_or(text).trim();
    if words.is_empty() { format!("the server answered {status}") } else { words.to_owned() }
}

/// Whether the server has stopped listening. Shared by the connection and what is sent over it.
#[derive(Clone, Debug, Default)]
struct Deaf(Arc<AtomicBool>);

impl Deaf {
    fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Connections for one long upload: when the server stops listening in the midst of it, the rest is left out and its answer
/// is read all the same, since that says why. What is sent is to be [`Sent`].
fn patient_agent(config: &Config) -> (Agent, Deaf) {
    let deaf = Deaf::default();
    let connector = DefaultConnector::default().chain(Patient { deaf: deaf.clone() });
    (Agent::with_parts(config.clone(), connector, DefaultResolver::default()), deaf)
}

/// What is sent, as long as anybody listens.
struct Sent<'a> {
    /// All of it.
    body: &'a mut dyn Read,
    /// Whether it still makes sense.
    deaf: Deaf,
}

impl Read for Sent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.deaf.is_so() { Ok(0) } else { self.body.read(buffer) }
    }
}

/// Makes connections of that kind.
#[derive(Debug)]
struct Patient {
    deaf: Deaf,
}

impl Connector<Box<dyn Transport>> for Patient {
    type Out = Connection;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<Box<dyn Transport>>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| Connection { inner, deaf: self.deaf.clone() }))
    }
}

/// One of them.
#[derive(Debug)]
struct Connection {
    inner: Box<dyn Transport>,
    deaf: Deaf,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.deaf.is_so() {
            return Ok(());
        }
        match self.inner.transmit_output(amount, timeout) {
            Err(Error::Io(error))
                if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                // Whether there is an answer is for whoever reads it to find out.
                self.deaf.0.store(true, Ordering::Relaxed);
                Ok(())
            }
            sent => sent,
        }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        !self.deaf.is_so() && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::{Failure, Server};
    use crate::client::request::{Method, Request, SUPPRESSIONS};
    use std::io::{Read, Write};
    use std::net::TcpListener;

    #[test]
    fn the_reason_of_a_server_that_stops_listening_is_shown() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut taken = Vec::new();
            while !taken.windows(4).any(|four| four == b"\r\n\r\n") {
                let mut octets = [0; 1024];
                let count = client.read(&mut octets).unwrap();
                taken.extend_from_slice(&octets[..count]);
            }
            client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            client.read_exact(&mut [0; 65536]).unwrap();
            let words = br#"{"error":"etcd is away; 10000 entries are done, send all again"}"#;
            let head =
                format!("HTTP/1.1 503 Unavailable\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", words.len());
            client.write_all(&[head.as_bytes(), words].concat()).unwrap();
            // The rest of what comes is read by nobody: whoever sends it is reset.
        });
        let mut lines = std::io::repeat(b'\n').take(1 << 30);
        let answer = Server::new(&endpoint, None).upload(&Request::new(Method::Post, SUPPRESSIONS), &mut lines);
        let words = "etcd is away; 10000 entries are done, send all again";
        assert_eq!(answer, Err(Failure::Refused(words.to_owned())));
        assert!(lines.limit() > 1 << 29, "it did not read on");
        server.join().unwrap();
    }
}
