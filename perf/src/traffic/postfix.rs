//! Postfix's own smtp-source and smtp-sink, as tools that neither side of a comparison wrote.
//!
//! smtp-source knows one recipient domain, so several of them run side by side, each with its own. smtp-sink only
//! counts: it can't tell a duplicate from a message, nor a latency.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::{Counts, Outcome, Traffic, watch};
use crate::cli::ShapeArgs;
use crate::clock::{now_ns, seconds_between};
use crate::error::{Context, Failure, Result, fail};
use crate::guard::Guarded;
use crate::mta::{Mta, free_port};
use crate::progress::Progress;
use crate::sampler::process::Roots;
use crate::stop;

/// Generators side by side, hence domains.
const SOURCES: u32 = 10;
/// How long they may take to end when told to.
const GRACE: Duration = Duration::from_secs(2);

/// The counter that smtp-sink prints, and when it last moved.
#[derive(Default)]
struct SinkCount {
    messages: AtomicU64,
    moved_ns: AtomicU64,
}

/// Postfix's pair.
pub struct PostfixTraffic {
    shape: ShapeArgs,
    address: SocketAddr,
    count: Arc<SinkCount>,
    process: Guarded,
}

impl PostfixTraffic {
    /// Starts smtp-sink.
    pub fn start(shape: &ShapeArgs) -> Result<PostfixTraffic> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut process = Guarded::start(Path::new("/usr/sbin/smtp-sink"), GRACE, |command| {
            // Root has to name another user for it; 1,000 is its backlog.
            command
                .args(["-c", "-u", "nobody", &address.to_string(), "1000"])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
        })?;
        let Some(mut output) = process.child().stdout.take() else { return fail("smtp-sink has no output") };
        let count = Arc::new(SinkCount::default());
        let shared = Arc::clone(&count);
        thread::spawn(move || {
            let mut octets = [0; 4_096];
            let mut text = Vec::new();
            while let Ok(length @ 1..) = output.read(&mut octets) {
                text.extend_from_slice(&octets[..length]);
                let (messages, used) = newest_count(&text);
                text.drain(..used);
                if let Some(messages) = messages
                    && shared.messages.swap(messages, Ordering::Relaxed) != messages
                {
                    shared.moved_ns.store(now_ns(), Ordering::Relaxed);
                }
            }
        });
        Ok(PostfixTraffic { shape: shape.clone(), address, count, process })
    }

    fn sources(&self, target: SocketAddr, messages: u32) -> Result<Vec<Guarded>> {
        let many = SOURCES.min(self.shape.sending.domains).min(self.shape.sending.connections).min(messages).max(1);
        let part = |whole: u32, index: u32| (whole / many + u32::from(index < whole % many)).to_string();
        (0..many)
            .map(|index| {
                Guarded::start(Path::new("/usr/sbin/smtp-source"), GRACE, |command| {
                    command
                        .args(["-s", &part(self.shape.sending.connections, index), "-m", &part(messages, index)])
                        // -d: don't disconnect after each message.
                        .args(["-d", "-l", &self.shape.sending.size.to_string(), "-f", "load@gen.perf.test"])
                        .args(["-t", &format!("u@d{index:05}.perf.test"), &target.to_string()])
                        .stdin(Stdio::null())
                        .stdout(Stdio::null())
                })
            })
            .collect()
    }
}

/// The last whole `mesg=N` of the counter line, and how much of the text is done with.
fn newest_count(text: &[u8]) -> (Option<u64>, usize) {
    // Each line ends with a carriage return, so that the next one overwrites it.
    let Some(end) = memchr::memrchr(b'\r', text) else { return (None, 0) };
    let line = String::from_utf8_lossy(&text[..end]);
    let count = line.rsplit("mesg=").next().and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    (count, end + 1)
}

impl Traffic for PostfixTraffic {
    fn sink(&self) -> SocketAddr {
        self.address
    }

    fn sink_processes(&self) -> Roots {
        self.process.pid().into()
    }

    fn send(&mut self, mta: &mut dyn Mta, messages: u32, title: &str) -> Result<Outcome> {
        let patience = Duration::from_secs(self.shape.patience);
        let start = self.count.messages.load(Ordering::Relaxed);
        let first_ns = now_ns();
        let mut sources = self.sources(mta.address(), messages)?;
        let end_ns = first_ns + Duration::from_secs(self.shape.sending.time_limit).as_nanos() as u64;
        let mut accepted_ns = 0;
        let mut failed = None;
        let count = Arc::clone(&self.count);
        watch(mta, Progress::start(title, messages, true), patience, || {
            if now_ns() > end_ns || stop::requested() {
                for source in &mut sources {
                    source.stop();
                }
            }
            let mut sending = false;
            for source in &mut sources {
                match source.exited() {
                    None => sending = true,
                    Some(how) if !how.ends_with(" 0") => failed = Some(how),
                    Some(_) => {}
                }
            }
            if !sending && accepted_ns == 0 {
                accepted_ns = now_ns();
            }
            let delivered = count.messages.load(Ordering::Relaxed) - start;
            let accepted = if sending { 0 } else { u64::from(messages) };
            Ok(Counts { accepted, delivered, sending, waits_ms: None })
        })?;
        if let Some(how) = failed {
            return Err(Failure(format!("smtp-source failed ({how})")));
        }
        let delivered = u32::try_from(self.count.messages.load(Ordering::Relaxed) - start).context("count")?;
        Ok(Outcome {
            accepted: messages,
            accept_seconds: seconds_between(first_ns, accepted_ns),
            first_ns,
            delivered: delivered.min(messages),
            deliver_seconds: seconds_between(first_ns, self.count.moved_ns.load(Ordering::Relaxed)),
            lost: messages.saturating_sub(delivered),
            // It can't tell which ones, but more came than were sent.
            duplicates: (delivered > messages).then(|| u64::from(delivered - messages)),
            ..Outcome::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::newest_count;

    #[test]
    fn the_newest_whole_count_is_read() {
        assert_eq!(newest_count(b"sess=1 quit=0 mesg=3\rsess=1 quit=0 mesg=12\rsess=1 qu"), (Some(12), 43));
        assert_eq!(newest_count(b"sess=1 quit=0 mesg=3"), (None, 0));
    }
}
