//! The REST API: the one list of every endpoint, and the way to each: who asks, may they, is there such a
//! thing, then its handler. No handler decides who may call it.

mod auth;
mod common;
pub mod desk;
pub mod fields;
mod kumo;
mod liveness;
mod mailerq;
mod members;
mod metrics;
mod native;
mod route;
mod throttle;

pub use auth::Identity;

use crate::cores::Cores;
use crate::http::Method::{self, Delete, Get, Post};
use crate::http::form::Fields;
use crate::http::{Refusal, Request, Response, Service, Statistics, Waiting};
use crate::report;
use crate::submit::CurrentTerms;
use crate::token::{Scope, TokenSet};
use auth::Denied;
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::control::Control;
use mailrace_shards::runtime::engine::{Monitor, Recovery};
use mailrace_shards::runtime::mailbox::Postbox;
use mailrace_shards::runtime::submit::Submitter;
use mailrace_shards::runtime::tls::ServerTls;
use mailrace_shards::settings::Network;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};
use throttle::{Consequence, Failures};

/// In answers over queues that lack mail of earlier runs: how many messages, or that they are being searched for.
pub const RECOVERY_HEADER: &str = "Mailrace-Recovery";

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

impl Call<'_> {
    /// The query's fields, of which there may be these.
    ///
    /// # Errors
    /// 400 for any other, and for a query that cannot be read.
    pub fn query(&self, known: &[&str]) -> Result<Fields, Refusal> {
        self.request.query_of(known)
    }

    /// That the path says everything: for what is done to one thing and takes no fields.
    ///
    /// # Errors
    /// 400 for any field, since what is asked as a dry run must not be done.
    pub async fn takes_nothing(&mut self) -> Result<(), Refusal> {
        self.query(&[])?;
        desk::no_fields(self.request, self.api.live.current().max_body_bytes).await
    }
}

/// One thing that can be asked for.
pub struct Endpoint {
    /// HEAD is answered wherever GET is.
    pub method: Method,
    /// Exact; `{name}` stands for one segment.
    pub path: &'static str,
    /// What the token must allow; `None` is open to anyone.
    pub needs: Option<Scope>,
    /// Carries it out.
    pub handler: Handler,
}

/// A handler of rules: `async fn(&Rc<Desk>, Ask<'_>) -> Result<Response, Refusal>`.
macro_rules! at_desk {
    ($handler:path) => {
        |call| {
            Box::pin(async move {
                let (desk, ask) = call.at_desk()?;
                $handler(&desk, ask).await
            })
        }
    };
}

/// Every endpoint there is. A handler is written as an `async fn(Call<'_>) -> Result<Response, Refusal>`.
pub const ENDPOINTS: &[Endpoint] = &[
    endpoint(Get, "/api/check-liveness/v1", None, |call| Box::pin(liveness::check(call))),
    endpoint(Post, "/api/inject/v1", Some(Scope::Inject), |call| Box::pin(kumo::inject::inject(call))),
    endpoint(Get, "/metrics", Some(Scope::Read), |call| Box::pin(metrics::text(call))),
    endpoint(Get, "/metrics.json", Some(Scope::Read), |call| Box::pin(metrics::json(call))),
    endpoint(Get, "/v1/pauses", Some(Scope::Read), at_desk!(mailerq::pauses::list)),
    endpoint(Post, "/v1/pauses", Some(Scope::Control), at_desk!(mailerq::pauses::post)),
    endpoint(Delete, "/v1/pauses", Some(Scope::Control), at_desk!(mailerq::pauses::delete)),
    endpoint(Get, "/v1/errors", Some(Scope::Read), at_desk!(mailerq::errors::list)),
    endpoint(Post, "/v1/errors", Some(Scope::Control), at_desk!(mailerq::errors::post)),
    endpoint(Delete, "/v1/errors", Some(Scope::Control), at_desk!(mailerq::errors::delete)),
    endpoint(Get, "/v1/suppressions", Some(Scope::Read), at_desk!(mailerq::suppressions::list)),
    endpoint(Post, "/v1/suppressions", Some(Scope::Control), at_desk!(mailerq::suppressions::post)),
    endpoint(Delete, "/v1/suppressions", Some(Scope::Control), at_desk!(mailerq::suppressions::delete)),
    // MailerQ's documents misspell it once.
    endpoint(Get, "/v1/suppessions", Some(Scope::Read), at_desk!(mailerq::suppressions::list)),
    endpoint(Post, "/v1/suppessions", Some(Scope::Control), at_desk!(mailerq::suppressions::post)),
    endpoint(Delete, "/v1/suppessions", Some(Scope::Control), at_desk!(mailerq::suppressions::delete)),
    endpoint(Get, "/v1/pools", Some(Scope::Read), at_desk!(mailerq::pools::list)),
    endpoint(Post, "/v1/pools", Some(Scope::Control), at_desk!(mailerq::pools::post)),
    endpoint(Delete, "/v1/pools", Some(Scope::Control), at_desk!(mailerq::pools::delete)),
    endpoint(Get, "/v1/externalmtas", Some(Scope::Read), at_desk!(mailerq::external_mtas::list)),
    endpoint(Post, "/v1/externalmtas", Some(Scope::Control), at_desk!(mailerq::external_mtas::post)),
    endpoint(Delete, "/v1/externalmtas", Some(Scope::Control), at_desk!(mailerq::external_mtas::delete)),
    endpoint(Get, "/api/admin/suspend/v1", Some(Scope::Read), at_desk!(kumo::suspend::list)),
    endpoint(Post, "/api/admin/suspend/v1", Some(Scope::Control), at_desk!(kumo::suspend::post)),
    endpoint(Delete, "/api/admin/suspend/v1", Some(Scope::Control), at_desk!(kumo::suspend::delete)),
    endpoint(Get, "/api/admin/bounce/v1", Some(Scope::Read), at_desk!(kumo::bounce::list)),
    endpoint(Post, "/api/admin/bounce/v1", Some(Scope::Control), at_desk!(kumo::bounce::post)),
    endpoint(Delete, "/api/admin/bounce/v1", Some(Scope::Control), at_desk!(kumo::bounce::delete)),
    endpoint(Get, "/api/admin/suspend-ready-q/v1", Some(Scope::Read), at_desk!(kumo::suspend_ready_q::list)),
    endpoint(Post, "/api/admin/suspend-ready-q/v1", Some(Scope::Control), at_desk!(kumo::suspend_ready_q::post)),
    endpoint(Delete, "/api/admin/suspend-ready-q/v1", Some(Scope::Control), at_desk!(kumo::suspend_ready_q::delete)),
    endpoint(Get, "/v1/poolips", Some(Scope::Read), at_desk!(mailerq::pools::list_ips)),
    endpoint(Post, "/v1/poolips", Some(Scope::Control), at_desk!(mailerq::pools::post_ip)),
    endpoint(Delete, "/v1/poolips", Some(Scope::Control), at_desk!(mailerq::pools::delete_ip)),
    endpoint(Get, "/v1/rules", Some(Scope::Read), at_desk!(native::rules::list)),
    endpoint(Get, "/v1/rules/{id}", Some(Scope::Read), at_desk!(native::rules::get)),
    endpoint(Delete, "/v1/rules/{id}", Some(Scope::Control), at_desk!(native::rules::delete)),
    endpoint(Get, "/v1/cluster", Some(Scope::Read), at_desk!(native::cluster::show)),
    endpoint(Delete, "/v1/cluster/nodes/{node}", Some(Scope::Admin), at_desk!(native::cluster::forget)),
    endpoint(Get, "/v1/audit", Some(Scope::Read), at_desk!(native::audit::list)),
    endpoint(Post, "/api/admin/rebind/v1", Some(Scope::Control), |call| Box::pin(kumo::rebind::post(call))),
    endpoint(Get, "/api/admin/inspect-message/v1", Some(Scope::Read), |call| Box::pin(kumo::inspect::message(call))),
    endpoint(Get, "/api/admin/inspect-sched-q/v1", Some(Scope::Read), |call| {
        Box::pin(kumo::inspect::scheduled_queue(call))
    }),
    endpoint(Get, "/v1/queues", Some(Scope::Read), |call| Box::pin(native::queues::list(call))),
    endpoint(Get, "/v1/messages", Some(Scope::Read), |call| Box::pin(native::queues::messages(call))),
    endpoint(Get, "/v1/messages/{id}", Some(Scope::Read), |call| Box::pin(native::queues::one(call))),
    endpoint(Post, "/v1/messages/{id}/retry", Some(Scope::Control), |call| Box::pin(native::queues::retry(call))),
    endpoint(Post, "/v1/messages/{id}/cancel", Some(Scope::Control), |call| Box::pin(native::queues::cancel(call))),
    endpoint(Post, "/v1/inject", Some(Scope::Inject), |call| Box::pin(mailerq::inject::inject(call))),
];

const fn endpoint(method: Method, path: &'static str, needs: Option<Scope>, handler: Handler) -> Endpoint {
    Endpoint { method, path, needs, handler }
}

/// What the whole API shares. Belongs to the control core.
pub struct Api {
    /// Deadlines and waits.
    pub control: Control,
    /// What the cores say of themselves.
    pub monitor: Monitor,
    /// How they are asked.
    pub cores: Cores,
    /// How messages are handed to the cores.
    pub submitter: Submitter,
    /// How they are taken.
    pub terms: CurrentTerms,
    /// What a reload may change.
    pub live: Live,
    /// What the HTTP server has done.
    pub statistics: Rc<Statistics>,
    /// Where rules are changed.
    pub desk: Rc<desk::Desk>,
    failures: RefCell<Failures>,
}

/// How the API reaches the engine.
pub struct Reach {
    /// What the cores say of themselves.
    pub monitor: Monitor,
    /// How the cores are reached.
    pub postbox: Postbox,
    /// How messages are handed to them.
    pub submitter: Submitter,
    /// How messages are taken.
    pub terms: CurrentTerms,
}

impl Api {
    /// Over a running engine.
    #[must_use]
    pub fn new(control: Control, reach: Reach, live: Live, statistics: Rc<Statistics>, desk: Rc<desk::Desk>) -> Self {
        let Reach { monitor, postbox, submitter, terms } = reach;
        let cores = Cores::new(control.clone(), postbox, monitor.clone());
        Self { control, monitor, cores, submitter, terms, live, statistics, desk, failures: RefCell::default() }
    }

    async fn carry_out(self: &Rc<Self>, request: &mut Request) -> Result<Response, Refusal> {
        let found = route::find(ENDPOINTS, request.head.method, &request.head.path);
        let by = match &found {
            Ok((endpoint, _)) if endpoint.needs.is_none() => self.anybody(request),
            // Nobody learns from a 404 which paths there are.
            _ => self.identify(request).await?,
        };
        let (endpoint, parameters) = found?;
        if let Some(needed) = endpoint.needs.filter(|needed| !by.scope.allows(*needed)) {
            let text =
                format!("this takes a token with the scope `{needed}`; `{}` has the scope `{}`", by.name, by.scope);
            return Err(Refusal::new(403, text));
        }
        // As of before the cores are asked: what is over while they are may have been so for some of them only.
        let recovery = self.cores.recovery().filter(|_| endpoint.needs.is_some_and(|needed| needed != Scope::Inject));
        let mut response = (endpoint.handler)(Call { api: self, by, parameters, request }).await?;
        if let Some(Recovery { left }) = recovery {
            let left = left.map_or_else(|| "searching".to_owned(), |left| format!("{left} left"));
            response.headers.push((RECOVERY_HEADER, left));
        }
        Ok(response)
    }

    fn anybody(&self, request: &Request) -> Identity {
        Identity { name: "(anybody)".into(), scope: Scope::Read, peer: request.peer }
    }

    async fn identify(&self, request: &Request) -> Result<Identity, Refusal> {
        let text = match auth::identify(&self.live.current(), request) {
            Ok(identity) => return Ok(identity),
            Err(Denied::Browser(refusal)) => return Err(refusal),
            Err(Denied::Missing) => "this takes a token: Authorization: Bearer TOKEN",
            Err(Denied::Wrong) => {
                let Consequence { wait, telling } =
                    self.failures.borrow_mut().note(request.peer.ip(), clock::now().instant);
                if let Some(count) = telling {
                    let peer = request.peer.ip();
                    report::warning(&format!("{peer} has shown {count} wrong tokens to the REST API lately"));
                }
                self.control.sleep(wait).await;
                "no such token"
            }
        };
        Err(Refusal { header: Some(("WWW-Authenticate", "Bearer".to_owned())), ..Refusal::new(401, text) })
    }
}

impl<'a> Call<'a> {
    /// For handlers of rules, which need less.
    fn at_desk(self) -> Result<(Rc<desk::Desk>, desk::Ask<'a>), Refusal> {
        let body_max = self.api.live.current().max_body_bytes;
        let Self { api, by, parameters, request } = self;
        let by = desk::Caller::of(by, request)?;
        Ok((api.desk.clone(), desk::Ask { by, parameters, request, body_max }))
    }
}

impl Service for Api {
    fn answer<'a>(self: &'a Rc<Self>, request: &'a mut Request) -> Waiting<'a, Response> {
        Box::pin(async {
            let result = self.carry_out(request).await;
            result.unwrap_or_else(|refusal| self.refuse(&request.head.path, &refusal))
        })
    }

    /// The dialect of refusals goes by the path alone, so that it is right where there is no endpoint, and no request.
    fn refuse(&self, path: &str, refusal: &Refusal) -> Response {
        if path.starts_with("/v1/") { refusal.to_json() } else { refusal.to_text() }
    }

    fn tls(&self) -> Option<Arc<ServerTls>> {
        self.live.current().tls.clone()
    }
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
    /// Our own name.
    pub hostname: Arc<str>,
    /// The API's certificate, when it speaks TLS.
    pub tls: Option<Arc<ServerTls>>,
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
