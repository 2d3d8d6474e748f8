//! What tests of many rounds share: a number fixes all that a round chooses.

use std::ops::Range;
use std::process::Command;
use std::time::Duration;

use super::process::{Ran, run};
use super::sandbox::Sandbox;

/// Time for anything that a round waits for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers that a seed determines.
pub struct Chance(u64);

impl Chance {
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        // The finalizer of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % bound.max(1) as u64) as usize
    }
}

/// The seeds of the rounds: `few` in `make test`, as many as `ROUNDS` says in `make torture`, and `SEED`
/// alone to repeat one.
pub fn seeds(few: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().unwrap());
    match (number("SEED"), number("ROUNDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, rounds) => 0..rounds.unwrap_or(few),
    }
}

impl Sandbox {
    /// Runs a command, which is killed when it takes too long.
    pub fn bounded<S: AsRef<str>>(&self, words: &[S]) -> Ran {
        let words: Vec<_> = words.iter().map(AsRef::as_ref).collect();
        let command = self.command(&words);
        let mut bounded = Command::new("timeout");
        bounded.arg(PATIENCE.as_secs().to_string());
        bounded.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => bounded.env(name, value),
                None => bounded.env_remove(name),
            };
        }
        run(&mut bounded, b"")
    }
}
