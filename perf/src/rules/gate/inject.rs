//! Hands the mail of a round in, by SMTP on a connection that stays open (RFC 5321).
//!
//! Each message carries the marker by which a sink knows it, and the names by which rules may cover it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::kind::Names;
use crate::clock::now_ns;
use crate::error::{Context, Result, fail};
use crate::generator::template::fill;
use crate::marker::{self, Marker};

/// No answer for so long is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection to the server under test.
pub struct Injector(BufReader<TcpStream>);

impl Injector {
    /// Connects and says EHLO.
    pub fn connect(address: SocketAddr) -> Result<Injector> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect to the server")?;
        stream.set_nodelay(true).context("set an option")?;
        stream.set_read_timeout(Some(PATIENCE)).context("set a time limit")?;
        stream.set_write_timeout(Some(PATIENCE)).context("set a time limit")?;
        let mut injector = Injector(BufReader::new(stream));
        injector.reply("220")?;
        injector.ask("EHLO gen.perf.test\r\n", "250")?;
        Ok(injector)
    }

    /// Hands in `count` messages of `octets` each, numbered from zero in `run`.
    pub fn send(&mut self, run: u32, count: u32, octets: usize, names: &Names) -> Result<()> {
        for number in 0..count {
            let mut text = marker::NAME.as_bytes().to_vec();
            let value = text.len()..text.len() + marker::VALUE_OCTETS;
            text.resize(value.end, b'0');
            Marker { run, number, sent_ns: now_ns() }.write(&mut text[value]);
            let Names { recipient, tag, campaign, tenant, .. } = names;
            let fields = format!(
                "\r\nFrom: <load@gen.perf.test>\r\nTo: <{recipient}>\r\nSubject: {run} {number}\r\nx-mq-tag: {tag}\r\n\
                 X-Campaign: {campaign}\r\nX-Tenant: {tenant}\r\n\r\n"
            );
            text.extend_from_slice(fields.as_bytes());
            fill(&mut text, octets);
            text.extend_from_slice(b".\r\n");
            self.ask("MAIL FROM:<load@gen.perf.test>\r\n", "250")?;
            self.ask(&format!("RCPT TO:<{recipient}>\r\n"), "250")?;
            self.ask("DATA\r\n", "354")?;
            self.0.get_mut().write_all(&text).context("send a message")?;
            self.reply("250")?;
        }
        Ok(())
    }

    fn ask(&mut self, command: &str, code: &str) -> Result<()> {
        self.0.get_mut().write_all(command.as_bytes()).context("send a command")?;
        self.reply(code)
    }

    /// Reads a reply of any number of lines (RFC 5321 §4.2.1).
    fn reply(&mut self, code: &str) -> Result<()> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).context("read a reply")?;
            if !line.starts_with(code) {
                return fail(format!("the server answered {:?} instead of {code}", line.trim()));
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(());
            }
        }
    }
}
