//! The `nix-cache-info` file of a binary cache.
//!
//! Invariant: parsing is as lenient as Nix's (unknown keys and lines without a colon are passed
//! over), but a store directory or priority that is there must be right.

use std::fmt::Write;

use thiserror::Error;

use crate::nix::store_path::{StoreDir, StoreDirError};

/// Why a `nix-cache-info` file is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CacheInfoError {
    /// It is not text.
    #[error("nix-cache-info is not UTF-8")]
    NotText,
    /// The store directory is no such thing.
    #[error("nix-cache-info names a bad store directory")]
    StoreDir(#[from] StoreDirError),
    /// The priority is not a number.
    #[error("nix-cache-info has the priority '{value}', which is not a number")]
    Priority {
        /// The value as given.
        value: String,
    },
}

/// What a binary cache says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CacheInfo {
    /// The store directory of all its paths; the default one if it does not say.
    pub store_dir: StoreDir,
    /// Whether clients may ask for many paths just to see what is there.
    pub want_mass_query: bool,
    /// Its rank among caches, lower first; clients take 0 if it does not say.
    pub priority: Option<u32>,
}

impl CacheInfo {
    /// Parses the file.
    ///
    /// # Errors
    /// [`CacheInfoError`] if it is not text, or a value that matters cannot be read.
    pub fn parse(bytes: &[u8]) -> Result<Self, CacheInfoError> {
        let text = str::from_utf8(bytes).map_err(|_| CacheInfoError::NotText)?;
        let mut info = Self::default();
        for line in text.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match key {
                "StoreDir" => info.store_dir = StoreDir::parse(value)?,
                "WantMassQuery" => info.want_mass_query = value == "1",
                "Priority" => {
                    let priority = value.parse().map_err(|_| CacheInfoError::Priority {
                        value: value.into(),
                    })?;
                    info.priority = Some(priority);
                }
                _ => {}
            }
        }
        Ok(info)
    }

    /// The text of the file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "StoreDir: {}\nWantMassQuery: {}\n",
            self.store_dir,
            u8::from(self.want_mass_query)
        );
        if let Some(priority) = self.priority {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "Priority: {priority}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_public_cache() {
        let info =
            CacheInfo::parse(b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n").unwrap();
        assert_eq!(info.store_dir, StoreDir::default());
        assert!(info.want_mass_query);
        assert_eq!(info.priority, Some(40));
        assert_eq!(CacheInfo::parse(info.to_text().as_bytes()), Ok(info));
    }

    #[test]
    fn unknown_lines_are_passed_over_and_values_trimmed() {
        let info = CacheInfo::parse(b"# hello\nStoreDir:/gnu/store  \r\n\nX: y\nWantMassQuery: 0")
            .unwrap();
        assert_eq!(info.store_dir.as_str(), "/gnu/store");
        assert!(!info.want_mass_query);
        assert_eq!(info.priority, None);
        assert_eq!(CacheInfo::parse(b""), Ok(CacheInfo::default()));
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            &b"StoreDir: store\n"[..],
            b"Priority: high\n",
            b"Priority: -1\n",
            b"\xff",
        ] {
            assert!(CacheInfo::parse(bad).is_err());
        }
    }
}
