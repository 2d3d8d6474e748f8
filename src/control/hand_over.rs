//! The hand-over of mounts from `mount.narfs` to a daemon.
//!
//! A frame `A` on the control socket carries a [`HandOver`]; if it hands over a connection,
//! `/dev/fuse` is attached to its first byte as SCM_RIGHTS. The answer is a frame `R` with a
//! [`HandedOver`], or `E` with an error text.

use serde::{Deserialize, Serialize};

/// A message from `mount.narfs`, or from a client that waits for an unmount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandOver {
    /// Asks what is mounted.
    Ask,
    /// Hands over a new FUSE connection.
    Take {
        /// Device number of its superblock (0:NUMBER).
        superblock: u32,
    },
    /// Requests writable profiles at a mount point.
    WritableProfiles {
        /// The absolute mount point, in bytes, since it need not be UTF-8.
        mountpoint: Vec<u8>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HandedOver {
    /// Nothing is mounted; the daemon accepts a hand-over.
    Nothing,
    /// The daemon serves the connection or the mount point.
    Taken,
    /// The daemon serves another superblock already, or is ending.
    Serving {
        /// Device number of its superblock (0:NUMBER).
        superblock: u32,
        pid: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mount.narfs` writes and parses this JSON by hand.
    #[test]
    fn the_json_of_a_hand_over_is_stable() {
        let json = |message: &HandOver| serde_json::to_string(message).unwrap();
        assert_eq!(json(&HandOver::Ask), r#""Ask""#);
        let take = HandOver::Take { superblock: 98 };
        assert_eq!(json(&take), r#"{"Take":{"superblock":98}}"#);
        let profiles = HandOver::WritableProfiles {
            mountpoint: b"/a".to_vec(),
        };
        let expected = r#"{"WritableProfiles":{"mountpoint":[47,97]}}"#;
        assert_eq!(json(&profiles), expected);
        let json = |message: &HandedOver| serde_json::to_string(message).unwrap();
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
