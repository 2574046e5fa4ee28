//! `POST /v1/inject`: one message in MailerQ's JSON. A property that the engine does not carry out is refused by its
//! name; one that nobody knows is the injector's own and comes back in the records, as `meta`.

use super::super::Call;
use super::super::desk::json_body;
use super::super::members::{Members, Why, array, asks_nothing, text, whole};
use crate::http::{Refusal, Response, media};
use crate::json::Json;
use crate::submit::{self, Convoy, Draft, Failure, Terms};
use mailrace_shards::message::Extras;
use mailrace_shards::smtp::server::{AddressError, Composed, compose, control_host, control_time};

/// Properties that mean something to MailerQ and that are not carried out.
const NOT_CARRIED_OUT: [&str; 7] = ["dsn", "keepmime", "headers", "dkim", "queues", "key", "inlinecss"];

/// How soon a client should try again what cannot be taken now.
const RETRY_SECONDS: u32 = 5;

/// Answers when the message is durable.
///
/// # Errors
/// 400 with the field, and for any query: what seems to be a dry run must not send mail; 413, 415; 503 when the engine
/// takes nothing.
pub async fn inject(call: Call<'_>) -> Result<Response, Refusal> {
    call.query(&[])?;
    let Call { api, request, .. } = call;
    submit::pressure(api).map_err(unavailable)?;
    media::require_json(&request.head.headers)?;
    let terms = api.terms.get();
    let body = request.body.collect(terms.body_max()).await?;
    let (draft, composed) = read(&body, &terms)?;
    drop(body);
    let mut convoy = Convoy::new(api, &terms, request.peer);
    convoy.send((), draft, &composed);
    drop(composed);
    let (_, result) = convoy.next().await.expect("one message is under way");
    let id = result.map_err(unavailable)?;
    Ok(Response::json(200, &Json::object([("id", Some(Json::from(id.to_string())))])))
}

fn unavailable(failure: Failure) -> Refusal {
    Refusal::unavailable(failure.to_string(), RETRY_SECONDS)
}

fn wrong(field: impl Into<String>, why: impl std::fmt::Display) -> Refusal {
    let field = field.into();
    let text = format!("`{field}` {why}");
    Refusal::of_field(400, field, text)
}

/// The message that a body describes.
pub fn read(body: &[u8], terms: &Terms) -> Result<(Draft, Composed), Refusal> {
    let mut members = Members::of(json_body(body)?).map_err(|why| Refusal::new(400, format!("the body {why}")))?;
    if let Some(name) = NOT_CARRIED_OUT.into_iter().find(|name| members.take(name).is_some_and(|v| !asks_nothing(&v))) {
        return Err(wrong(name, "is not supported"));
    }
    let mut required = |name: &'static str| {
        let value = members.take(name).ok_or_else(|| wrong(name, "is required"))?;
        text(value).map_err(|why| wrong(name, why))
    };
    let no_address = |error: AddressError| format!("is no mail address: {}", error.as_str());
    let recipient = submit::address(&required("recipient")?).map_err(|e| wrong("recipient", no_address(e)))?;
    let mime = required("mime")?;
    let mut composed =
        compose(&terms.server, mime.as_bytes()).map_err(|error| wrong("mime", format!("is refused: {error}")))?;
    drop(mime);
    let sender = match (members.take("envelope"), composed.envelope.take()) {
        (Some(_), Some(_)) => return Err(wrong("envelope", TWICE)),
        (None, of_header) => of_header.unwrap_or_default(),
        (Some(given), None) => {
            let given = text(given).map_err(|why| wrong("envelope", why))?;
            submit::reverse_path(&given).map_err(|error| wrong("envelope", no_address(error)))?
        }
    };
    let mut extras = composed.extras.take().unwrap_or_default();
    read_wishes(&mut members, &mut extras)?;
    terms.check_sources(&extras).map_err(|(field, why)| wrong(field, why))?;
    if let Some(own) = members.rest() {
        extras.meta = submit::meta(own.to_text())
            .map_err(|why| Refusal::new(400, format!("the properties of your own {why}")))?;
    }
    let extras = (*extras != Extras::default()).then_some(extras);
    Ok((Draft { sender, recipient, extras }, composed))
}

/// Two ways of saying the same, which may differ.
const TWICE: &str = "is also given by a header of the message";

/// How one property changes the wishes.
type Reader = fn(Json, &mut Extras) -> Result<(), Why>;

const WISHES: [(&str, Reader); 9] = [
    ("ips", read_ips),
    ("pool", |value, extras| once(&mut extras.pool, submit::mark(&text(value)?)?)),
    ("tags", read_tags),
    ("maxdelivertime", |value, extras| once(&mut extras.expires, control_time(&text(value)?).map_err(is)?)),
    ("maxattempts", |value, extras| {
        let attempts = whole(&value, 1, u16::MAX.into())?;
        once(&mut extras.max_attempts, u16::try_from(attempts).expect("it is within these bounds"))
    }),
    ("retries", read_retries),
    ("security", read_security),
    ("nextattempt", |value, extras| {
        let mut members = Members::of(value)?;
        let time = members.take("time").ok_or("must have a `time`")?;
        none_left(&members)?;
        let time = text(time).map_err(|why| format!("has a `time` that {why}"))?;
        once(&mut extras.not_before, control_time(&time).map_err(|why| format!("has a `time` that is {why}"))?)
    }),
    ("smarthost", read_smarthost),
];

fn read_wishes(members: &mut Members, extras: &mut Extras) -> Result<(), Refusal> {
    for (name, read) in WISHES {
        if let Some(value) = members.take(name) {
            read(value, extras).map_err(|why| wrong(name, why))?;
        }
    }
    Ok(())
}

fn is(why: &'static str) -> Why {
    format!("is {why}")
}

fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Why> {
    if slot.replace(value).is_some() { Err(TWICE.to_owned()) } else { Ok(()) }
}

fn none_left(members: &Members) -> Result<(), Why> {
    members.left().map_or(Ok(()), |name| Err(format!("has a member `{name}`, which is not supported")))
}

fn read_ips(value: Json, extras: &mut Extras) -> Result<(), Why> {
    for item in array(value)? {
        let given = text(item).map_err(|_| "must be an array of strings")?;
        extras.ips.push(given.parse().map_err(|_| format!("holds {given:?}, which is no IP address"))?);
    }
    submit::count(extras.ips.len())
}

fn read_tags(value: Json, extras: &mut Extras) -> Result<(), Why> {
    for item in array(value)? {
        let given = text(item).map_err(|_| "must be an array of strings")?;
        extras.tags.push(submit::mark(&given).map_err(|why| format!("holds a tag that {why}"))?);
    }
    submit::count(extras.tags.len())
}

fn read_retries(value: Json, extras: &mut Extras) -> Result<(), Why> {
    if !extras.retries.is_empty() {
        return Err(TWICE.to_owned());
    }
    for item in array(value)? {
        extras.retries.push(whole(&item, 1, u32::MAX).map_err(|_| "must be an array of seconds, each 1 at least")?);
    }
    submit::count(extras.retries.len())
}

/// TLS is the configuration's to decide, by `[[limit]]`. Its default is what `optional` and `opportunistic` ask for,
/// and a stricter one does no harm to a message; more than that cannot be promised to one message.
fn read_security(value: Json, _: &mut Extras) -> Result<(), Why> {
    match &*text(value)? {
        "optional" | "opportunistic" => Ok(()),
        "required" | "verified" => Err("above opportunistic is not supported for single messages".to_owned()),
        _ => Err("must be optional, opportunistic, required or verified".to_owned()),
    }
}

fn read_smarthost(value: Json, extras: &mut Extras) -> Result<(), Why> {
    let mut members = Members::of(value)?;
    let name = members.take("hostname").ok_or("must have a `hostname`")?;
    let port = members.take("port");
    none_left(&members)?;
    let name = text(name).map_err(|why| format!("has a `hostname` that {why}"))?;
    let mut host = control_host(&name).map_err(|why| format!("has a `hostname` that is {why}"))?;
    if host.is_empty() {
        return Err("must have a `hostname`".to_owned());
    }
    if let Some(port) = port {
        let port = whole(&port, 1, u16::MAX.into()).map_err(|why| format!("has a `port` that {why}"))?;
        host = format!("{host}:{port}").into();
    }
    once(&mut extras.smarthost, host)
}

#[cfg(test)]
#[path = "inject_tests.rs"]
mod tests;
