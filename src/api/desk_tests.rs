//! Both dialects against requests and answers kept as data (`tests/data/api`), over a real store and cores that keep
//! real rule tables.
//!
//! In an answer, `"*"` stands for anything and `"$NAME"` for something that later steps may name; a text may end in `*`.

use super::{Caller, Configured, Desk};
use crate::api::{Identity, desk::Ask, kumo, mailerq, native};
use crate::http::{Body, Chunk, Content, Headers, Method, Refusal, Request, Response, test_request};
use crate::json::{self, Json};
use crate::rules::authority::{self, Authority, Cores};
use crate::rules::pools::ApiPools;
use crate::rules::preview::{Census, Counting, Matched, RuleCounts};
use crate::rules::store::Store;
use crate::test_directory::TestDirectory;
use crate::token::Scope;
use crossbeam::channel::Sender;
use futures_lite::future::block_on;
use mailrace_shards::message::CoreId;
use mailrace_shards::rules::{HashKey, Rule, RuleTable, Update};
use mailrace_shards::runtime::clock;
use mailrace_shards::time::{Now, Timestamp};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[path = "desk_tests/fuzz.rs"]
mod fuzz;

const CORES: usize = 3;
const KEY: HashKey = HashKey(1, 2);

/// 2026-03-01 12:00:00 UTC, a Sunday.
const NOON: Timestamp = Timestamp(1_772_366_400_000);

fn noon() -> Now {
    Now { utc: NOON, ..clock::now() }
}

/// Cores that apply at once, as real ones do; those in `silent` never answer.
#[derive(Clone)]
struct Tables {
    tables: Arc<Mutex<Vec<RuleTable>>>,
    silent: Arc<Mutex<Vec<u16>>>,
    pools: Arc<Mutex<ApiPools>>,
}

impl Tables {
    fn new(updates: Vec<Vec<Update>>) -> Self {
        let fill = |updates: Vec<Update>| {
            let mut table = RuleTable::new(KEY);
            updates.into_iter().for_each(|update| table.apply(update, NOON).unwrap());
            table
        };
        let tables = updates.into_iter().map(fill).collect();
        Self { tables: Arc::new(Mutex::new(tables)), silent: Arc::default(), pools: Arc::default() }
    }

    /// Rules and suppressions of each core.
    fn sizes(&self) -> Vec<(usize, usize)> {
        self.tables.lock().unwrap().iter().map(|table| (table.len(), table.suppressions().len())).collect()
    }
}

impl Cores for Tables {
    fn post(&self, core: CoreId, update: Arc<Update>, applied: &Sender<(CoreId, u64)>) {
        if self.silent.lock().unwrap().contains(&core.0) {
            return;
        }
        let mut tables = self.tables.lock().unwrap();
        let table = &mut tables[usize::from(core.0)];
        table.apply((*update).clone(), NOON).unwrap();
        applied.send((core, table.epoch())).unwrap();
    }

    fn pools(&self, pools: ApiPools) {
        *self.pools.lock().unwrap() = pools;
    }
}

/// Knows of 7 recipients of `busy.test`, of which 2 are held, and of what each rule did.
struct Busy;

impl Census for Busy {
    fn matched<'a>(&'a self, rule: &'a Rule, _: Duration) -> Counting<'a, Matched> {
        let busy = rule.scope.domain.as_deref().is_none_or(|domain| domain == "busy.test");
        let matched = Matched {
            matched: 7,
            in_flight: 1,
            held: 2,
            first_expiry: Some(Timestamp(NOON.0 + 3_600_000)),
            destinations: vec![("busy.test".to_owned(), 7)],
            queues: vec![("c:t@busy.test".to_owned(), 4), ("busy.test".to_owned(), 2)],
            counting: false,
        };
        Box::pin(std::future::ready(if busy { matched } else { Matched::default() }))
    }

    fn rule_counts<'a>(&'a self, ids: &'a [Arc<str>]) -> Counting<'a, HashMap<Arc<str>, RuleCounts>> {
        let counts =
            RuleCounts { held: 4, ended: 5, first_expiry: None, ended_by_queue: vec![("c:t@b.test".into(), 5)] };
        Box::pin(std::future::ready(ids.iter().map(|id| (id.clone(), counts.clone())).collect()))
    }
}

struct World {
    desk: Rc<Desk>,
    cores: Tables,
    /// Dropped last, after the thread has ended.
    thread: Thread,
    directory: TestDirectory,
}

/// Ends the rules' thread when dropped.
struct Thread(Authority, Option<std::thread::JoinHandle<()>>);

impl Drop for Thread {
    fn drop(&mut self) {
        self.0.stop();
        let ended = self.1.take().unwrap().join();
        assert!(ended.is_ok() || std::thread::panicking());
    }
}

impl World {
    fn new(name: &str, census: Box<dyn Census>) -> Self {
        Self::at(TestDirectory::new(name), census, noon)
    }

    fn at(directory: TestDirectory, census: Box<dyn Census>, clock: fn() -> Now) -> Self {
        let store = Store::open(directory.path()).unwrap();
        let mut prepared = authority::prepare(store, CORES, KEY, Arc::new(|_| 1)).unwrap();
        let mut updates = vec![Vec::new(); CORES];
        prepared.read(clock(), |core, update| updates[usize::from(core.0)].push(update)).unwrap();
        let cores = Tables::new(updates);
        let within = Duration::from_millis(300);
        let (authority, thread) = authority::start(prepared, cores.clone(), "node-1".into(), clock, within).unwrap();
        let configured = Configured::default();
        let thread = Thread(authority.clone(), Some(thread));
        let desk = Rc::new(Desk { authority, census, configured, clock, cluster: None });
        Self { directory, desk, cores, thread }
    }

    fn authority(&self) -> &Authority {
        &self.desk.authority
    }

    /// The same after a restart.
    fn again(self) -> Self {
        let Self { directory, thread, .. } = self;
        drop(thread);
        Self::at(directory, Box::new(Busy), noon)
    }

    fn ask(&self, line: &str, content_type: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let (method, target) = line.split_once(' ').unwrap();
        let path = target.split('?').next().unwrap();
        let method = [Method::Get, Method::Post, Method::Delete].into_iter().find(|m| m.as_str() == method).unwrap();
        let mut request = test_request(method, target, Body::of(body));
        request.head.headers = Headers::of(&[("Content-Type", content_type), ("Accept", content_type)]);
        request.peer = "192.0.2.77:4000".parse().unwrap();
        let response = block_on(self.dispatch(method, path, &mut request));
        let response = response
            .unwrap_or_else(|refusal| if path.starts_with("/v1/") { refusal.to_json() } else { refusal.to_text() });
        let content_type = response.content_type.unwrap_or_default().to_owned();
        (response.status, content_type, octets(response.content))
    }

    async fn dispatch(&self, method: Method, path: &str, request: &mut Request) -> Result<Response, Refusal> {
        let by = Identity { name: "ops".into(), scope: Scope::Control, peer: request.peer };
        let by = Caller::of(by, request)?;
        let id = path.strip_prefix("/v1/rules/").map(str::to_owned);
        let parameters = id.iter().cloned().collect();
        let ask = Ask { by, parameters, request, body_max: 1 << 20 };
        let desk = &self.desk;
        macro_rules! at {
            ($module:path) => {{
                use $module as handlers;
                match method {
                    Method::Get => handlers::list(desk, ask).await,
                    Method::Post => handlers::post(desk, ask).await,
                    _ => handlers::delete(desk, ask).await,
                }
            }};
        }
        match path {
            "/v1/pauses" => at!(mailerq::pauses),
            "/v1/errors" => at!(mailerq::errors),
            "/v1/suppressions" => at!(mailerq::suppressions),
            "/v1/pools" => at!(mailerq::pools),
            "/v1/externalmtas" => at!(mailerq::external_mtas),
            "/api/admin/suspend/v1" => at!(kumo::suspend),
            "/api/admin/bounce/v1" => at!(kumo::bounce),
            "/api/admin/suspend-ready-q/v1" => at!(kumo::suspend_ready_q),
            "/v1/poolips" => match method {
                Method::Get => mailerq::pools::list_ips(desk, ask).await,
                Method::Post => mailerq::pools::post_ip(desk, ask).await,
                _ => mailerq::pools::delete_ip(desk, ask).await,
            },
            "/v1/rules" => native::rules::list(desk, ask).await,
            "/v1/audit" => native::audit::list(desk, ask).await,
            "/v1/cluster" => native::cluster::show(desk, ask).await,
            "/v1/cluster/nodes/b" => native::cluster::forget(desk, ask).await,
            _ if id.is_some() && method == Method::Get => native::rules::get(desk, ask).await,
            _ if id.is_some() => native::rules::delete(desk, ask).await,
            _ => panic!("no such path: {path}"),
        }
    }
}

fn octets(content: Content) -> Vec<u8> {
    match content {
        Content::Full(octets) => octets,
        Content::Stream(mut stream) => {
            let mut all = Vec::new();
            loop {
                match block_on(stream.next()) {
                    Chunk::Octets(octets) => all.extend(octets),
                    Chunk::End => return all,
                    Chunk::Broken(why) => panic!("{why}"),
                }
            }
        }
    }
}

/// Whether `found` is what `expected` describes; names are bound on the way.
fn matches(expected: &Json, found: &Json, names: &mut HashMap<String, String>) -> bool {
    match (expected, found) {
        (Json::Text(pattern), _) if pattern == "*" => true,
        (Json::Text(pattern), Json::Text(text)) if pattern.starts_with('$') => {
            *names.entry(pattern.clone()).or_insert_with(|| text.clone()) == *text
        }
        (Json::Text(pattern), Json::Text(text)) => text_matches(pattern, text),
        (Json::Array(expected), Json::Array(found)) => {
            expected.len() == found.len() && expected.iter().zip(found).all(|(e, f)| matches(e, f, names))
        }
        (Json::Object(expected), Json::Object(found)) => {
            expected.len() == found.len()
                && expected.iter().zip(found).all(|((name, e), (own, f))| name == own && matches(e, f, names))
        }
        _ => expected == found,
    }
}

fn text_matches(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |start| text.starts_with(start))
}

fn play(file: &Path) {
    let document: toml::Table = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let mut world = World::new(&format!("api-{}", file.file_stem().unwrap().to_str().unwrap()), Box::new(Busy));
    let mut names: HashMap<String, String> = HashMap::new();
    let configured = crate::config::parse(
        Path::new("mailrace.toml"),
        "[[source]]\nname = \"ip-1\"\naddress = \"192.0.2.10\"\n[[pool]]\nname = \"fixed\"\nsources = [{ name = \"ip-1\" }]\n",
        &crate::config::Overrides::default(),
        &crate::machine::Machine::detect(),
    );
    let settings = configured.unwrap().settings;
    world.desk.configured.set("mailrace.toml", &settings);
    for (number, step) in document["step"].as_array().unwrap().iter().enumerate() {
        let text = |key: &str, default: &'static str| step.get(key).map_or(default, |value| value.as_str().unwrap());
        let fill = |text: &str, names: &HashMap<String, String>| {
            names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name.as_str(), value))
        };
        if step.get("restart").is_some() {
            world = world.again();
            world.desk.configured.set("mailrace.toml", &settings);
            continue;
        }
        let request = fill(text("request", ""), &names);
        let body = fill(text("body", ""), &names);
        let (status, content_type, answer) = world.ask(&request, text("type", "application/json"), body.as_bytes());
        let answer = String::from_utf8(answer).unwrap();
        let place = format!("{}, step {}: {request} {body}", file.display(), number + 1);
        assert_eq!(i64::from(status), step["status"].as_integer().unwrap(), "{place}\n{answer}");
        let expected = fill(text("answer", "*"), &names);
        if content_type == "application/json" {
            let found = json::parse(answer.as_bytes()).unwrap_or_else(|error| panic!("{place}: {answer}: {error}"));
            let expected = if expected == "*" { Json::from("*") } else { json::parse(expected.as_bytes()).unwrap() };
            assert!(
                matches(&expected, &found, &mut names),
                "{place}\nexpected {}\nfound    {answer}",
                expected.to_text()
            );
        } else {
            assert!(text_matches(expected.trim_end_matches('\n'), answer.trim_end_matches('\n')), "{place}\n{answer}");
        }
    }
}

fn play_all(prefix: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/api");
    let mut files: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.retain(|file| file.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    assert!(!files.is_empty());
    files.iter().for_each(|file| play(file));
}

#[test]
fn mailerq_dialect() {
    play_all("mailerq-");
}

#[test]
fn kumomta_dialect() {
    play_all("kumo-");
}

#[test]
fn native_calls() {
    play_all("native-");
}

#[test]
fn rules_reach_the_cores_concerned_before_the_answer_and_after_a_restart() {
    let world = World::new("reach", Box::new(Busy));
    let json = "application/json";
    assert_eq!(world.ask("POST /v1/pauses", json, br#"{"tag":"t"}"#).0, 200);
    assert_eq!(world.cores.sizes(), [(1, 0); CORES]);
    assert_eq!(world.ask("POST /v1/pauses", json, br#"{"domain":"one.test"}"#).0, 200);
    let entry = br#"{"value":"u@one.test","type":"address","code":550}"#;
    assert_eq!(world.ask("POST /v1/suppressions", json, entry).0, 200);
    let sizes = world.cores.sizes();
    assert_eq!(sizes.iter().map(|(rules, _)| rules).sum::<usize>(), CORES + 1, "a domain's rule is on one core");
    assert_eq!(sizes.iter().map(|(_, suppressions)| suppressions).sum::<usize>(), 1);
    let world = world.again();
    assert_eq!(world.cores.sizes(), sizes, "in force before anything is delivered");
    assert_eq!(world.ask("DELETE /v1/pauses", json, br#"{"tag":"t"}"#).0, 200);
    assert_eq!(world.cores.sizes().iter().map(|(rules, _)| rules).sum::<usize>(), 1);
}

#[test]
fn a_silent_core_makes_it_503_and_the_rule_is_stored() {
    let world = World::new("silent", Box::new(Busy));
    world.cores.silent.lock().unwrap().push(1);
    let json = "application/json";
    let (status, _, answer) = world.ask("POST /v1/pauses", json, br#"{"tag":"t"}"#);
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(status, 503);
    assert!(answer.contains("is stored, but not yet in force on shard 1"), "{answer}");
    let (status, _, list) = world.ask("GET /v1/pauses", "", b"");
    assert!(status == 200 && String::from_utf8(list).unwrap().contains("\"tag\":\"t\""));
    // What does not concern that core is not delayed by it.
    let domain = (0..).map(|n| format!("d{n}.test")).find(|d| mailrace_shards::route::owner(d, CORES).0 == 0).unwrap();
    let body = format!(r#"{{"domain":"{domain}"}}"#);
    assert_eq!(world.ask("POST /v1/pauses", json, body.as_bytes()).0, 200);
}

/// What is not about rules has its tests elsewhere: below `api`, and in `tests/system`.
const ELSEWHERE: [&str; 5] = ["/v1/inject", "/v1/queues", "/v1/messages", "/api/admin/inspect-", "/api/admin/rebind/"];

#[test]
fn every_path_of_the_list_is_one_that_is_tested_here() {
    let tested: Vec<String> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/api"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    for endpoint in crate::api::ENDPOINTS {
        let path = endpoint.path.split('{').next().unwrap();
        let ours = endpoint.path.starts_with("/v1/") || endpoint.path.starts_with("/api/admin/");
        let ours = ours && !ELSEWHERE.iter().any(|other| path.starts_with(other));
        let alias = path == "/v1/suppessions";
        let line = format!("{} {path}", endpoint.method);
        assert!(!ours || alias || tested.iter().any(|file| file.contains(&line)), "{line}");
    }
}

/// As lines, a million of them. Run by hand: `cargo test --release -- --ignored --nocapture million`.
#[test]
#[ignore = "takes a while"]
#[expect(clippy::disallowed_methods, reason = "a measurement")]
fn a_million_suppressions() {
    let world = World::new("million", Box::new(Busy));
    let lines: String = (0..1_000_000)
        .map(|n| format!("{{\"value\":\"user{n}@d{}.test\",\"type\":\"address\",\"code\":550}}\n", n % 5000))
        .collect();
    let begun = std::time::Instant::now();
    let (status, _, answer) = world.ask("POST /v1/suppressions", "application/x-ndjson", lines.as_bytes());
    println!("import: {:?}", begun.elapsed());
    assert_eq!(status, 200);
    assert!(String::from_utf8(answer).unwrap().starts_with(r#"{"created":1000000,"updated":0"#));
    let begun = std::time::Instant::now();
    let (_, _, list) = world.ask("GET /v1/suppressions", "application/x-ndjson", b"");
    println!("export: {:?}", begun.elapsed());
    assert_eq!(list.iter().filter(|octet| **octet == b'\n').count(), 1_000_000);
    let begun = std::time::Instant::now();
    let world = world.again();
    println!("start:  {:?}", begun.elapsed());
    assert_eq!(world.cores.sizes().iter().map(|(_, n)| n).sum::<usize>(), 1_000_000);
}

/// More batches than may be under way at once: the later of two lines over one value counts, and none is lost.
#[test]
fn an_import_of_many_batches_is_made_in_its_order() {
    const COUNT: usize = 60_000;
    let world = World::new("batches", Box::new(Busy));
    let line = |value: &str, code: u16| format!("{{\"value\":\"{value}\",\"type\":\"address\",\"code\":{code}}}\n");
    let mut lines: String = (0..COUNT).map(|n| line(&format!("user{n}@d{}.test", n % 500), 550)).collect();
    lines.push_str("no line\n");
    lines.push_str(&line("user7@d7.test", 551));
    lines.push_str(&line("user7@d7.test", 552));
    let (status, _, answer) = world.ask("POST /v1/suppressions", "application/x-ndjson", lines.as_bytes());
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(status, 200, "{answer}");
    assert!(answer.starts_with(&format!("{{\"created\":{COUNT},\"updated\":2,")), "{answer}");
    assert!(answer.contains(&format!("\"line\":{}", COUNT + 1)) && answer.contains("\"error_count\":1"), "{answer}");
    let of_seven = |world: &World| {
        let (_, _, found) = world.ask("GET /v1/suppressions?after=user7@d&limit=1", "application/x-ndjson", b"");
        String::from_utf8(found).unwrap()
    };
    assert!(of_seven(&world).contains("\"code\":552"), "{}", of_seven(&world));
    let in_force = |world: &World| world.cores.sizes().iter().map(|(_, n)| n).sum::<usize>();
    assert_eq!(in_force(&world), COUNT);
    let world = world.again();
    assert_eq!(in_force(&world), COUNT);
}

/// Who is refused in the midst of an import is told how much of it is in, whatever it is refused for.
#[test]
fn an_import_that_cannot_be_read_on_says_what_is_done() {
    let world = World::new("long-line", Box::new(Busy));
    let line = |n: usize| format!("{{\"value\":\"user{n}@d.test\",\"type\":\"address\",\"code\":550}}\n");
    let lines: String = (0..10_001).map(line).chain(["x".repeat(20_000)]).collect();
    let (status, _, answer) = world.ask("POST /v1/suppressions", "application/x-ndjson", lines.as_bytes());
    let answer = String::from_utf8(answer).unwrap();
    let expected = "line 10002 is longer than 16384 octets; 10000 entries are done, send all again";
    assert!(status == 400 && answer.contains(expected), "{status} {answer}");
    assert_eq!(world.cores.sizes().iter().map(|(_, n)| n).sum::<usize>(), 10_000);
}

#[test]
fn changes_that_come_together_are_all_made() {
    let world = World::new("together", Box::new(Busy));
    let waiting: Vec<_> = (0..200)
        .map(|n| {
            let authority = world.authority().clone();
            std::thread::spawn(move || {
                let change = crate::rules::change::Request::PutPool(crate::rules::change::Pool {
                    name: format!("p{n}").into(),
                    description: None,
                });
                let origin =
                    crate::rules::entry::Origin { token: "t".into(), peer: "p".into(), at: NOON, node: "n".into() };
                block_on(authority.change(change, origin)).unwrap().created
            })
        })
        .collect();
    assert_eq!(waiting.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>(), 200);
    assert_eq!(world.cores.pools.lock().unwrap().pools.len(), 200);
    assert!(world.directory.path().join("rules.db").exists());
}
