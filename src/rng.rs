//! Random numbers by counter: draw n of a stream is a pure function of (seed, stream, n).
//!
//! Philox 4×32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). There is no
//! state to share or to order, so results cannot depend on threads, batching or what else was drawn.

/// Ten rounds of Philox 4×32 over `counter` under `key`.
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let mul = |a: u32, b: u32| {
        let p = u64::from(a) * u64::from(b);
        ((p >> 32) as u32, p as u32)
    };
    for _ in 0..10 {
        let (hi0, lo0) = mul(0xD251_1F53, counter[0]);
        let (hi1, lo1) = mul(0xCD9E_8D57, counter[2]);
        counter = [hi1 ^ counter[1] ^ key[0], lo1, hi0 ^ counter[3] ^ key[1], lo0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// A seed for one purpose (`tag`) of a run, unrelated to the seeds of other tags.
pub fn derive(seed: u64, tag: u64) -> u64 {
    // The fourth counter word keeps derived seeds apart from draws, which leave it below 2^31.
    let r = philox([tag as u32, (tag >> 32) as u32, 0, u32::MAX], [seed as u32, (seed >> 32) as u32]);
    u64::from(r[0]) | u64::from(r[1]) << 32
}

/// A stream of draws, addressed by (seed, a, b).
#[derive(Clone, Debug)]
pub struct Rng {
    key: [u32; 2],
    stream: [u32; 2],
    n: u64,
}

impl Rng {
    /// The stream `(a, b)` of `seed`, at its first draw.
    pub fn new(seed: u64, a: u32, b: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream: [a, b & (u32::MAX >> 1)], n: 0 }
    }

    /// Draw `n` of the stream, 64 uniform bits.
    pub fn at(&self, n: u64) -> u64 {
        let r = philox([n as u32, (n >> 32) as u32, self.stream[0], self.stream[1]], self.key);
        u64::from(r[0]) | u64::from(r[1]) << 32
    }

    /// Draw `n` of the stream as a number in `[0, 1)` with 53 random bits.
    pub fn unit_at(&self, n: u64) -> f64 {
        (self.at(n) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The next 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.n += 1;
        self.at(self.n - 1)
    }

    /// The next number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.n += 1;
        self.unit_at(self.n - 1)
    }

    /// The next number in `0..n` (n > 0), by multiply and shift; the bias is below n/2^64.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// The next integer in `lo..=hi`.
    pub fn range(&mut self, lo: u64, hi: u64) -> u64 {
        lo + self.below(hi - lo + 1)
    }

    /// Shuffles in place (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the reference implementation (Random123's `kat_vectors`).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn draws_are_addressed_not_ordered() {
        let mut r = Rng::new(7, 1, 2);
        let forward: Vec<u64> = (0..5).map(|_| r.next_u64()).collect();
        assert_eq!(forward, [0, 1, 2, 3, 4].map(|n| r.at(n)));
        assert_ne!(Rng::new(7, 2, 1).at(0), r.at(0));
        assert_ne!(Rng::new(8, 1, 2).at(0), r.at(0));
        assert_ne!(derive(7, 0), derive(7, 1));
    }

    #[test]
    fn ranges_are_covered_evenly() {
        let mut r = Rng::new(1, 0, 0);
        let mut seen = [0u32; 6];
        (0..6000).for_each(|_| seen[r.range(10, 15) as usize - 10] += 1);
        assert!(seen.iter().all(|&n| (850..1150).contains(&n)), "{seen:?}");
        let mut v: Vec<u32> = (0..50).collect();
        r.shuffle(&mut v);
        assert_ne!(v, (0..50).collect::<Vec<_>>());
        v.sort_unstable();
        assert_eq!(v, (0..50).collect::<Vec<_>>());
    }
}
