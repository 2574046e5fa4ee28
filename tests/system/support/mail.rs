//! Mail handed in while something is wrong: what was answered with 250 and what was refused, to be compared with
//! what arrives once it is right again.

use super::client::Client;
use super::engine::Engine;
use super::ledger::{Acknowledged, LogBook, Receipts, content};
use super::wait::until;
use std::collections::HashSet;

/// Both answers, by recipient.
#[derive(Default)]
pub struct Handed {
    /// 250.
    pub taken: Acknowledged,
    /// 4yz.
    pub refused: HashSet<String>,
    number: usize,
}

impl Handed {
    /// Hands a message in whose content is followed by `ballast` octets of nothing.
    pub fn hand(&mut self, client: &mut Client, ballast: usize) -> u16 {
        self.number += 1;
        let key = format!("m-{}", self.number);
        let recipient = format!("{key}.0@d{}.example", self.number % 7);
        // The key's content stands at the end.
        let line = "X-Ballast: 0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
        let body = line.repeat(ballast / line.len()) + &content(&key);
        let reply = client.send("s@test.example", &[&recipient], body.as_bytes());
        match reply.code {
            250 => self.taken.note([&recipient], reply.text().split(' ').nth(1)),
            400..500 => {
                self.refused.insert(recipient);
                // It may have been refused in the middle.
                client.command("RSET");
            }
            _ => panic!("neither taken nor refused for now: {reply:?}"),
        }
        reply.code
    }

    /// Waits until everything taken has arrived and has its records, and sees to it that nothing refused has.
    pub fn assert_arrived(&self, engine: &Engine, receipts: &Receipts) {
        let mut log = LogBook::of(&engine.data().join("log"));
        let taken = self.taken.all();
        until("all that was taken has its records", || {
            log.read_on();
            let recorded = |id: &Option<String>| id.as_ref().is_none_or(|id| log.receptions.contains_key(id));
            taken.iter().all(|(recipient, id)| log.ends.contains_key(recipient) && recorded(id))
        });
        let received = receipts.counts();
        for recipient in taken.keys() {
            assert_eq!(log.ends[recipient].last().map(String::as_str), Some("Delivery"), "{recipient}");
            assert!(received.contains_key(recipient), "{recipient} is lost");
        }
        let risen = self.refused.iter().find(|recipient| received.contains_key(*recipient));
        assert!(risen.is_none(), "{risen:?} was refused and is delivered");
    }
}
