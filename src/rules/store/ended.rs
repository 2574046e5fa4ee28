//! How many recipients rules have ended, by scheduled queue, and up to where in the outcome logs these counts go.
//! Counts and places change in one transaction, so that no end is counted twice or never.

use super::{Store, StoreError};
use crate::rules::entry::RuleEntry;
use mailrace_shards::limits::{ENDED_QUEUES_MAX, OTHER_QUEUES};
use mailrace_shards::runtime::tally::{Place, Places, Tally};
use mailrace_shards::time::Timestamp;
use rusqlite::{OptionalExtension, Result, Row, Transaction, params};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// By rule: recipients ended, by scheduled queue.
pub type Ended = HashMap<Arc<str>, Vec<(String, u64)>>;

impl Store {
    /// Up to where ends are counted, by shard.
    pub fn counted(&self) -> std::result::Result<BTreeMap<u16, Places>, StoreError> {
        let row = |row: &Row<'_>| {
            let at = Timestamp(row.get(4)?);
            let first = row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned);
            Ok((row.get::<_, u16>(0)?, row.get::<_, String>(1)?, Place { first, octets: row.get(3)?, at }))
        };
        let mut counted: BTreeMap<u16, Places> = BTreeMap::new();
        for (shard, file, place) in self.all("SELECT shard, file, first, octets, at FROM counted", [], row)? {
            let places = counted.entry(shard).or_default();
            *(if file == "log" { &mut places.log } else { &mut places.unlogged }) = place;
        }
        Ok(counted)
    }

    /// Begins the counts of a new start: all that was counted until now was before it, and so are these, which the
    /// last run did not come to store.
    pub fn begin_counts(&mut self, tails: &[(u16, Tally)]) -> std::result::Result<(), StoreError> {
        self.within(|transaction| {
            transaction.execute("UPDATE ended SET before = before + since, since = 0 WHERE since > 0", [])?;
            tails.iter().try_for_each(|(shard, tail)| add(transaction, *shard, tail, "before"))
        })
    }

    /// Stores what was counted since.
    pub fn add_counts(&mut self, tallies: &[(u16, Tally)]) -> std::result::Result<(), StoreError> {
        self.within(|transaction| {
            tallies.iter().try_for_each(|(shard, tally)| add(transaction, *shard, tally, "since"))
        })
    }

    /// What rules had ended before this start. What they have ended since, the cores know.
    pub fn ended_before(&self, rules: &[RuleEntry]) -> std::result::Result<Ended, StoreError> {
        let query = "SELECT queue, before FROM ended WHERE rule = ?1 AND before > 0 ORDER BY queue";
        let of = |rule: &RuleEntry| {
            let queues = self.all(query, [rule.order], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok((rule.id.clone(), queues))
        };
        rules.iter().map(of).filter(|of| !of.as_ref().is_ok_and(|(_, queues)| queues.is_empty())).collect()
    }
}

fn add(transaction: &Transaction<'_>, shard: u16, tally: &Tally, column: &str) -> Result<()> {
    let mut position = transaction.prepare_cached("SELECT position FROM rule WHERE id = ?1")?;
    let update = format!("UPDATE ended SET {column} = {column} + ?3 WHERE rule = ?1 AND queue = ?2");
    let mut update = transaction.prepare_cached(&update)?;
    let mut insert =
        transaction.prepare_cached("INSERT OR IGNORE INTO ended (rule, queue, before, since) VALUES (?1, ?2, 0, 0)")?;
    let mut count_queues = transaction.prepare_cached("SELECT count(*) FROM ended WHERE rule = ?1")?;
    let mut queues: HashMap<i64, usize> = HashMap::new();
    for ((rule, queue), count) in &tally.ends {
        // A rule that is gone has taken its counts along.
        let Some(rule) = position.query_row([&**rule], |row| row.get::<_, i64>(0)).optional()? else { continue };
        if update.execute(params![rule, &**queue, count])? > 0 {
            continue;
        }
        let known = match queues.get(&rule) {
            Some(known) => *known,
            None => count_queues.query_row([rule], |row| row.get(0))?,
        };
        queues.insert(rule, known + 1);
        // The bound of names is that of a core.
        let queue = if known < ENDED_QUEUES_MAX { &**queue } else { OTHER_QUEUES };
        insert.execute(params![rule, queue])?;
        update.execute(params![rule, queue, count])?;
    }
    let mut place = transaction.prepare_cached(
        "INSERT OR REPLACE INTO counted (shard, file, first, octets, at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for (file, Place { first, octets, at }) in [("log", tally.places.log), ("unlogged", tally.places.unlogged)] {
        place.execute(params![shard, file, first.map(u64::cast_signed), octets, at.0])?;
    }
    Ok(())
}
