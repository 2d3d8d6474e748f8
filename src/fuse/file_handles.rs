//! Whether files can be opened by handle.

/// Whether files can be opened by handle (open_by_handle_at(2)), as NFS and virtiofs servers do.
/// Handles bypass closure views.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum FileHandles {
    #[default]
    Refused,
    Given,
}
