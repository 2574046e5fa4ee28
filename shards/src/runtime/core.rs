//! One core: its thread from the first line to the last.

use crate::limits::{ALARM_SCAN_MILLIS, BODIES_READ_BACK_PART, TICK_MILLIS};
use crate::message::MessageId;
use crate::rules::HashKey;
use crate::runtime::dns_socket::DnsClient;
use crate::runtime::engine::{CoreReport, Shared};
use crate::runtime::executor::{self, ExecutorStart};
use crate::runtime::local::{Helpers, Local, LocalParts};
use crate::runtime::mailbox::{Completion, Mailbox, Postbox};
use crate::runtime::outcome_log::OutcomeLog;
use crate::runtime::report::report;
use crate::runtime::ring::Ring;
use crate::runtime::rule_feed::RuleFeed;
use crate::runtime::spool_file::{SpoolOptions, SpoolWriter};
use crate::runtime::spool_found::FoundMail;
use crate::runtime::spool_reader::BodyReader;
use crate::runtime::stream::Listener;
use crate::runtime::{clock, injection, tasks};
use crate::settings::Settings;
use crate::shard::{Shard, ShardConfig};
use crossbeam::channel::Sender;
use futures_lite::FutureExt;
use hashbrown::HashSet;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Entries of a ring's submission queue; more did not help.
const RING_DEPTH: usize = 256;

/// By how much the executor's timers may be behind the clock.
const TIMER_SLACK: Duration = Duration::from_micros(50);

/// Everything that a core is started with.
pub struct CoreStart {
    /// The processor.
    pub cpu: Option<usize>,
    /// How many cores there are.
    pub cores: usize,
    /// Number of this start.
    pub generation: u32,
    /// Secret of the rule table's hashes.
    pub rule_key: HashKey,
    /// Messages over which the engine died twice.
    pub quarantine: Arc<HashSet<MessageId>>,
    /// Rules to apply before anything else.
    pub rules: RuleFeed,
    /// Settings.
    pub settings: Arc<Settings>,
    /// Spool directories of this core, its own number first.
    pub spools: Vec<u16>,
    /// Own mailbox.
    pub mailbox: Mailbox,
    /// Everybody's addresses.
    pub postbox: Postbox,
    /// What all cores share.
    pub shared: Arc<Shared>,
    /// Listening sockets.
    pub listeners: Vec<socket2::Socket>,
    /// Hears that the core runs, or why not.
    pub ready: Sender<Result<(), String>>,
}

/// What a core opened before its executor runs.
struct Opened {
    writers: Vec<(u16, SpoolWriter)>,
    found: Vec<(u16, FoundMail)>,
    log: OutcomeLog,
    reader: BodyReader,
}

/// Runs a core until it is stopped. The body of its thread.
pub fn run_core(start: CoreStart) {
    let ready = start.ready.clone();
    // Threads that are started here are not pinned, as the executor's is.
    let opened = match open(&start) {
        Ok(opened) => opened,
        Err(why) => return drop(ready.send(Err(why))),
    };
    let name = format!("shard-{:03}", start.mailbox.core().0);
    let executor = ExecutorStart { name, cpu: start.cpu, ring_depth: RING_DEPTH };
    if let Err(why) = executor::run(&executor, move || run_opened(start, opened)) {
        drop(ready.send(Err(why)));
    }
}

/// On the core's executor: all that it does.
async fn run_opened(mut start: CoreStart, opened: Opened) {
    let ready = start.ready.clone();
    let Opened { writers, found, log, reader } = opened;
    let dns = {
        let settings = &start.settings;
        let seed = u64::from(start.generation) << 16 | u64::from(start.mailbox.core().0);
        DnsClient::start(&settings.dns, settings.allow_private, seed, clock::now)
    };
    let dns = match dns {
        Ok(dns) => dns,
        Err(error) => return drop(ready.send(Err(format!("the resolver: {error}")))),
    };
    let ring = match Ring::new() {
        Ok(ring) => ring,
        Err(error) => return drop(ready.send(Err(format!("the sockets' io_uring: {error}")))),
    };
    start.mailbox.reach_by(ring.alert());
    let mut listeners = Vec::new();
    for socket in std::mem::take(&mut start.listeners) {
        let ours = socket.try_clone();
        match ours.and_then(|ours| Ok((Listener::new(socket, &ring)?, ours))) {
            Ok(listener) => listeners.push(listener),
            Err(error) => return drop(ready.send(Err(format!("a listener: {error}")))),
        }
    }
    let (local, rules) = assemble(start, &writers, log, reader, dns, ring);
    // Before the mail that was recovered: none of it may be picked without them.
    let apply = |update| {
        let _ = clock::now();
        local.with_shard(|shard, now| shard.handle_rules(update, now));
    };
    if let Err(error) = rules.drain(apply) {
        return drop(ready.send(Err(format!("shard {}: {error}", local.core.0))));
    }
    local.take_orders();
    local.spawn_ring();
    local.spawn(local.clone().run_mailbox());
    local.spawn(local.clone().run_flusher());
    for (listener, ours) in listeners {
        local.spawn(injection::listen(local.clone(), listener, ours));
    }
    local.spawn(local.clone().run_questions());
    local.spawn(local.clone().post_found(found));
    // The starter may have given up on another core; the stop order is on its way then.
    let _ = ready.send(Ok(()));
    if AssertUnwindSafe(tasks::counted(turn(&local))).catch_unwind().await.is_err() {
        local.stop_for_panic();
    }
    finish(&local, writers);
}

fn open(start: &CoreStart) -> Result<Opened, String> {
    let settings = &start.settings;
    let core = start.mailbox.core();
    let spool_root = settings.data_dir.join("spool");
    let mut writers = Vec::new();
    let mut found = Vec::new();
    for &spool in &start.spools {
        let slot = start.mailbox.completion_slot();
        let options =
            SpoolOptions { sync: settings.spool.sync, min_free_bytes: settings.spool.min_free_bytes, posting: true };
        let notify = Box::new(move |completions| slot.put(Completion::Spool(spool, completions)));
        let (writer, of_spool) = SpoolWriter::start(&spool_root, spool, options, notify)
            .map_err(|error| format!("spool {spool:03}: {error}"))?;
        found.push((spool, of_spool));
        writers.push((spool, writer));
    }
    let slot = start.mailbox.completion_slot();
    let notify = Box::new(move |event| slot.put(Completion::Log(event)));
    let directory = settings.data_dir.join("log");
    let log =
        OutcomeLog::start(&directory, core.0, &settings.hostname, settings.log.clone(), &start.shared.tallies, notify)
            .map_err(|error| format!("outcome log in {}: {error}", directory.display()))?;
    let slot = start.mailbox.completion_slot();
    let notify = Box::new(move |answers| slot.put(Completion::Body(answers)));
    let most = settings.memory_bytes / BODIES_READ_BACK_PART / start.cores as u64;
    let reader = BodyReader::start(&spool_root, most, notify).map_err(|error| format!("the body reader: {error}"))?;
    Ok(Opened { writers, found, log, reader })
}

fn assemble(
    start: CoreStart,
    writers: &[(u16, SpoolWriter)],
    log: OutcomeLog,
    reader: BodyReader,
    dns: DnsClient,
    ring: Ring,
) -> (Rc<Local>, RuleFeed) {
    let mut shard = Shard::new(ShardConfig {
        core: start.mailbox.core(),
        cores: start.cores,
        generation: start.generation,
        rule_key: start.rule_key,
        quarantine: start.quarantine,
        settings: start.settings.clone(),
    });
    shard.expect_found();
    let spools = writers.iter().map(|(spool, writer)| (*spool, writer.handle())).collect();
    let local = Local::new(LocalParts {
        shard,
        mailbox: start.mailbox,
        postbox: start.postbox,
        helpers: Helpers { spools, log, reader, dns },
        ring,
        settings: start.settings,
        shared: start.shared,
    });
    (local, start.rules)
}

/// The ticker, until the core has stopped.
async fn turn(local: &Rc<Local>) {
    let (mut ticks, mut all_found) = (0_u64, false);
    loop {
        let tick = Duration::from_millis(TICK_MILLIS);
        // A little late, so that the executor's timer has run out when it gets the core back.
        local.next_tick.set(clock::now().instant.after(tick + TIMER_SLACK));
        glommio::timer::sleep(tick).await;
        let now = clock::now();
        ticks += 1;
        local.turn_ring();
        local.with_shard(|shard, now| shard.tick(now));
        let flushed = local.flush();
        if ticks.is_multiple_of(ALARM_SCAN_MILLIS / TICK_MILLIS) {
            local.alarms.scan(now.instant);
            local.shared.beat(local.core);
            let core = local.with_shard(|shard, _| CoreReport {
                counters: shard.counters(),
                queue: shard.queue().counts(),
                sessions: shard.open_sessions(),
                injecting: local.injecting.get(),
                largest_queues: shard.largest_queues(),
                dns: local.dns().stats(),
                spool_refusing: local.spool_refusing(),
                log_failing: None,
            });
            local.shared.leave_report(local.core, core);
            if !all_found && local.shared.all_is_posted() {
                all_found = true;
                local.with_shard(|shard, _| shard.handle_all_found());
            }
        }
        if local.stopping() {
            let shared = &local.shared;
            let settled = local
                .with_shard(|shard, _| shard.working_sessions() == 0 && shard.storing() == 0 && shard.log_settled());
            shared.set_quiet(local.core, flushed && settled && local.injecting.get() == 0 && local.mail_is_still());
            if shared.all_quiet() || shared.stop_overdue() {
                return;
            }
        }
    }
}

/// Everything that was handed over is written and synced.
fn finish(local: &Local, writers: Vec<(u16, SpoolWriter)>) {
    let lost = local.stop_log();
    if lost > 0 {
        report(&format!("{lost} outcome records could not be written; their messages stay in the spool"));
    }
    for (_, writer) in writers {
        writer.stop();
    }
}
