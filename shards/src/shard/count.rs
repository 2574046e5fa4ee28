//! What a question over the queue counts, by bucket: entries of a bucket have their names in common, and most scopes
//! cover all of them or none. So an entry costs a look at itself. Knows no rule and changes nothing.

use crate::event::QueueView;
use crate::queue::BucketId;
use hashbrown::HashMap;
use std::cmp::Reverse;
use std::sync::Arc;

/// What is counted of one bucket.
#[derive(Debug)]
pub(super) struct BucketCount {
    /// Name of the scheduled queue. By it is told that a number has become another bucket's meanwhile.
    queue: Arc<str>,
    domain: Arc<str>,
    /// What the scope asks of the bucket alone is so.
    pub(super) fits: bool,
    /// Recipients that the scope covers.
    pub(super) matched: u64,
    /// Entries.
    pub(super) total: u64,
    /// Those that are held.
    pub(super) held: u64,
    /// Those that wait for a retry.
    pub(super) waiting: u64,
    /// Entries by age.
    pub(super) ages: [u64; 10],
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Counts {
    open: HashMap<BucketId, BucketCount>,
    /// Of buckets that are gone.
    gone: Vec<BucketCount>,
}

impl Counts {
    /// Of a bucket with these names. Whether it fits is asked when it is met first.
    pub(super) fn of(
        &mut self,
        bucket: BucketId,
        queue: &Arc<str>,
        domain: &Arc<str>,
        fits: impl FnOnce() -> bool,
    ) -> &mut BucketCount {
        let fresh = |fits| BucketCount {
            queue: queue.clone(),
            domain: domain.clone(),
            fits,
            matched: 0,
            total: 0,
            held: 0,
            waiting: 0,
            ages: [0; 10],
        };
        if self.open.get(&bucket).is_some_and(|known| !Arc::ptr_eq(&known.queue, queue)) {
            self.gone.extend(self.open.remove(&bucket));
        }
        self.open.entry(bucket).or_insert_with(|| fresh(fits()))
    }

    fn all(&self) -> impl Iterator<Item = &BucketCount> {
        self.gone.iter().chain(self.open.values())
    }

    /// Covered recipients by domain, the largest first.
    pub(super) fn by_domain(&self, most: usize) -> Vec<(Arc<str>, u64)> {
        largest(self.all().map(|of| (&of.domain, of.matched)), most)
    }

    /// The same by scheduled queue, less what is in flight there.
    pub(super) fn by_queue(&self, in_flight: &HashMap<Arc<str>, u64>, most: usize) -> Vec<(Arc<str>, u64)> {
        let mut queues: HashMap<&Arc<str>, u64> = HashMap::new();
        self.all().for_each(|of| *queues.entry(&of.queue).or_default() += of.matched);
        let less = |queue: &Arc<str>| in_flight.get(&**queue).copied().unwrap_or(0);
        largest(queues.into_iter().map(|(queue, count)| (queue, count.saturating_sub(less(queue)))), most)
    }

    /// Domains, the largest first.
    pub(super) fn queues(&self, most: usize) -> Vec<QueueView> {
        let mut views: HashMap<&str, QueueView> = HashMap::new();
        for of in self.all() {
            let view = views.entry(&*of.domain).or_insert_with(|| QueueView {
                domain: of.domain.clone(),
                total: 0,
                held: 0,
                waiting: 0,
                ages: [0; 10],
            });
            view.total += of.total;
            view.held += of.held;
            view.waiting += of.waiting;
            view.ages.iter_mut().zip(of.ages).for_each(|(age, more)| *age += more);
        }
        let mut views: Vec<QueueView> = views.into_values().collect();
        views.sort_unstable_by_key(|view| Reverse(view.total));
        views.truncate(most);
        views
    }
}

fn largest<'a>(counts: impl Iterator<Item = (&'a Arc<str>, u64)>, most: usize) -> Vec<(Arc<str>, u64)> {
    let mut sums: HashMap<&Arc<str>, u64> = HashMap::new();
    counts.filter(|(_, count)| *count > 0).for_each(|(name, count)| *sums.entry(name).or_default() += count);
    let mut sums: Vec<(Arc<str>, u64)> = sums.into_iter().map(|(name, count)| (name.clone(), count)).collect();
    sums.sort_unstable_by_key(|(_, count)| Reverse(*count));
    sums.truncate(most);
    sums
}
