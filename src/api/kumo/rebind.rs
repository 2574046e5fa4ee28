//! `/api/admin/rebind/v1`: of KumoMTA's rebinding, what moves no mail between queues: `always_flush` makes the
//! matching mail due now.

use super::{criteria, fields, reason, wrong_shape};
use crate::api::Call;
use crate::api::fields::Wrong;
use crate::http::{Refusal, Response};
use crate::json::Json;
use mailrace_shards::event::Question;

/// `POST`
pub async fn post(call: Call<'_>) -> Result<Response, Refusal> {
    let cores = call.api.cores.clone();
    let (_, mut ask) = call.at_desk()?;
    ask.query(&[])?;
    let fields = fields(&mut ask).await?;
    let read = || -> Result<_, Wrong> {
        let scope = criteria(&fields)?;
        reason(&fields)?;
        match fields.raw("data") {
            None | Some(Json::Null) => {}
            Some(Json::Object(members)) if members.is_empty() => {}
            Some(_) => {
                let why = "is not carried out yet: messages keep their campaign, tenant and routing domain";
                return Err(Wrong::Value("data", why.to_owned()));
            }
        }
        if fields.boolean("trigger_rebind_event")?.unwrap_or(false) {
            let why = "is not carried out: there are no events here".to_owned();
            return Err(Wrong::Value("trigger_rebind_event", why));
        }
        // A flush makes no record, so there is nothing to suppress.
        fields.boolean("suppress_logging")?;
        let flush = fields.boolean("always_flush")?.unwrap_or(false);
        fields.finish()?;
        Ok((scope, flush))
    };
    let (scope, flush) = read().map_err(wrong_shape)?;
    if flush {
        // What earlier runs left and is not there yet is queued mail, too.
        let found = cores.recovery().is_some();
        let answers = cores.ask(Question::Flush { scope, found }).await;
        if answers.missing > 0 {
            return Err(Refusal::unavailable("a shard did not answer in time; some mail may be due already", 1));
        }
    }
    Ok(Response::json(200, &Json::object([])))
}
