//! Calls of the REST API, one connection each.

use super::wait::{PATIENCE, until_some};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Three digits.
    pub status: u16,
    /// The head, with the status line.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// POSTs a JSON body; an empty token is none. An engine that has just greeted may be about to open its API.
pub fn post(api: SocketAddr, token: &str, path: &str, body: &str) -> Answer {
    let stream = until_some("the API listens", || TcpStream::connect(api).ok());
    exchange(stream, token, path, body).unwrap()
}

fn exchange(mut stream: TcpStream, token: &str, path: &str, body: &str) -> io::Result<Answer> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{authorization}\
         Content-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("not a whole answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let status = head.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(cut)?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
