//! How the descriptors that the process may have are shared out among injectors, deliveries and everything else. Pure;
//! it asks for no limit itself.

use mailrace_shards::limits::{DESCRIPTORS_RESERVED, DESCRIPTORS_RESERVED_PER_CORE};
use mailrace_shards::settings::ConnectionSettings;

/// Deliveries that each core is left whatever the operator asks for.
const DELIVERING_PER_CORE_MIN: usize = 16;

/// Shares out `open_files` descriptors. Injectors get as many as the operator `wants`, without a wish three quarters of
/// all, as far as a sixth of what is not needed elsewhere remains for deliveries; these get the rest.
pub fn share_out(open_files: usize, shards: usize, wants: Option<usize>) -> ConnectionSettings {
    let reserved = (DESCRIPTORS_RESERVED + DESCRIPTORS_RESERVED_PER_CORE * shards).min(open_files / 4);
    let usable = open_files - reserved;
    let least = (DELIVERING_PER_CORE_MIN * shards).min(usable / 2);
    let injecting = wants.unwrap_or((open_files / 4 * 3).min(usable / 6 * 5)).min(usable - least);
    ConnectionSettings { injecting, delivering: usable - injecting }
}

#[cfg(test)]
mod tests {
    use super::share_out;

    #[test]
    fn all_descriptors_are_shared_out_and_nobody_is_left_without() {
        for (open_files, shards, wants, injecting, delivering) in [
            (20_000, 1, None, 15_000, 4424),
            (20_000, 2, None, 15_000, 4360),
            (20_000, 15, None, 15_000, 3528),
            (1 << 20, 63, None, 786_432, 257_600),
            (1400, 2, None, 875, 175),
            (1024, 2, None, 640, 128),
            (256, 2, None, 160, 32),
            (20_000, 2, Some(100), 100, 19_260),
            (20_000, 2, Some(19_999), 19_328, 32),
            (20_000, 2, Some(0), 0, 19_360),
            (40, 8, Some(1000), 15, 15),
        ] {
            let shared = share_out(open_files, shards, wants);
            assert_eq!(
                (shared.injecting, shared.delivering),
                (injecting, delivering),
                "{open_files} {shards} {wants:?}"
            );
            assert!(injecting + delivering < open_files);
        }
    }
}
