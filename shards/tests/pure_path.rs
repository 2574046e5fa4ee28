//! Sites, sources, pools, limits and windows, by tables and properties.

#[path = "sample/mod.rs"]
mod sample;

use mailrace_shards::limits::{
    PATH_CONNECTIONS_DEFAULT, WINDOW_BACKOFF_MIN_MS, WINDOW_DEAD_FAILURES, WINDOW_RAMP_STEP_MS, WINDOW_START,
};
use mailrace_shards::path::source::Bind;
use mailrace_shards::path::{
    Arbiter, Combination, LimitTable, Limits, PoolError, Pools, Rotation, SourceIndex, Sources, UNSPECIFIED, Verdict,
    Window, site_name,
};
use mailrace_shards::settings::{LimitPer, LimitSettings, PoolSettings, Rate, Settings, SourceSettings, TlsPolicy};
use mailrace_shards::time::Instant;
use std::net::IpAddr;
use std::time::Duration;

fn settings(sources: Vec<SourceSettings>, pools: Vec<PoolSettings>) -> Settings {
    Settings { hostname: "host.example.net".into(), allow_private: false, sources, pools, ..sample::settings() }
}

fn source(name: &str, v4: Option<&str>, v6: Option<&str>) -> SourceSettings {
    SourceSettings {
        name: name.into(),
        address: v4.map(|text| text.parse().expect("an address")),
        address_v6: v6.map(|text| text.parse().expect("an address")),
        ehlo: name.into(),
    }
}

fn pool(name: &str, sources: &[(usize, u32)]) -> PoolSettings {
    PoolSettings { name: name.into(), sources: sources.to_vec() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Whether `host` is one of those that the site's name describes.
fn describes(site: &str, host: &str) -> bool {
    let mut labels = host.rsplit('.').peekable();
    for position in site.rsplit('.') {
        let (position, optional) = position.strip_suffix('?').map_or((position, false), |rest| (rest, true));
        let position = position.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(position);
        match labels.peek() {
            Some(label) if position.split('|').any(|choice| choice == *label) => {
                labels.next();
            }
            None if optional => {}
            _ => return false,
        }
    }
    labels.peek().is_none()
}

#[test]
fn a_site_describes_each_of_its_hosts() {
    let mut random = 7_u64;
    let mut next = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    for _ in 0..500 {
        let hosts: Vec<String> = (0..=next(6))
            .map(|_| (0..=next(5)).map(|_| format!("l{}", next(4))).collect::<Vec<_>>().join("."))
            .collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let site = site_name(&hosts);
        for host in &hosts {
            assert!(describes(&site, host), "{site} does not describe {host} of {hosts:?}");
        }
        let doubled: Vec<&str> = hosts.iter().chain(&hosts).copied().collect();
        assert_eq!(site, site_name(&doubled));
        let loud: Vec<String> = hosts.iter().map(|host| host.to_uppercase() + ".").collect();
        assert_eq!(site, site_name(&loud.iter().map(String::as_str).collect::<Vec<_>>()));
    }
}

#[test]
fn a_site_of_the_longest_names_is_made_in_one_pass() {
    let hosts: Vec<String> =
        (0..100).map(|host| (0..127).map(|label| format!("{host}-{label}")).collect::<Vec<_>>().join(".")).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let site = site_name(&hosts);
    assert_eq!(site.matches('|').count(), 99 * 127);
    let many: Vec<&str> = hosts.iter().copied().chain(["beyond.the.bound"]).collect();
    assert_eq!(site_name(&many), site);
}

#[test]
fn messages_find_their_sources() {
    let settings = settings(
        vec![
            source("four", Some("192.0.2.1"), None),
            source("six", None, Some("2001:db8::1")),
            source("both", Some("192.0.2.3"), Some("2001:db8::3")),
        ],
        vec![pool("default", &[(0, 1), (2, 3)]), pool("news", &[(1, 1)]), pool("none", &[])],
    );
    let sources = Sources::new(&settings);
    let pools = Pools::new(&settings, &sources);
    let names = |pool: Option<&str>, ips: &[&str]| {
        let ips: Vec<IpAddr> = ips.iter().map(|text| ip(text)).collect();
        let eligible = pools.choose(&sources, pool, &ips)?;
        let names = eligible.members.iter().map(|member| {
            let families = [(member.v4, "4"), (member.v6, "6")];
            let families: String = families.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
            format!("{}:{}/{families}", sources.get(member.source).name, member.weight)
        });
        Ok((eligible.pool.as_deref().map(str::to_owned), names.collect::<Vec<_>>().join(" ")))
    };
    let found = |pool: Option<&str>, names: &str| Ok((pool.map(str::to_owned), names.to_owned()));
    assert_eq!(names(None, &[]), found(Some("default"), "four:1/4 both:3/46"));
    assert_eq!(names(Some("news"), &[]), found(Some("news"), "six:1/6"));
    assert_eq!(names(Some("nobody"), &[]), Err(PoolError::UnknownPool("nobody".into())));
    assert_eq!(names(Some("none"), &[]), Err(PoolError::EmptyPool("none".into())));
    assert_eq!(names(Some("nobody"), &["192.0.2.3"]), found(None, "both:1/4"));
    assert_eq!(names(None, &["2001:db8::3", "192.0.2.3", "192.0.2.1"]), found(None, "both:1/46 four:1/4"));
    assert_eq!(names(None, &["::ffff:192.0.2.1"]), found(None, "four:1/4"));
    let unknown = names(None, &["192.0.2.1", "192.0.2.9"]);
    assert_eq!(unknown, Err(PoolError::UnknownAddress(ip("192.0.2.9"))));
    assert_eq!(unknown.unwrap_err().to_string(), "no source sends from 192.0.2.9");
}

#[test]
fn without_pools_all_sources_and_without_sources_the_system() {
    let some = settings(vec![source("a", Some("192.0.2.1"), None), source("b", Some("192.0.2.2"), None)], Vec::new());
    let sources = Sources::new(&some);
    let eligible = Pools::new(&some, &sources).choose(&sources, None, &[]).unwrap();
    assert_eq!((eligible.pool, eligible.members.len()), (None, 2));

    let none = settings(Vec::new(), Vec::new());
    let sources = Sources::new(&none);
    let eligible = Pools::new(&none, &sources).choose(&sources, None, &[]).unwrap();
    let only = sources.get(eligible.members[0].source);
    assert_eq!((&*only.name, &*only.ehlo, eligible.members.len()), (UNSPECIFIED, "host.example.net", 1));
    for remote in ["203.0.113.1", "2001:db8::9"] {
        assert_eq!(only.bind_for(ip(remote)), Bind::System);
        assert!(eligible.members[0].reaches(ip(remote)));
    }
}

#[test]
fn a_source_keeps_its_index_over_reloads() {
    let of = |names: &[(&str, &str)]| {
        let sources: Vec<_> = names.iter().map(|(name, address)| source(name, Some(address), None)).collect();
        let members: Vec<(usize, u32)> = (0..sources.len()).map(|place| (place, 1)).collect();
        settings(sources, vec![pool("default", &members)])
    };
    let first = Sources::new(&of(&[("a", "192.0.2.1"), ("b", "192.0.2.2"), ("c", "192.0.2.3")]));
    let b = first.find("b").unwrap();
    let fewer = of(&[("d", "192.0.2.4"), ("b", "192.0.2.9")]);
    let sources = first.renewed(&fewer);
    assert_eq!(sources.find("b"), Some(b));
    assert_eq!(sources.get(b).bind_for(ip("203.0.113.1")), Bind::Address(ip("192.0.2.9")), "changed in place");
    assert_eq!((sources.find("a"), sources.find("c"), sources.find_address(ip("192.0.2.1"))), (None, None, None));
    assert_eq!(&*sources.get(first.find("c").unwrap()).name, "c", "a connection may still be its");
    let named: Vec<&str> = sources.iter().map(|(_, source)| &*source.name).collect();
    assert_eq!(named, ["b", "d"]);
    let members = Pools::new(&fewer, &sources).choose(&sources, None, &[]).unwrap().members;
    let named: Vec<&str> = members.iter().map(|member| &*sources.get(member.source).name).collect();
    assert_eq!(named, ["d", "b"]);
    // One that comes back is what it was; without any, there is the system's choice again.
    let back = sources.renewed(&of(&[("c", "192.0.2.3")]));
    assert_eq!(back.find("c"), first.find("c"));
    let none = back.renewed(&settings(Vec::new(), Vec::new()));
    assert_eq!(none.iter().map(|(_, source)| &*source.name).collect::<Vec<_>>(), [UNSPECIFIED]);
}

#[test]
fn the_remote_family_decides_the_address() {
    let settings = settings(vec![source("both", Some("192.0.2.3"), Some("2001:db8::3"))], Vec::new());
    let sources = Sources::new(&settings);
    let both = sources.get(SourceIndex(0));
    assert_eq!(both.bind_for(ip("203.0.113.1")), Bind::Address(ip("192.0.2.3")));
    assert_eq!(both.bind_for(ip("::ffff:203.0.113.1")), Bind::Address(ip("192.0.2.3")));
    assert_eq!(both.bind_for(ip("2001:db8::9")), Bind::Address(ip("2001:db8::3")));
    let four = mailrace_shards::path::Source {
        name: "four".into(),
        ehlo: "four".into(),
        addresses: mailrace_shards::path::source::Addresses::Own { v4: Some([192, 0, 2, 1].into()), v6: None },
    };
    assert_eq!(four.bind_for(ip("2001:db8::9")), Bind::Unusable);
}

#[test]
fn turns_follow_the_weights() {
    let sources = (0..4).map(|n| source(&format!("s{n}"), Some(&format!("192.0.2.{n}")), None)).collect();
    let settings = settings(sources, vec![pool("default", &[(0, 10), (1, 1), (2, 5), (3, 4)])]);
    let sources = Sources::new(&settings);
    let members = Pools::new(&settings, &sources).choose(&sources, None, &[]).unwrap().members;
    for start in 0..8 {
        let mut rotation = Rotation::starting_at(&members, start);
        let mut counts = [0_u32; 4];
        for turn in 0..2000_u32 {
            counts[usize::from(rotation.next(&members, |_| true).unwrap().0)] += 1;
            if turn % 20 == 19 {
                let rounds = (turn + 1) / 20;
                assert_eq!(counts, [10 * rounds, rounds, 5 * rounds, 4 * rounds]);
            }
        }
        // The heaviest is unusable for a while: the others keep their shares, and it claims no arrears.
        let mut counts = [0_u32; 4];
        for _ in 0..1000 {
            counts[usize::from(rotation.next(&members, |member| member.source.0 != 0).unwrap().0)] += 1;
        }
        assert!(counts[0] == 0 && near(&counts, &[0, 100, 500, 400]), "{counts:?}");
        let mut counts = [0_u32; 4];
        for _ in 0..20 {
            counts[usize::from(rotation.next(&members, |_| true).unwrap().0)] += 1;
        }
        assert!(near(&counts, &[10, 1, 5, 4]), "{counts:?}");
        assert_eq!(rotation.next(&members, |_| false), None);
    }
}

/// Within one of each, since the turns counted may begin within a round.
fn near(counts: &[u32], expected: &[u32]) -> bool {
    counts.iter().zip(expected).all(|(count, expected)| count.abs_diff(*expected) <= 1)
}

fn entry(per: LimitPer, matches: &[(&str, &str)]) -> LimitSettings {
    let find = |field: &str| matches.iter().find(|(name, _)| *name == field).map(|(_, value)| (*value).into());
    LimitSettings {
        domain: find("domain"),
        site: find("site"),
        source: find("source"),
        pool: find("pool"),
        ..LimitSettings::new(per)
    }
}

fn connections(per: LimitPer, matches: &[(&str, &str)], connections: u32) -> LimitSettings {
    LimitSettings { connections: Some(connections), ..entry(per, matches) }
}

fn resolve(entries: &[LimitSettings], domain: &str, site: &str, source: &str, pool: Option<&str>) -> Limits {
    LimitTable::new(entries, 1).resolve(&Combination { domain, site, source, pool })
}

fn counted(limits: &Limits) -> Vec<(LimitPer, Option<u32>)> {
    limits.connections.iter().map(|counter| (counter.per, counter.connections)).collect()
}

#[test]
fn specific_entries_replace_general_ones_and_the_smallest_wins() {
    use LimitPer::{Domain, Path, Pool, Site, Source};
    let entries = [
        connections(Path, &[], 20),
        connections(Path, &[("domain", "big.test")], 100),
        connections(Path, &[("domain", "big.test"), ("source", "s2")], 7),
        connections(Site, &[("site", "mx.big.test")], 50),
        connections(Source, &[("source", "s2")], 3),
        connections(Pool, &[("pool", "news")], 9),
        connections(Domain, &[("domain", "tie.test")], 4),
        connections(Domain, &[("site", "mx.tie.test")], 5),
        connections(Domain, &[("domain", "tie.test")], 6),
    ];
    let check = |domain, site, source, pool, expected: &[(LimitPer, u32)], most: u32| {
        let limits = resolve(&entries, domain, site, source, pool);
        let expected: Vec<_> = expected.iter().map(|&(per, count)| (per, Some(count))).collect();
        assert_eq!(counted(&limits), expected, "{domain} {site} {source} {pool:?}");
        assert_eq!(limits.core_connections, most, "{domain} {site} {source} {pool:?}");
    };
    check("a.test", "mx.a.test", "s1", None, &[(Path, 20)], 20);
    check("a.test", "mx.big.test", "s1", None, &[(Path, 20), (Site, 50)], 20);
    check("big.test", "mx.big.test", "s1", None, &[(Path, 100), (Site, 50)], 50);
    check("big.test", "mx.a.test", "s2", Some("news"), &[(Path, 7), (Source, 3), (Pool, 9)], 3);
    check("tie.test", "mx.tie.test", "s1", Some("x"), &[(Path, 20), (Domain, 4), (Domain, 5)], 4);
}

#[test]
fn counters_are_shared_by_what_they_govern() {
    use LimitPer::{Path, Source};
    let entries = [
        connections(Path, &[], 20),
        connections(Path, &[("site", "mx.x.test")], 5),
        connections(Path, &[("domain", "own.test")], 2),
    ];
    let key = |domain, site, source| resolve(&entries, domain, site, source, None).connections[0].key;
    assert_eq!(key("a.test", "mx.x.test", "s1"), key("b.test", "mx.x.test", "s1"), "domains share a path's count");
    assert_ne!(key("a.test", "mx.x.test", "s1"), key("a.test", "mx.x.test", "s2"));
    assert_ne!(key("a.test", "mx.x.test", "s1"), key("a.test", "mx.y.test", "s1"));
    assert_ne!(key("own.test", "mx.y.test", "s1"), key("a.test", "mx.y.test", "s1"), "a domain's entry counts its own");
    let own = resolve(&entries, "own.test", "mx.y.test", "s1", None);
    let other = resolve(&entries, "a.test", "mx.y.test", "s1", None);
    assert!(own.exclusive_domain && !other.exclusive_domain);
    assert_ne!(own.share, other.share);
    assert_eq!(other.share, resolve(&entries, "b.test", "mx.y.test", "s1", None).share);

    let only_source = resolve(&[connections(Source, &[], 500)], "a.test", "mx.a.test", "s1", None);
    assert_eq!(only_source.core_connections, PATH_CONNECTIONS_DEFAULT, "a wide limit does not lift the default");
    let nothing = resolve(&[], "a.test", "mx.a.test", "s1", None);
    assert!(!nothing.needs_permit() && !nothing.needs_token());
    assert_eq!(nothing.core_connections, PATH_CONNECTIONS_DEFAULT);
}

#[test]
fn other_settings_combine() {
    use LimitPer::{Domain, Path};
    let rate = |count, seconds| Some(Rate { count, period: Duration::from_secs(seconds) });
    let entries = [
        LimitSettings { message_rate: rate(60, 60), messages_per_connection: Some(50), ..entry(Path, &[]) },
        LimitSettings {
            connection_rate: rate(10, 1),
            tls: Some(TlsPolicy::Required),
            idle_timeout: Some(Duration::from_secs(9)),
            ..entry(Path, &[("domain", "a.test")])
        },
        LimitSettings { message_rate: rate(100, 1), messages_per_connection: Some(80), ..entry(Domain, &[]) },
        LimitSettings { tls: Some(TlsPolicy::Verified), ..entry(Path, &[("site", "mx.a.test")]) },
        LimitSettings { tls: Some(TlsPolicy::Disabled), ..entry(Path, &[("domain", "a.test"), ("source", "s2")]) },
    ];
    let limits = resolve(&entries, "a.test", "mx.a.test", "s1", None);
    assert_eq!(limits.tls, TlsPolicy::Verified, "equally specific: the strictest");
    assert_eq!(limits.messages_per_connection, 50);
    assert_eq!(limits.idle_timeout, Duration::from_secs(9));
    assert_eq!(limits.connections.len(), 1);
    assert_eq!((limits.connections[0].connections, limits.connections[0].rate), (None, rate(10, 1)));
    let rates: Vec<_> = limits.messages.iter().map(|counter| (counter.per, counter.rate)).collect();
    assert_eq!(rates, [(Path, rate(60, 60)), (Domain, rate(100, 1))], "an entry that is silent lifts nothing");
    assert_eq!(resolve(&entries, "a.test", "mx.a.test", "s2", None).tls, TlsPolicy::Disabled, "the most specific");
    assert_eq!(resolve(&entries, "b.test", "mx.b.test", "s2", None).tls, TlsPolicy::Opportunistic);
    // Two that count the same: the slower one, however it is written and whichever comes first.
    let rated = |count, seconds| LimitSettings { message_rate: rate(count, seconds), ..entry(Path, &[]) };
    for pair in [[rated(60, 60), rated(3, 2)], [rated(3, 2), rated(60, 60)]] {
        let limits = resolve(&pair, "a.test", "mx.a.test", "s1", None);
        assert_eq!((limits.messages.len(), limits.messages[0].rate), (1, rate(60, 60)));
    }
}

#[test]
fn a_domain_that_is_alone_is_its_cores_own_business() {
    use LimitPer::{Domain, Path};
    let own = connections(Domain, &[], 4);
    let lanes = LimitSettings { lanes: Some(3), ..entry(Domain, &[("domain", "wide.test")]) };
    let path = connections(Path, &[("domain", "mixed.test")], 4);
    let rated = LimitSettings {
        message_rate: Some(Rate { count: 1, period: Duration::from_secs(1) }),
        ..entry(Path, &[("site", "mx.other.test")])
    };
    let table = LimitTable::new(&[own, lanes, path, rated], 1);
    let arbiters = |domain| {
        let limits = table.resolve(&Combination { domain, site: "mx.test", source: "s1", pool: None });
        (limits.connection_arbiter, limits.message_arbiter)
    };
    assert_eq!(arbiters("a.test"), (Arbiter::Own, Arbiter::Engine));
    assert_eq!(arbiters("wide.test"), (Arbiter::Engine, Arbiter::Engine));
    assert_eq!(arbiters("mixed.test"), (Arbiter::Engine, Arbiter::Engine));
    assert_eq!((table.lanes("wide.test"), table.lanes("a.test")), (3, 1));
}

fn at(millis: u64) -> Instant {
    Instant(millis * 1000)
}

#[test]
fn a_window_opens_by_success_and_closes_by_failure() {
    let mut window = Window::new();
    assert_eq!(window.room(0, 32, at(0)), WINDOW_START);
    assert_eq!(window.room(2, 32, at(0)), WINDOW_START - 2);
    for _ in 0..100 {
        window.succeeded(window.size(), 32);
    }
    assert_eq!(window.room(0, 32, at(0)), 32);
    assert_eq!(window.room(0, 7, at(0)), 7, "the limit holds");
    assert_eq!(window.host_failed(at(0)), Verdict::Alive);
    assert_eq!(window.size(), 16);
    window.host_failed(at(0));
    assert_eq!(window.size(), 16, "failures of one window of results count once");
    for _ in 0..16 {
        window.succeeded(16, 32);
    }
    assert_eq!(window.size(), 17, "from then on it opens by one for each window");

    let mut unused = Window::new();
    for _ in 0..100 {
        unused.succeeded(1, 32);
    }
    assert!(unused.size() <= 1 + WINDOW_START, "a window that is not used does not grow");
}

#[test]
fn a_dead_path_is_probed_with_one_connection() {
    let mut window = Window::new();
    for failure in 1..WINDOW_DEAD_FAILURES {
        assert_eq!(window.host_failed(at(0)), Verdict::Alive, "failure {failure}");
        assert!(window.size() >= 1);
    }
    assert_eq!(window.host_failed(at(0)), Verdict::DeadUntil(at(WINDOW_BACKOFF_MIN_MS)));
    assert_eq!(window.host_failed(at(5)), Verdict::DeadUntil(at(WINDOW_BACKOFF_MIN_MS)), "a late failure adds nothing");
    assert_eq!(window.room(0, 32, at(WINDOW_BACKOFF_MIN_MS - 1)), 0);
    assert_eq!(window.next_change(at(0)), Some(at(WINDOW_BACKOFF_MIN_MS)));
    let probe = at(WINDOW_BACKOFF_MIN_MS);
    assert_eq!((window.room(0, 32, probe), window.room(1, 32, probe)), (1, 0));
    let again = probe.after(Duration::from_millis(2 * WINDOW_BACKOFF_MIN_MS));
    assert_eq!(window.host_failed(probe), Verdict::DeadUntil(again), "the back-off doubles");
    assert_eq!(window.room(0, 32, again), 1);
    window.succeeded(1, 32);
    assert_eq!(window.dead_until(), None);
    assert!((1..=2).contains(&window.room(0, 32, again)));
    for _ in 1..WINDOW_DEAD_FAILURES {
        window.host_failed(again);
    }
    let short = again.after(Duration::from_millis(WINDOW_BACKOFF_MIN_MS));
    assert_eq!(window.host_failed(again), Verdict::DeadUntil(short), "success forgets the back-off");
}

#[test]
fn after_a_hold_the_window_opens_by_doubling() {
    let mut window = Window::new();
    for _ in 0..100 {
        window.succeeded(window.size(), 32);
    }
    window.released(8, at(1000));
    let step = WINDOW_RAMP_STEP_MS;
    let seen: Vec<u32> = (0..5).map(|n| window.room(0, 32, at(1000 + n * step))).collect();
    assert_eq!(seen, [4, 8, 16, 32, 32]);
    assert_eq!(window.next_change(at(1000 + 5 * step)), None);
    window.released(0, at(5000));
    assert_eq!(window.room(0, 32, at(5000)), 1);
    assert_eq!(window.next_change(at(5000 + step / 2)), Some(at(5000 + step)));
    assert_eq!(window.room(0, 32, at(100_000)), 32);
}
