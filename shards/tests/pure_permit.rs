//! Permits and tokens in small stories, each of one rule.

mod permit_net;

use mailrace_shards::limits::{PERMIT_PATIENCE_MS, PERMIT_REQUESTS_MAX, PERMIT_SCAN_MAX, TOKEN_LAPSE_MS};
use mailrace_shards::message::CoreId;
use mailrace_shards::path::permit::ToHome;
use mailrace_shards::path::{PermitEvent, PermitId, PermitMessage, PermitState, Tokens};
use mailrace_shards::settings::{LimitPer, LimitSettings, Rate};
use permit_net::{MS, Net, limits};
use std::time::Duration;

#[test]
fn equals_leave_each_other_alone_until_patience_ends() {
    let entries = [LimitSettings { connections: Some(2), ..LimitSettings::new(LimitPer::Path) }];
    let path = limits(&entries, 1, "d.test", "mx.test", "s");
    let mut net = Net::new(2, 1, 0);
    let permits = [0, 1].map(|core| (net.request(core, &path, 0), net.request(core, &path, 1)));
    // Core 0 was first and took both; core 1 has none and gets the second of core 0.
    for _ in 0..500 {
        net.pass(MS);
        if net.events(0).contains(&PermitEvent::Recalled(permits[0].1)) {
            net.release(0, permits[0].1);
        }
    }
    assert_eq!(net.state(0, permits[0].0), PermitState::Granted);
    assert_eq!(net.state(1, permits[1].0), PermitState::Granted);
    for _ in 0..PERMIT_PATIENCE_MS - 600 {
        net.pass(MS);
    }
    assert_eq!(net.state(0, permits[0].0), PermitState::Granted, "one each, and no quarrel");
    assert_eq!(net.state(1, permits[1].1), PermitState::Waiting);
    for _ in 0..200 {
        net.pass(MS);
    }
    assert_eq!(net.state(0, permits[0].0), PermitState::Recalled, "in the end it is served too");
}

#[test]
fn a_request_that_waits_for_one_counter_blocks_nobody_on_another() {
    let path = |site: &str, connections| LimitSettings {
        connections: Some(connections),
        site: Some(site.into()),
        ..LimitSettings::new(LimitPer::Path)
    };
    let source = LimitSettings { connections: Some(3), ..LimitSettings::new(LimitPer::Source) };
    let entries = [path("mx.a.test", 1), path("mx.b.test", 9), source];
    let (a, b) = (limits(&entries, 1, "a.test", "mx.a.test", "s"), limits(&entries, 1, "b.test", "mx.b.test", "s"));
    let mut net = Net::new(2, 1, 0);
    let first = net.request(1, &a, 0);
    net.pass(MS);
    let waits = net.request(1, &a, 1);
    net.pass(MS);
    let passes = net.request(0, &b, 0);
    net.pass(MS);
    assert_eq!(net.state(1, first), PermitState::Granted);
    assert_eq!(net.state(1, waits), PermitState::Waiting);
    assert_eq!(net.state(0, passes), PermitState::Granted);
}

/// One destination needs path and source; many others keep the source busy, others the path.
#[test]
fn a_request_under_two_busy_counters_is_not_overtaken_for_ever() {
    let path = LimitSettings {
        connections: Some(1),
        domain: Some("both.test".into()),
        ..LimitSettings::new(LimitPer::Domain)
    };
    let rate = |per, count| LimitSettings {
        message_rate: Some(Rate { count, period: Duration::from_secs(1) }),
        ..LimitSettings::new(per)
    };
    let entries = [path, rate(LimitPer::Site, 1), rate(LimitPer::Source, 1)];
    let both = limits(&entries, 1, "both.test", "mx.x.test", "s");
    let site_only = limits(&entries[1..2], 1, "a.test", "mx.x.test", "t");
    let source_only = limits(&entries[2..], 1, "b.test", "mx.y.test", "s");
    let mut net = Net::new(4, 1, 0);
    let mut taken = [0_u32; 4];
    for step in 0..60_000_u64 {
        net.pass(MS);
        for (core, limits) in [(1, &both), (2, &site_only), (3, &source_only)] {
            // The site's second begins half a second after the source's, so never are both free at once.
            let at = net.at();
            if (core == 3 || step > 500) && net.cores[core].take_token(limits, 5, at) == Tokens::Taken {
                taken[core] += 1;
            }
        }
        net.collect();
    }
    assert!(taken[1] >= 15, "{taken:?}");
    assert!(taken[2] >= 15 && taken[3] >= 15, "{taken:?}");
    assert!(taken[1] + taken[2] <= 62 && taken[1] + taken[3] <= 62, "{taken:?}");
}

#[test]
fn a_withdrawn_request_and_a_grant_may_cross() {
    let entries = [LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Path) }];
    let path = limits(&entries, 1, "d.test", "mx.test", "s");
    let mut net = Net::new(2, 1, 0);
    let crossed = net.request(1, &path, 0);
    let Some((_, message)) = net.links.get_mut(&(1, 0)).unwrap().pop_front() else { panic!("a request goes out") };
    assert!(matches!(message, PermitMessage::ToHome(ToHome::Connect { .. })));
    let now = net.at();
    net.cores[0].handle(CoreId(1), message, now);
    net.release(1, crossed);
    let next = net.request(0, &path, 0);
    assert_eq!(net.state(0, next), PermitState::Waiting);
    net.asked.insert((1, crossed), path.clone());
    net.pass(MS);
    net.pass(MS);
    assert_eq!(net.events(1), [], "a withdrawn request is not granted");
    assert_eq!(net.state(0, next), PermitState::Granted);
}

#[test]
fn a_connection_that_was_never_opened_gives_its_token_back() {
    for core in [0, 1] {
        let rate = Some(Rate { count: 1, period: Duration::from_secs(3600) });
        let entries = [LimitSettings { connection_rate: rate, ..LimitSettings::new(LimitPer::Path) }];
        let path = limits(&entries, 1, "d.test", "mx.test", "s");
        let mut net = Net::new(2, 1, 0);
        for used in [false, false, true] {
            let permit = net.request(core, &path, 0);
            // There and back.
            net.pass(MS);
            net.pass(MS);
            assert_eq!(net.state(core, permit), PermitState::Granted);
            let now = net.at();
            net.cores[core].release(permit, used, now);
            net.collect();
            net.pass(MS);
        }
        let permit = net.request(core, &path, 0);
        net.pass(60_000 * MS);
        assert_eq!(net.state(core, permit), PermitState::Waiting, "the token of this hour is used");
    }
}

#[test]
fn a_lowered_limit_recalls_what_is_beyond_it() {
    let entries =
        |connections| [LimitSettings { connections: Some(connections), ..LimitSettings::new(LimitPer::Path) }];
    let before = limits(&entries(4), 1, "d.test", "mx.test", "s");
    let after = limits(&entries(1), 2, "d.test", "mx.test", "s");
    let mut net = Net::new(2, 1, 0);
    let permits: Vec<PermitId> = (0..4).map(|held| net.request(1, &before, held)).collect();
    net.pass(MS);
    net.pass(MS);
    let now = net.at();
    net.cores[1].changed(&after, now);
    net.collect();
    net.pass(MS);
    net.pass(MS);
    let recalled = |net: &Net| permits.iter().filter(|&&p| net.state(1, p) == PermitState::Recalled).count();
    assert_eq!(recalled(&net), 3);
    assert_eq!(net.state(1, permits[0]), PermitState::Granted);
    // The old limits, still on their way from another core, change nothing.
    let late = net.request(0, &before, 0);
    assert_eq!(net.state(0, late), PermitState::Waiting);
    for &permit in &permits[1..] {
        net.release(1, permit);
        net.pass(MS);
        assert_eq!(net.state(0, late), PermitState::Waiting);
    }
    net.release(1, permits[0]);
    net.pass(MS);
    assert_eq!(net.state(0, late), PermitState::Granted);
}

#[test]
fn what_no_limit_counts_needs_no_word_between_cores() {
    let free = limits(&[], 1, "d.test", "mx.test", "s");
    let own = limits(
        &[LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Domain) }],
        1,
        "d.test",
        "mx.test",
        "s",
    );
    let mut net = Net::new(2, 1, 0);
    let now = net.at();
    assert_eq!(net.cores[1].request(&free, 0, now), Some(PermitId::UNLIMITED));
    assert_eq!(net.cores[1].take_token(&free, 1, now), Tokens::Taken);
    let permit = net.cores[1].request(&own, 0, now).unwrap();
    assert_eq!(net.state(1, permit), PermitState::Granted, "at once");
    let second = net.cores[1].request(&own, 1, now).unwrap();
    assert_eq!(net.state(1, second), PermitState::Waiting);
    net.cores[1].release(permit, true, now);
    net.cores[1].release(PermitId::UNLIMITED, true, now);
    assert_eq!(net.state(1, second), PermitState::Granted);
    assert!(net.cores[1].poll_message().is_none());
}

#[test]
fn unused_tokens_lapse_and_go_to_others() {
    let rate = Rate { count: 1, period: Duration::from_secs(3600) };
    let entries = [LimitSettings { message_rate: Some(rate), ..LimitSettings::new(LimitPer::Site) }];
    let site = limits(&entries, 1, "d.test", "mx.test", "s");
    let ten = Rate { count: 10, period: Duration::from_secs(1) };
    let fast = [LimitSettings { message_rate: Some(ten), ..LimitSettings::new(LimitPer::Site) }];
    let fast = limits(&fast, 1, "d.test", "mx.test", "s");
    let mut net = Net::new(3, 1, 0);
    let now = net.at();
    assert_eq!(net.cores[1].take_token(&site, 1, now), Tokens::Wait(site.tokens));
    net.collect();
    net.pass(MS);
    net.pass(MS);
    assert_eq!(net.events(1), [PermitEvent::Tokens(site.tokens)]);
    let now = net.at();
    assert_eq!(net.cores[2].take_token(&site, 1, now), Tokens::Wait(site.tokens));
    net.collect();
    let late = net.at().after(Duration::from_millis(TOKEN_LAPSE_MS));
    assert!(net.cores[1].has_token(&site, net.at()) && !net.cores[1].has_token(&site, late), "before any tick");
    let mut untimely = Net::new(1, 1, 0);
    let now = untimely.at();
    assert_eq!(untimely.cores[0].take_token(&fast, 2, now), Tokens::Taken, "the home is this core: at once");
    assert!(untimely.cores[0].has_token(&fast, now), "two were asked for");
    let slow_tick = now.after(Duration::from_millis(TOKEN_LAPSE_MS));
    let mut taken = 0;
    while untimely.cores[0].take_token(&fast, 1, slow_tick) == Tokens::Taken {
        taken += 1;
    }
    assert_eq!(taken, 1, "what lapsed is not used even before the tick that returns it");
    for _ in 0..TOKEN_LAPSE_MS - 5 {
        net.pass(MS);
    }
    assert_eq!(net.events(2), [], "the token is core 1's until it lapses");
    for _ in 0..10 {
        net.pass(MS);
    }
    let now = net.at();
    assert_eq!(net.cores[1].take_token(&site, 1, now), Tokens::Wait(site.tokens), "a lapsed token is not used");
    assert_eq!(net.events(2), [PermitEvent::Tokens(site.tokens)]);
    assert_eq!(net.cores[2].take_token(&site, 1, now), Tokens::Taken);
    net.cores[2].put_back_token(&site, now);
    net.cores[2].put_back_token(&site, now);
    assert_eq!(net.cores[2].take_token(&site, 1, now), Tokens::Taken, "what was not sent is not lost");
    assert_eq!(net.cores[2].take_token(&site, 1, now), Tokens::Wait(site.tokens), "and not doubled");
}

#[test]
fn a_fast_rate_is_reached() {
    let rate = Rate { count: 20_000, period: Duration::from_secs(1) };
    let entries = [LimitSettings { message_rate: Some(rate), ..LimitSettings::new(LimitPer::Site) }];
    let mut net = Net::new(4, 1, 500);
    let all: Vec<_> = (0..4).map(|n| limits(&entries, 1, &format!("d{n}.test"), "mx.test", "s")).collect();
    let mut taken = [0_u32; 4];
    for _ in 0..5000 {
        net.pass(MS);
        for core in 0..4 {
            let at = net.at();
            while net.cores[core].take_token(&all[core], 5000, at) == Tokens::Taken {
                taken[core] += 1;
            }
        }
        net.collect();
    }
    let sum: u32 = taken.iter().sum();
    assert!((97_000..=104_100).contains(&sum), "{taken:?}");
    assert!(taken.iter().all(|&count| count > sum / 8), "no core is left out: {taken:?}");
}

#[test]
fn those_who_come_while_many_are_looked_at_stand_behind_them() {
    let entries =
        |connections| [LimitSettings { connections: Some(connections), ..LimitSettings::new(LimitPer::Path) }];
    let room = PERMIT_SCAN_MAX + 100;
    let (before, after) =
        (limits(&entries(1), 1, "d.test", "mx.test", "s"), limits(&entries(room), 2, "d.test", "mx.test", "s"));
    let mut net = Net::new(1, 1, 0);
    let waiting: Vec<PermitId> = (0..room + 50).map(|_| net.request(0, &before, 0)).collect();
    let now = net.at();
    net.cores[0].changed(&after, now);
    let granted = |net: &Net| waiting.iter().filter(|&&p| net.state(0, p) == PermitState::Granted).count() as u32;
    assert_eq!(granted(&net), PERMIT_SCAN_MAX + 1, "one call looks at so many");
    let late = net.request(0, &after, 0);
    net.pass(MS);
    assert_eq!(granted(&net), room);
    assert_eq!(net.state(0, late), PermitState::Waiting);
}

/// How many may wait is bounded; who has withdrawn does not count among them.
#[test]
fn a_withdrawn_request_makes_room_for_another() {
    let entries = [LimitSettings { connections: Some(1), ..LimitSettings::new(LimitPer::Path) }];
    let path = limits(&entries, 1, "d.test", "mx.test", "s");
    let mut net = Net::new(1, 1, 0);
    let first = net.request(0, &path, 0);
    for _ in 0..=PERMIT_REQUESTS_MAX {
        let waits = net.request(0, &path, 1);
        assert_eq!(net.state(0, waits), PermitState::Waiting);
        net.release(0, waits);
    }
    assert_eq!(net.state(0, first), PermitState::Granted);
}

/// A request that asks for a batch of a fast rate may wait when a reload makes the rate so slow that so many are never there
/// at once.
#[test]
fn a_batch_that_a_slower_rate_never_yields_is_not_waited_for() {
    for core in [0, 1] {
        let entries = |count| {
            let rate = Some(Rate { count, period: Duration::from_secs(1) });
            [LimitSettings { message_rate: rate, ..LimitSettings::new(LimitPer::Source) }]
        };
        let fast = limits(&entries(10_000), 1, "d.test", "mx.test", "s");
        let slow = limits(&entries(10), 2, "d.test", "mx.test", "s");
        let mut net = Net::new(2, 1, 0);
        let take = |net: &mut Net, limits| {
            let now = net.at();
            let answer = net.cores[core].take_token(limits, 10_000, now);
            net.collect();
            answer == Tokens::Taken
        };
        for _ in 0..100 {
            while take(&mut net, &fast) {}
            net.pass(MS);
        }
        while take(&mut net, &fast) {}
        let now = net.at();
        net.cores[core].changed(&slow, now);
        net.collect();
        let mut taken = 0;
        for _ in 0..10_000 {
            net.pass(MS);
            taken += u32::from(take(&mut net, &slow));
        }
        assert!((90..=200).contains(&taken), "{taken} in ten seconds");
    }
}

/// A request that waits for a slow rate learns from the next message that a reload has made it faster.
#[test]
fn a_token_that_is_waited_for_comes_as_fast_as_the_newest_limits_say() {
    for core in [0, 1] {
        let entries = |seconds| {
            let rate = Some(Rate { count: 1, period: Duration::from_secs(seconds) });
            [LimitSettings { message_rate: rate, ..LimitSettings::new(LimitPer::Source) }]
        };
        let slow = limits(&entries(3600), 1, "d.test", "mx.test", "s");
        let fast = limits(&entries(1), 2, "d.test", "mx.test", "s");
        let mut net = Net::new(2, 1, 0);
        let take = |net: &mut Net, limits| {
            let now = net.at();
            let answer = net.cores[core].take_token(limits, 5, now);
            net.collect();
            net.pass(MS);
            answer == Tokens::Taken
        };
        let before = (0..1000).filter(|_| take(&mut net, &slow)).count();
        let after = (0..3000).filter(|_| take(&mut net, &fast)).count();
        assert_eq!(before, 1);
        assert!((2..=4).contains(&after), "{after} in three seconds");
    }
}
