//! Nonsense made of sensible pieces: whatever comes, and however it is cut, the session does the same and stays
//! within its bounds. A failure names its seed.

use crate::driver::{Driver, FRIEND, Pieces, config};

const WORDS: [&[u8]; 30] = [
    b"EHLO c\r\n",
    b"MAIL FROM:<a@a.test>\r\n",
    b"MAIL FROM:<a@a.test>\r\n",
    b"MAIL FROM:<\xc3\xa9@a.test> SMTPUTF8 SIZE=100\r\n",
    b"RCPT TO:<b@b.test>\r\n",
    b"RCPT TO:<c@b.test>\r\n",
    b"RCPT TO:<bad>\r\n",
    b"DATA\r\n",
    b"DATA\r\n",
    b"BDAT 7\r\n",
    b"BDAT 0 LAST\r\n",
    b"BDAT 12 LAST\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"Subject: x\r\n",
    b"x-mq-tag: t\r\n",
    b"x-mq-ip: t\r\n",
    b"X-Campaign: c\r\n",
    b" folded\r\n",
    b"text\r\n",
    b"..\r\n",
    b"\r\n",
    b"\r\n",
    b"\r\n.\r\n",
    b"\r\n.\r\n",
    b".",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
];

fn nonsense(mut seed: u64) -> Vec<u8> {
    let mut next = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % bound
    };
    // The last four, which spoil nearly everything, come seldom.
    let mut input = b"EHLO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n".to_vec();
    for _ in 0..60 {
        let bound = if next(40) == 0 { WORDS.len() } else { WORDS.len() - 4 };
        input.extend_from_slice(WORDS[next(bound)]);
    }
    input
}

#[test]
fn nonsense_does_the_same_however_it_is_cut() {
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..1500 {
        let input = nonsense(seed);
        let run = |pieces| {
            let mut driver = Driver::new(config(), FRIEND);
            driver.feed(&input, pieces);
            driver.session.handle_eof();
            driver.pump();
            assert_eq!(driver.transcript.last().map(String::as_str), Some("X"), "seed {seed}");
            assert!(driver.session.memory() < 20_000, "seed {seed}: what is over is given back");
            (driver.transcript, driver.messages)
        };
        let whole = run(Pieces::Whole);
        assert_eq!(whole, run(Pieces::Single), "seed {seed}");
        assert_eq!(whole, run(Pieces::Random(seed)), "seed {seed}");
        accepted += whole.1.len();
        refused += whole.0.iter().filter(|line| line.starts_with("S: 550 5.6.")).count();
        for message in &whole.1 {
            let text = message.body.as_slice();
            assert!(!text.contains(&0), "seed {seed}");
            let text = String::from_utf8_lossy(text).replace("\r\n", "");
            assert!(!text.contains(['\r', '\n']), "seed {seed}: {text:?}");
        }
    }
    assert!(accepted > 500 && refused > 50, "{accepted} accepted, {refused} refused");
}
