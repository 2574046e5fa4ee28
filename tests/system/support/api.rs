//! The engine's REST API as a small blocking client calls it: one connection a request.

use super::engine::Engine;
use super::wait::{PATIENCE, until};
use serde_json::Value;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// Calls of one engine's API with a token, at first its admin's. Can be sent to other threads.
#[derive(Clone, Debug)]
pub struct Api {
    address: SocketAddr,
    token: String,
}

/// Media types.
pub const JSON: &str = "application/json; charset=utf-8";
pub const NDJSON: &str = "application/x-ndjson";

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Status line and fields.
    pub head: String,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {:?}", self.text))
    }
}

impl Api {
    /// Of a running engine; waits until it listens.
    pub fn of(engine: &Engine) -> Self {
        until("the API listens", || TcpStream::connect(engine.api).is_ok());
        Self { address: engine.api, token: engine.token() }
    }

    /// The same calls with another token; an empty one is none.
    pub fn with_token(&self, token: &str) -> Self {
        Self { token: token.to_owned(), ..self.clone() }
    }

    /// A request with a JSON body; the error is that of a connection which broke before the whole answer had come.
    pub fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        self.exchange(method, path, JSON, &body.map(Value::to_string).unwrap_or_default())
    }

    /// A request with a body of a type, in which the answer is wanted too.
    pub fn exchange(&self, method: &str, path: &str, media: &str, body: &str) -> io::Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let token = &self.token;
        let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\n{authorization}Content-Type: {media}\r\nAccept: {media}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8(answer).map_err(io::Error::other)?;
        let broken = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("half an answer: {text:?}"));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).ok_or_else(broken)?;
        let header = |name: &str| {
            head.lines().find_map(|line| {
                let (field, value) = line.split_once(':')?;
                field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let body = match (header("content-length"), header("transfer-encoding")) {
            (Some(length), _) if length.parse() == Ok(body.len()) => body.to_owned(),
            (None, Some(_)) => unchunked(body).ok_or_else(broken)?,
            _ => return Err(broken()),
        };
        Ok(Answer { status, head: head.to_owned(), text: body })
    }

    /// POSTs this text as JSON, whatever is answered.
    pub fn post_text(&self, path: &str, body: &str) -> Answer {
        self.exchange("POST", path, JSON, body).unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// A request that must be answered with 200.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.try_call(method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert_eq!(answer.status, 200, "{method} {path} {body:?}: {}", answer.text);
        answer
    }

    /// GET.
    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, None).json()
    }

    /// POST.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", path, Some(body)).json()
    }

    /// DELETE in the dialect whose answers are JSON.
    pub fn delete(&self, path: &str, body: &Value) -> Value {
        self.call("DELETE", path, Some(body)).json()
    }

    /// Removes any rule by its id.
    pub fn remove(&self, id: &str) {
        self.call("DELETE", &format!("/v1/rules/{id}"), None);
    }
}

fn unchunked(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(after.get(..size)?);
        rest = after.get(size..)?.strip_prefix("\r\n")?;
    }
}
