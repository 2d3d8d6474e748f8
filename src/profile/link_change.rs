//! Changes of a profile by programs that know only its links, as Nix's own do.
//!
//! Invariant: the commands of this program could have made the same change.

use super::generations::{Generation, GenerationError, Generations};
use super::name::{GenerationNumber, ProfileName};
use crate::nix::store_path::StorePath;

/// A change of the links of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkChange {
    /// `NAME-N-link`, new or not, leads to this store path from now on.
    Generation {
        number: GenerationNumber,
        target: StorePath,
    },
    /// `NAME` leads to `NAME-N-link` from now on.
    Current(GenerationNumber),
    /// `NAME-N-link` is removed.
    Removal(GenerationNumber),
}

impl LinkChange {
    /// The generations of the profile `name` after the change; `now` is in seconds since 1970.
    ///
    /// # Errors
    /// A generation that does not exist, or the current one, which is never removed.
    pub fn apply(
        &self,
        name: &ProfileName,
        before: &Generations,
        now: i64,
    ) -> Result<Generations, GenerationError> {
        let mut after = before.clone();
        match self {
            Self::Generation { number, target } => {
                let mut list = before.list().clone();
                let there = list.get(number);
                if there.is_none_or(|there| there.target != *target) {
                    let (target, created) = (target.clone(), now);
                    list.insert(*number, Generation { target, created });
                }
                after = Generations::from_parts(before.current(), list);
            }
            Self::Current(number) => {
                after.switch(*number)?;
            }
            Self::Removal(number) if !before.list().contains_key(number) => {
                return Err(GenerationError::Absent(*number));
            }
            Self::Removal(number) if before.current() == Some(*number) => {
                return Err(GenerationError::DeleteCurrent(name.clone()));
            }
            Self::Removal(number) => after.remove(&[*number]),
        }
        Ok(after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::store_path::StorePathHash;

    fn target(seed: u8) -> StorePath {
        StorePath::new(StorePathHash::from_bytes([seed; 20]), "x").unwrap()
    }

    fn after(before: &Generations, change: &LinkChange) -> Result<Generations, GenerationError> {
        change.apply(&ProfileName::parse("p").unwrap(), before, 50)
    }

    fn generation(number: u64, seed: u8) -> LinkChange {
        let (number, target) = (GenerationNumber(number), target(seed));
        LinkChange::Generation { number, target }
    }

    #[test]
    fn a_generation_is_made_and_then_becomes_current() {
        let made = after(&Generations::new(), &generation(1, 1)).unwrap();
        assert_eq!((made.current(), made.list().len()), (None, 1));
        let switched = after(&made, &LinkChange::Current(GenerationNumber(1))).unwrap();
        assert_eq!(switched.current_generation().unwrap().target, target(1));
        let absent = after(&switched, &LinkChange::Current(GenerationNumber(2)));
        assert_eq!(absent, Err(GenerationError::Absent(GenerationNumber(2))));
    }

    #[test]
    fn a_link_that_is_there_may_be_changed() {
        let mut before = Generations::new();
        before.advance(target(1), 10).unwrap();
        assert_eq!(after(&before, &generation(1, 1)).unwrap(), before);
        let changed = after(&before, &generation(1, 2)).unwrap();
        assert_eq!(changed.current(), before.current());
        let current = changed.current_generation().unwrap();
        assert_eq!((&current.target, current.created), (&target(2), 50));
    }

    #[test]
    fn the_current_generation_and_what_is_not_there_are_not_removed() {
        let mut before = Generations::new();
        before.advance(target(1), 10).unwrap();
        before.advance(target(2), 20).unwrap();
        let removal = |n| after(&before, &LinkChange::Removal(GenerationNumber(n)));
        assert_eq!(removal(1).unwrap().list().len(), 1);
        assert!(matches!(removal(2), Err(GenerationError::DeleteCurrent(_))));
        assert!(matches!(removal(3), Err(GenerationError::Absent(_))));
    }
}
