//! `GET /api/check-liveness/v1`: whether this process is to be sent mail. Open to anyone, and says no more
//! than that.

use super::Call;
use crate::http::{Refusal, Response};
use mailrace_shards::spool::report::Refusal as SpoolRefusal;

/// 200 `OK`, or 503 with the reason.
///
/// # Errors
/// The 503.
pub async fn check(call: Call<'_>) -> Result<Response, Refusal> {
    let api = call.api;
    if api.control.stopping() {
        return Err(not_now("stopping"));
    }
    if let Some(core) = api.monitor.stalled() {
        return Err(not_now(format!("shard {core} has not turned lately")));
    }
    let refusing =
        api.monitor.reports().into_iter().enumerate().find_map(|(core, of)| Some((core, of.spool_refusing?)));
    match refusing {
        Some((core, SpoolRefusal::Failing)) => {
            return Err(not_now(format!("the spool of shard {core} cannot be written; new mail is refused")));
        }
        Some((core, SpoolRefusal::LowSpace)) => {
            return Err(not_now(format!("the disk of shard {core}'s spool is nearly full; new mail is refused")));
        }
        None => {}
    }
    let failing = api.monitor.reports().iter().position(|report| report.log_failing.is_some());
    match failing {
        // The error itself names files; that is for the operator's eyes, in the log and in /metrics' scope.
        Some(core) => {
            Err(not_now(format!("the outcome log of shard {core} cannot be written; deliveries stand still")))
        }
        None => Ok(Response::text(200, "OK")),
    }
}

fn not_now(why: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::unavailable(why, 5)
}
