//! Requests that were in flight when workers died.

use serde::{Deserialize, Serialize};

/// How many suspects are remembered.
const MAX_SUSPECTS: usize = 256;

/// A request that was in flight in workers when they died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspect {
    /// The minor device number of its mount.
    pub(crate) connection: u32,
    /// The kernel's number of it, without [`super::requests::RESENT`].
    pub(crate) unique: u64,
    /// How many died.
    pub(crate) deaths: u32,
}

/// Notes another death for each request that was in flight.
pub(crate) fn note_deaths(suspects: &mut Vec<Suspect>, in_flight: &[(u32, u64)]) {
    for (connection, unique) in in_flight {
        let known =
            suspects.iter_mut().find(|s| (s.connection, s.unique) == (*connection, *unique));
        match known {
            Some(suspect) => suspect.deaths += 1,
            None => {
                if suspects.len() == MAX_SUSPECTS {
                    suspects.remove(0);
                }
                suspects.push(Suspect { connection: *connection, unique: *unique, deaths: 1 });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suspects_are_bounded() {
        let mut suspects = Vec::new();
        for unique in 0..2 * MAX_SUSPECTS as u64 {
            note_deaths(&mut suspects, &[(1, unique)]);
        }
        assert_eq!(suspects.len(), MAX_SUSPECTS);
    }
}
