//! HTTP/1 for the control core: octets to [`Request`], [`Response`] to octets, and the connections between.
//! Knows nothing of mail, rules or tokens: what a request means is the [`Service`]'s question.
//!
//! | file | what it is |
//! |---|---|
//! | `parse` | a request's head, strictly; the one door to httparse |
//! | `framing` | where a request's body ends |
//! | `body` | takes Content-Length and chunked bodies apart |
//! | `inflate` | gzip and deflate, bounded |
//! | `form`, `media` | query strings, forms, media types |
//! | `render` | a response's head |
//! | `wire`, `incoming`, `connection`, `server` | what waits: the socket, a body on its way, one peer, all peers |

mod body;
mod connection;
pub mod form;
mod framing;
#[cfg(test)]
mod fuzz_tests;
mod head;
mod incoming;
mod inflate;
pub mod limits;
pub mod media;
mod parse;
mod refusal;
mod render;
mod request;
mod response;
mod server;
mod wire;

pub use head::{Headers, Method, Version};
pub use refusal::Refusal;
#[cfg(test)]
pub use request::Body;
pub use request::Request;
#[cfg(test)]
pub use request::test_request;
pub use response::{Chunk, Content, Response, Stream};
pub use server::{Server, Statistics, network_of};

use mailrace_shards::runtime::tls::ServerTls;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

/// Something that is waited for on the control core.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What answers requests.
pub trait Service: 'static {
    /// Answers one. It may wait, but must bound how long; what it leaves of the body is thrown away. A panic
    /// in it answers 500 and ends the connection, nothing else.
    fn answer<'a>(self: &'a Rc<Self>, request: &'a mut Request) -> Waiting<'a, Response>;

    /// The answer to a request that was not understood and never reached [`Service::answer`]. `path` is what it seems to
    /// ask for, empty where that is not to be seen.
    fn refuse(&self, path: &str, refusal: &Refusal) -> Response;

    /// The certificate, when TLS is spoken. Asked for each connection, so it can be replaced.
    fn tls(&self) -> Option<Arc<ServerTls>>;
}
