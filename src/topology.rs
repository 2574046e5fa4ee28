//! Which core runs on which processor. A plan only: the runtime pins.

use mailrace_shards::settings::Settings;

/// Processor numbers, as the kernel counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Of the control core.
    pub control_cpu: usize,
    /// Of each shard, by its number.
    pub shard_cpus: Vec<usize>,
}

impl Topology {
    /// Places `settings.shards` shards on `cpus` (at least one). Three processors or more and fewer shards
    /// than processors: control has the first to itself; otherwise it shares the first, and shards beyond the
    /// processors share in turn.
    #[must_use]
    pub fn plan(settings: &Settings, cpus: &[usize]) -> Self {
        assert!(!cpus.is_empty(), "a process runs on at least one processor");
        let alone = cpus.len() > 2 && settings.shards < cpus.len();
        let for_shards = if alone { &cpus[1..] } else { cpus };
        let shard_cpus = for_shards.iter().cycle().take(settings.shards).copied().collect();
        Self { control_cpu: cpus[0], shard_cpus }
    }

    /// Whether control has a processor to itself.
    #[must_use]
    pub fn control_is_alone(&self) -> bool {
        !self.shard_cpus.contains(&self.control_cpu)
    }
}
