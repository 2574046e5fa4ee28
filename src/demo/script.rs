//! The steps of the demonstration, in order: a campaign, a pause, a dry run, a cancellation by tag, a suppression, the
//! release. About half a minute.

use super::campaign::{Campaign, Mail, TAGS, recipient};
use super::{DOMAINS, Demo, End, RATE};
use crate::client::request::{Method, Request};
use serde_json::json;
use std::time::Duration;

/// Messages of the campaign to each destination.
const EACH: u32 = 500;

/// How long handing in and delivering the rest may take.
const HAND_IN_WITHIN: Duration = Duration::from_secs(120);
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// What is paused, what is cancelled, who is suppressed.
const PAUSED: &str = "delta.example";
const CANCELLED: &str = TAGS[0];
const SUPPRESSED: u32 = 7;

/// Between two messages of the trickle.
const TRICKLE_EVERY_LOOKS: u32 = 2;

/// All of them.
pub fn steps(demo: &mut Demo) -> Result<(), End> {
    hand_in(demo)?;
    pause(demo)?;
    cancel(demo)?;
    suppress(demo)?;
    release(demo)
}

fn hand_in(demo: &mut Demo) -> Result<(), End> {
    let count = EACH as usize * DOMAINS.len();
    demo.say(&format!(
        "A campaign of {count} messages by SMTP, half of them tagged {}, half {}. Each of {} destinations\n\
         takes {RATE} a second: that is a [[limit]], so that there is something to watch.\n",
        TAGS[0],
        TAGS[1],
        DOMAINS.len()
    ))?;
    let campaign = Campaign::start(demo.engine.smtp, DOMAINS, EACH)
        .map_err(|error| format!("a thread cannot be started: {error}"))?;
    demo.watch(HAND_IN_WITHIN, |_| campaign.ended())?;
    if !campaign.ended() {
        return Err(End::Failed("the campaign is not handed in in time".to_owned()));
    }
    campaign.result()?;
    demo.watch_for(1)
}

fn pause(demo: &mut Demo) -> Result<(), End> {
    demo.say(&format!("\n1. {PAUSED} has a bad day. Hold its mail, and keep it:"))?;
    demo.call(&Request::with(Method::Post, "/v1/pauses", json!({ "domain": PAUSED })))?;
    demo.say("In force before the answer came. The others go on:\n")?;
    demo.watch_for(3)
}

fn cancel(demo: &mut Demo) -> Result<(), End> {
    let error = json!({ "tag": CANCELLED, "code": 550, "extended": "5.7.1", "description": "campaign withdrawn" });
    let cancel = Request::with(Method::Post, "/v1/errors", error);
    demo.say(&format!(
        "\n2. The {CANCELLED} half was a mistake. What would cancelling it hit? A dry run changes nothing:"
    ))?;
    let thought = demo.call(&Request { query: vec![("dry_run", "true".to_owned())], ..cancel.clone() })?;
    demo.say(&format!("{} messages. Nothing has changed; none has failed:\n", thought["matched"]))?;
    demo.watch_for(2)?;
    demo.say("\n3. Cancel it: queued, held and to come, each with its record in the log.")?;
    demo.call(&cancel)?;
    demo.watch_for(3)
}

fn suppress(demo: &mut Demo) -> Result<(), End> {
    let address = recipient(SUPPRESSED, DOMAINS[0]);
    demo.say(&format!("\n4. {address} wants no more mail:"))?;
    let entry = json!({ "type": "address", "value": address, "code": 550, "extended": "5.1.1" });
    demo.call(&Request::with(Method::Post, "/v1/suppressions", entry))?;
    demo.say("A message to them is accepted, ended and recorded, and never sent: one more has failed.\n")?;
    Mail::new(demo.engine.smtp).hand_in(&address, TAGS[1])?;
    demo.watch_for(2)
}

fn release(demo: &mut Demo) -> Result<(), End> {
    demo.say(&format!("\n5. {PAUSED} is well again. Release it; the criteria are those of the pause:"))?;
    demo.call(&Request::with(Method::Delete, "/v1/pauses", json!({ "domain": PAUSED })))?;
    let mut left = 0;
    demo.watch(DRAIN_WITHIN, |figures| {
        left = figures.queued();
        left == 0
    })?;
    if left > 0 {
        return Err(End::Failed(format!("{left} recipients are still queued")));
    }
    demo.say("\nWho did what:")?;
    let changes = demo.call(&Request::new(Method::Get, "/v1/audit"))?;
    let count = changes.as_array().map_or(0, Vec::len);
    demo.say(&format!("{count} changes. The queue is empty."))
}

/// Everything stays up, with a little mail, until a signal comes.
pub fn go_on(demo: &mut Demo) -> Result<(), End> {
    let rules = super::curl(&demo.server, &Request::new(Method::Get, "/v1/rules"));
    let config = demo.engine.config();
    let config = config.display();
    // As it was typed here, so that it can be typed there.
    let me = std::env::args().next().unwrap_or_else(|| "mailrace".to_owned());
    demo.say(&format!(
        "\nIt goes on with a little mail tagged autumn until Ctrl-C. To try, in another terminal:\n\n  \
         {rules}\n  \
         {me} rules --config {config}\n  \
         {me} pause add --domain beta.example --for 1m --config {config}\n  \
         {me} queue --config {config}\n  \
         {me} error add --tag autumn --dry-run --config {config}\n  \
         {me} audit --config {config}\n\n\
         When it ends, its directory goes too.\n"
    ))?;
    let mut mail = Mail::new(demo.engine.smtp);
    let mut number = 0;
    loop {
        for domain in DOMAINS {
            mail.hand_in(&recipient(number, domain), "autumn")?;
            for _ in 0..TRICKLE_EVERY_LOOKS {
                demo.watch(Duration::ZERO, |_| true)?;
                demo.wait(super::LOOK_EVERY)?;
            }
        }
        number = (number + 1) % EACH;
    }
}

#[cfg(test)]
mod tests {
    use super::{DOMAINS, EACH, PAUSED, SUPPRESSED};

    #[test]
    fn the_steps_are_about_the_campaign() {
        assert!(DOMAINS.contains(&PAUSED) && SUPPRESSED < EACH);
    }
}
