//! Which core runs on which processor. A plan only: the runtime pins.

use crate::machine::Machine;

/// Processor numbers, as the kernel counts them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Of the control core.
    pub control_cpu: usize,
    /// Of each shard, by its number.
    pub shard_cpus: Vec<usize>,
    /// Whether to pin at all. Under a CPU quota the kernel moves work to whichever processor is free, and
    /// pinning would crowd it onto the first ones together with every other container.
    pub pinned: bool,
}

impl Topology {
    /// Places `shards` shards on the machine's processors. With three processors or more, and fewer shards
    /// than processors, control has the first to itself; otherwise it shares the first, and shards beyond
    /// the processors share in turn.
    #[must_use]
    pub fn plan(shards: usize, machine: &Machine) -> Self {
        let cpus = machine.cpus.as_slice();
        assert!(!cpus.is_empty(), "a process runs on at least one processor");
        let alone = cpus.len() > 2 && shards < cpus.len();
        let for_shards = if alone { &cpus[1..] } else { cpus };
        let shard_cpus = for_shards.iter().cycle().take(shards).copied().collect();
        Self { control_cpu: cpus[0], shard_cpus, pinned: !machine.quota }
    }

    /// Whether control has a processor to itself.
    #[must_use]
    pub fn control_is_alone(&self) -> bool {
        !self.shard_cpus.contains(&self.control_cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::Topology;
    use crate::machine::Machine;

    #[test]
    fn plans() {
        for (cpus, shards, expected, alone) in [
            (&[0][..], 1, &[0][..], false),
            (&[0, 1], 2, &[0, 1], false),
            (&[0, 1], 1, &[0], false),
            (&[2, 5, 7], 2, &[5, 7], true),
            (&[0, 1, 2, 3], 3, &[1, 2, 3], true),
            (&[0, 1, 2, 3], 1, &[1], true),
            (&[0, 1, 2, 3], 4, &[0, 1, 2, 3], false),
            (&[0, 1, 2], 7, &[0, 1, 2, 0, 1, 2, 0], false),
        ] {
            let machine = Machine {
                hostname: "mx.example".into(),
                cpus: cpus.to_vec(),
                quota: false,
                memory_bytes: 1,
                open_files: 20_000,
                resolvers: Vec::new(),
            };
            let plan = Topology::plan(shards, &machine);
            assert_eq!((plan.control_cpu, plan.shard_cpus.as_slice()), (cpus[0], expected), "{cpus:?} {shards}");
            assert_eq!(plan.control_is_alone(), alone, "{cpus:?} {shards}");
            assert!(plan.pinned && !Topology::plan(shards, &Machine { quota: true, ..machine }).pinned);
        }
    }
}
