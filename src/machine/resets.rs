//! Which resets begin a boot.

/// Tells a boot from the firmware's second start of the same one: SeaBIOS finds its variables changed after a reset, and
/// resets once more before it does anything else.
#[derive(Default)]
pub(super) struct Resets {
    /// After a reset: how much the consoles had printed by then.
    printed: Option<u64>,
}

impl Resets {
    /// Whether this reset begins an epoch. `by_guest`: not asked for by us; `printed`: bytes by now.
    pub(super) fn begins_epoch(&mut self, by_guest: bool, printed: u64) -> bool {
        // Once for each reset: a guest that does nothing but reset itself is told.
        let again = self.printed.take() == Some(printed) && by_guest;
        if !again {
            self.printed = Some(printed);
        }
        !again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmwares_own_reset_after_a_reset_is_the_same_boot() {
        let mut resets = Resets::default();
        assert!(resets.begins_epoch(false, 100));
        assert!(!resets.begins_epoch(true, 100), "nothing was printed in between");
        assert!(resets.begins_epoch(true, 100), "but only once");
        assert!(!resets.begins_epoch(true, 100));
        assert!(resets.begins_epoch(true, 101));
        assert!(resets.begins_epoch(true, 102), "something was");
        assert!(resets.begins_epoch(false, 102), "asked for by us");
    }
}
