//! The REST API: the one list of every endpoint, and the way to each: who asks, may they, is there such a
//! thing, then its handler. No handler decides who may call it.

mod auth;
mod liveness;
mod metrics;
mod route;
mod throttle;

pub use auth::Identity;

use crate::http::{Refusal, Request, Response, Service, Waiting};
use crate::token::{Scope, TokenSet};
use mailrace_shards::runtime::engine::Monitor;
use mailrace_shards::settings::Network;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};

/// What a handler returns in time: an answer, or why not.
pub type Answer<'a> = Waiting<'a, Result<Response, Refusal>>;

/// Carries out one kind of request.
pub type Handler = for<'a> fn(Call<'a>) -> Answer<'a>;

/// One request, on its way to its handler.
pub struct Call<'a> {
    /// Everything that handlers need of the engine.
    pub api: &'a Rc<Api>,
    /// Who asks; recorded with each change.
    pub by: Identity,
    /// What stood in place of each `{name}` of the path, decoded, in that order.
    pub parameters: Vec<String>,
    /// The request.
    pub request: &'a mut Request,
}

/// One thing that can be asked for.
pub struct Endpoint {
    /// HEAD is answered wherever GET is.
    pub method: crate::http::Method,
    /// Exact; `{name}` stands for one segment.
    pub path: &'static str,
    /// What the token must allow; `None` is open to anyone.
    pub needs: Option<Scope>,
    /// Carries it out.
    pub handler: Handler,
}

/// What the whole API shares. Belongs to the control core.
pub struct Api {
    /// Deadlines and waits.
    pub control: mailrace_shards::runtime::control::Control,
    /// What the cores say of themselves.
    pub monitor: Monitor,
    /// What a reload may change.
    pub live: Live,
    failures: RefCell<throttle::Failures>,
}

/// What other threads replace while the API runs.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<RwLock<Arc<Current>>>);

/// What is in force now.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// Who may ask what.
    pub tokens: TokenSet,
    /// Peers that need no token.
    pub trusted_hosts: Vec<Network>,
    /// Octets of one request's body, unless its endpoint says otherwise.
    pub max_body_bytes: usize,
    /// Octets of one message.
    pub max_message_bytes: usize,
    /// Our own name.
    pub hostname: Arc<str>,
}

impl Live {
    /// What is in force now. One request should ask once.
    #[must_use]
    pub fn current(&self) -> Arc<Current> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes it for the requests that come from now on.
    pub fn change(&self, change: impl FnOnce(&mut Current)) {
        let mut slot = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(Arc::make_mut(&mut slot));
    }
}

// An endpoint is written thus:
//     Endpoint { method: Method::Get, path: "/v1/rules/{id}", needs: Some(Scope::Read), handler: |call| Box::pin(rules::one(call)) }
// with
//     pub async fn one(call: Call<'_>) -> Result<Response, Refusal> { … }
