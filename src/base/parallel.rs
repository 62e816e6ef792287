//! Runs a task on several processors at once.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Applies `task` to each item, in at most one thread per processor, and returns the results in the order of the items.
pub fn map<I: Sync, T: Send>(items: &[I], task: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(items.iter().map(|_| None).collect::<Vec<Option<T>>>());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { break };
            let result = task(item);
            if let Ok(mut results) = results.lock()
                && let Some(place) = results.get_mut(index)
            {
                *place = Some(result);
            }
        }
    };
    // Finding the number of processors reads about six files. A single item does not need the number.
    let threads = match items.len() {
        0 | 1 => 1,
        count => thread::available_parallelism().map_or(1, NonZero::get).min(count),
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    results.into_inner().unwrap_or_default().into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        let items: Vec<u32> = (0..1000).collect();
        assert_eq!(map(&items, |item| item * 2), items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert_eq!(map(&[7], |item| *item), [7]);
        assert!(map(&[], |item: &u8| *item).is_empty());
    }
}
