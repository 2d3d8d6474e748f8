//! Caches in memory for values whose sizes differ by orders of magnitude.

use std::hash::Hash;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// A cache of so many bytes: with few shards, so that a large value still fits into one, on a machine with
/// many processors as well.
pub(super) fn of_few_shards<K, V, W>(capacity: u64, weighter: W) -> Cache<K, V, W>
where
    K: Eq + Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let options = OptionsBuilder::new()
        .estimated_items_capacity(1000)
        .weight_capacity(capacity)
        .shards(2)
        .build();
    match options {
        Ok(options) => Cache::with_options(
            options,
            weighter,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        ),
        Err(_) => Cache::with_weighter(1000, capacity, weighter),
    }
}
