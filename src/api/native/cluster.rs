//! `/v1/cluster`: the engines that share their rules.

use crate::api::desk::{Ask, Desk, refusal};
use crate::cluster::Cluster;
use crate::http::{Refusal, Response};
use crate::json::Json;
use crate::rules::authority::Failure;
use mailrace_shards::runtime::control::Control;
use std::rc::Rc;

/// `GET /v1/cluster`.
pub async fn show(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let (cluster, _) = cluster(desk)?;
    Ok(Response::json(200, &cluster.status().to_json()))
}

/// `DELETE /v1/cluster/nodes/NODE`: calls wait for it no longer. Only of a node that is not there.
pub async fn forget(desk: &Rc<Desk>, ask: Ask<'_>) -> Result<Response, Refusal> {
    ask.query(&[])?;
    let (cluster, control) = cluster(desk)?;
    let node = ask.parameters.first().map_or("", String::as_str);
    match cluster.forget(control, node, desk.origin(&ask.by)).await {
        Ok(changed) => Ok(Response::json(200, &Json::object([("removed", Some(changed.removed.into()))]))),
        Err(Failure::Refused(refused)) => Err(Refusal::new(409, refused.text)),
        Err(failure) => Err(refusal(failure)),
    }
}

fn cluster(desk: &Desk) -> Result<&(Cluster, Control), Refusal> {
    let none = "this engine is in no cluster; [cluster] in its configuration puts it into one";
    desk.cluster.as_ref().ok_or_else(|| Refusal::new(404, none))
}
