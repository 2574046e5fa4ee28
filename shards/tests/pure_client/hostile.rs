//! A server that says anything at any moment: the session must not panic, and every message must have one fate.

use super::harness::Random;
use super::model::Caller;
use std::time::Duration;

const WORDS: [&[u8]; 16] = [
    b"220 hello\r\n",
    b"220 hello\r\n",
    b"250 ok\r\n",
    b"250 ok\r\n",
    b"250-ok\r\n250 PIPELINING\r\n",
    b"250-ok\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 SIZE 20\r\n",
    b"354 go\r\n",
    b"354 go\r\n",
    b"550 no\r\n",
    b"452 4.5.3 many\r\n",
    b"503 what\n",
    b"421 over\r\n",
    b"250-",
    b"334 \r\n",
    b"\xff\r\n",
    b"5",
];

fn converse(seed: u64) -> bool {
    let mut caller = Caller::new(Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
    // Most conversations get over the greeting in order; the words that break everything come rarely.
    let mut said = 0;
    for _ in 0..400 {
        caller.turn();
        let words = if caller.random.below(30) == 0 { 16 } else { 11 };
        let choice = usize::try_from(caller.random.below(words)).unwrap();
        let word = match said {
            0 => WORDS[0],
            1 => WORDS[4 + choice % 2],
            _ => WORDS[choice],
        };
        match caller.random.below(60) {
            0 => caller.now = caller.now.after(Duration::from_secs(caller.random.below(900))),
            1 => caller.session.handle_tls_ready(caller.now),
            2 => caller.session.handle_tls_failed("no", caller.now),
            3 => caller.session.handle_end_of_data_sent(99, caller.now),
            4 if said > 20 => caller.session.handle_eof(caller.now),
            _ if said < 2 || !caller.session.wants_transaction() => {
                said += 1;
                caller.session.handle_bytes(word, caller.now);
            }
            _ => {}
        }
        caller.session.handle_deadline(caller.now);
        caller.poll();
    }
    caller.session.handle_eof(caller.now);
    caller.poll();
    assert!(caller.ledger.closed, "an end of file closes");
    caller.ledger.check_fates();
    caller.ledger.has_delivered()
}

#[test]
fn nothing_that_a_server_says_does_harm() {
    let mut delivered = 0;
    for seed in 0..3000 {
        match std::panic::catch_unwind(|| converse(seed)) {
            Ok(some) => delivered += u32::from(some),
            Err(panic) => {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(delivered > 100, "conversations get far enough: {delivered}");
}
