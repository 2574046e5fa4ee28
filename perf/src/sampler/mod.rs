//! What a server costs: CPU, memory, switches, system calls, read from the kernel and from nowhere else.

pub mod cpu_clock;
pub mod group;
pub mod machine;
pub mod peak;
pub mod process;
pub mod syscalls;
pub mod trace;
