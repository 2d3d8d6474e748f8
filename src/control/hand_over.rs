//! What `mount.narfs` and a daemon say to each other of mounts.
//!
//! A frame of kind `A` on the control socket carries a [`HandOver`], and `/dev/fuse` as SCM_RIGHTS
//! with its first byte where something is handed over; the answer is a frame `R` with a
//! [`HandedOver`], or `E` with an error text.

use serde::{Deserialize, Serialize};

/// What another process says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOver {
    /// It wants to know what is served.
    Ask,
    /// It hands over a new connection.
    Take {
        /// Its superblock, by its device number (0:NUMBER).
        superblock: u32,
    },
    /// Programs are to change profiles where it is mounted.
    WritableProfiles {
        /// The mount point, absolute; as bytes, which a path may have any of.
        mountpoint: Vec<u8>,
    },
}

/// What the daemon answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandedOver {
    /// It serves nothing, and takes what is handed over.
    Nothing,
    /// It serves what was handed over, or what was asked for.
    Taken,
    /// It serves something already, or just ends.
    Serving {
        /// Its superblock, by its device number (0:NUMBER).
        superblock: u32,
        /// The serving process.
        pid: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mount.narfs` writes and reads these without a library.
    #[test]
    fn what_is_said_does_not_change() {
        let json = |said: &HandOver| serde_json::to_string(said).unwrap();
        assert_eq!(json(&HandOver::Ask), r#""Ask""#);
        let take = HandOver::Take { superblock: 98 };
        assert_eq!(json(&take), r#"{"Take":{"superblock":98}}"#);
        let profiles = HandOver::WritableProfiles {
            mountpoint: b"/a".to_vec(),
        };
        let expected = r#"{"WritableProfiles":{"mountpoint":[47,97]}}"#;
        assert_eq!(json(&profiles), expected);
        let json = |said: &HandedOver| serde_json::to_string(said).unwrap();
        assert_eq!(json(&HandedOver::Nothing), r#""Nothing""#);
        assert_eq!(json(&HandedOver::Taken), r#""Taken""#);
        let serving = HandedOver::Serving {
            superblock: 98,
            pid: 7,
        };
        let expected = r#"{"Serving":{"superblock":98,"pid":7}}"#;
        assert_eq!(json(&serving), expected);
    }
}
