//! Numbers that look random, and are the same in every run.

/// xorshift64, from a seed that is not 0.
pub struct Random(pub u64);

impl Random {
    /// A number under `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    /// The same, for a place in something.
    pub fn index(&mut self, limit: usize) -> usize {
        self.below(limit as u64) as usize
    }
}
