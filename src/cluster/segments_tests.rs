//! Segments in a real etcd.

use super::Segments as EtcdKeys;
use crate::cluster::etcd::{Etcd, EtcdSettings};
use crate::cluster::record;
use crate::cluster::suppressions::keys::{Keys, Replacement};
use crate::cluster::suppressions::listener::{Known, Segments};
use crate::cluster::suppressions::merging::{Done, Merging};
use crate::cluster::suppressions::segment::of_suppressions;
use crate::cluster::suppressions::{SEGMENT_BYTES_MAX, segment_tests};
use crate::cluster::test_etcd::server;
use segment_tests::{origin, read, suppression};
use std::sync::Arc;

fn new(keys: &EtcdKeys, key: &str, value: Vec<u8>) -> i64 {
    let key = key.as_bytes().to_vec();
    let write = Replacement { compare: vec![(key.clone(), 0)], put: Some((key, value)), delete: vec![] };
    keys.replace(write).unwrap().expect("the key is new")
}

#[test]
fn segments_are_read_as_of_a_revision_and_merged_under_guard() {
    let server = server::Etcd::start(1);
    let etcd = Etcd::new(&EtcdSettings { endpoints: server.urls(), ..EtcdSettings::default() }).unwrap();
    let keys = Arc::new(EtcdKeys { etcd, keys: record::Keys::new("/mailrace/") });
    // Beside the prefix there is something else.
    for outside in ["/mailrace/suppressions", "/mailrace/suppressions0"] {
        new(&keys, outside, b"no segment".to_vec());
    }
    let mut at = 0;
    for n in 0..150 {
        let entry = suppression(&format!("u{n}@d.example"), 550, None);
        let segment = of_suppressions(&[entry], &origin()).remove(0);
        at = new(&keys, &format!("/mailrace/suppressions/{:04x}", n * 0x9e37 % 0x10000), segment);
    }
    let before = Segments::read(&*keys, Some(at)).unwrap();
    assert_eq!((before.0.kept().len(), before.1), (150, at));
    assert!(before.0.kept().is_sorted_by_key(|kept| kept.made), "the oldest first");

    // A hundred and twenty in one transaction, which is nearly all that etcd takes.
    let mut merging = Merging::new(keys.clone(), Known::default());
    let mut steps = Vec::new();
    while steps.last() != Some(&Done::Nothing) {
        steps.push(merging.step(&mut || panic!("there are few")).unwrap());
    }
    assert_eq!(steps, [Done::Merged, Done::Merged, Done::Nothing]);
    let after = Segments::read(&*keys, None).unwrap();
    let entries: usize = after.0.kept().iter().map(|kept| read(&kept.value).unwrap().len()).sum();
    assert_eq!((after.0.kept().len(), entries, after.1), (1, 150, at + 2));
    assert!(after.0.kept().iter().all(|kept| kept.made <= at && kept.changed > at), "they keep their places");
    assert_eq!(Segments::read(&*keys, Some(at)).unwrap().0.kept(), before.0.kept(), "the past is as it was");

    // The longest goes in; and what has changed is not touched.
    let longest = new(&keys, "/mailrace/suppressions/long", vec![0xa5; SEGMENT_BYTES_MAX]);
    let kept = keys.one(b"/mailrace/suppressions/long").unwrap().unwrap();
    assert_eq!((kept.made, kept.changed, kept.value.len()), (longest, longest, SEGMENT_BYTES_MAX));
    let old = Replacement { compare: vec![(kept.key.clone(), longest - 1)], put: None, delete: vec![kept.key.clone()] };
    assert_eq!(keys.replace(old), Ok(None));
    assert_eq!(keys.one(&kept.key).unwrap(), Some(kept));
    assert_eq!(keys.one(b"/mailrace/suppressions/none"), Ok(None));
}
