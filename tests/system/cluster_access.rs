//! An etcd that lets nobody in who does not prove who it is: by a password, with a right to the prefix alone, and by
//! certificates of both sides.

use crate::support::certificate::Certificate;
use crate::support::etcd::{Etcd, base64};
use crate::support::wait::linger;
use crate::support::{Api, Config, Engine, Features, Sink, until};
use serde_json::{Value, json};
use std::time::Duration;

fn view(engine: &Engine) -> Value {
    Api::of(engine).get("/v1/cluster")
}

fn await_link(engine: &Engine, state: &str) {
    until(&format!("the link is {state}"), || view(engine)["state"] == state);
}

#[test]
fn a_user_with_a_right_to_the_prefix_alone_is_enough() {
    let etcd = Etcd::start_with(1, &["--auth-token-ttl=2", "--bcrypt-cost=4"]);
    let prefix = json!({"permType": "READWRITE", "key": base64(b"/mail/"), "range_end": base64(b"/mail0")});
    for (path, request) in [
        ("/v3/auth/user/add", json!({"name": "root", "password": "secret"})),
        ("/v3/auth/role/add", json!({"name": "root"})),
        ("/v3/auth/user/grant", json!({"user": "root", "role": "root"})),
        ("/v3/auth/user/add", json!({"name": "mailrace", "password": "open sesame"})),
        ("/v3/auth/role/add", json!({"name": "mailrace"})),
        ("/v3/auth/role/grant", json!({"name": "mailrace", "perm": prefix})),
        ("/v3/auth/user/grant", json!({"user": "mailrace", "role": "mailrace"})),
        ("/v3/auth/enable", json!({})),
    ] {
        etcd.call(0, path, &request);
    }
    let sink = Sink::start(Features::default());
    let config = |node: &str| {
        Config::to(sink.address)
            .line("cluster", &format!("endpoints = [{:?}]", etcd.url(0)))
            .line("cluster", &format!("node = {node:?}"))
            .line("cluster", "prefix = \"/mail/\"")
            .line("cluster", "lease = \"2s\"")
            .line("cluster", "user = \"mailrace\"")
            .line("cluster", "password_file = \"password\"")
    };
    let mut engines = ["one", "two"].map(|node| {
        let mut engine = Engine::prepare(&config(node));
        engine.write("password", "open sesame\n");
        engine.run();
        engine
    });
    engines.iter().for_each(|engine| await_link(engine, "following"));
    let apis = engines.each_ref().map(Api::of);
    apis[0].post("/v1/pauses", &json!({"tag": "a", "cluster": true}));
    // Tokens have ended since; nobody notices.
    linger(Duration::from_secs(5));
    apis[1].post("/v1/pauses", &json!({"tag": "b", "cluster": true}));
    for api in &apis {
        let rules = api.get("/v1/rules").to_string();
        assert!(rules.contains("\"a\"") && rules.contains("\"b\""), "{rules}");
    }
    // A wrong password is told, and mail goes on by what is known.
    assert!(engines[1].stop().success());
    engines[1].write("password", "wrong\n");
    engines[1].run();
    until("it says what is wrong", || view(&engines[1]).to_string().contains("invalid user ID or password"));
    let answer = Api::of(&engines[1]).try_call("POST", "/v1/pauses", Some(&json!({"tag": "c", "cluster": true})));
    assert_eq!(answer.unwrap().status, 503);
    engines[1].kill();
}

#[test]
fn both_sides_show_certificates() {
    let (of_server, of_client) = (Certificate::new("127.0.0.1"), Certificate::new("mailrace"));
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = write("server.crt", &of_server.certificate_pem);
    let key = write("server.key", &of_server.key_pem);
    // etcd's gateway is a client of etcd itself, and shows its own certificate there.
    let trusted = write("trusted.crt", &format!("{}{}", of_client.certificate_pem, of_server.certificate_pem));
    let etcd = Etcd::start_with_tls(&certificate, &key, &trusted);
    let sink = Sink::start(Features::default());
    let config = Config::to(sink.address)
        .line("cluster", &format!("endpoints = [{:?}]", etcd.url(0)))
        .line("cluster", "lease = \"2s\"")
        .line("cluster", "ca = \"server.crt\"");
    let known = config.clone().line("cluster", "certificate = \"own.crt\"").line("cluster", "key = \"own.key\"");
    let mut engine = Engine::prepare(&config);
    engine.write("server.crt", &of_server.certificate_pem);
    engine.write("own.crt", &of_client.certificate_pem);
    engine.write("own.key", &of_client.key_pem);
    // Nobody in particular is not let in.
    engine.run();
    await_link(&engine, "cut off");
    engine.kill();
    engine.configure(&known);
    engine.run();
    await_link(&engine, "following");
    let answer = Api::of(&engine).post("/v1/pauses", &json!({"tag": "a", "cluster": true}));
    assert!(answer["id"].is_string(), "{answer}");
}

#[test]
fn check_config_opens_the_files_that_the_section_names() {
    let sink = Sink::start(Features::default());
    let own = Certificate::new("mailrace");
    // One shard, so that a machine with one core has nothing else to say of the file.
    let config = Config::to(sink.address)
        .shards(1)
        .line("cluster", "endpoints = [\"https://127.0.0.1:2379\"]")
        .line("cluster", "user = \"mailrace\"")
        .line("cluster", "password_file = \"password\"")
        .line("cluster", "ca = \"ca.crt\"")
        .line("cluster", "certificate = \"own.crt\"")
        .line("cluster", "key = \"own.key\"");
    let engine = Engine::prepare(&config);
    let check = || {
        let file = engine.path("mailrace.toml");
        let output = engine.tool(&["check-config", file.to_str().unwrap()], "");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (is_correct, said) = check();
    assert!(!is_correct);
    for (field, file) in [
        ("cluster.ca", "ca.crt"),
        ("cluster.certificate, cluster.key", "own.crt"),
        ("cluster.password_file", "password"),
    ] {
        let told = |line: &str| line.contains(&format!(" {field}: ")) && line.contains(file);
        assert!(said.lines().any(told), "{field} and {file} in {said}");
    }
    engine.write("ca.crt", &own.certificate_pem);
    engine.write("own.crt", &own.certificate_pem);
    engine.write("own.key", &Certificate::new("another").key_pem);
    engine.write("password", "\n");
    let (is_correct, said) = check();
    assert!(!is_correct && said.lines().count() == 2, "{said}");
    assert!(said.contains("own.key do not make") && said.contains("is empty"), "{said}");
    engine.write("own.key", &own.key_pem);
    engine.write("password", "open sesame\n");
    assert_eq!(check(), (true, String::new()));
}
