//! Caches in memory for values whose sizes differ by orders of magnitude.

use std::hash::Hash;

use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

/// The part of a cache for values that were asked for repeatedly, where others come before they are asked
/// for. With the 0.97 of quick_cache, a value that came so fell out of a full cache again, since a few others
/// came after it, and was read twice.
const REPEATED: f64 = 0.5;

/// A cache of so many bytes: with few shards, so that a large value still fits into one, on a machine with
/// many processors as well.
pub(super) fn of_few_shards<K, V, W>(capacity: u64, weighter: W) -> Cache<K, V, W>
where
    K: Eq + Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    with(OptionsBuilder::new().shards(2), 1000, capacity, weighter)
}

/// A cache of so many bytes for about so many values, which may come long before they are asked for.
pub(super) fn filled_ahead<K, V, W>(items: usize, capacity: u64, weighter: W) -> Cache<K, V, W>
where
    K: Eq + Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let mut options = OptionsBuilder::new();
    with(options.hot_allocation(REPEATED), items, capacity, weighter)
}

fn with<K, V, W>(
    options: &mut OptionsBuilder,
    items: usize,
    capacity: u64,
    weighter: W,
) -> Cache<K, V, W>
where
    K: Eq + Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let options = options
        .estimated_items_capacity(items)
        .weight_capacity(capacity);
    match options.build() {
        Ok(options) => Cache::with_options(
            options,
            weighter,
            DefaultHashBuilder::default(),
            DefaultLifecycle::default(),
        ),
        Err(_) => Cache::with_weighter(items, capacity, weighter),
    }
}
