//! Banner, EHLO, HELO, STARTTLS.

use super::harness::{Cut, run, run_cut};
use mailrace_shards::settings::TlsPolicy;

const OFFERED: &str = "S: 220 mx.example ESMTP\nC: EHLO me.example\nS: 250-mx.example\nS: 250 STARTTLS\n";

#[test]
fn greetings_in_clear() {
    for script in [
        "S: 220 hello\n C: EHLO me.example\n S: 250 mx.example\n E: ready\n wants\n no-deadline\n finish\n full\n C: QUIT\n S: 221 bye\n E: closed",
        // Multi-line banner; bare code.
        "S: 220-hello\n S: 220-you\n S: 220\n C: EHLO me.example\n S: 250\n E: ready",
        // HELO behind a refused EHLO: nothing is offered then.
        "S: 220 hello\n C: EHLO me.example\n S: 502 what\n C: HELO me.example\n S: 250-mx\n S: 250 PIPELINING\n E: ready\n submit 1 plain\n C: MAIL FROM:<a@o.example>\n S: 250 ok\n C: RCPT TO:<r@d.example>\n eof\n E: finished 1: 0 failed Lost 451 4.4.2 at RCPT-TO\n E: closed Lost 451 4.4.2 at RCPT-TO",
        // Finished before it is ready.
        "finish\n S: 220 hello\n C: EHLO me.example\n S: 250 mx.example\n E: ready\n C: QUIT\n eof\n E: closed",
        // Refusals.
        "S: 554 no\n C: QUIT\n S: 221 bye\n E: closed Refused 554 at BANNER",
        "S: 450 4.3.2 no\n C: QUIT\n eof\n E: closed Refused 450 4.3.2 at BANNER",
        "S: 554 no\n C: QUIT\n wait 10\n E: closed Refused 554 at BANNER",
        "S: 421 4.3.2 busy\n E: closed Closing 421 4.3.2 at BANNER",
        "S: 220 hello\n C: EHLO me.example\n S: 450 no\n C: QUIT\n S: 221 bye\n E: closed Refused 450 at EHLO",
        "S: 220 hello\n C: EHLO me.example\n S: 421 no\n E: closed Closing 421 at EHLO",
        "S: 220 hello\n C: EHLO me.example\n S: 550 no\n C: HELO me.example\n S: 550 no\n C: QUIT\n S: 221 bye\n E: closed Refused 550 at EHLO",
        // Garbage.
        "S: SSH-2.0-OpenSSH_9.2\n E: closed Protocol 451 4.5.0 at BANNER",
        "S: 354 go\n E: closed Protocol 451 4.5.0 at BANNER",
        "S: 220-hello\n S: 250 mx\n E: closed Protocol 451 4.5.0 at BANNER",
        "S: 220 hello\n C: EHLO me.example\n S: 250-mx\n S: 25 x\n E: closed Protocol 451 4.5.0 at EHLO",
        "S: 220 hello\n C: EHLO me.example\n S: 334 x\n E: closed Protocol 451 4.5.0 at EHLO",
        // Loss.
        "eof\n E: closed Lost 451 4.4.2 at BANNER",
        "S: 220 hello\n C: EHLO me.example\n eof\n E: closed Lost 451 4.4.2 at EHLO",
        "S: 220 hello\n C: EHLO me.example\n io-error\n E: closed Lost 451 4.4.2 at EHLO",
    ] {
        for tls in [TlsPolicy::Disabled, TlsPolicy::Opportunistic] {
            run(tls, script);
        }
    }
    // A peer that answers before it is asked.
    run_cut(TlsPolicy::Disabled, "S: 220 hello\n S: 250 mx.example\n E: closed Protocol 451 4.5.0 at EHLO", Cut::Whole);
}

#[test]
fn tls_by_policy() {
    let secured =
        "C: STARTTLS\n S: 220 go\n E: starttls\n tls-ready\n C: EHLO me.example\n S: 250 mx.example\n E: ready\n";
    let refused_later = "C: STARTTLS\n S: 454 4.3.0 later\n";
    let cases: &[(&[TlsPolicy], &str)] = &[
        (&[TlsPolicy::Disabled], "E: ready\n wants"),
        (&[TlsPolicy::Opportunistic, TlsPolicy::Required, TlsPolicy::Verified], secured),
        (&[TlsPolicy::Opportunistic], &format!("{refused_later}E: ready\n wants")),
        (&[TlsPolicy::Opportunistic], "C: STARTTLS\n S: 501 no\n E: ready\n wants"),
        (
            &[TlsPolicy::Required, TlsPolicy::Verified],
            &format!("{refused_later}C: QUIT\n S: 221 bye\n E: closed TlsUnavailable 454 4.3.0 at STARTTLS"),
        ),
        (
            &[TlsPolicy::Opportunistic, TlsPolicy::Required, TlsPolicy::Verified],
            "C: STARTTLS\n S: 220 go\n E: starttls\n tls-failed\n E: closed TlsHandshake 454 4.7.5 at STARTTLS",
        ),
        (&[TlsPolicy::Opportunistic], "C: STARTTLS\n S: 421 go\n E: closed Closing 421 at STARTTLS"),
        (&[TlsPolicy::Opportunistic], "C: STARTTLS\n S: 334 go\n E: closed Protocol 451 4.5.0 at STARTTLS"),
        (&[TlsPolicy::Opportunistic], "C: STARTTLS\n eof\n E: closed Lost 451 4.4.2 at STARTTLS"),
        (
            &[TlsPolicy::Opportunistic],
            "C: STARTTLS\n S: 220 go\n E: starttls\n deadline 60\n eof\n E: closed TlsHandshake 454 4.7.5 at STARTTLS",
        ),
        (
            &[TlsPolicy::Opportunistic],
            "C: STARTTLS\n S: 220 go\n E: starttls\n wait 60\n E: closed TlsHandshake 454 4.7.5 at STARTTLS",
        ),
        // HELO over TLS, too.
        (
            &[TlsPolicy::Required],
            "C: STARTTLS\n S: 220 go\n E: starttls\n tls-ready\n C: EHLO me.example\n S: 500 what\n C: HELO me.example\n S: 250 mx\n E: ready",
        ),
        // Plaintext while the handshake runs.
        (
            &[TlsPolicy::Opportunistic],
            "C: STARTTLS\n S: 220 go\n E: starttls\n S: 250 x\n E: closed TlsHandshake 454 4.7.5 at STARTTLS",
        ),
    ];
    for (policies, script) in cases {
        for policy in *policies {
            run(*policy, &format!("{OFFERED}{script}"));
        }
    }
    // Plaintext together with the 220: the handshake is not even begun.
    run_cut(
        TlsPolicy::Opportunistic,
        &format!("{OFFERED}C: STARTTLS\n S: 220 go\n S: 250 x\n E: closed TlsHandshake 454 4.7.5 at STARTTLS"),
        Cut::Whole,
    );
}

#[test]
fn tls_that_is_required_and_not_offered() {
    let bare = "S: 220 hello\n C: EHLO me.example\n S: 250 mx.example\n";
    let old = "S: 220 hello\n C: EHLO me.example\n S: 500 what\n C: HELO me.example\n S: 250 mx.example\n";
    for policy in [TlsPolicy::Required, TlsPolicy::Verified] {
        for start in [bare, old] {
            let end = "C: QUIT\n S: 221 bye\n E: closed TlsUnavailable 454 4.7.4 at STARTTLS";
            run(policy, &format!("{start}{end}"));
        }
    }
}

/// What was offered before the handshake may be a forgery.
#[test]
fn offers_before_tls_are_forgotten() {
    let script = "S: 220 mx\n C: EHLO me.example\n S: 250-mx\n S: 250-PIPELINING\n S: 250-CHUNKING\n S: 250 STARTTLS\n \
        C: STARTTLS\n S: 220 go\n E: starttls\n tls-ready\n C: EHLO me.example\n S: 250 mx\n E: ready\n \
        submit 1 plain\n C: MAIL FROM:<a@o.example>\n full";
    run(TlsPolicy::Opportunistic, &script.replace("\n ", "\n"));
}
