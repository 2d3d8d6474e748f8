//! The program on real mounts of a world that real Nix made: what users, programs and the kernel
//! see of it.
//!
//! Each test has a state and a mount namespace of its own, so that they run side by side and leave
//! nothing behind. They need root, `/dev/fuse`, and what `make test` installs; where something of
//! that is missing they fail and say so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on says so by a panic, in its helpers too"
)]

mod announcements;
mod attributes;
#[path = "../support/binary_cache.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod binary_cache;
mod closures;
mod collection;
mod commands;
mod configuration;
mod contents;
mod damage;
mod damaged_files;
mod doctor;
mod environments;
mod eviction;
#[path = "../support/exposition.rs"]
mod exposition;
mod fetched_ahead;
mod fidelity;
mod file_handles;
mod filled_disk;
mod forgotten;
mod held;
mod idmapped;
mod in_use;
mod json_log;
mod kernel_cache;
mod lifecycle;
mod limits;
mod lost_database;
mod model;
mod monitoring;
mod mount_helper;
mod mount_points;
mod moved;
#[path = "../support/namespaces.rs"]
mod namespaces;
mod nix_conf;
mod nix_db;
mod nix_expressions;
mod nix_worker;
mod numbers;
mod observed;
mod on_demand;
mod on_demand_ends;
mod on_demand_faults;
mod optional_sources;
mod profile_kills;
mod profile_links;
mod profile_roots;
mod profiles;
mod profiles_mounted;
mod programs;
mod publication;
mod read_only;
#[path = "../support/reference_model.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod reference_model;
mod remounting;
mod request_budgets;
mod restarts;
mod saved_states;
#[path = "../support/server.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod server;
mod services;
mod several_sources;
mod slow_sources;
mod support;
mod switches;
mod system_profile;
mod use_during_collection;
mod view_completion;
mod volumes;
mod vouching;
#[path = "../support/waiting.rs"]
mod waiting;
mod watching;
#[path = "../support/worker_client.rs"]
#[allow(dead_code, reason = "what other tests need")]
mod worker_client;
mod writable_profiles;
#[path = "../support/write_points.rs"]
mod write_points;
