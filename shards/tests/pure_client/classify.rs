//! What each failure means: the whole policy as a table.

use mailrace_shards::outcome::{EnhancedCode, Response, Verb};
use mailrace_shards::settings::TlsPolicy;
use mailrace_shards::smtp::classify::{Consequence, DnsFailure, Failure, FailureKind, Remedy, Scope, consequence};

fn means(failure: &Failure, tls: TlsPolicy) -> (Scope, Remedy) {
    let Consequence { scope, remedy } = consequence(failure, tls);
    (scope, remedy)
}

/// `code` or `code x.y.z`.
fn reply(kind: FailureKind, verb: Verb, codes: &str) -> Failure {
    let (code, enhanced) = codes.split_once(' ').unwrap_or((codes, ""));
    let mut parts = enhanced.split('.').map(|part| part.parse::<u16>().unwrap_or(0));
    let enhanced = (!enhanced.is_empty()).then(|| EnhancedCode {
        class: u8::try_from(parts.next().unwrap()).unwrap(),
        subject: parts.next().unwrap(),
        detail: parts.next().unwrap(),
    });
    let response = Response { code: code.parse().unwrap(), enhanced, text: "".into(), verb };
    Failure { kind, response, maybe_delivered: false }
}

#[test]
fn replies() {
    use FailureKind::{Closing, Refused, TlsUnavailable, TooManyRecipients};
    use Remedy::{Again, Elsewhere, Later, Never};
    use Scope::{Host, Message, Recipient};
    let table = [
        (Refused, Verb::Banner, "450", Host, Elsewhere),
        (Refused, Verb::Banner, "554", Host, Elsewhere),
        (Refused, Verb::Ehlo, "450", Host, Elsewhere),
        (Refused, Verb::Ehlo, "550", Host, Elsewhere),
        (TlsUnavailable, Verb::StartTls, "454", Host, Elsewhere),
        (TlsUnavailable, Verb::StartTls, "554", Host, Elsewhere),
        (Closing, Verb::Banner, "421", Host, Elsewhere),
        (Closing, Verb::Ehlo, "421", Host, Elsewhere),
        (Closing, Verb::StartTls, "421", Host, Elsewhere),
        (Closing, Verb::MailFrom, "421", Host, Later),
        (Closing, Verb::RcptTo, "421", Host, Later),
        (Closing, Verb::Data, "421", Host, Later),
        (Closing, Verb::EndOfData, "421 4.7.0", Host, Later),
        (Refused, Verb::MailFrom, "450", Message, Later),
        (Refused, Verb::MailFrom, "451 4.7.1", Message, Later),
        (Refused, Verb::MailFrom, "452", Message, Later),
        (Refused, Verb::MailFrom, "452 4.3.1", Host, Elsewhere),
        (Refused, Verb::MailFrom, "550", Message, Never),
        (Refused, Verb::MailFrom, "552 5.3.4", Message, Never),
        (Refused, Verb::MailFrom, "530 5.7.0", Message, Never),
        (Refused, Verb::MailFrom, "503", Message, Later),
        (Refused, Verb::RcptTo, "450", Recipient, Later),
        (Refused, Verb::RcptTo, "452", Recipient, Later),
        (Refused, Verb::RcptTo, "452 4.2.2", Recipient, Later),
        (Refused, Verb::RcptTo, "550 5.1.1", Recipient, Never),
        (Refused, Verb::RcptTo, "551", Recipient, Never),
        (Refused, Verb::RcptTo, "552", Recipient, Later),
        (Refused, Verb::RcptTo, "552 5.2.2", Recipient, Never),
        (Refused, Verb::RcptTo, "503", Recipient, Never),
        (TooManyRecipients, Verb::RcptTo, "452", Recipient, Again),
        (TooManyRecipients, Verb::RcptTo, "552", Recipient, Again),
        (Refused, Verb::Data, "451", Message, Later),
        (Refused, Verb::Data, "503", Message, Later),
        (Refused, Verb::Data, "554", Message, Never),
        (Refused, Verb::EndOfData, "450", Message, Later),
        (Refused, Verb::EndOfData, "452 4.3.1", Message, Later),
        (Refused, Verb::EndOfData, "503", Message, Later),
        (Refused, Verb::EndOfData, "554 5.7.1", Message, Never),
        (Refused, Verb::EndOfData, "552 5.3.4", Message, Never),
    ];
    for (kind, verb, codes, scope, remedy) in table {
        for tls in [TlsPolicy::Disabled, TlsPolicy::Opportunistic, TlsPolicy::Required, TlsPolicy::Verified] {
            assert_eq!(means(&reply(kind, verb, codes), tls), (scope, remedy), "{kind:?} {verb:?} {codes}");
        }
    }
}

#[test]
fn own_words() {
    use FailureKind::*;
    use Remedy::{Elsewhere, InClear, Later, Never};
    use Scope::{Host, Message, Recipient, Site, Source};
    use Verb::{Banner, Connect, Data, Ehlo, EndOfData, MailFrom, None, RcptTo, StartTls};
    let table = [
        (Dns(DnsFailure::NoSuchDomain), None, "550 5.1.2", Site, Never),
        (Dns(DnsFailure::NullMx), None, "556 5.1.10", Site, Never),
        (Dns(DnsFailure::NoAddress), None, "550 5.4.4", Site, Never),
        (Dns(DnsFailure::PrivateAddress), None, "550 5.4.4", Site, Never),
        (Dns(DnsFailure::Temporary), None, "451 4.4.3", Site, Later),
        (Loop, None, "554 5.4.6", Site, Never),
        (ConnectRefused, Connect, "451 4.4.1", Host, Elsewhere),
        (ConnectTimedOut, Connect, "451 4.4.1", Host, Elsewhere),
        (ConnectUnreachable, Connect, "451 4.4.1", Host, Elsewhere),
        (ConnectBadLocalAddress, Connect, "451 4.3.5", Source, Later),
        (TlsUnavailable, StartTls, "454 4.7.4", Host, Elsewhere),
        (TlsHandshake, StartTls, "454 4.7.5", Host, InClear),
        (NeedsEightBitMime, None, "554 5.6.3", Message, Never),
        (NeedsSmtpUtf8, None, "553 5.6.7", Message, Never),
        (TooLarge, None, "552 5.3.4", Message, Never),
        (BadSender, None, "553 5.1.7", Message, Never),
        (BadRecipient, None, "553 5.1.3", Recipient, Never),
    ];
    let broken = [(Protocol, "451 4.5.0"), (TimedOut, "451 4.4.2"), (Lost, "451 4.4.2")];
    let places = [
        (Banner, Host, Elsewhere),
        (Ehlo, Host, Elsewhere),
        (StartTls, Host, Elsewhere),
        (MailFrom, Host, Elsewhere),
        (RcptTo, Host, Elsewhere),
        (Data, Host, Elsewhere),
        (EndOfData, Message, Later),
        (None, Host, Elsewhere),
    ];
    let broken = broken.iter().flat_map(|&(kind, codes)| places.map(|(verb, s, r)| (kind, verb, codes, s, r)));
    for (kind, verb, codes, scope, remedy) in table.into_iter().chain(broken) {
        let failure = Failure::own(kind, verb, "words");
        let enhanced = failure.response.enhanced.unwrap();
        assert_eq!(format!("{} {enhanced}", failure.response.code), codes, "{kind:?}");
        assert_eq!(means(&failure, TlsPolicy::Opportunistic), (scope, remedy), "{kind:?} {verb:?}");
        // A bounce in our own words must have a permanent code, anything else a temporary one.
        assert_eq!(remedy == Never, failure.response.code >= 500, "{kind:?}");
        assert_eq!(u16::from(enhanced.class), failure.response.code / 100, "{kind:?}");
        assert!(!failure.maybe_delivered);
    }
    // In clear only by the policy that allows it.
    let handshake = Failure::own(TlsHandshake, StartTls, "words");
    for tls in [TlsPolicy::Required, TlsPolicy::Verified] {
        assert_eq!(means(&handshake, tls), (Host, Elsewhere));
    }
}
