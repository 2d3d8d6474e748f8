//! Volumes of container engines: the volume plugin protocol of Docker, which podman speaks as well.
//!
//! A volume is a closure view; its mountpoint is the store directory of the view in the mount.
//! Invariants: the only state is the view and its mark as a volume, so that a restart of the daemon
//! loses nothing (engines count the users of a volume themselves); a view that was not created as a
//! volume is never removed; and every request is answered with a status and JSON.

mod options;

use std::collections::HashSet;
use std::hash::Hash;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use thiserror::Error;

use super::completion::Completion;
use super::process::Daemon;
use super::unix_socket::UnixSocket;
use crate::command::{NoOutput, SourceRequest, chain};
use crate::engine::{ClosureError, Engine, EngineError, store_directory};
use crate::fuse::MountError;
use crate::http;
use crate::nix::store_path::StorePath;
use crate::store::{StoreError, View, ViewName, ViewNameError};
use crate::sync;
use options::{Definition, OptionError};

#[derive(Debug, Error)]
enum VolumeError {
    /// The endpoint is not part of the protocol.
    #[error(
        "narfs does not know the request {0:?}; it is a volume plugin, and knows /Plugin.Activate and \
         /VolumeDriver.Create, Remove, Mount, Unmount, Path, Get, List and Capabilities"
    )]
    Unknown(String),
    /// The body does not match the endpoint.
    #[error(
        "{endpoint} takes a JSON object with the Name of a volume, and got something else: {source}"
    )]
    Body {
        endpoint: String,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Name(#[from] ViewNameError),
    #[error(transparent)]
    Option(#[from] OptionError),
    /// Neither options nor an existing view define the volume.
    #[error(
        "there is no closure view {0:?} for the volume; define its contents with -o \
         closure=PATH:PATH… or -o profile=PROFILE:PROFILE…, or define it with `narfs closure`"
    )]
    Undefined(String),
    /// A view of this name exists with another definition.
    #[error(
        "the closure view {name:?} already exists, with {there}; give the same options or none, \
         or another name, or remove the view first"
    )]
    Differs { name: String, there: Definition },
    /// The mount has no directory that an engine could bind.
    #[error(
        "the store directory of {0:?} is not accessible, since the state is not mounted as a whole; `narfs \
         mount MOUNTPOINT` does it"
    )]
    NotMounted(String),
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<ClosureError> for VolumeError {
    fn from(e: ClosureError) -> Self {
        Self::Engine(e.into())
    }
}

impl VolumeError {
    /// The HTTP status. podman accepts only 200 as success and reads `Err` otherwise; Docker takes
    /// 404 as an endpoint that a plugin need not implement.
    fn status(&self) -> u16 {
        match self {
            Self::Unknown(_) => 404,
            Self::Body { .. } | Self::Name(_) | Self::Option(_) => 400,
            _ => 500,
        }
    }
}

/// The answer to an engine.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// A request on a named volume; the `ID` of the container is ignored.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    name: String,
}

/// A request to create a volume; Go encodes an empty map as null.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Create {
    name: String,
    #[serde(default)]
    opts: Option<options::Options>,
}

/// The volumes of a state.
#[derive(Debug)]
pub(super) struct Volumes {
    engine: Arc<Engine>,
    completion: Arc<Completion>,
}

impl Volumes {
    pub(super) fn new(engine: Arc<Engine>, completion: Arc<Completion>) -> Self {
        Self { engine, completion }
    }

    /// Answers a request, which may take as long as its fetches do.
    pub(super) fn answer(&self, endpoint: &str, body: &[u8]) -> Answer {
        match self.volume(endpoint, body) {
            Ok(body) => Answer { status: 200, body },
            Err(error) => {
                let text = chain(&error);
                tracing::debug!("{endpoint}: {text}");
                Answer {
                    status: error.status(),
                    body: json!({ "Err": text }),
                }
            }
        }
    }

    fn volume(&self, endpoint: &str, body: &[u8]) -> Result<Value, VolumeError> {
        let named = || {
            let Named { name } = read(endpoint, body)?;
            Ok::<_, VolumeError>(ViewName::parse(&name)?)
        };
        match endpoint {
            "/Plugin.Activate" => return Ok(json!({ "Implements": ["VolumeDriver"] })),
            "/VolumeDriver.Capabilities" => {
                return Ok(json!({ "Capabilities": { "Scope": "local" } }));
            }
            "/VolumeDriver.Create" => self.create_volume(read(endpoint, body)?)?,
            "/VolumeDriver.Remove" => self.remove_volume(&named()?)?,
            "/VolumeDriver.Mount" => {
                let name = self.volume_view(&named()?)?.name.clone();
                let mount = self.full_mount()?;
                let mount = mount.ok_or_else(|| VolumeError::NotMounted(name.to_string()))?;
                return Ok(json!({ "Mountpoint": store_directory(&mount, &name), "Err": "" }));
            }
            "/VolumeDriver.Path" => {
                let name = self.volume_view(&named()?)?.name.clone();
                let at = self
                    .full_mount()?
                    .map(|mount| store_directory(&mount, &name));
                return Ok(json!({ "Mountpoint": at.unwrap_or_default(), "Err": "" }));
            }
            // The daemon keeps no count of users, and the view may be removed already.
            "/VolumeDriver.Unmount" => drop(named()?),
            "/VolumeDriver.Get" => {
                let view = self.volume_view(&named()?)?;
                let mount = self.full_mount()?;
                let volume = self.describe_volume(&view, mount.as_deref())?;
                return Ok(json!({ "Volume": volume, "Err": "" }));
            }
            "/VolumeDriver.List" => {
                let (views, mount) = (self.engine.store.views().list()?, self.full_mount()?);
                let volumes = views.iter();
                let volumes = volumes.map(|v| self.describe_volume(v, mount.as_deref()));
                let volumes: Vec<_> = volumes.collect::<Result<_, _>>()?;
                return Ok(json!({ "Volumes": volumes, "Err": "" }));
            }
            unknown => return Err(VolumeError::Unknown(unknown.to_owned())),
        }
        Ok(json!({ "Err": "" }))
    }

    fn create_volume(&self, request: Create) -> Result<(), VolumeError> {
        let name = ViewName::parse(&request.name)?;
        let wanted = Definition::read(&request.opts.unwrap_or_default())?;
        let there = self.find_view(&name)?;
        if wanted.is_empty() {
            // Without options, an existing view is used as it is.
            let there = there.map(drop);
            return there.ok_or_else(|| VolumeError::Undefined(name.to_string()));
        }
        let sources = SourceRequest::default();
        let there = match there {
            Some(view) => {
                // No source is queried if all paths are registered.
                let roots = self.engine.supply(&sources)?.resolve_all(&wanted.closure)?;
                (!is_same(&view, &roots, &wanted.profiles)).then_some(view)
            }
            None => self.engine.with_closure(
                &wanted.closure,
                &wanted.profiles,
                &sources,
                &mut NoOutput,
                |roots, profiles| {
                    // A concurrent request may have created it meanwhile.
                    let there = self
                        .engine
                        .store
                        .views()
                        .make_volume(&name, roots, profiles)?;
                    Ok(there.filter(|view| !is_same(view, roots, profiles)))
                },
            )?,
        };
        match there {
            None => Ok(()),
            Some(view) => Err(VolumeError::Differs {
                name: name.to_string(),
                there: self.definition(&view),
            }),
        }
    }

    fn remove_volume(&self, name: &ViewName) -> Result<(), VolumeError> {
        self.volume_view(name)?;
        if !self.engine.store.views().remove_volume(name.as_str())? {
            tracing::info!(
                "the volume {name} is removed; its closure view stays, since `narfs closure` created it"
            );
        }
        Ok(())
    }

    fn find_view(&self, name: &ViewName) -> Result<Option<Arc<View>>, VolumeError> {
        let table = self.engine.store.views().table();
        match table.named(name.as_str()) {
            Some(view) => Ok(Some(view.clone())),
            None => {
                // A damaged view is not absent.
                self.engine.store.views().list()?;
                Ok(None)
            }
        }
    }

    fn volume_view(&self, name: &ViewName) -> Result<Arc<View>, VolumeError> {
        let view = self.find_view(name)?;
        Ok(view.ok_or_else(|| self.engine.absent_view(name.as_str()))?)
    }

    /// A mount point at which all closure views are visible.
    fn full_mount(&self) -> Result<Option<PathBuf>, VolumeError> {
        Ok(self.engine.serving.full_mounts()?.into_iter().next())
    }

    fn definition(&self, view: &View) -> Definition {
        Definition {
            closure: view
                .record
                .roots
                .iter()
                .map(|p| self.engine.full(p))
                .collect(),
            profiles: view.record.profiles.clone(),
        }
    }

    fn describe_volume(&self, view: &View, mount: Option<&Path>) -> Result<Value, VolumeError> {
        let Definition { closure, profiles } = self.definition(view);
        let unknown = self.engine.store.views().unknown(view)?;
        let is_incomplete = !unknown.is_empty();
        let mut unknown = self.engine.unknown_paths(&unknown);
        self.completion.explain(&mut unknown);
        Ok(json!({
            "Name": *view.name,
            "Mountpoint": mount.map(|at| store_directory(at, &view.name)).unwrap_or_default(),
            "CreatedAt": timestamp(view.record.created),
            "Status": {
                "closure": closure,
                "profile": profiles,
                "paths": self.engine.store.views().members(view)?.from(1).count(),
                "incomplete": is_incomplete,
                "unknown": unknown,
                "removable": view.record.is_volume,
            },
        }))
    }
}

/// Parses the body of a request.
fn read<T: DeserializeOwned>(endpoint: &str, body: &[u8]) -> Result<T, VolumeError> {
    serde_json::from_slice(body).map_err(|source| VolumeError::Body {
        endpoint: endpoint.to_owned(),
        source,
    })
}

/// Whether a view has this definition, in any order.
fn is_same(view: &View, roots: &[StorePath], profiles: &[String]) -> bool {
    fn is_same_set<T: Eq + Hash>(a: &[T], b: &[T]) -> bool {
        HashSet::<_>::from_iter(a) == HashSet::from_iter(b)
    }
    is_same_set(&view.record.roots, roots) && is_same_set(&view.record.profiles, profiles)
}

/// A time in seconds since 1970 as RFC 3339, the format of Go.
fn timestamp(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds.max(0));
    time.unwrap_or(jiff::Timestamp::MAX).to_string()
}

impl Daemon {
    /// Starts to answer container engines.
    ///
    /// # Errors
    /// No threads are available.
    pub(super) fn serve_plugin(&self, mut socket: UnixSocket) -> io::Result<()> {
        let volumes = Volumes::new(self.engine.clone(), self.completion.clone());
        let answer = move |endpoint: &str, body: &[u8]| {
            let answer = volumes.answer(endpoint, body);
            (answer.status, answer.body.to_string())
        };
        let serve = |listener| http::serve(listener, http::calls(answer)).map(drop);
        socket.serve(&self.supervisor, serve)?;
        *sync::lock(&self.plugin) = Some(socket);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
