//! A list that keeps its ends and counts its middle.

use std::collections::VecDeque;

/// The first and the last `EACH` of everything pushed, and how many there were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window<T, const EACH: usize = 64> {
    first: Vec<T>,
    last: VecDeque<T>,
    total: u64,
}

impl<T, const EACH: usize> Default for Window<T, EACH> {
    fn default() -> Self {
        Self { first: Vec::new(), last: VecDeque::new(), total: 0 }
    }
}

impl<T, const EACH: usize> Window<T, EACH> {
    pub fn push(&mut self, item: T) {
        self.total = self.total.saturating_add(1);
        if self.first.len() < EACH {
            self.first.push(item);
            return;
        }
        if self.last.len() == EACH {
            self.last.pop_front();
        }
        self.last.push_back(item);
    }

    /// How many were pushed.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many of them are not kept; they lie between [`Window::first`] and [`Window::last`].
    pub fn omitted(&self) -> u64 {
        self.total.saturating_sub((self.first.len() + self.last.len()) as u64)
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    pub fn first(&self) -> &[T] {
        &self.first
    }

    /// What is kept after the first ones.
    pub fn last(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.last.iter()
    }

    /// All that is kept, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.first.iter().chain(&self.last)
    }

    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut T> {
        self.first.iter_mut().chain(&mut self.last)
    }

    pub fn newest(&self) -> Option<&T> {
        self.last.back().or(self.first.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_kept_and_the_middle_is_counted() {
        let mut window = Window::<u32, 3>::default();
        assert!(window.is_empty() && window.newest().is_none());
        for number in 0..5 {
            window.push(number);
        }
        assert_eq!(window.iter().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert_eq!(window.omitted(), 0);
        for number in 5..100 {
            window.push(number);
        }
        assert_eq!(window.iter().copied().collect::<Vec<_>>(), [0, 1, 2, 97, 98, 99]);
        assert_eq!((window.total(), window.omitted(), window.newest()), (100, 94, Some(&99)));
    }
}
