//! How many files this process may have open.
//!
//! Invariant: a process that has a state open has as many descriptors as the system lets it have, and at
//! least [`LEAST`]: a database that finds none fails wherever it just is.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::StoreError;

/// For the database a third of it, and the rest for some thirty transfers, each with a connection
/// and a temporary file, for commands, and for the kernel.
const LEAST: u64 = 256;
/// Files of the database that are kept open at most. Each costs its index in memory, too.
const OPEN_FILES: u64 = 256;

/// Raises the limit as far as it goes, and says what it is then.
pub(super) fn raise() -> Result<u64, StoreError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    // `None` is no limit.
    let limit = match current == maximum || setrlimit(Resource::Nofile, wanted).is_err() {
        true => current.unwrap_or(u64::MAX),
        false => maximum.unwrap_or(u64::MAX),
    };
    if limit < LEAST {
        return Err(StoreError::FewDescriptors {
            limit,
            needed: LEAST,
        });
    }
    Ok(limit)
}

/// How many of them the database may take.
pub(super) fn for_database(limit: u64) -> i32 {
    i32::try_from(OPEN_FILES.min(limit / 3)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_leaves_most_descriptors_to_others() {
        assert_eq!(for_database(LEAST), 85);
        assert_eq!(for_database(1024), 256);
        assert_eq!(for_database(u64::MAX), 256);
    }
}
