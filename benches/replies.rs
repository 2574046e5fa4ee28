//! The parser of an SMTP server's replies: what each delivery pays several times.

use divan::{Bencher, black_box};
use mailrace_shards::smtp::reply::ReplyReader;

const ONE: &[u8] = b"250 2.0.0 Ok: queued as 4bXyz12345z9Qp\r\n";
const PIPELINED: &[u8] = b"250 2.0.0 Ok: queued as 4bXyz12345z9Qp\r\n250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n\
354 End data with <CR><LF>.<CR><LF>\r\n";
const GREETING: &[u8] =
    b"250-mx1.hoster.example\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-ETRN\r\n250-STARTTLS\r\n\
250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250-SMTPUTF8\r\n250 CHUNKING\r\n";

const NAMES: [&str; 3] = ["one", "pipelined", "EHLO"];

fn octets(name: &str) -> &'static [u8] {
    match name {
        "one" => ONE,
        "pipelined" => PIPELINED,
        _ => GREETING,
    }
}

fn main() {
    divan::main();
}

/// The codes of all replies in `octets`, which arrive in pieces of `piece`.
fn read(reader: &mut ReplyReader, octets: &[u8], piece: usize) -> u32 {
    let mut codes = 0;
    for mut input in octets.chunks(piece) {
        while let Some(reply) = reader.next(&mut input) {
            codes += u32::from(reply.expect("they are replies").code);
        }
    }
    codes
}

#[divan::bench(args = NAMES)]
fn whole(bencher: Bencher<'_, '_>, name: &str) {
    let octets = octets(name);
    let mut reader = ReplyReader::default();
    bencher.bench_local(|| read(&mut reader, black_box(octets), octets.len()));
}

/// A peer or a network that sends them in small pieces.
#[divan::bench(args = NAMES)]
fn in_pieces(bencher: Bencher<'_, '_>, name: &str) {
    let octets = octets(name);
    let mut reader = ReplyReader::default();
    bencher.bench_local(|| read(&mut reader, black_box(octets), 16));
}
