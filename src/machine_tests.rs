//! What the machine says of itself, from files as kernels write them.

use super::{Machine, cpu_quota, memory_bytes, resolvers};
use crate::test_directory::TestDirectory;

const TOTAL: u64 = 8 << 30;

/// Name of the case, files below the root, whole processors, octets.
type Case = (&'static str, &'static [(&'static str, &'static str)], Option<usize>, u64);

const CASES: &[Case] = &[
    ("nothing", &[], None, TOTAL),
    (
        "v2-without-limits",
        &[
            ("proc/self/cgroup", "0::/system.slice/mailrace.service\n"),
            ("sys/fs/cgroup/system.slice/mailrace.service/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/system.slice/mailrace.service/memory.max", "max\n"),
        ],
        None,
        TOTAL,
    ),
    (
        "v2-limits-of-the-parent-hold",
        &[
            ("proc/self/cgroup", "0::/mail.slice/mailrace.service\n"),
            ("sys/fs/cgroup/mail.slice/mailrace.service/cpu.max", "400000 100000\n"),
            ("sys/fs/cgroup/mail.slice/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/mail.slice/mailrace.service/memory.max", "max\n"),
            ("sys/fs/cgroup/mail.slice/memory.max", "1073741824\n"),
        ],
        Some(2),
        1 << 30,
    ),
    (
        "container-with-its-own-root",
        &[
            ("proc/self/cgroup", "0::/../../docker/abc\n"),
            ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/memory.max", "536870912\n"),
        ],
        Some(1),
        1 << 29,
    ),
    (
        "v1",
        &[
            ("proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n"),
            ("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "300000\n"),
            ("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "268435456\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ],
        Some(3),
        1 << 28,
    ),
    (
        "v1-without-quota",
        &[
            ("proc/self/cgroup", "4:cpu,cpuacct:/\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ],
        None,
        TOTAL,
    ),
];

#[test]
fn cgroups_limit_cores_and_memory() {
    for (name, files, cpus, memory) in CASES {
        let root = TestDirectory::new(&format!("cgroup-{name}"));
        for (path, content) in *files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        assert_eq!(cpu_quota(root.path()), *cpus, "{name}");
        assert_eq!(memory_bytes(root.path(), TOTAL), *memory, "{name}");
    }
}

#[test]
fn resolvers_of_resolv_conf() {
    for (text, expected) in [
        ("nameserver 192.0.2.1\n", &["192.0.2.1:53"][..]),
        (
            "# nameserver 192.0.2.9\nsearch x\n nameserver\t::1 # here\nnameserver 192.0.2.1",
            &["[::1]:53", "192.0.2.1:53"],
        ),
        ("nameserver fe80::1%eth0\nnameserver rubbish\nnameservers 192.0.2.1", &["127.0.0.1:53"]),
        ("", &["127.0.0.1:53"]),
    ] {
        let found: Vec<_> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{text:?}");
    }
    assert_eq!(resolvers(&"nameserver 192.0.2.1\n".repeat(50)).len(), super::DNS_SERVERS_MAX);
}

#[test]
fn shards_by_cores() {
    for (cores, expected) in [(1, 1), (2, 2), (3, 2), (8, 7), (2000, 1024)] {
        let machine = Machine {
            hostname: "mx.example".into(),
            cpus: (0..cores).collect(),
            quota: false,
            memory_bytes: 1 << 30,
            open_files: 20_000,
            resolvers: Vec::new(),
        };
        assert_eq!(machine.default_shards(), expected, "{cores}");
    }
}
