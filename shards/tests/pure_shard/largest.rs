//! The largest queues of a core, among many.

use crate::world::{World, settings};
use mailrace_shards::limits::{LARGEST_BUCKETS_PER_TICK, LARGEST_QUEUES, TICK_MILLIS};
use std::time::Duration;

const DESTINATIONS: usize = 100_000;
const LARGE: usize = LARGEST_QUEUES + 20;

fn tick(world: &mut World, ticks: usize) {
    for _ in 0..ticks {
        world.now = world.now.after(Duration::from_millis(TICK_MILLIS));
        let now = world.now;
        // What it commands is not carried out: nothing leaves the queue.
        world.shards[0].tick(now);
    }
}

#[test]
fn the_largest_of_a_hundred_thousand_queues_are_named() {
    let mut world = World::new(settings());
    for number in 0..DESTINATIONS {
        world.post(&[&format!("r@d{number}.test")]);
    }
    // Some are larger, each by another number; they lie anywhere.
    let place = |rank: usize| rank * 797;
    for rank in 0..LARGE {
        for _ in 0..=rank {
            world.post(&[&format!("r@d{}.test", place(rank))]);
        }
    }
    let look = DESTINATIONS.div_ceil(LARGEST_BUCKETS_PER_TICK) * 2;
    tick(&mut world, look + 2 * 1000 / usize::try_from(TICK_MILLIS).unwrap());
    let found = world.shards[0].largest_queues();
    let expected: Vec<(String, u32)> = (0..LARGE)
        .rev()
        .take(LARGEST_QUEUES)
        .map(|rank| (format!("d{}.test", place(rank)), u32::try_from(rank).unwrap() + 2))
        .collect();
    let found: Vec<(String, u32)> = found.iter().map(|(name, size)| (name.to_string(), *size)).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_empty_queue_has_no_largest() {
    let mut world = World::new(settings());
    tick(&mut world, 100);
    assert!(world.shards[0].largest_queues().is_empty());
}
