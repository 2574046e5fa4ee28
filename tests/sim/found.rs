//! Mail of previous lives on its way back into the queues: the engine takes mail, rules and connections as soon as it
//! runs; what its spools hold is searched for beside that, made known to the journal and posted a part at a time. It may die
//! at any step of it.

use crate::storage::Task;
use crate::world::{Event, Happening, World};
use mailrace_shards::message::Envelope;
use mailrace_shards::spool::found::FoundMessages;
use mailrace_shards::spool::recover::{Older, Search};
use mailrace_shards::spool::report::Point;
use mailrace_shards::spool::search::search;
use std::sync::Arc;

/// How far a spool is with what it held at the start.
pub enum Found {
    /// Not searched yet.
    Older(Older),
    /// Searched; these are still to be posted.
    Messages(FoundMessages),
    /// All of it is in the queues.
    Posted,
}

/// What a search says before the first message comes.
#[derive(Debug)]
pub struct Searched {
    unrecorded: Vec<Arc<Envelope>>,
    recorded: Point,
}

/// Longest time of a step, microseconds.
const STEP: u64 = 300_000;

impl World {
    /// The searching thread of a spool does its work, which only reads.
    pub fn search_spool(&mut self, number: u16) {
        let spool = self.spools.get_mut(&number).expect("only spools that are open are searched");
        let disk = spool.disk.clone();
        let Found::Older(older) = &spool.found else { panic!("a spool is searched once in a life") };
        let found = search(&disk, older, |_| true);
        // An engine that cannot know its mail ends; so does one whose machine stops.
        let Ok(found) = found else { return self.end_in_search() };
        if self.faults.disk_has_stopped(number, &disk) {
            return self.end_in_search();
        }
        let found = found.expect("nobody ends the search");
        let Search { findings, messages, dropped, unrecorded, recorded } = found;
        self.report.add("engine", "message recovered", messages.left());
        for dropped in &dropped {
            // A crash may leave holes in what was not synced; what that may cost, the ledger says.
            let why = format!("{:?}", dropped.why);
            self.report.count("recovery dropped", why.split('(').next().unwrap_or_default());
        }
        self.hand_to_spool(number, Task::Adopt(Box::new(findings), unrecorded.is_empty().then_some(recorded)));
        self.spools.get_mut(&number).expect("it was there at the top").found = Found::Messages(messages);
        let core = usize::from(number) % self.cores.len();
        let delay = self.random.skewed(1, STEP);
        self.on_core(core, delay, Happening::Searched(number, Searched { unrecorded, recorded }));
    }

    /// The core hears what the search says, and the first messages are read for it.
    pub fn searched(&mut self, core: usize, number: u16, searched: Searched) {
        if self.cores[core].stopping {
            return;
        }
        let Searched { unrecorded, recorded } = searched;
        self.with_shard(core, |shard, _| shard.handle_unrecorded(number, &unrecorded, recorded));
        self.post_found(core, number);
    }

    /// The next of the messages go to their owners. At a stop the rest stays where it is.
    pub fn post_found(&mut self, core: usize, number: u16) {
        if self.cores[core].stopping {
            return;
        }
        let most = self.random.between(1, 8) as usize;
        let spool = self.spools.get_mut(&number).expect("only what an open spool holds is posted");
        let Found::Messages(found) = &mut spool.found else { panic!("messages come behind the search") };
        let messages = found.next(&spool.disk, most);
        let is_over = found.left() == 0;
        let Ok(messages) = messages else { return self.end_in_search() };
        if self.faults.disk_has_stopped(number, &self.spools[&number].disk) {
            return self.end_in_search();
        }
        self.with_shard(core, |shard, _| messages.into_iter().for_each(|message| shard.handle_recovered(message)));
        // Rules and expiry reach it from here on.
        self.oracle.trouble(self.born, self.time);
        if is_over {
            self.spools.get_mut(&number).expect("it was there above").found = Found::Posted;
            if self.spools.values().all(|spool| matches!(spool.found, Found::Posted)) {
                (0..self.cores.len()).for_each(|core| self.with_shard(core, |shard, _| shard.handle_all_found()));
            }
            return self.after(0, Event::SpoolTurn(self.life, number));
        }
        let delay = self.random.skewed(1, STEP);
        self.on_core(core, delay, Happening::Found(number));
    }

    fn end_in_search(&mut self) {
        self.report.count("crash at", "a search of a spool");
        self.doomed = true;
    }
}
