//! What a keeper is doing: one of five phases, and what leads from one to another.

/// A phase. A keeper of a new mount begins in the first; one that takes over from another, while
/// hosts are served, in the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is served yet. An error ends the keeper, and leaves nothing behind.
    Starting,
    /// Hosts are served. Workers that die are replaced.
    Up,
    /// It was asked to stop: the mounts are detached, and served until their last user is gone.
    Stopping,
    /// No mount is left. The worker closes the store and ends.
    Ending,
    /// Another keeper has taken over.
    Released,
}

/// What can happen to a keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Happening {
    /// What was to be mounted is served.
    Served,
    /// A signal asks it to stop.
    AskedToStop,
    /// The last mount is gone.
    Unused,
    /// The worker has another keeper.
    TakenOver,
}

use Happening::{AskedToStop, Served, TakenOver, Unused};
use Phase::{Ending, Released, Starting, Stopping, Up};

/// Every transition; what is not in here changes nothing.
const TRANSITIONS: &[(Phase, Happening, Phase)] = &[
    (Starting, Served, Up),
    // Nobody can be using what was never served.
    (Starting, AskedToStop, Ending),
    (Starting, TakenOver, Released),
    (Up, AskedToStop, Stopping),
    (Up, Unused, Ending),
    (Up, TakenOver, Released),
    (Stopping, Unused, Ending),
    (Stopping, TakenOver, Released),
    (Ending, TakenOver, Released),
];

impl Phase {
    /// The phase after something happened.
    #[must_use]
    pub(super) fn after(self, happening: Happening) -> Phase {
        let mut rows = TRANSITIONS.iter();
        rows.find(|row| (row.0, row.1) == (self, happening)).map_or(self, |row| row.2)
    }

    /// Whether hosts are served, so that a worker has to be there.
    pub(super) fn serves(self) -> bool {
        matches!(self, Up | Stopping)
    }

    /// Whether something may still be mounted that was to be.
    pub(super) fn may_mount(self) -> bool {
        matches!(self, Starting | Up)
    }

    /// Whether workers are needed no more.
    pub(super) fn is_over(self) -> bool {
        matches!(self, Ending | Released)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: Phase, expected: [Phase; 4]) {
        let all = [Served, AskedToStop, Unused, TakenOver];
        assert_eq!(all.map(|happening| from.after(happening)), expected, "{from:?}");
    }

    #[test]
    fn a_keeper_that_starts_has_nothing_to_detach() {
        check(Starting, [Up, Ending, Starting, Released]);
    }

    #[test]
    fn a_keeper_that_is_up_serves_until_it_is_unused() {
        check(Up, [Up, Stopping, Ending, Released]);
    }

    #[test]
    fn a_keeper_that_stops_serves_until_it_is_unused() {
        check(Stopping, [Stopping, Stopping, Ending, Released]);
    }

    #[test]
    fn a_keeper_that_ends_starts_nothing_again() {
        check(Ending, [Ending, Ending, Ending, Released]);
    }

    #[test]
    fn a_keeper_that_was_released_has_nothing_to_do() {
        check(Released, [Released; 4]);
    }

    #[test]
    fn what_a_phase_allows() {
        let all = [Starting, Up, Stopping, Ending, Released];
        assert_eq!(all.map(Phase::serves), [false, true, true, false, false]);
        assert_eq!(all.map(Phase::may_mount), [true, true, false, false, false]);
        assert_eq!(all.map(Phase::is_over), [false, false, false, true, true]);
    }
}
