//! A small HTTP/1.1 client (RFC 9112) for a server's REST API: one connection, one request at a time, a bearer token.
//!
//! It follows no redirect and asks nothing a second time: a caller measures what one request cost.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use memchr::memmem;
use serde_json::Value;

use crate::error::{Context, Result, fail};

/// No answer for so long is a failure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest head of an answer.
const MAX_HEAD_OCTETS: usize = 64 << 10;
/// Longest body of an answer.
const MAX_BODY_OCTETS: usize = 64 << 20;

/// Where an API is, and what opens it.
#[derive(Clone, Debug)]
pub struct Api {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its token.
    pub token: String,
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body: JSON, or a string of what was no JSON.
    pub body: Value,
}

/// One connection to an API. It is made anew after a failure.
pub struct Client {
    api: Api,
    stream: Option<TcpStream>,
    received: Vec<u8>,
}

impl Client {
    /// Connects at the first request.
    pub fn new(api: Api) -> Client {
        Client { api, stream: None, received: Vec::new() }
    }

    /// One request and its answer, whatever its status.
    pub fn call(&mut self, method: &str, path: &str, body: &Value) -> Result<Answer> {
        let answer = self.exchange(method, path, body);
        if answer.is_err() {
            self.stream = None;
        }
        answer.context(format_args!("{method} {path}"))
    }

    /// One request that must be answered with 200; the body.
    pub fn must(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let answer = self.call(method, path, body)?;
        if answer.status != 200 {
            return fail(format!("{method} {path} {body} was answered with {}: {}", answer.status, answer.body));
        }
        Ok(answer.body)
    }

    fn exchange(&mut self, method: &str, path: &str, body: &Value) -> io::Result<Answer> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.api.address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            self.stream = Some(stream);
            self.received.clear();
        }
        let request = request(&self.api, method, path, body);
        self.stream()?.write_all(&request)?;
        let head_end = self.receive_until(|received| memmem::find(received, b"\r\n\r\n").map(|at| at + 4))?;
        let head = Head::parse(&self.received[..head_end])?;
        self.received.drain(..head_end);
        let octets = match head.length {
            Some(length) if length > MAX_BODY_OCTETS => return Err(broken("an answer that long")),
            Some(length) => {
                self.receive_until(|received| (received.len() >= length).then_some(length))?;
                self.received.drain(..length).collect()
            }
            None => self.chunks()?,
        };
        if head.closes {
            self.stream = None;
        }
        let text = String::from_utf8_lossy(&octets);
        let body = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text.into_owned()));
        Ok(Answer { status: head.status, body })
    }

    fn stream(&mut self) -> io::Result<&mut TcpStream> {
        self.stream.as_mut().ok_or_else(|| broken("no connection"))
    }

    /// Reads until `end` finds where something ends in what was received; that position.
    fn receive_until(&mut self, end: impl Fn(&[u8]) -> Option<usize>) -> io::Result<usize> {
        loop {
            if let Some(at) = end(&self.received) {
                return Ok(at);
            }
            if self.received.len() > MAX_HEAD_OCTETS + MAX_BODY_OCTETS {
                return Err(broken("an answer that long"));
            }
            let mut octets = [0; 16 << 10];
            match self.stream()?.read(&mut octets)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.received.extend_from_slice(&octets[..count]),
            }
        }
    }

    /// RFC 9112 §7.1, without extensions and trailers, which nobody sends us.
    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.receive_until(|received| memmem::find(received, b"\r\n"))?;
            let size = std::str::from_utf8(&self.received[..line]).ok();
            let size = size.and_then(|digits| usize::from_str_radix(digits, 16).ok());
            let size = size.ok_or_else(|| broken("a chunk without a size"))?;
            if body.len() + size > MAX_BODY_OCTETS {
                return Err(broken("an answer that long"));
            }
            let end = line + 2 + size + 2;
            self.receive_until(|received| (received.len() >= end).then_some(end))?;
            body.extend_from_slice(&self.received[line + 2..end - 2]);
            self.received.drain(..end);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// Head and body in one piece, so that they leave together. A body of null is none.
fn request(api: &Api, method: &str, path: &str, body: &Value) -> Vec<u8> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let (address, token, length) = (api.address, &api.token, body.len());
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{kind}\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// What a client needs of an answer's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// None: the body comes in chunks.
    length: Option<usize>,
    closes: bool,
}

impl Head {
    fn parse(octets: &[u8]) -> io::Result<Head> {
        let text = std::str::from_utf8(octets).map_err(io::Error::other)?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| digits.parse().ok()).ok_or_else(|| broken("no status line"))?;
        let mut head = Head { status, length: Some(0), closes: false };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("Content-Length") {
                head.length = Some(value.parse().map_err(io::Error::other)?);
            } else if name.eq_ignore_ascii_case("Transfer-Encoding") && value.eq_ignore_ascii_case("chunked") {
                head.length = None;
            } else if name.eq_ignore_ascii_case("Connection") {
                head.closes = value.eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread;

    use serde_json::json;

    use super::*;

    /// A server that hears one request for each answer and says it in pieces; the requests it heard.
    fn serve(answers: &'static [&'static str]) -> (Api, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let api = Api { address: listener.local_addr().unwrap(), token: "secret".to_owned() };
        let server = thread::spawn(move || {
            let mut reader = BufReader::new(listener.accept().unwrap().0);
            let hear = |reader: &mut BufReader<TcpStream>| {
                let mut heard = String::new();
                while !heard.ends_with("\r\n\r\n") {
                    reader.read_line(&mut heard).unwrap();
                }
                let length = heard.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
                let mut body = vec![0; length.parse().unwrap()];
                reader.read_exact(&mut body).unwrap();
                heard + std::str::from_utf8(&body).unwrap()
            };
            let mut all = Vec::new();
            for answer in answers {
                all.push(hear(&mut reader));
                for piece in answer.as_bytes().chunks(7) {
                    reader.get_mut().write_all(piece).unwrap();
                    reader.get_mut().flush().unwrap();
                }
            }
            all
        });
        (api, server)
    }

    #[test]
    fn answers_are_read_however_they_are_framed_and_the_connection_is_used_again() {
        let (api, server) = serve(&[
            "HTTP/1.1 200 OK\r\ncontent-length: 12\r\nContent-Type: application/json\r\n\r\n{\"id\":\"abc\"}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n[1,2\r\n3\r\n,3]\r\n0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\nnot here",
        ]);
        let mut client = Client::new(api);
        assert_eq!(client.must("POST", "/v1/pauses", &json!({"domain": "a.test"})).unwrap(), json!({"id": "abc"}));
        assert_eq!(client.must("GET", "/v1/pauses", &Value::Null).unwrap(), json!([1, 2, 3]));
        let refused = client.must("DELETE", "/v1/pauses", &json!({})).unwrap_err().to_string();
        assert!(refused.contains("404") && refused.contains("not here"), "{refused}");
        let heard = server.join().unwrap();
        assert!(heard[0].starts_with("POST /v1/pauses HTTP/1.1\r\n") && heard[0].ends_with("{\"domain\":\"a.test\"}"));
        assert!(heard.iter().all(|request| request.contains("Authorization: Bearer secret\r\n")));
        assert!(!heard[1].contains("Content-Type"), "{}", heard[1]);
    }

    #[test]
    fn half_an_answer_is_no_answer() {
        let (api, server) = serve(&["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"]);
        let mut client = Client::new(api);
        assert!(client.call("GET", "/", &Value::Null).is_err());
        server.join().unwrap();
    }
}
