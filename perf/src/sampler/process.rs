//! The usage of a tree of processes, from `/proc` (proc(5)).
//!
//! A process that ends passes its CPU time and its I/O counts to the parent that waits for it, so the sum over the
//! living tree, with the waited-for children of each, loses nothing. Context switches are not passed on.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use rustix::param::{clock_ticks_per_second, page_size};

use super::cpu_clock::process_cpu_ns;
use super::group;

/// Counters of a tree at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all processes, with their ended and waited-for children, microseconds.
    pub cpu_us: u64,
    /// The system time among it, from ticks of 10 ms.
    pub system_us: u64,
    /// Calls of the read and write families on files, `/proc/PID/io`.
    pub read_write_calls: u64,
    /// Octets sent to the block layer.
    pub disk_write_octets: u64,
    /// Resident memory; pages shared between processes count in each.
    pub rss_octets: u64,
    /// Living processes.
    pub processes: u32,
}

/// The fields of `/proc/PID/stat` in use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    own_ticks: u64,
    children_ticks: u64,
    /// Those of both that were spent in the kernel.
    system_ticks: u64,
    start_ticks: u64,
    rss_pages: u64,
}

/// A process that can't be confused with a later one of the same number.
pub type Identity = (u32, u64);

/// Which processes are one party's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots {
    /// Processes that, with all that descend from them, are it.
    pub pids: Vec<u32>,
    /// A control group whose processes are it as well, and by whose count its CPU time goes.
    pub group: Option<PathBuf>,
}

impl Roots {
    /// Whether nobody is meant.
    pub fn is_empty(&self) -> bool {
        self.pids.is_empty() && self.group.is_none()
    }

    fn now(&self) -> Vec<u32> {
        let in_group = self.group.as_deref().map(group::pids).unwrap_or_default();
        self.pids.iter().copied().chain(in_group).collect()
    }
}

impl From<u32> for Roots {
    fn from(pid: u32) -> Roots {
        Roots { pids: vec![pid], group: None }
    }
}

/// The living processes that descend from `roots`, those included.
pub fn tree(roots: &Roots) -> Vec<Identity> {
    living(roots).into_iter().map(|(pid, stat)| (pid, stat.start_ticks)).collect()
}

/// The counters of the tree below `roots`.
pub fn usage(roots: &Roots) -> Usage {
    let mut usage = Usage::default();
    let mut cpu_ns = 0;
    let tick_ns = 1_000_000_000 / clock_ticks_per_second();
    for (pid, stat) in living(roots) {
        // One that ended since it was listed has left what it used to its parent or will be missed by a tick or two.
        cpu_ns += process_cpu_ns(pid).unwrap_or(stat.own_ticks * tick_ns) + stat.children_ticks * tick_ns;
        usage.system_us += stat.system_ticks * tick_ns / 1_000;
        usage.rss_octets += stat.rss_pages * page_size() as u64;
        usage.processes += 1;
        let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
        usage.read_write_calls += field(&io, "syscr:") + field(&io, "syscw:");
        usage.disk_write_octets += field(&io, "write_bytes:");
    }
    usage.cpu_us = cpu_ns / 1_000;
    if let Some((user_us, system_us)) = roots.group.as_deref().and_then(group::cpu_us) {
        (usage.cpu_us, usage.system_us) = (user_us + system_us, system_us);
    }
    usage
}

/// Highest resident memory of one process in its life.
pub fn peak_rss_octets(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(field(&status, "VmHWM:") * 1_024).filter(|octets| *octets > 0)
}

/// Context switches of all threads of a process so far: given up, taken away.
pub fn context_switches(pid: u32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .map(|status| field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:"))
        .sum()
}

fn living(roots: &Roots) -> Vec<(u32, Stat)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let mut stats: HashMap<u32, Stat> = HashMap::new();
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Some(stat) = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|text| parse_stat(&text)) else {
            continue;
        };
        stats.insert(pid, stat);
        children.entry(stat.parent).or_default().push(pid);
    }
    let mut found = Vec::new();
    let mut ahead: Vec<u32> = roots.now();
    while let Some(pid) = ahead.pop() {
        // Removing makes each process count once, even if two roots lead to it.
        if let Some(stat) = stats.remove(&pid) {
            found.push((pid, stat));
            ahead.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// The name in parentheses may hold anything, parentheses too, so the fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    // The first of them is field 3 of proc(5).
    let number = |index: usize| fields.get(index - 3)?.parse::<u64>().ok();
    Some(Stat {
        parent: number(4)? as u32,
        own_ticks: number(14)? + number(15)?,
        children_ticks: number(16)? + number(17)?,
        system_ticks: number(15)? + number(17)?,
        start_ticks: number(22)?,
        rss_pages: number(24)?,
    })
}

/// The number after a label at the beginning of a line.
fn field(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let text = "42 (a) b (c) S 7 1 1 0 -1 0 0 0 0 0 11 12 13 14 20 0 3 0 999 4096 55 0";
        let expected =
            Stat { parent: 7, own_ticks: 23, children_ticks: 27, system_ticks: 26, start_ticks: 999, rss_pages: 55 };
        assert_eq!(parse_stat(text), Some(expected));
        assert_eq!(parse_stat("42 (cut"), None);
    }

    #[test]
    fn our_own_usage_grows_with_work() {
        let us = Roots::from(std::process::id());
        let before = usage(&us);
        let start_ns = crate::clock::now_ns();
        let mut value = 1_u64;
        while crate::clock::now_ns() - start_ns < 100_000_000 {
            value = crate::sink::profile::mix(value);
        }
        let after = usage(&us);
        assert!(value != 0 && before.processes >= 1 && before.rss_octets > 0);
        assert!(after.cpu_us >= before.cpu_us + 10_000, "100 ms of work, {before:?} → {after:?}");
        assert!(peak_rss_octets(us.pids[0]).is_some() && context_switches(us.pids[0]) > 0);
    }
}
