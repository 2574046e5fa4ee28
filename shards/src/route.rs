//! Which core owns a recipient domain. Nothing else knows the hash.

use crate::message::CoreId;

/// The core among `cores` (at least 1) that owns `domain` (lower case, A-labels).
///
/// The hash is stable across versions and machines; a changed number of cores moves domains, which costs
/// nothing because recovery posts open recipients by this function.
#[must_use]
pub fn owner(domain: &str, cores: usize) -> CoreId {
    lane_owner(domain, 0, cores)
}

/// The core of lane `lane` of a domain that is configured to spread over several cores
/// (`[[limit]] lanes`). Lane 0 is [`owner`]; lanes follow on neighbouring cores.
#[must_use]
pub fn lane_owner(domain: &str, lane: u16, cores: usize) -> CoreId {
    assert!(cores > 0, "an engine has at least one core");
    let start = fnv1a(domain.as_bytes()) % cores as u64;
    let core = (start + u64::from(lane)) % cores as u64;
    CoreId(u16::try_from(core).expect("cores are numbered with 16 bits"))
}

/// FNV-1a, then a finalizer so that the low bits that the modulus uses depend on every octet.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        // Address literals are the one kind of domain with capitals, and suppressions of them have none.
        hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use super::owner;

    #[test]
    fn domains_spread_evenly() {
        let mut counts = [0_u32; 8];
        for n in 0..8000 {
            counts[owner(&format!("d{n}.example"), 8).0 as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (850..1150).contains(&c)), "{counts:?}");
    }
}
