//! Commands that change profiles.

use crate::command::{ProfileAction, ProfileRequest, Request, SourceRequest};
use crate::engine::binary_cache;

pub(super) fn set(name: &str, prefetch: bool) -> Request {
    let path = full(name);
    profile("x", ProfileAction::Set { path, prefetch })
}

pub(super) fn install(name: &str) -> ProfileAction {
    ProfileAction::Install {
        paths: vec![full(name)],
        priority: None,
        prefetch: false,
    }
}

pub(super) fn profile(name: &str, action: ProfileAction) -> Request {
    Request::Profile(ProfileRequest {
        profile: name.to_owned(),
        action,
        sources: SourceRequest::default(),
        dry_run: false,
    })
}

pub(super) fn full(name: &str) -> String {
    format!("/nix/store/{}", binary_cache::path(name).base_name())
}
