//! Random numbers that are the same in each run: every contender of a round meets the same files and pages
//! in the same order, and so does the run of another day.

/// `SplitMix64`.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below another one; 0 below 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        // That some numbers are more likely by 2^-40 changes nothing here.
        let below = self.next() % (end.max(1) as u64);
        usize::try_from(below).unwrap_or(0)
    }

    /// Some of all in a random order, each once.
    pub(super) fn pick<'a, T>(&mut self, all: &'a [T], count: usize) -> Vec<&'a T> {
        let mut all: Vec<&T> = all.iter().collect();
        let count = count.min(all.len());
        for i in 0..count {
            let other = i + self.below(all.len() - i);
            all.swap(i, other);
        }
        all.truncate(count);
        all
    }
}

/// The seed of a row in a round. Cold and warm rows differ in it as well.
pub(super) fn of(row: usize, round: u32) -> u64 {
    Random::new(((row as u64) << 32) | u64::from(round)).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        let mut random = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
        ];
        assert_eq!(first, published);
    }

    #[test]
    fn a_seed_always_picks_the_same_and_nothing_twice() {
        let all: Vec<u32> = (0..1000).collect();
        let picked = |seed| Random::new(seed).pick(&all, 600);
        assert_eq!(picked(7), picked(7));
        assert_ne!(picked(7), picked(8));
        let mut once = picked(7);
        once.sort();
        once.dedup();
        assert_eq!(once.len(), 600);
        assert_eq!(Random::new(1).pick(&all[..3], 600).len(), 3);
        assert!(Random::new(1).pick(&all[..0], 600).is_empty());
    }

    #[test]
    fn rows_and_rounds_have_seeds_of_their_own() {
        let mut seeds: Vec<u64> = (0..16)
            .flat_map(|row| (0..9).map(move |round| of(row, round)))
            .collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 16 * 9);
    }
}
