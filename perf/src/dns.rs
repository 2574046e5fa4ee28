//! A name server in which every domain has a mail host, and every mail host is our sink (RFC 1035, over UDP).
//!
//! It answers MX and A, and to everything else that there is nothing. It must never answer for anything but a measurement:
//! it listens on loopback alone and lives no longer than its owner.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Types of records and questions, RFC 1035 §3.2.2.
const A: u16 = 1;
const MX: u16 = 15;
/// How long an answer may be kept, seconds.
const TTL: u32 = 3_600;
/// Longest question that is looked at; RFC 1035 §2.3.4 has 512 octets for a message.
const MAX_OCTETS: usize = 1_500;
/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Whether domains share a mail host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hosts {
    /// Every domain has a mail host of its own, hence connections of its own.
    Own,
    /// All domains have the same one.
    Shared,
}

/// A running stub. Dropping it ends it.
pub struct Stub {
    address: SocketAddr,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    /// Starts one whose mail hosts have the address `sink`.
    pub fn start(hosts: Hosts, sink: Ipv4Addr) -> io::Result<Stub> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(LOOK))?;
        let address = socket.local_addr()?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = thread::spawn(move || {
            let mut question = [0; MAX_OCTETS];
            while !ended.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut question) else { continue };
                if let Some(answer) = answer(&question[..length], hosts, sink) {
                    // One that can't be sent is one that is lost: the client asks again.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Ok(Stub { address, end, thread: Some(thread) })
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to one question; `None` to what is none.
fn answer(message: &[u8], hosts: Hosts, sink: Ipv4Addr) -> Option<Vec<u8>> {
    let header = message.get(..12)?;
    // A query with one question, RFC 1035 §4.1.1.
    if header[2] & 0xf8 != 0 || header[4..6] != [0, 1] {
        return None;
    }
    let mut end = 12;
    while *message.get(end)? != 0 {
        let length = usize::from(message[end]);
        // A question holds no pointer.
        if length > 63 {
            return None;
        }
        end += 1 + length;
    }
    let question = message.get(12..end + 5)?;
    let kind = u16::from_be_bytes([message[end + 1], message[end + 2]]);
    let data = match (kind, hosts) {
        (A, _) => Some(sink.octets().to_vec()),
        // Preference 10, then `mx.` before the name that was asked for (a pointer to it, §4.1.4).
        (MX, Hosts::Own) => Some(vec![0, 10, 2, b'm', b'x', 0xc0, 12]),
        (MX, Hosts::Shared) => Some([&[0, 10][..], b"\x02mx\x04perf\x04test\x00"].concat()),
        _ => None,
    };
    let mut answer = header[..2].to_vec();
    // An authoritative answer; recursion as it was desired, and available.
    answer.extend([0x84 | (header[2] & 1), 0x80, 0, 1, 0, u8::from(data.is_some()), 0, 0, 0, 0]);
    answer.extend_from_slice(question);
    if let Some(data) = data {
        answer.extend([0xc0, 12]);
        answer.extend(kind.to_be_bytes());
        answer.extend([0, 1]);
        answer.extend(TTL.to_be_bytes());
        answer.extend((data.len() as u16).to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(kind: u16) -> Vec<u8> {
        let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01d\x04perf\x04test\x00".to_vec();
        query.extend(kind.to_be_bytes());
        query.extend([0, 1]);
        // EDNS, which is not answered.
        query.extend(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00");
        query
    }

    #[test]
    fn every_domain_has_a_mail_host_and_every_host_is_the_sink() {
        let sink = Ipv4Addr::new(127, 1, 2, 3);
        let own = answer(&query(MX), Hosts::Own, sink).unwrap();
        assert_eq!(own[..12], *b"\x12\x34\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00");
        assert!(own.ends_with(b"\x00\x07\x00\x0a\x02mx\xc0\x0c"));
        assert!(answer(&query(MX), Hosts::Shared, sink).unwrap().ends_with(b"\x00\x0a\x02mx\x04perf\x04test\x00"));
        assert!(answer(&query(A), Hosts::Own, sink).unwrap().ends_with(&[0, 4, 127, 1, 2, 3]));
        let nothing = answer(&query(28), Hosts::Own, sink).unwrap();
        assert_eq!((nothing[7], nothing.len()), (0, 12 + 13 + 4));
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let sink = Ipv4Addr::LOCALHOST;
        let whole = query(MX);
        for length in 0..29 {
            assert_eq!(answer(&whole[..length], Hosts::Own, sink), None, "{length}");
        }
        let mut reply = whole;
        reply[2] |= 0x80;
        assert_eq!(answer(&reply, Hosts::Own, sink), None, "an answer is no question");
    }

    #[test]
    fn it_answers_on_its_socket_and_ends() {
        let stub = Stub::start(Hosts::Own, Ipv4Addr::LOCALHOST).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(&query(A), stub.address()).unwrap();
        let mut octets = [0; 512];
        let (length, _) = client.recv_from(&mut octets).unwrap();
        assert!(octets[..length].ends_with(&[127, 0, 0, 1]));
    }
}
