//! Conversations as they are written down: `C:` is sent, `T:` ends a flight behind which TLS begins, the rest is
//! what must happen.

use crate::driver::{ALL_PIECES, Driver, FRIEND, Pieces, STRANGER, config};
use mailrace_shards::smtp::server::{PeerFacts, ServerConfig, StoreRefusal};

fn check(name: &str, config: &ServerConfig, peer: PeerFacts, script: &str) {
    let lines = || script.lines().map(str::trim_start).filter(|line| !line.is_empty());
    let expected: Vec<&str> = lines().filter(|line| !line.starts_with("C:") && !line.starts_with("T:")).collect();
    for pieces in ALL_PIECES {
        let mut driver = Driver::new(config.clone(), peer);
        driver.pump();
        let mut flight = String::new();
        for line in lines() {
            if let Some(text) = line.strip_prefix("C:") {
                flight += text.strip_prefix(' ').unwrap_or(text);
                flight += "\r\n";
            } else if line.starts_with("T:") {
                driver.feed(std::mem::take(&mut flight).as_bytes(), pieces);
            }
        }
        driver.feed(flight.as_bytes(), pieces);
        let happened: Vec<&str> = driver.transcript.iter().map(|line| line.trim_end()).collect();
        assert_eq!(happened, expected, "{name}, input {pieces:?}");
    }
}

macro_rules! conversations {
    ($($name:ident, $config:expr, $peer:expr, $script:literal;)*) => {
        $(#[test] fn $name() { check(stringify!($name), &$config, $peer, $script); })*
    };
}

fn plain() -> ServerConfig {
    ServerConfig { tls_available: false, auth_available: false, ..config() }
}

conversations! {
    one_message_and_another, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: EHLO client.test
        S: 250-mx.test
        S: 250-PIPELINING
        S: 250-SIZE 2000
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-CHUNKING
        S: 250 ENHANCEDSTATUSCODES
        C: mail from: <a@A.test> size=100 BODY=8BITMIME
        S: 250 2.1.0 Ok
        C: rcpt to:<B@Beta.TEST>
        S: 250 2.1.5 Ok
        C: RCPT TO:<\"c d>\\\"\"@b.test>
        S: 250 2.1.5 Ok
        C: RCPT TO:<B@beta.test>
        S: 250 2.1.5 Ok
        C: RCPT TO:<@relay.test,@other.test:d@d.test>
        S: 250 2.1.5 Ok
        C: data
        S: 354 End data with <CR><LF>.<CR><LF>
        C: Subject: x
        C:
        C: text
        C: .
        M: <a@a.test> <B@beta.test> <\"c d>\\\"\"@b.test> <d@d.test> ESMTP
        S: 250 2.0.0 000000010002000000000001 queued
        C: MAIL FROM:<>
        S: 250 2.1.0 Ok
        C: RCPT TO:<e@[192.0.2.7]>
        S: 250 2.1.5 Ok
        C: RCPT TO:<e@[ipv6:2001:DB8:0::7]>
        S: 250 2.1.5 Ok
        C: DATA
        S: 354 End data with <CR><LF>.<CR><LF>
        C: .
        M: <> <e@[192.0.2.7]> <e@[IPv6:2001:db8::7]> ESMTP
        S: 250 2.0.0 000000010002000000000002 queued
        C: QUIT
        S: 221 2.0.0 Bye
        X
        C: NOOP
    ";
    helo_means_smtp, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: HELO client.test
        S: 250 mx.test
        C: MAIL FROM:<a@a.test>
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@b.test>
        S: 250 2.1.5 Ok
        C: DATA
        S: 354 End data with <CR><LF>.<CR><LF>
        C: .
        M: <a@a.test> <b@b.test> SMTP
        S: 250 2.0.0 000000010002000000000001 queued
    ";
    small_commands, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: NOOP
        S: 250 2.0.0 Ok
        C: noop with words
        S: 250 2.0.0 Ok
        C: RSET
        S: 250 2.0.0 Ok
        C: VRFY postmaster
        S: 252 2.0.0 Not verified; send it some mail
        C: EXPN list
        S: 502 5.5.1 Not implemented
        C: HELP
        S: 214 2.0.0 See RFC 5321
        C: WHAT
        S: 500 5.5.1 Command unknown
        C:
        S: 500 5.5.1 Command unknown
        C: QUIT now
        S: 501 5.5.4 Syntax: QUIT
        C: EHLO
        S: 501 5.5.4 Syntax: EHLO name
        C: HELO
        S: 501 5.5.4 Syntax: HELO name
        C: STARTTLS
        S: 502 5.5.1 STARTTLS is not offered
        C: AUTH PLAIN AGEAYg==
        S: 502 5.5.1 AUTH is not offered
        C: QUIT
        S: 221 2.0.0 Bye
        X
    ";
    order, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: MAIL FROM:<a@a.test>
        S: 503 5.5.1 EHLO first
        C: HELO c
        S: 250 mx.test
        C: RCPT TO:<b@b.test>
        S: 503 5.5.1 MAIL first
        C: DATA
        S: 503 5.5.1 MAIL first
        C: MAIL FROM:<a@a.test>
        S: 250 2.1.0 Ok
        C: MAIL FROM:<a@a.test>
        S: 503 5.5.1 A transaction is open
        C: DATA
        S: 503 5.5.1 RCPT first
        C: RCPT TO:<b>
        S: 553 5.1.3 Address needs a domain
        C: DATA
        S: 554 5.5.1 No valid recipients
        C: RSET
        S: 250 2.0.0 Ok
        C: RCPT TO:<b@b.test>
        S: 503 5.5.1 MAIL first
        C: MAIL FROM:<a@a.test>
        S: 250 2.1.0 Ok
        C: HELO again
        S: 250 mx.test
        C: RCPT TO:<b@b.test>
        S: 503 5.5.1 MAIL first
    ";
    parameters, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: HELO c
        S: 250 mx.test
        C: MAIL FROM:<a@a.test> SIZE=2001
        S: 552 5.3.4 Message is over 2000 octets
        C: MAIL FROM:<a@a.test> SIZE=99999999999999999999
        S: 552 5.3.4 Message is over 2000 octets
        C: MAIL FROM:<a@a.test> SIZE=x
        S: 501 5.5.4 SIZE is malformed or given twice
        C: MAIL FROM:<a@a.test> SIZE=1 SIZE=1
        S: 501 5.5.4 SIZE is malformed or given twice
        C: MAIL FROM:<a@a.test> BODY=BINARYMIME
        S: 501 5.5.4 BODY is malformed or given twice
        C: MAIL FROM:<a@a.test> RET=HDRS
        S: 555 5.5.4 RET is not supported
        C: MAIL FROM:<a@a.test> ENVID=x
        S: 555 5.5.4 ENVID is not supported
        C: MAIL FROM:<a@a.test> AUTH=<>
        S: 555 5.5.4 AUTH is not supported
        C: MAIL FROM:<a@a.test> we(ird=1
        S: 555 5.5.4 WE?IRD is not supported
        C: MAIL FROM:<a@a.test> SIZE=2000 body=7bit
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@b.test> NOTIFY=NEVER
        S: 555 5.5.4 NOTIFY is not supported
        C: RCPT TO:<b@b.test> ORCPT=rfc822;b@b.test
        S: 555 5.5.4 ORCPT is not supported
    ";
    addresses, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: HELO c
        S: 250 mx.test
        C: MAIL FROM:a@a.test
        S: 501 5.1.7 Address syntax
        C: MAIL FROM:<a@a.test>SIZE=1
        S: 501 5.1.7 Address syntax
        C: MAIL FROM:<a@a.test
        S: 501 5.1.7 Address syntax
        C: MAIL <a@a.test>
        S: 501 5.5.4 Syntax: MAIL FROM:<address>
        C: MAIL FROM:<root>
        S: 553 5.1.7 Address needs a domain
        C: MAIL FROM:<é@a.test>
        S: 553 5.6.7 Address needs SMTPUTF8
        C: MAIL FROM:<a@a.test>
        S: 250 2.1.0 Ok
        C: RCPT TO:<>
        S: 501 5.1.3 Address syntax
        C: RCPT TO:<b@>
        S: 553 5.1.3 Address needs a domain
        C: RCPT TO:<@b.test>
        S: 501 5.1.3 Address syntax
        C: RCPT TO:<b c@b.test>
        S: 501 5.1.3 Address syntax
        C: RCPT TO:<\"b\\é\"@b.test>
        S: 501 5.1.3 Address syntax
        C: RCPT TO:<b@b@b.test>
        S: 553 5.1.3 Not a domain name
        C: RCPT TO:<b@b..test>
        S: 553 5.1.3 Not a domain name
        C: RCPT TO:<b@b.test.>
        S: 553 5.1.3 Not a domain name
        C: RCPT TO:<b@127.0.0.1>
        S: 553 5.1.3 Not a domain name
        C: RCPT TO:<b@[127.0.0.1>
        S: 553 5.1.3 Not an address literal
        C: RCPT TO:<b@[300.0.0.1]>
        S: 553 5.1.3 Not an address literal
        C: RCPT TO:<b@[IPv6:x]>
        S: 553 5.1.3 Not an address literal
        C: RCPT TO:<b@xn--a.test>
        S: 553 5.1.3 Not a domain name
        C: RCPT TO:<b@bé.test>
        S: 553 5.6.7 Address needs SMTPUTF8
        C: RCPT TO:<123456789012345678901234567890123456789012345678901234567890abcde@b.test>
        S: 553 5.1.3 Address too long
        C: RCPT TO:<\"b\"c@b.test>
        S: 501 5.1.3 Address syntax
        C: RCPT TO:<\"b@b.test>
        S: 501 5.1.3 Address syntax
        C: RCPT TO:<b..c.@b_c.test>
        S: 250 2.1.5 Ok
    ";
    utf8, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: EHLO c
        S: 250-mx.test
        S: 250-PIPELINING
        S: 250-SIZE 2000
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-CHUNKING
        S: 250 ENHANCEDSTATUSCODES
        C: MAIL FROM:<é@Bücher.test> SMTPUTF8
        S: 250 2.1.0 Ok
        C: RCPT TO:<Ü@BÜCHER.test>
        S: 250 2.1.5 Ok
        C: RCPT TO:<x@XN--bcher-KVA.test>
        S: 250 2.1.5 Ok
        C: RCPT TO:<x@bücher.test>
        S: 250 2.1.5 Ok
        C: DATA
        S: 354 End data with <CR><LF>.<CR><LF>
        C: .
        M: <é@xn--bcher-kva.test> <Ü@xn--bcher-kva.test> <x@xn--bcher-kva.test> UTF8SMTP
        S: 250 2.0.0 000000010002000000000001 queued
    ";
    chunks, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: HELO c
        S: 250 mx.test
        C: BDAT 6
        C: RSET
        S: 503 5.5.1 MAIL first
        C: MAIL FROM:<a@a.test>
        S: 250 2.1.0 Ok
        C: BDAT 6
        C: RSET
        S: 503 5.5.1 RCPT first
        C: RCPT TO:<b@b.test>
        S: 503 5.5.1 The content has begun
        C: BDAT 6 LAST
        C: QUIT
        S: 503 5.5.1 A chunk was refused; RSET first
        C: MAIL FROM:<a@a.test>
        S: 250 2.1.0 Ok
        C: RCPT TO:<b>
        S: 553 5.1.3 Address needs a domain
        C: BDAT 6 LAST
        C: QUIT
        S: 554 5.5.1 No valid recipients
        C: MAIL FROM:<a@a.test>
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@b.test>
        S: 250 2.1.5 Ok
        C: BDAT 0
        S: 250 2.0.0 0 octets
        C: BDAT 9
        C: A: b
        C: .
        S: 250 2.0.0 9 octets
        C: DATA
        S: 503 5.5.1 DATA and BDAT do not mix
        C: RCPT TO:<c@b.test>
        S: 503 5.5.1 The content has begun
        C: bdat 0 last
        M: <a@a.test> <b@b.test> SMTP
        S: 250 2.0.0 000000010002000000000001 queued
        C: BDAT x
        S: 501 5.5.4 Syntax: BDAT octets [LAST]
        X
    ";
    relay_denied, plain(), STRANGER, "
        S: 220 mx.test ESMTP mailrace
        C: HELO c
        S: 250 mx.test
        C: MAIL FROM:<a@a.test>
        S: 550 5.7.1 Relaying denied
        C: RCPT TO:<b@b.test>
        S: 503 5.5.1 MAIL first
        C: DATA
        S: 503 5.5.1 MAIL first
    ";
    tls_and_auth_plain, config(), STRANGER, "
        S: 220 mx.test ESMTP mailrace
        C: EHLO c
        S: 250-mx.test
        S: 250-PIPELINING
        S: 250-SIZE 2000
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-CHUNKING
        S: 250-STARTTLS
        S: 250 ENHANCEDSTATUSCODES
        C: MAIL FROM:<a@a.test>
        S: 530 5.7.0 Authentication required
        C: AUTH PLAIN AGJvYgByaWdodA==
        S: 538 5.7.11 STARTTLS first
        C: STARTTLS
        S: 220 2.0.0 Go ahead
        C: MAIL FROM:<sent-in-clear@a.test>
        T:
        C: MAIL FROM:<a@a.test>
        S: 503 5.5.1 EHLO first
        C: EHLO c
        S: 250-mx.test
        S: 250-PIPELINING
        S: 250-SIZE 2000
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-CHUNKING
        S: 250-AUTH PLAIN LOGIN
        S: 250 ENHANCEDSTATUSCODES
        C: STARTTLS
        S: 503 5.5.1 TLS is in use already
        C: AUTH CRAM-MD5
        S: 504 5.5.4 Mechanism not offered
        C: AUTH PLAIN AGJvYgByaWdodA==
        A: PLAIN bob right
        S: 235 2.7.0 Authenticated
        C: AUTH PLAIN AGJvYgByaWdodA==
        S: 503 5.5.1 AUTH does not belong here
        C: MAIL FROM:<a@a.test> AUTH=<>
        S: 250 2.1.0 Ok
        C: RCPT TO:<b@b.test>
        S: 250 2.1.5 Ok
        C: DATA
        S: 354 End data with <CR><LF>.<CR><LF>
        C: .
        M: <a@a.test> <b@b.test> ESMTPSA
        S: 250 2.0.0 000000010002000000000001 queued
    ";
    auth_exchanges, config(), STRANGER, "
        S: 220 mx.test ESMTP mailrace
        C: STARTTLS
        S: 220 2.0.0 Go ahead
        T:
        C: EHLO c
        S: 250-mx.test
        S: 250-PIPELINING
        S: 250-SIZE 2000
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-CHUNKING
        S: 250-AUTH PLAIN LOGIN
        S: 250 ENHANCEDSTATUSCODES
        C: AUTH PLAIN
        S: 334
        C: *
        S: 501 5.7.0 Authentication cancelled
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: Ym9i
        S: 334 UGFzc3dvcmQ6
        C: d3Jvbmc=
        A: LOGIN bob wrong
        S: 535 5.7.8 Credentials are not right
        C: AUTH LOGIN Ym9i
        S: 334 UGFzc3dvcmQ6
        C: cmlnaHQ=
        A: LOGIN bob right
        S: 235 2.7.0 Authenticated
    ";
    auth_ends_after_three_failures, config(), STRANGER, "
        S: 220 mx.test ESMTP mailrace
        C: STARTTLS
        S: 220 2.0.0 Go ahead
        T:
        C: EHLO c
        S: 250-mx.test
        S: 250-PIPELINING
        S: 250-SIZE 2000
        S: 250-8BITMIME
        S: 250-SMTPUTF8
        S: 250-CHUNKING
        S: 250-AUTH PLAIN LOGIN
        S: 250 ENHANCEDSTATUSCODES
        C: AUTH PLAIN !
        S: 501 5.5.2 Not base64
        C: AUTH PLAIN =
        S: 535 5.7.8 Credentials not usable
        C: AUTH PLAIN YWxpY2UAYm9iAHJpZ2h0
        S: 535 5.7.8 Credentials not usable
        S: 421 4.7.0 Too many errors
        X
    ";
    http_is_shown_the_door, plain(), FRIEND, "
        S: 220 mx.test ESMTP mailrace
        C: POST / HTTP/1.1
        S: 421 4.7.0 This is not HTTP
        X
        C: MAIL FROM:<a@a.test>
    ";
}

/// A refused chunk spoils the transaction, also for the chunks that were sent along with it.
#[test]
fn refused_chunk() {
    for pieces in ALL_PIECES {
        let mut driver = Driver::new(plain(), FRIEND);
        driver.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n", pieces);
        driver.transcript.clear();
        driver.feed(b"BDAT 3\r\na\nbBDAT 6\r\nQUIT\r\nBDAT 6 LAST\r\nQUIT\r\nMAIL FROM:<a@a.test>\r\n", pieces);
        let expected = [
            "S: 550 5.6.11 Message holds a CR or LF that stands alone",
            "S: 503 5.5.1 A chunk was refused; RSET first",
            "S: 503 5.5.1 A chunk was refused; RSET first",
            "S: 250 2.1.0 Ok",
        ];
        assert_eq!(driver.transcript, expected, "{pieces:?}");
    }
}

/// A message is acknowledged only by the spool's word.
#[test]
fn store_refusals() {
    let mut driver = Driver::new(plain(), FRIEND);
    driver.refusals = vec![StoreRefusal::failed("Not stored")];
    driver.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\nDATA\r\n.\r\nNOOP\r\n", Pieces::Whole);
    assert_eq!(driver.transcript[5..], ["M: <a@a.test> <b@b.test> SMTP", "S: 451 4.3.0 Not stored", "S: 250 2.0.0 Ok"]);
}

/// Under pressure no mail is begun, and what was sent along with MAIL is answered without being held against
/// the peer.
#[test]
fn pressure() {
    let mut driver = Driver::new(plain(), FRIEND);
    driver.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n", Pieces::Whole);
    driver.session.set_pressure(Some(StoreRefusal::storage("Disk is full")));
    driver.transcript.clear();
    driver.feed(b"DATA\r\nRSET\r\nMAIL FROM:<a@a.test>\r\n", Pieces::Whole);
    assert_eq!(driver.transcript, ["S: 452 4.3.1 Disk is full", "S: 250 2.0.0 Ok", "S: 452 4.3.1 Disk is full"]);
    driver.transcript.clear();
    driver.feed(&b"RCPT TO:<b@b.test>\r\n".repeat(100), Pieces::Whole);
    driver.session.set_pressure(None);
    driver.feed(b"MAIL FROM:<a@a.test>\r\n", Pieces::Whole);
    assert_eq!(driver.transcript.last().unwrap(), "S: 250 2.1.0 Ok");
    assert!(driver.transcript[..100].iter().all(|line| line == "S: 503 5.5.1 MAIL first"));
}

/// An idle session ends at once, a busy one behind its transaction.
#[test]
fn shutdown() {
    let mut idle = Driver::new(plain(), FRIEND);
    idle.feed(b"HELO c\r\nNOO", Pieces::Whole);
    idle.session.shutdown(crate::driver::NOW);
    idle.pump();
    assert_eq!(idle.transcript[2..], ["S: 421 4.3.2 Shutting down", "X"]);

    let mut busy = Driver::new(plain(), FRIEND);
    busy.feed(b"HELO c\r\nMAIL FROM:<a@a.test>\r\nRCPT TO:<b@b.test>\r\n", Pieces::Whole);
    busy.session.shutdown(crate::driver::NOW);
    busy.transcript.clear();
    busy.feed(b"DATA\r\nA: b\r\n.\r\nMAIL FROM:<a@a.test>\r\n", Pieces::Whole);
    assert_eq!(busy.transcript[0], "S: 354 End data with <CR><LF>.<CR><LF>");
    assert_eq!(
        busy.transcript[2..],
        ["S: 250 2.0.0 000000010002000000000001 queued", "S: 421 4.3.2 Shutting down", "X"]
    );
}
