//! Windows of time in which equal things are added up.
//!
//! In: things with what makes them equal. Out: the first of a kind at once, the sum of the others when
//! its window ends, or earlier where there are too many windows. Nothing is left out of a sum.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

/// What adds up.
pub(super) trait Sum {
    /// One of what is added.
    type One;

    fn first(one: Self::One) -> Self;
    fn add(&mut self, one: &Self::One);
}

/// The open windows.
pub(super) struct Windows<K, S> {
    window_ns: u64,
    limit: usize,
    /// `None` while only the first of the window was seen.
    open: HashMap<Arc<K>, Option<S>>,
    /// Every key of `open` once, by the end of its window: they are all of one length.
    ends: VecDeque<(u64, Arc<K>)>,
}

impl<K: Eq + Hash, S: Sum> Windows<K, S> {
    pub(super) fn new(window_ns: u64, limit: usize) -> Self {
        Self { window_ns, limit, open: HashMap::new(), ends: VecDeque::new() }
    }

    /// Takes one; what is to be told because of it goes to `tell`.
    pub(super) fn take(&mut self, key: K, one: S::One, now_ns: u64, mut tell: impl FnMut(S)) {
        if let Some(sum) = self.open.get_mut(&key) {
            match sum {
                Some(sum) => sum.add(&one),
                None => *sum = Some(S::first(one)),
            }
            return;
        }
        if self.open.len() >= self.limit {
            self.end_oldest(&mut tell);
        }
        let key = Arc::new(key);
        self.ends.push_back((now_ns.saturating_add(self.window_ns), Arc::clone(&key)));
        self.open.insert(key, None);
        tell(S::first(one));
    }

    /// Ends the windows whose time has come.
    pub(super) fn end_due(&mut self, now_ns: u64, mut tell: impl FnMut(S)) {
        while self.ends.front().is_some_and(|&(end, _)| end <= now_ns) {
            self.end_oldest(&mut tell);
        }
    }

    /// When the next window ends.
    pub(super) fn next_end_ns(&self) -> Option<u64> {
        self.ends.front().map(|&(end, _)| end)
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.open.len(), self.ends.len());
        self.open.len()
    }

    fn end_oldest(&mut self, tell: &mut impl FnMut(S)) {
        if let Some((_, key)) = self.ends.pop_front()
            && let Some(Some(sum)) = self.open.remove(&key)
        {
            tell(sum);
        }
    }
}
