//! `/v1/externalmtas`: our public addresses that are reached through a NAT or a proxy.

use super::{created, fields, removed};
use crate::api::desk::{Ask, Desk, refusal};
use crate::api::fields::Wrong;
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::change::{ExternalMta, Request as Change};
use crate::rules::store::Store;
use std::rc::Rc;

/// `GET`.
pub async fn list(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let all = desk.authority.read(Store::external_mtas).await.map_err(refusal)?;
    Ok(Response::json(200, &Json::Array(all.iter().map(ExternalMta::to_json).collect())))
}

/// `POST`. An existing public address is overwritten.
pub async fn post(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let protocol = fields.parsed("protocol", |text| {
        let known = ["nat", "socks", "http"].into_iter().find(|name| text.eq_ignore_ascii_case(name));
        known.ok_or_else(|| "must be nat, socks or http".to_owned())
    })?;
    let protocol = protocol.unwrap_or("nat");
    if protocol != "nat" {
        // Stored and not carried out, mail would leave from an address that its owner thinks hidden.
        return Err(
            Wrong::Value("protocol", format!("is {protocol}, which is not carried out yet; only nat is")).into()
        );
    }
    // A client without a port to name sends 0.
    let connect_port = fields.number("connect_port", 0..=65_535)?.filter(|port| *port != 0);
    let mta = ExternalMta {
        public_ip: fields.ip("public_ip")?.ok_or(Wrong::Missing("public_ip"))?,
        local_ip: fields.ip("local_ip")?.ok_or(Wrong::Missing("local_ip"))?,
        connect_ip: fields.ip("connect_ip")?,
        connect_port,
        protocol: protocol.into(),
    };
    fields.finish()?;
    let id = mta.public_ip.to_string();
    let changed = desk.change(&ask.by, Change::PutExternalMta(mta)).await?;
    Ok(created(&id, &changed))
}

/// `DELETE` by public address.
pub async fn delete(desk: &Rc<Desk>, mut ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let public_ip = fields.ip("public_ip")?.ok_or(Wrong::Missing("public_ip"))?;
    for ignored in ["local_ip", "connect_ip", "connect_port", "protocol"] {
        let _ = fields.raw(ignored);
    }
    fields.finish()?;
    Ok(removed(&desk.change(&ask.by, Change::RemoveExternalMta(public_ip)).await?))
}
