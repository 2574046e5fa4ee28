//! This engine's part in the cluster: begins and ends its threads, and takes the calls of the control core.

use super::board::Board;
use super::calls::unknown;
use super::compare::{Comparer, HeardSegments};
use super::etcd::{Etcd, EtcdSettings, EtcdTls};
use super::fence::{Fence, Gate};
use super::follow::Follower;
use super::join::Progress;
use super::place::ASK_AT_MOST;
use super::presence::{FENCE, Presence, fence_rule};
use super::record::{Keys, Run};
use super::segments::{Segments, Stored};
use super::status::Status;
use super::suppressions::listener::{Known, Listener};
use super::suppressions::merging::Merging;
use super::tend::Tender;
use super::word::{SPEAKERS, Speaker};
use super::write::{Order, Task, Writer};
use crate::config::{ClusterSettings, ClusterUser, OnPartition, Password};
use crate::rules::authority::{Authority, Failure};
use crate::rules::change::{Changed, Request};
use crate::rules::entry::{Collection, Decree, Draft, Origin, RuleEntry};
use crate::rules::schedule::Schedule;
use crate::rules::shared::Membership;
use crate::rules::store::Store;
use crate::users::random;
use crossbeam::channel::{Receiver, Sender, bounded};
use mailrace_shards::rules::{Rule, Scope};
use mailrace_shards::runtime::clock;
use mailrace_shards::runtime::control::Control;
use mailrace_shards::runtime::reply::reply;
use mailrace_shards::settings::TlsFiles;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that write rules and pools: while one waits for etcd, the others go on.
const WRITERS: usize = 4;

/// Changes that wait to be written; a further one is refused (503).
const ORDERS_MAX: usize = 1024;

/// The same of suppressions, each up to 10,000 of them. They are written one after another: the later one counts.
const SEGMENTS_MAX: usize = 64;

/// How often this node says its word in any case, at most.
const WORD_EVERY: Duration = Duration::from_secs(3);

/// So much of a lease is taken off for what passes between the cores' clock, ours and etcd's.
const MARGIN_PART: u32 = 5;

/// Octets of a file with a password.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// How often is looked whether a thread has ended.
const LOOK: Duration = Duration::from_millis(5);

/// For so many entries of one call, whoever made it waits that long once more.
const ENTRIES_A_PART: usize = 1000;

/// Read and checked, nothing running yet.
pub struct Prepared {
    settings: ClusterSettings,
    etcd: Etcd,
    membership: Membership,
    gate: Gate,
}

/// How the cluster is reached. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    board: Arc<Board>,
    rules: Sender<Order>,
    suppressions: Sender<Order>,
    etcd: Etcd,
    node: Arc<str>,
    delivers_when_lost: bool,
    answer_within: Duration,
}

/// Its threads.
pub struct Running {
    cluster: Option<Cluster>,
    board: Arc<Board>,
    presence: Presence,
    threads: Vec<JoinHandle<()>>,
}

/// Before anything is delivered. Asks etcd nothing yet.
///
/// # Errors
/// What of the settings cannot be used, or the store.
pub fn prepare(settings: &ClusterSettings, store: &mut Store) -> Result<Prepared, String> {
    let user = settings.user.as_ref().map(credentials).transpose()?;
    let is_secure = settings.endpoints.iter().any(|endpoint| endpoint.starts_with("https:"));
    let tls = is_secure.then(|| EtcdTls { ca: settings.ca.clone(), own: settings.certificate.clone() });
    let etcd = Etcd::new(&EtcdSettings { endpoints: settings.endpoints.clone(), user, tls })
        .map_err(|why| format!("[cluster]: {why}"))?;
    let uuid = uuid::Builder::from_random_bytes(random()).into_uuid().to_string();
    let membership = store.enter_cluster(&uuid).map_err(|error| error.to_string())?;
    let holds = settings.on_partition == OnPartition::Hold;
    let mut gate = Gate::new(holds, settings.lease / MARGIN_PART, membership.counted);
    gate.unsure(clock::now().instant.after(ASK_AT_MOST));
    Ok(Prepared { settings: settings.clone(), etcd, membership, gate })
}

/// This run of this engine, as the others see it.
fn this_run(uuid: &str) -> Run {
    let id = uuid::Builder::from_random_bytes(random()).into_uuid().to_string().into();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Run { uuid: uuid.into(), id, place: format!("{host}, process {}", std::process::id()).into() }
}

/// What of the files that the settings name cannot be used, each with its key. Asks etcd nothing.
#[must_use]
pub fn check_files(settings: &ClusterSettings) -> Vec<String> {
    let tls = |ca: Option<&PathBuf>, own: Option<&TlsFiles>| {
        let tls = Some(EtcdTls { ca: ca.cloned(), own: own.cloned() });
        Etcd::new(&EtcdSettings { endpoints: settings.endpoints.clone(), user: None, tls }).map(drop)
    };
    let named = |keys: &'static str| move |why: String| format!("{keys}: {why}");
    let ca = settings.ca.as_ref().map(|ca| tls(Some(ca), None).map_err(named("cluster.ca")));
    let own = settings.certificate.as_ref();
    let own = own.map(|own| tls(None, Some(own)).map_err(named("cluster.certificate, cluster.key")));
    let password = settings.user.as_ref().map(|user| credentials(user).map(drop));
    [ca, own, password].into_iter().flatten().filter_map(Result::err).collect()
}

fn credentials(user: &ClusterUser) -> Result<(String, String), String> {
    let password = match &user.password {
        Password::Text(text) => text.clone(),
        Password::File(path) => {
            let text = read(path).map_err(|why| format!("cluster.password_file: {}: {why}", path.display()))?;
            text.lines().next().unwrap_or_default().to_owned()
        }
    };
    Ok((user.name.clone(), password))
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(PASSWORD_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.lines().next().unwrap_or_default().is_empty() {
        return Err("is empty; write the password on its first line".to_owned());
    }
    Ok(text)
}

impl Prepared {
    /// What stands before all mail from the start, in force before the first delivery.
    #[must_use]
    pub fn fence(&self) -> Option<Rule> {
        fence_rule(&self.gate.fence(clock::now()))
    }

    /// The name of this node, for origins.
    #[must_use]
    pub fn node(&self) -> &Arc<str> {
        &self.settings.node
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start(self, authority: &Authority) -> Result<Running, String> {
        let Self { settings, etcd, membership, gate } = self;
        let node = settings.node.clone();
        let delivers_when_lost = settings.on_partition == OnPartition::Deliver;
        // The cores were given the fence with their rules.
        let fence = gate.fence(clock::now());
        let board = Arc::new(Board::new(node.clone(), gate, membership.revision));
        let keys = Keys::new(&settings.prefix);
        let run = this_run(&membership.uuid);
        let every = WORD_EVERY.min(settings.lease / 3);
        let (rules, rule_orders) = bounded(ORDERS_MAX);
        let (suppressions, suppression_orders) = bounded(SEGMENTS_MAX);
        let presence = Presence {
            board: board.clone(),
            etcd: etcd.clone(),
            keys: keys.clone(),
            authority: authority.clone(),
            node: node.clone(),
            run: run.clone(),
            delivers_when_lost,
            counted: membership.counted,
            ttl: settings.lease,
            fence,
        };
        let segments = Arc::new(Segments { etcd: etcd.clone(), keys: keys.clone() });
        let known = Known::default();
        let merging = Merging::new(segments.clone(), known.clone());
        let hearing = Box::new(Listener::new(segments, known, Stored(authority.clone())));
        let heard = HeardSegments::default();
        let follower = Follower {
            board: board.clone(),
            etcd: etcd.clone(),
            keys: keys.clone(),
            authority: authority.clone(),
            node: node.clone(),
            run: run.clone(),
            membership,
            forgotten: false,
            joining: Progress::default(),
            silent_max: settings.lease.max(every * 3),
            hearing,
            heard: heard.clone(),
        };
        let speaker =
            Speaker { board: board.clone(), etcd: etcd.clone(), keys: keys.clone(), node: node.clone(), run, every };
        let reader = authority.look(crate::rules::store::Store::reader)?;
        let writer = Writer { board: board.clone(), etcd: etcd.clone(), keys: keys.clone(), reader };
        let (places, every_so_often) = ((keys.clone(), authority.clone()), settings.compare_every);
        let comparer = Comparer::new(board.clone(), etcd.clone(), places, heard, every_so_often);
        let tender = Tender {
            board: board.clone(),
            etcd: etcd.clone(),
            keys,
            authority: authority.clone(),
            node: node.clone(),
            merging,
            comparer,
        };
        let answer_within = settings.answer_within;
        let cluster =
            Cluster { board: board.clone(), rules, suppressions, etcd, node, delivers_when_lost, answer_within };
        let last = presence.clone();
        let mut running = Running { cluster: Some(cluster), board, presence: last, threads: Vec::new() };
        let orders = std::iter::repeat_n(&rule_orders, WRITERS).chain([&suppression_orders]);
        let parts = Parts { presence, follower, speaker, tender, writer };
        if let Err(error) = running.begin(parts, orders) {
            running.end(WORD_EVERY);
            return Err(format!("the cluster's threads cannot be started: {error}"));
        }
        Ok(running)
    }
}

/// What becomes threads.
struct Parts {
    presence: Presence,
    follower: Follower,
    speaker: Speaker,
    tender: Tender,
    writer: Writer,
}

impl Running {
    fn begin<'a>(&mut self, parts: Parts, orders: impl Iterator<Item = &'a Receiver<Order>>) -> std::io::Result<()> {
        let Parts { presence, follower, speaker, tender, writer } = parts;
        self.spawn("cluster-follow", move || follower.run())?;
        self.spawn("cluster-lease", move || presence.run())?;
        for _ in 0..SPEAKERS {
            let speaker = speaker.clone();
            self.spawn("cluster-word", move || speaker.run())?;
        }
        self.spawn("cluster-tend", move || tender.run())?;
        for orders in orders {
            let (writer, orders) = (writer.clone(), orders.clone());
            self.spawn("cluster-write", move || writer.run(&orders))?;
        }
        Ok(())
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.to_owned()).spawn(run)?);
        Ok(())
    }

    /// How calls reach it.
    #[must_use]
    pub fn cluster(&self) -> Option<Cluster> {
        self.cluster.clone()
    }

    /// Whether a thread has ended that must not.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        !self.board.is_stopping() && self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends it when nothing is delivered any more: tells the others, and ends the threads. Takes no longer than
    /// `within`, or little more.
    ///
    /// # Errors
    /// The others could not be told.
    pub fn stop(mut self, within: Duration) -> Result<(), String> {
        let deadline = clock::now().instant.after(within);
        self.end(within / 2);
        self.presence.stop(deadline)
    }

    /// Ends the threads. One that waits for an etcd that is silent is left to itself: it says nothing any more.
    fn end(&mut self, within: Duration) {
        let deadline = clock::now().instant.after(within);
        self.cluster = None;
        self.board.change(|state| state.stopping = true);
        for thread in self.threads.drain(..) {
            while !thread.is_finished() && clock::now().instant < deadline {
                std::thread::park_timeout(LOOK);
            }
            if thread.is_finished() {
                // A panic was printed when it happened.
                let _ = thread.join();
            }
        }
    }
}

impl Cluster {
    /// Whether a change is one of the whole cluster. Of one by id, only the rule itself tells.
    #[must_use]
    pub fn concerns(request: &Request) -> bool {
        match request {
            Request::Put { draft, .. } => draft.cluster,
            Request::RemoveIdentity { cluster, .. } => *cluster,
            Request::Suppress(_) | Request::Unsuppress(_) | Request::PutPool(_) | Request::RemovePool(_) => true,
            Request::RemoveId(..)
            | Request::PutPoolIp(_)
            | Request::RemovePoolIp(..)
            | Request::PutExternalMta(_)
            | Request::RemoveExternalMta(_)
            | Request::Sweep(_)
            | Request::Follow(_) => false,
        }
    }

    /// Makes a change for the whole cluster; answers when it is in force on every node that may be delivering, or, if
    /// `local`, on this one.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn change(
        &self,
        control: &Control,
        request: Request,
        origin: Origin,
        local: bool,
    ) -> Result<Changed, Failure> {
        let (orders, entries) = match &request {
            Request::Suppress(entries) => (&self.suppressions, entries.len()),
            Request::Unsuppress(values) => (&self.suppressions, values.len()),
            _ => (&self.rules, 1),
        };
        let parts = u32::try_from(entries / ENTRIES_A_PART).unwrap_or(u32::MAX).max(1);
        let within = self.answer_within.saturating_mul(parts);
        self.order(control, orders, (Task::Change(request), origin), within, local).await
    }

    /// Calls wait for a node no longer: it will never come back.
    ///
    /// # Errors
    /// There is no such node, or it is there; see [`Failure`].
    pub async fn forget(&self, control: &Control, node: &str, origin: Origin) -> Result<Changed, Failure> {
        let task = Task::Forget(node.into());
        self.order(control, &self.rules, (task, origin), self.answer_within, true).await
    }

    async fn order(
        &self,
        control: &Control,
        orders: &Sender<Order>,
        (task, origin): (Task, Origin),
        within: Duration,
        local: bool,
    ) -> Result<Changed, Failure> {
        let (replier, answer) = reply();
        let (call, _whoever_asks) = self.board.asked(local, replier);
        let deadline = clock::now().instant.after(within);
        if orders.try_send(Order { call, task, origin, deadline }).is_err() {
            let given_up = self.board.with(|state| state.give_up(call));
            return Err(given_up.expect("nobody else knows of a call that was not given as an order"));
        }
        match answer.within(control, within).await {
            Ok(result) => result,
            Err(_) => {
                // It may have been answered in this very moment.
                let late = || Failure::Unavailable(unknown("the answer came too late"));
                Err(self.board.with(|state| state.give_up(call)).unwrap_or_else(late))
            }
        }
    }

    /// How it is with the cluster.
    #[must_use]
    pub fn status(&self) -> Status {
        self.board.with(|state| {
            let now = clock::now();
            let holding = match state.fence(now) {
                Fence::Shut(why) => Some(why.as_str()),
                Fence::Open | Fence::From(_) => None,
            };
            Status::of(state, (&self.node, self.delivers_when_lost), self.etcd.endpoint(), (holding, now.instant))
        })
    }

    /// The rule that holds all mail of this engine, while there is one; it is in no list but that of all rules.
    #[must_use]
    pub fn fence(&self) -> Option<RuleEntry> {
        let (fence, since) = self.board.with(|state| (state.fence(clock::now()), state.since));
        let Fence::Shut(why) = fence else { return None };
        let draft = Draft {
            collection: Collection::Suspensions,
            scope: Scope::default(),
            decree: Decree::Suspend { reason: why.as_str().into() },
            cluster: false,
            schedule: Schedule::default(),
        };
        let origin = Origin { token: "(cluster)".into(), peer: "".into(), at: since, node: self.node.clone() };
        Some(RuleEntry { id: FENCE.into(), order: 0, draft, origin, created: since })
    }
}
