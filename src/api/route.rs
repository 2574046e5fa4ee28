//! From a method and a path to an endpoint. Paths are compared octet by octet: an escape or a further slash
//! makes another path, so that nobody in front of us can be told of one path and we of another.

use super::Endpoint;
use crate::http::{Method, Refusal, form};

/// The endpoint for `method` and `path`, and what stands in place of its parameters.
///
/// # Errors
/// 404; 405 with Allow; 400 for a parameter that cannot be decoded.
pub fn find<'a>(endpoints: &'a [Endpoint], method: Method, path: &str) -> Result<(&'a Endpoint, Vec<String>), Refusal> {
    let wanted = if method == Method::Head { Method::Get } else { method };
    let mut allowed = Vec::new();
    for endpoint in endpoints {
        let Some(parameters) = matched(endpoint.path, path) else { continue };
        if endpoint.method == wanted {
            let decoded: Result<Vec<_>, _> = parameters.iter().map(|text| form::decode(text, false)).collect();
            let decoded = decoded.map_err(|why| Refusal::new(400, format!("the path cannot be read: {why}")))?;
            return Ok((endpoint, decoded));
        }
        allowed.push(endpoint.method.as_str());
        if endpoint.method == Method::Get {
            allowed.push(Method::Head.as_str());
        }
    }
    if allowed.is_empty() {
        return Err(Refusal::new(404, "there is no such path"));
    }
    let allowed = allowed.join(", ");
    let text = format!("{method} is not allowed here; allowed: {allowed}");
    Err(Refusal { header: Some(("Allow", allowed)), ..Refusal::new(405, text) })
}

/// What stands in place of the pattern's parameters; `None` when the path is another one.
fn matched<'p>(pattern: &str, path: &'p str) -> Option<Vec<&'p str>> {
    let mut parameters = Vec::new();
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        let segment = segments.next()?;
        if expected.starts_with('{') {
            if segment.is_empty() {
                return None;
            }
            parameters.push(segment);
        } else if expected != segment {
            return None;
        }
    }
    if segments.next().is_some() { None } else { Some(parameters) }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, Endpoint};
    use super::find;
    use crate::http::{Method, Response};

    #[test]
    fn paths_lead_to_endpoints() {
        let endpoint = |method, path| Endpoint {
            method,
            path,
            needs: None,
            handler: |_: Call<'_>| Box::pin(async { Ok(Response::empty(200)) }),
        };
        let endpoints = [
            endpoint(Method::Get, "/v1/rules"),
            endpoint(Method::Post, "/v1/rules"),
            endpoint(Method::Get, "/v1/rules/{id}"),
            endpoint(Method::Post, "/v1/messages/{id}/retry"),
        ];
        for (method, path, expected) in [
            (Method::Get, "/v1/rules", "0 []"),
            (Method::Head, "/v1/rules", "0 []"),
            (Method::Post, "/v1/rules", "1 []"),
            (Method::Delete, "/v1/rules", "405 GET, HEAD, POST"),
            (Method::Get, "/v1/rules/a%2Fb", "2 [\"a/b\"]"),
            (Method::Get, "/v1/rules/a+b", "2 [\"a+b\"]"),
            (Method::Get, "/v1/rules/", "404 "),
            (Method::Get, "/v1/rules/a/", "404 "),
            (Method::Get, "/v1//rules", "404 "),
            (Method::Get, "/v1/%72ules", "404 "),
            (Method::Get, "/V1/rules", "404 "),
            (Method::Get, "/v1/rules/%zz", "400 "),
            (Method::Get, "/v1/rules/%ff", "400 "),
            (Method::Post, "/v1/messages/m1/retry", "3 [\"m1\"]"),
            (Method::Head, "/v1/messages/m1/retry", "405 POST"),
            (Method::Other, "/v1/rules/x", "405 GET, HEAD"),
            (Method::Options, "*", "404 "),
            (Method::Get, "/", "404 "),
        ] {
            let found = match find(&endpoints, method, path) {
                Ok((endpoint, parameters)) => {
                    let at = endpoints.iter().position(|other| std::ptr::eq(other, endpoint)).unwrap();
                    format!("{at} {parameters:?}")
                }
                Err(refusal) => format!("{} {}", refusal.status, refusal.header.map(|(_, v)| v).unwrap_or_default()),
            };
            assert_eq!(found, expected, "{method} {path}");
        }
    }
}
