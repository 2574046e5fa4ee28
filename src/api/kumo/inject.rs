//! `POST /api/inject/v1`: one content to many recipients, a message each. What would need a template engine is refused,
//! never sent as it stands.

use super::super::Call;
use super::super::members::{Members, array, asks_nothing, text};
use crate::http::{Refusal, Response, media};
use crate::json::{self, Json};
use crate::submit::{self, Convoy, Draft, Failure, Terms};
use mailrace_shards::limits::INJECT_RECIPIENTS_MAX;
use mailrace_shards::message::Extras;
use mailrace_shards::smtp::server::{Composed, compose};

/// How soon a client should try again what cannot be taken now.
const RETRY_SECONDS: u32 = 5;

/// Answers when every recipient's message is durable or has failed.
///
/// # Errors
/// 400, also for any query: what seems to be a dry run must not send mail; 413, 415; 422 with the field; 503 when the
/// engine takes nothing. Once one message was taken the answer is 200: whoever is told 503 sends all of them again.
pub async fn inject(call: Call<'_>) -> Result<Response, Refusal> {
    call.query(&[])?;
    let Call { api, request, .. } = call;
    submit::pressure(api).map_err(shedding)?;
    media::require_json(&request.head.headers)?;
    let terms = api.terms.get();
    let body = request.body.collect(terms.body_max()).await?;
    let Mailing { composed, common, addressed } = read(&body, &terms)?;
    drop(body);
    let mut tally = Tally::default();
    let mut convoy = Convoy::new(api, &terms, request.peer);
    for Addressed { email, recipient, own } in addressed {
        while convoy.is_full() && tally.note(convoy.next().await) {}
        match (recipient, tally.refusal) {
            (Err(why), _) => tally.fail(email, why),
            (Ok(_), Some(failure)) => tally.fail(email, &failure.to_string()),
            (Ok(recipient), None) => convoy.send(email, common.draft(recipient, own), &composed),
        }
    }
    while tally.note(convoy.next().await) {}
    match tally.refusal {
        Some(failure) if tally.taken == 0 => Err(shedding(failure)),
        _ => Ok(Response::json(200, &tally.to_json())),
    }
}

fn shedding(failure: Failure) -> Refusal {
    Refusal::unavailable(format!("Error: {failure}"), RETRY_SECONDS)
}

fn wrong(field: &str, why: impl std::fmt::Display) -> Refusal {
    let text = format!("Failed to deserialize the JSON body into the target type: `{field}` {why}");
    Refusal::of_field(422, field.to_owned(), text)
}

/// A member twice is well-formed JSON that cannot be taken.
fn unparsed(why: &str) -> Refusal {
    match why.strip_prefix("duplicate field `").and_then(|rest| rest.strip_suffix('`')) {
        Some(field) => wrong(field, "is there twice"),
        None => Refusal::new(400, format!("Failed to parse the request body as JSON: {why}")),
    }
}

/// What became of the recipients so far.
#[derive(Default)]
struct Tally {
    taken: u64,
    failed: Vec<Json>,
    errors: Vec<Json>,
    /// Why the engine takes no more; nothing more is sent then.
    refusal: Option<Failure>,
}

impl Tally {
    /// Whether there was anything to note.
    fn note(&mut self, ended: Option<(String, Result<mailrace_shards::message::MessageId, Failure>)>) -> bool {
        let Some((email, result)) = ended else { return false };
        match result {
            Ok(_) => self.taken += 1,
            Err(failure) => {
                self.fail(email, &failure.to_string());
                self.refusal = Some(failure);
            }
        }
        true
    }

    fn fail(&mut self, email: String, why: &str) {
        self.errors.push(format!("{email}: {why}").into());
        self.failed.push(email.into());
    }

    fn to_json(&self) -> Json {
        Json::object([
            ("success_count", Some(self.taken.into())),
            ("fail_count", Some((self.failed.len() as u64).into())),
            ("failed_recipients", Some(self.failed.clone().into())),
            ("errors", Some(self.errors.clone().into())),
        ])
    }
}

/// What a call asks for.
#[derive(Debug)]
pub struct Mailing {
    pub composed: Composed,
    pub common: Common,
    pub addressed: Vec<Addressed>,
}

/// What all messages of a call have in common. It is there once: the headers of one content can ask for as much as a
/// call has recipients, and each of these for it in full would be more than the machine's memory.
#[derive(Debug)]
pub struct Common {
    sender: Box<str>,
    extras: Box<Extras>,
}

/// One recipient.
#[derive(Debug)]
pub struct Addressed {
    /// As it was given.
    pub email: String,
    /// Its address, or why it is none.
    pub recipient: Result<Box<str>, &'static str>,
    /// What its metadata says.
    pub own: Option<Box<Own>>,
}

/// What one recipient's metadata says. It goes before what the headers say for all.
#[derive(Debug, Default)]
pub struct Own {
    campaign: Option<Box<str>>,
    tenant: Option<Box<str>>,
    routing_domain: Option<Box<str>>,
    meta: Box<str>,
}

impl Common {
    /// One recipient's message.
    pub fn draft(&self, recipient: Box<str>, own: Option<Box<Own>>) -> Draft {
        let mut extras = self.extras.clone();
        if let Some(own) = own {
            let Own { campaign, tenant, routing_domain, meta } = *own;
            extras.campaign = campaign.or(extras.campaign.take());
            extras.tenant = tenant.or(extras.tenant.take());
            extras.routing_domain = routing_domain.or(extras.routing_domain.take());
            extras.meta = meta;
        }
        let extras = (*extras != Extras::default()).then_some(extras);
        Draft { sender: self.sender.clone(), recipient, extras }
    }
}

/// The messages that a body describes.
pub fn read(body: &[u8], terms: &Terms) -> Result<Mailing, Refusal> {
    let value = json::parse(body).map_err(|error| unparsed(&error.to_string()))?;
    let mut members = Members::of(value).map_err(|why| wrong("body", why))?;
    let required = |value: Option<Json>, field: &str| value.ok_or_else(|| wrong(field, "is missing"));
    let sender = text(required(members.take("envelope_sender"), "envelope_sender")?);
    let sender = sender.map_err(|why| wrong("envelope_sender", why))?;
    let sender = submit::reverse_path(&sender)
        .map_err(|error| wrong("envelope_sender", format!("is no mail address: {}", error.as_str())))?;
    let recipients =
        array(required(members.take("recipients"), "recipients")?).map_err(|why| wrong("recipients", why))?;
    let content = match required(members.take("content"), "content")? {
        Json::Text(content) => content,
        Json::Object(_) => {
            return Err(wrong("content", "must be the text of a message; building one is not supported"));
        }
        _ => return Err(wrong("content", "must be a string")),
    };
    let substitutions = members.take("substitutions");
    let is_static = read_dialect(members.take("template_dialect"))?;
    for name in ["deferred_spool", "deferred_generation"] {
        read_unsupported(members.take(name), false).map_err(|why| wrong(name, why))?;
    }
    read_trace_headers(members.take("trace_headers"))?;
    if let Some(name) = members.left() {
        return Err(wrong(&name, "is an unknown field"));
    }
    check_templates(is_static, &content, substitutions)?;
    let mut composed =
        compose(&terms.server, content.as_bytes()).map_err(|error| wrong("content", format!("is refused: {error}")))?;
    drop(content);
    let sender = composed.envelope.take().unwrap_or(sender);
    let extras = composed.extras.take().unwrap_or_default();
    terms
        .check_sources(&extras)
        .map_err(|(field, why)| wrong("content", format!("has a header x-mq-{field} that {why}")))?;
    if recipients.len() > INJECT_RECIPIENTS_MAX {
        return Err(wrong("recipients", format!("are more than {INJECT_RECIPIENTS_MAX}")));
    }
    let recipients = recipients.into_iter().enumerate();
    let addressed = recipients.map(|(index, value)| read_recipient(index, value, is_static));
    Ok(Mailing { addressed: addressed.collect::<Result<_, _>>()?, common: Common { sender, extras }, composed })
}

/// Whether it is the one that leaves everything as it stands.
fn read_dialect(value: Option<Json>) -> Result<bool, Refusal> {
    let Some(value) = value else { return Ok(false) };
    match &*text(value).map_err(|why| wrong("template_dialect", why))? {
        "Static" => Ok(true),
        "Jinja" | "Handlebars" => Ok(false),
        _ => Err(wrong("template_dialect", "must be Jinja, Handlebars or Static")),
    }
}

/// A switch that can only stand as it stands by default.
fn read_unsupported(value: Option<Json>, default: bool) -> Result<(), String> {
    match value {
        None => Ok(()),
        Some(Json::Bool(value)) if value == default => Ok(()),
        Some(Json::Bool(value)) => Err(format!("cannot be {value}: that is not supported")),
        Some(_) => Err("must be true or false".to_owned()),
    }
}

/// Every message gets its Received header, and no header besides.
fn read_trace_headers(value: Option<Json>) -> Result<(), Refusal> {
    const FIELD: &str = "trace_headers";
    let Some(value) = value else { return Ok(()) };
    let mut members = Members::of(value).map_err(|why| wrong(FIELD, why))?;
    for (name, only) in [("received_header", true), ("supplemental_header", false)] {
        read_unsupported(members.take(name), only).map_err(|why| wrong(&format!("{FIELD}.{name}"), why))?;
    }
    match members.left() {
        Some(name) => Err(wrong(&format!("{FIELD}.{name}"), "is not supported")),
        None => Ok(()),
    }
}

/// Refuses what a template engine would have changed.
fn check_templates(is_static: bool, content: &str, substitutions: Option<Json>) -> Result<(), Refusal> {
    read_substitutions(is_static, substitutions, "substitutions")?;
    let marks = ["{{", "{%", "{#"].into_iter().find(|mark| content.contains(mark));
    match marks {
        Some(mark) if !is_static => {
            let why = format!(
                "holds {mark:?}, and templates are not supported; say \"template_dialect\": \"Static\" if it is none"
            );
            Err(wrong("content", why))
        }
        _ => Ok(()),
    }
}

fn read_substitutions(is_static: bool, value: Option<Json>, field: &str) -> Result<(), Refusal> {
    match value {
        None => Ok(()),
        Some(value) if !matches!(value, Json::Object(_)) => Err(wrong(field, "must be an object")),
        Some(value) if !is_static && !asks_nothing(&value) => {
            Err(wrong(field, "is not supported: there are no templates"))
        }
        Some(_) => Ok(()),
    }
}

fn read_recipient(index: usize, value: Json, is_static: bool) -> Result<Addressed, Refusal> {
    let named = |name: &str| format!("recipients[{index}].{name}");
    let mut members = Members::of(value).map_err(|why| wrong(&format!("recipients[{index}]"), why))?;
    let email = members.take("email").ok_or_else(|| wrong(&named("email"), "is missing"))?;
    let email = text(email).map_err(|why| wrong(&named("email"), why))?;
    if let Some(name) = members.take("name") {
        text(name).map_err(|why| wrong(&named("name"), why))?;
    }
    read_substitutions(is_static, members.take("substitutions"), &named("substitutions"))?;
    let own = members.take("metadata").map(read_metadata).transpose();
    let own = own.map_err(|why| wrong(&named("metadata"), why))?.map(Box::new);
    if let Some(name) = members.left() {
        return Err(wrong(&named(&name), "is an unknown field"));
    }
    let recipient = submit::address(&email).map_err(|error| error.as_str());
    Ok(Addressed { email, recipient, own })
}

/// Comes back in records as `meta`. Campaign, tenant and routing domain name the queue, as they do when they come by
/// header; for one recipient, its metadata goes before the headers of all.
fn read_metadata(value: Json) -> Result<Own, String> {
    if !matches!(value, Json::Object(_)) {
        return Err("must be an object".to_owned());
    }
    let mark = |name: &str| match value.get(name) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Text(text)) => {
            submit::mark(text).map(Some).map_err(|why| format!("has a member `{name}` that {why}"))
        }
        Some(_) => Err(format!("has a member `{name}` that must be a string")),
    };
    let mut own = Own { campaign: mark("campaign")?, tenant: mark("tenant")?, ..Own::default() };
    if let Some(domain) = mark("routing_domain")? {
        let no_domain = || format!("has a member `routing_domain` that is no domain: {domain:?}");
        let address = submit::address(&format!("x@{domain}")).map_err(|_| no_domain())?;
        own.routing_domain = Some(mailrace_shards::message::domain_of(&address).into());
    }
    if !asks_nothing(&value) {
        own.meta = submit::meta(value.to_text()).map_err(|why| format!("has members that {why}"))?;
    }
    Ok(own)
}

#[cfg(test)]
#[path = "inject_tests.rs"]
mod tests;
