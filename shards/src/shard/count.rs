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

#[cfg(test)]
mod tests {
    use super::Counts;
    use crate::queue::BucketId;
    use hashbrown::HashMap;
    use std::sync::Arc;

    /// Counts of buckets by (number, queue, domain, matched).
    fn counts(of: &[(u32, &Arc<str>, &Arc<str>, u64)]) -> Counts {
        let mut counts = Counts::default();
        for &(bucket, queue, domain, matched) in of {
            let count = counts.of(BucketId(bucket), queue, domain, || true);
            count.matched += matched;
            count.total += matched + 1;
            count.held += 2;
            count.waiting += 3;
            count.ages[0] += 4;
            count.ages[9] += 5;
        }
        counts
    }

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    fn told(counts: &[(Arc<str>, u64)]) -> Vec<(&str, u64)> {
        counts.iter().map(|(name, count)| (&**name, *count)).collect()
    }

    #[test]
    fn what_buckets_have_in_common_is_added_up() {
        let (a, b, c) = (name("a.test"), name("b.test"), name("c.test"));
        let (spring, autumn) = (name("spring:@a.test"), name("autumn:@a.test"));
        let counts =
            counts(&[(1, &spring, &a, 5), (2, &autumn, &a, 7), (3, &b, &b, 20), (4, &c, &c, 0), (1, &spring, &a, 3)]);
        assert_eq!(told(&counts.by_domain(10)), [("b.test", 20), ("a.test", 15)]);
        assert_eq!(told(&counts.by_domain(1)), [("b.test", 20)]);
        let queues = [("b.test", 20), ("spring:@a.test", 8), ("autumn:@a.test", 7)];
        assert_eq!(told(&counts.by_queue(&HashMap::new(), 10)), queues);
        let in_flight = HashMap::from([(spring, 6), (b, 25), (c, 1)]);
        let left = [("autumn:@a.test", 7), ("spring:@a.test", 2)];
        assert_eq!(told(&counts.by_queue(&in_flight, 10)), left, "less what is in flight");
        assert_eq!(told(&counts.by_queue(&in_flight, 1)), left[..1]);
        let views = counts.queues(10);
        let seen: Vec<_> = views.iter().map(|view| (&*view.domain, view.total, view.held, view.waiting)).collect();
        assert_eq!(seen, [("b.test", 21, 2, 3), ("a.test", 18, 6, 9), ("c.test", 1, 2, 3)]);
        assert_eq!((views[1].ages[0], views[1].ages[9], views[1].ages[5]), (12, 15, 0));
        assert_eq!(counts.queues(2).len(), 2);
    }

    /// The number of a bucket that went is given to another: both are counted, each under its own names.
    #[test]
    fn a_bucket_that_took_the_number_of_another_is_counted_apart() {
        let (a, b) = (name("a.test"), name("b.test"));
        let counts = counts(&[(1, &a, &a, 5), (1, &a, &a, 1), (1, &b, &b, 2), (2, &a, &a, 4)]);
        assert_eq!(told(&counts.by_domain(10)), [("a.test", 10), ("b.test", 2)]);
        assert_eq!(told(&counts.by_queue(&HashMap::new(), 10)), [("a.test", 10), ("b.test", 2)]);
    }

    #[test]
    fn whether_a_bucket_fits_is_asked_once() {
        let (a, mut counts, mut asked) = (name("a.test"), Counts::default(), 0);
        for _ in 0..3 {
            let fits = || {
                asked += 1;
                false
            };
            assert!(!counts.of(BucketId(1), &a, &a, fits).fits);
        }
        assert_eq!(asked, 1);
    }
}
