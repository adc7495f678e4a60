//! Damage for reader tests, the same on every run.

/// xorshift64*: Marsaglia's xorshift with a multiplied output, enough to pick places.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }

    /// The bytes with up to three bits flipped, and now and then without their end.
    pub(crate) fn damage(&mut self, original: &[u8]) -> Vec<u8> {
        let mut bytes = original.to_vec();
        if self.below(8) == 0 {
            bytes.truncate(self.below(original.len()));
        }
        for _ in 0..self.below(4) {
            if !bytes.is_empty() {
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << self.below(8);
            }
        }
        bytes
    }
}
