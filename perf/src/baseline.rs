//! What moving the octets costs at the very least: in through a socket, to a file that is synced, out through a socket.
//!
//! It is `cat` twice, and nothing of a mail server: no protocol, no line is looked at, no message is told from another
//! but by its length. It must never be cleverer than that, since a server's cost is held against it.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{now_ns, seconds_between};
use crate::error::{Context, Failure, Result};
use crate::guard::Guarded;
use crate::sampler::process::{Roots, usage};

/// Octets of one read or write, as `cat` does it.
const PIECE_OCTETS: usize = 128 << 10;
/// The most that is copied between two syncs.
const MAX_BATCH_OCTETS: usize = 64 << 20;
/// How long the copying process may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// What the copy of a round's octets cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Baseline {
    /// User and system time of the copying process, µs for 1,000,000 octets.
    pub cpu_us_per_megabyte: f64,
    /// Octets copied a second, in megabytes.
    pub megabytes_per_second: f64,
}

/// Copies `messages` messages of `size` octets through a process of its own, `batch` of them between two syncs.
pub fn measure(directory: &Path, messages: u32, size: u32, batch: u32) -> Result<Baseline> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen for the copy")?;
    let address = listener.local_addr().context("listen for the copy")?.to_string();
    let ourselves = std::env::current_exe().context("find our own program")?;
    let file = directory.join("baseline");
    let mut process = Guarded::start(&ourselves, GRACE, |command| {
        let words = ["copy", "--to", &address, "--size", &size.to_string(), "--batch", &batch.max(1).to_string()];
        command.args(words).arg("--file").arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped())
    })?;
    let output = process.child().stdout.take();
    let target = read_address(output.ok_or_else(|| Failure("the copy has no output".to_owned()))?)?;
    let mut source = TcpStream::connect(&target).context("reach the copy")?;
    let (mut copied, _) = listener.accept().context("accept the copy")?;
    let octets = u64::from(messages) * u64::from(size);
    let roots = Roots::from(process.pid());
    let (before, first_ns) = (usage(&roots), now_ns());
    let sender = thread::spawn(move || -> std::io::Result<()> {
        let piece = vec![b'x'; PIECE_OCTETS];
        let mut left = octets;
        while left > 0 {
            let length = left.min(piece.len() as u64) as usize;
            source.write_all(&piece[..length])?;
            left -= length as u64;
        }
        // The end tells the copy that a batch which is not full is all there is.
        source.shutdown(Shutdown::Write)
    });
    let mut piece = vec![0; PIECE_OCTETS];
    let mut left = octets;
    while left > 0 {
        match copied.read(&mut piece).context("read the copy")? {
            0 => return Err(Failure("the copy ended too early".to_owned())),
            count => left = left.saturating_sub(count as u64),
        }
    }
    let (after, last_ns) = (usage(&roots), now_ns());
    drop(copied);
    process.wait(GRACE);
    sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).context("send to the copy")?;
    // The directory goes with the round; a file that stays costs disk only.
    let _ = std::fs::remove_file(&file);
    let megabytes = octets as f64 / 1e6;
    Ok(Baseline {
        cpu_us_per_megabyte: after.cpu_us.saturating_sub(before.cpu_us) as f64 / megabytes,
        megabytes_per_second: megabytes / seconds_between(first_ns, last_ns).max(1e-9),
    })
}

fn read_address(output: ChildStdout) -> Result<String> {
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).context("read the copy's address")?;
    Ok(line.trim().to_owned())
}

/// The copying process: octets from the first who connects to the file, synced every `batch` messages, then to `to`.
pub fn copy(to: &str, file: &Path, size: u32, batch: u32) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen")?;
    println!("{}", listener.local_addr().context("listen")?);
    copy_from(&listener, to, file, size, batch)
}

fn copy_from(listener: &TcpListener, to: &str, file: &Path, size: u32, batch: u32) -> Result<()> {
    let (mut source, _) = listener.accept().context("accept")?;
    let mut target = TcpStream::connect(to).context("connect")?;
    let mut kept = File::create(file).context(format_args!("create {}", file.display()))?;
    let mut octets = vec![0; (size as usize).saturating_mul(batch as usize).clamp(1, MAX_BATCH_OCTETS)];
    let mut filled = 0;
    loop {
        let end = (filled + PIECE_OCTETS).min(octets.len());
        let count = source.read(&mut octets[filled..end]).context("read")?;
        kept.write_all(&octets[filled..filled + count]).context("write to the file")?;
        filled += count;
        if count == 0 || filled == octets.len() {
            kept.sync_data().context("sync the file")?;
            for piece in octets[..filled].chunks(PIECE_OCTETS) {
                target.write_all(piece).context("write")?;
            }
            filled = 0;
        }
        if count == 0 {
            // Its usage is read before it ends.
            let _ = target.read(&mut [0]);
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_and_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = listener.local_addr().unwrap().to_string();
        let file = directory.path().join("copied");
        let (port_free, place) = (TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), file.clone());
        let address = port_free.local_addr().unwrap();
        let worker = thread::spawn(move || copy_from(&port_free, &to, &place, 1_000, 4));
        let mut source = TcpStream::connect(address).unwrap();
        source.write_all(&[b'a'; 9_500]).unwrap();
        drop(source);
        let mut arrived = vec![0; 9_500];
        listener.accept().unwrap().0.read_exact(&mut arrived).unwrap();
        worker.join().unwrap().unwrap();
        assert!(arrived.iter().all(|octet| *octet == b'a'));
        assert_eq!(std::fs::read(&file).unwrap(), arrived);
    }
}
