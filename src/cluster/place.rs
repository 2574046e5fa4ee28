//! Before anything is followed: whether etcd is the one that this engine knows, and has the past that it knows; who the other
//! nodes are; and whether this engine is still one of them, under its name and alone with it. Decides what may be
//! followed; follows nothing, and drops no rule.

use super::board::State;
use super::etcd::{Compare, EtcdError, Op, Page, Txn, after_prefix};
use super::follow::{Follower, Over, member, said};
use super::presence::OBJECTION_WITHIN;
use super::record::{Key, Run, Said};
use super::waiting::{Member, Name};
use crate::rules::shared::Revision;
use mailrace_shards::runtime::clock;
use mailrace_shards::time::Instant;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long etcd may take for a transaction.
const WITHIN: Duration = Duration::from_secs(2);

/// How long an engine that crashed waits at its start for an etcd that refuses to be asked, or breaks off. It may be away
/// for longer; then the engine delivers by what it knows, as it does whenever etcd is away.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// And how long for one that is slow to answer, or does not say that it will not.
pub(super) const ASK_AT_MOST: Duration = Duration::from_secs(10);

/// What is said of nodes, read at a time.
const PAGE: u32 = 500;

impl Follower {
    /// Before etcd has said for the first time whether the others count with this engine: mail waits as long as it is
    /// being asked, and no longer than a bound.
    pub(super) fn ask_first(&self, began: Instant, is_asked: bool) {
        let within = if is_asked { ASK_AT_MOST } else { ASK_WITHIN };
        self.board.change(|state| {
            if state.nodes_at == 0 {
                state.gate.still_unsure(clock::now().instant, began.after(within));
            }
        });
    }

    /// Reads what is said of nodes, and checks that etcd is the one that this engine knows, and our name ours.
    pub(super) fn nodes(&mut self) -> Result<Revision, Over> {
        let from = self.keys.nodes();
        let end = after_prefix(&from);
        let mut page = self.etcd.range(&from, &end, None, PAGE)?;
        let (revision, cluster_id) = (page.header.revision, page.header.cluster_id);
        let place = format!("{cluster_id:016x} {} {}", self.keys.prefix(), self.identity()?);
        self.check_place(&place, revision)?;
        let mut names = BTreeSet::new();
        let (mut words, mut copies) = (Vec::new(), Vec::new());
        loop {
            for kv in &page.kvs {
                match self.keys.read(&kv.key) {
                    Key::Member(name) => {
                        let name: Name = name.into();
                        names.insert(name.clone());
                        words.push((name, Some(member(kv)), None));
                    }
                    Key::Word(name) => {
                        let name: Name = name.into();
                        names.insert(name.clone());
                        let said = said(kv);
                        copies.extend(said.clone().filter(|_| name != self.node).map(|said| (said, kv.mod_revision)));
                        words.push((name, None, said));
                    }
                    _ => {}
                }
            }
            let Some(last) = page.kvs.last().filter(|_| page.more) else { break };
            let mut next = last.key.clone();
            next.push(0);
            page = self.etcd.range(&next, &end, Some(revision), PAGE)?;
        }
        self.check_name(&words)?;
        copies.iter().try_for_each(|(said, at)| self.hear_other(said, *at))?;
        self.check_counted(&words, revision);
        let silent: BTreeSet<&Name> =
            words.iter().filter(|(_, _, said)| said.is_some()).map(|(name, ..)| name).collect();
        self.board.change(|state| {
            state.cluster_id = Some(cluster_id);
            state.nodes_at = revision;
            state.only(&names);
            for (name, member, said) in words.clone() {
                if let Some(member) = member {
                    state.announced(&name, Some(member));
                }
                if said.is_some() {
                    state.said(&name, said, None);
                }
            }
            for name in names.iter().filter(|name| !silent.contains(name)) {
                state.said(name, None, None);
            }
        });
        Ok(revision)
    }

    /// What this cluster's part of etcd is called; whoever comes first makes it. An etcd that was made anew in the place
    /// of another may call itself as that one did, and has another or none of these.
    fn identity(&self) -> Result<String, Over> {
        let key = self.keys.identity();
        let known = self.etcd.range(&key, &[], None, 1)?;
        if let Some(kv) = known.kvs.first() {
            return Ok(String::from_utf8_lossy(&kv.value).into_owned());
        }
        if self.membership.revision > 0 {
            return Ok("none".to_owned());
        }
        let value = uuid::Builder::from_random_bytes(crate::users::random()).into_uuid().to_string();
        let put = Op::Put { key: key.clone(), value: value.into_bytes(), lease: None };
        let txn = Txn { compare: vec![Compare::absent(&key)], success: vec![put], failure: Vec::new() };
        self.etcd.txn(&txn, WITHIN)?;
        // Ours, or that of somebody who was faster.
        let known = self.etcd.range(&key, &[], None, 1)?;
        let kv = known.kvs.first().ok_or_else(|| Over::Again("etcd lost a key that was just made".to_owned()))?;
        Ok(String::from_utf8_lossy(&kv.value).into_owned())
    }

    fn check_place(&mut self, place: &str, revision: Revision) -> Result<(), Over> {
        let known = self.membership.clone();
        let is_same = known.place.as_deref() == Some(place);
        if known.revision > 0 && !is_same {
            let was = known.place.unwrap_or_default();
            let why = format!(
                "this is another etcd, or another prefix in it, than the rules here come from ({place}, not {was}). They \
                 stay in force and nothing new is heard. To take them into this one, start once without [cluster]"
            );
            return Err(Over::Refused(why));
        }
        let stored = known.revision;
        if stored > revision {
            return Err(Over::Refused(restored(stored)));
        }
        if known.revision == 0 {
            // What was known of it before is nothing that it knows, if it is another one or was restored from a backup.
            let is_new = !is_same || known.behind > revision || self.missing_in_history()?.is_some();
            let place = place.to_owned();
            self.membership.place = Some(place.clone());
            self.membership.behind = 0;
            self.authority.note(move |store| store.settle_in(&place, is_new)).map_err(Over::Again)?;
        }
        Ok(())
    }

    /// Whether our name is taken.
    fn check_name(&self, words: &[Found]) -> Result<(), Over> {
        let of_us = || words.iter().filter(|(name, ..)| *name == self.node);
        let twin = self.board.with(|state| state.twin.clone());
        if let Some(twin) = twin {
            // It may have another name.
            if words.iter().any(|(_, _, said)| said.as_ref().is_some_and(|said| said.run == twin)) {
                return Err(Over::Refused(is_copy(&twin)));
            }
            self.board.change(|state| {
                state.twin = None;
                state.gate.is_copy(false);
            });
        }
        let other = |uuid: &str| *uuid != *self.membership.uuid;
        let name = &self.node;
        let said = of_us().find_map(|(_, _, said)| said.as_ref());
        if let Some(said) = said.filter(|said| other(&said.run.uuid)) {
            self.board.change(State::uncounted);
            let why = format!(
                "another engine runs under the name {name:?} ({}); give this one another cluster.node, or stop the other",
                said.run.place
            );
            return Err(Over::Refused(why));
        }
        let lost = of_us().filter_map(|(_, member, _)| member.as_ref());
        if lost.into_iter().any(|member| member.running && other(&member.uuid)) {
            self.board.change(State::uncounted);
            let why = format!(
                "{name:?} was last seen running with another data directory, and may still be delivering. If that one is \
                 gone for good: mailrace cluster forget {name}; else give this one another cluster.node"
            );
            return Err(Over::Refused(why));
        }
        Ok(())
    }

    /// Whether the others count with this node: whoever was answered meanwhile may not have waited for it. If they do not,
    /// it delivers nothing more until it has announced itself and caught up.
    fn check_counted(&self, words: &[Found], revision: Revision) {
        let of_us = || words.iter().filter(|(name, ..)| *name == self.node);
        let word = of_us().find_map(|(_, _, said)| said.as_ref());
        // What counts once the word is gone.
        let is_counted = of_us().filter_map(|(_, member, _)| member.as_ref()).any(|member| member.running);
        let is_another_run = word.is_some_and(|said| said.run.id != self.run.id);
        self.board.change(|state| {
            if is_another_run {
                state.gate.unsure(clock::now().instant.after(OBJECTION_WITHIN));
            } else {
                state.gate.sure(revision);
            }
            if !is_counted && state.nodes_at == 0 {
                state.gate.uncounted();
            } else if !is_counted {
                state.uncounted();
            }
        });
    }

    /// Whether etcd has the past that is known here.
    pub(super) fn check_history(&self) -> Result<(), Over> {
        if self.membership.revision == 0 {
            return Ok(());
        }
        self.missing_in_history()?.map_or(Ok(()), |revision| Err(Over::Refused(restored(revision))))
    }

    /// The revision of the newest change that is known here, if it is not in etcd's history. An etcd that was restored from
    /// a backup and has gone on since has later revisions and another past: what it says next does not follow on what is
    /// here.
    fn missing_in_history(&self) -> Result<Option<Revision>, Over> {
        let newest = self.authority.look(crate::rules::store::Store::newest_shared).map_err(Over::Again)?;
        let Some((key, at)) = newest else { return Ok(None) };
        let key = self.keys.rule(&key);
        let is_there = |page: &Page| page.kvs.first().is_some_and(|kv| kv.mod_revision == at);
        if is_there(&self.etcd.range(&key, &[], None, 1)?) {
            return Ok(None);
        }
        // It was changed since, or never was. What etcd has forgotten cannot be asked for; then everything is compared.
        match self.etcd.range(&key, &[], Some(at), 1) {
            Ok(page) => Ok((!is_there(&page)).then_some(at)),
            Err(EtcdError::Compacted { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// What is said of a node in etcd: its name, what it announced, its word.
type Found = (Name, Option<Member>, Option<Said>);

fn restored(revision: Revision) -> String {
    format!(
        "etcd does not know revision {revision}, which this engine has heard of: it was restored from a backup. The \
         rules here stay in force and nothing new is heard. To go on from the backup, start once without [cluster]"
    )
}

/// What to say to whoever started an engine from a copy of another one's data directory.
pub(super) fn is_copy(other: &Run) -> String {
    format!(
        "another engine runs with a copy of this data directory: {}. This one delivers nothing, because the mail in it is \
         that one's; stop one of them, and give the other an empty directory",
        other.place
    )
}
