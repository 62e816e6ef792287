//! Sorted lists and maps whose code the compiler does not repeat for each type.
//!
//! The standard library's sort is compiled anew for each type of item and for each iterator that is collected into a
//! map: 4 KB each time. The lists of qus are short, so less code is worth more than the fastest sort.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use litemap::LiteMap;

/// Sorts `items`. Equal items keep their order.
pub fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, Ord::cmp);
}

/// Sorts `items` in the order of `compare`. Equal items keep their order.
pub fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let order = order_of(items.len(), &|one, other| match (items.get(one), items.get(other)) {
        (Some(one), Some(other)) => compare(one, other),
        _ => Ordering::Equal,
    });
    for (one, other) in swaps(&order) {
        items.swap(one, other);
    }
}

/// Sorts `items` by the result of `key`. Equal items keep their order.
pub fn sort_by_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    sort_by(items, |one, other| key(one).cmp(&key(other)));
}

/// Returns the numbers from 0 to `count` - 1 in the order of `compare`.
fn order_of(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|one, other| compare(*one, *other));
    order
}

/// Returns the swaps that bring items into `order`, in which each number is the present place of an item.
fn swaps(order: &[usize]) -> Vec<(usize, usize)> {
    let mut swaps = Vec::new();
    let mut order = order.to_vec();
    for start in 0..order.len() {
        // The items of one cycle move along it. A place that has its item contains its own number.
        let mut place = start;
        while let Some(from) = order.get_mut(place).map(|from| mem::replace(from, place))
            && from != start
        {
            swaps.push((place, from));
            place = from;
        }
    }
    swaps
}

/// Returns a map of `pairs`. Of several pairs with the same key, the last one stays.
#[must_use]
pub fn map<K: Ord, V>(pairs: impl IntoIterator<Item = (K, V)>) -> BTreeMap<K, V> {
    let mut map = BTreeMap::new();
    map.extend(pairs);
    map
}

/// Values by the name of an architecture. There are at most a few dozen, so a sorted list finds them as fast as a tree,
/// with less code.
pub type ByArch<V> = LiteMap<&'static str, V>;

/// Returns a map of `pairs`. Of several pairs with the same key, the last one stays.
#[must_use]
pub fn by_arch<V>(pairs: impl IntoIterator<Item = (&'static str, V)>) -> ByArch<V> {
    let mut map = ByArch::new();
    for (arch, value) in pairs {
        map.insert(arch, value);
    }
    map
}

/// Returns a set of `items`.
#[must_use]
pub fn set<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut set = BTreeSet::new();
    set.extend(items);
    set
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_order_is_that_of_the_standard_library(mut pairs: Vec<(u8, u8)>) {
            let mut expected = pairs.clone();
            expected.sort_by_key(|pair| pair.0);
            sort_by_key(&mut pairs, |pair| pair.0);
            prop_assert_eq!(&pairs, &expected);
            expected.sort_unstable();
            sort(&mut pairs);
            prop_assert_eq!(&pairs, &expected);
            prop_assert_eq!(set(pairs.clone()), expected.iter().copied().collect());
            prop_assert_eq!(map(pairs), expected.into_iter().collect());
        }
    }
}
