//! Generations as a state records them.

use super::generations::{Generation, Generations};
use super::name::{GenerationNumber, ProfileName};
use crate::store::{ProfileChange, ProfileRecord};

impl From<&ProfileRecord> for Generations {
    fn from(record: &ProfileRecord) -> Self {
        let list = record.generations.iter().map(|g| {
            let (target, created) = (g.path.clone(), g.created);
            (GenerationNumber(g.number), Generation { target, created })
        });
        Self::from_parts(record.current.map(GenerationNumber), list.collect())
    }
}

impl Generations {
    /// The change after which profile `name` has these generations.
    #[must_use]
    pub fn to_change(&self, name: &ProfileName) -> ProfileChange {
        let list = self.list().iter();
        let list = list.map(|(number, g)| (number.0, g.target.clone(), g.created));
        ProfileChange {
            name: name.to_string(),
            current: self.current().map(|n| n.0),
            generations: list.collect(),
        }
    }
}
