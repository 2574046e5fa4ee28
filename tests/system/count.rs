//! Every message arrives once and is recorded: from smtp-source through the engine to smtp-sink.

use crate::support::programs::{SmtpSink, smtp_source};
use crate::support::{Config, Engine, setting, until};
use std::collections::{BTreeMap, HashSet};

const DOMAINS: usize = 100;

#[test]
fn every_message_to_a_hundred_domains_arrives_once_and_is_recorded() {
    let messages = setting("MAILRACE_SYSTEM_MESSAGES", 10_000).next_multiple_of(DOMAINS);
    let each = messages / DOMAINS;
    let destination = SmtpSink::start();
    let engine = Engine::start(&Config::to(destination.address));
    for domain in 0..DOMAINS {
        let recipient = format!("r@d{domain}.example");
        // -N makes each recipient another one.
        let count = each.to_string();
        smtp_source(
            engine.smtp,
            &["-N", "-s", "4", "-l", "1024", "-m", &count, "-f", "s@test.example", "-t", &recipient],
        );
    }
    until("every message is at the destination", || destination.count() >= messages);
    let deliveries = engine.await_records("Delivery", messages);

    let mut by_domain: BTreeMap<String, usize> = BTreeMap::new();
    let mut recipients = HashSet::new();
    for message in destination.messages() {
        let [recipient] = message.recipients.as_slice() else { panic!("not one recipient: {message:?}") };
        *by_domain.entry(recipient.split_once('@').unwrap().1.to_owned()).or_default() += 1;
        assert!(recipients.insert(recipient.clone()), "{recipient} came twice");
    }
    assert_eq!(by_domain.len(), DOMAINS);
    assert!(by_domain.values().all(|count| *count == each), "{by_domain:?}");

    let receptions = engine.await_records("Reception", messages);
    let received: HashSet<&str> = receptions.iter().map(|record| record.id()).collect();
    let delivered: HashSet<&str> = deliveries.iter().map(|record| record.id()).collect();
    assert_eq!((receptions.len(), received.len()), (messages, messages), "receptions and their ids");
    assert_eq!((deliveries.len(), delivered.len()), (messages, messages), "deliveries and their ids");
    assert_eq!(received, delivered);
    let recorded: HashSet<String> = deliveries.iter().map(|record| record.recipient().to_owned()).collect();
    assert_eq!(recorded, recipients);
    assert_eq!(engine.records().len(), 2 * messages, "nothing else was recorded");
}
