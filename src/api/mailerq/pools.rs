//! `/v1/pools` and `/v1/poolips`: pools of own addresses. Those of the configuration file are shown and not changed.

use super::{created, fields, removed};
use crate::api::desk::{Ask, ConfiguredPools, Desk, refusal};
use crate::api::fields::{Fields, Wrong};
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::change::{Pool, PoolIp, Request as Change};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// Octets of a pool's name.
const NAME_BYTES_MAX: usize = 100;

/// `GET /v1/pools`.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let configured = desk.configured.current();
    let origin = Json::from(configured.file.as_str());
    let of_file = configured
        .pools
        .iter()
        .map(|(name, _)| Json::object([("name", Some(Json::from(name))), ("configured_in", Some(origin.clone()))]));
    let made = desk.authority.read(crate::rules::store::Store::pools).await.map_err(refusal)?;
    let open = made.iter().filter(|pool| !is_configured(&configured, &pool.name));
    Ok(Response::json(200, &Json::Array(of_file.chain(open.map(Pool::to_json)).collect())))
}

/// `POST /v1/pools`.
pub async fn post(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let name = name(&fields)?.ok_or(Wrong::Missing("name"))?;
    let description = fields.words("description")?;
    fields.finish()?;
    writable(desk, &name)?;
    let changed = desk.change(&ask.by, Change::PutPool(Pool { name: name.clone(), description })).await?;
    Ok(created(&name, &changed))
}

/// `DELETE /v1/pools`: the pool and its membership.
pub async fn delete(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let name = name(&fields)?.ok_or(Wrong::Missing("name"))?;
    let _ = fields.raw("description");
    fields.finish()?;
    writable(desk, &name)?;
    Ok(removed(&desk.change(&ask.by, Change::RemovePool(name)).await?))
}

/// `GET /v1/poolips`, of one pool or of all.
pub async fn list_ips(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    let query = ask.query(&["name"])?;
    let wanted: Option<Arc<str>> = query.get("name").map(Into::into);
    let configured = desk.configured.current();
    let mut members: Vec<Json> = Vec::new();
    for (pool, ips) in configured.pools.iter().filter(|(pool, _)| wanted.as_ref().is_none_or(|name| name == pool)) {
        members.extend(ips.iter().map(|ip| PoolIp { pool: pool.clone(), ip: *ip }.to_json()));
    }
    let made = desk.authority.read(move |store| store.pool_ips(wanted.as_deref())).await.map_err(refusal)?;
    let open = made.iter().filter(|member| !is_configured(&configured, &member.pool));
    members.extend(open.map(PoolIp::to_json));
    Ok(Response::json(200, &Json::Array(members)))
}

/// `POST /v1/poolips`. An address is in one pool at most: adding it elsewhere moves it.
pub async fn post_ip(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let pool = name(&fields)?.ok_or(Wrong::Missing("name"))?;
    let ip = ip(&fields)?;
    fields.finish()?;
    writable(desk, &pool)?;
    let changed = desk.change(&ask.by, Change::PutPoolIp(PoolIp { pool, ip })).await?;
    Ok(created(&ip.to_string(), &changed))
}

/// `DELETE /v1/poolips`: the address from the pool named, or from whichever it is in.
pub async fn delete_ip(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let pool = name(&fields)?;
    let ip = ip(&fields)?;
    fields.finish()?;
    if let Some(pool) = &pool {
        writable(desk, pool)?;
    }
    Ok(removed(&desk.change(&ask.by, Change::RemovePoolIp(pool, ip)).await?))
}

/// The documents call it `ip`, the product answers `localip`: either.
fn ip(fields: &Fields) -> Result<IpAddr, Wrong> {
    match (fields.ip("ip")?, fields.ip("localip")?) {
        (Some(one), Some(other)) if one != other => Err(Wrong::Value("localip", "is not the same as `ip`".to_owned())),
        (Some(ip), _) | (None, Some(ip)) => Ok(ip),
        (None, None) => Err(Wrong::Missing("ip")),
    }
}

fn name(fields: &Fields) -> Result<Option<Arc<str>>, Wrong> {
    fields.parsed("name", |name| {
        let fits = name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_whitespace);
        if fits { Ok(name.into()) } else { Err(format!("must be at most {NAME_BYTES_MAX} octets without spaces")) }
    })
}

fn is_configured(configured: &ConfiguredPools, name: &str) -> bool {
    configured.pools.iter().any(|(own, _)| **own == *name)
}

fn writable(desk: &Desk, name: &str) -> Result<(), Refusal> {
    let configured = desk.configured.current();
    if !is_configured(&configured, name) {
        return Ok(());
    }
    let text = format!("pool {name:?} is defined in {}; change it there", configured.file);
    Err(Refusal::of_field(409, "name", text))
}
