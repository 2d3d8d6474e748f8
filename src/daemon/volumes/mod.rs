//! Volumes of container engines: the volume plugin protocol of Docker, which podman speaks too.
//!
//! A volume is a closure view, and its mountpoint is the store directory of the view in the mount.
//! Invariants: nothing is kept but the view, and that it was made as a volume, so that a restart of
//! the daemon loses nothing (engines count for themselves who uses what); a view that was made
//! otherwise is never removed; and whatever is asked, the answer is a status and JSON.

mod options;
pub(super) mod socket;

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
use crate::command::{NoOutput, SourceRequest, chain};
use crate::engine::{ClosureError, Engine, EngineError, store_directory};
use crate::fuse::MountError;
use crate::nix::store_path::StorePath;
use crate::store::{StoreError, View, ViewName, ViewNameError};
use crate::sync;
use options::{Definition, OptionError};
use socket::PluginSocket;

/// Why an engine's request cannot be fulfilled.
#[derive(Debug, Error)]
enum VolumeError {
    /// What was asked is not of the protocol.
    #[error(
        "narfs does not know the request {0:?}; it is a volume plugin, and knows /Plugin.Activate and \
         /VolumeDriver.Create, Remove, Mount, Unmount, Path, Get, List and Capabilities"
    )]
    Unknown(String),
    /// Its body is not what belongs to it.
    #[error(
        "{endpoint} takes a JSON object with the Name of a volume, and got something else: {source}"
    )]
    Body {
        endpoint: String,
        source: serde_json::Error,
    },
    /// No volume can be called so.
    #[error(transparent)]
    Name(#[from] ViewNameError),
    /// What was given with `-o`.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// It is not said what it is to be, and there is nothing of its name.
    #[error(
        "there is no closure view {0:?} that the volume could be; say what it shows with -o \
         closure=PATH:PATH… or -o profile=PROFILE:PROFILE…, or define it with `narfs closure`"
    )]
    Undefined(String),
    /// It is there, and something else.
    #[error(
        "there is a closure view {name:?} already, of {there}; give the same, or no options at all, \
         or another name, or remove it first"
    )]
    Differs { name: String, there: Definition },
    /// There is nothing that an engine could bind.
    #[error(
        "the store of {0:?} can be seen nowhere, since the state is not mounted as a whole; `narfs mount \
         MOUNTPOINT` does it"
    )]
    NotMounted(String),
    /// The mounts cannot be told.
    #[error(transparent)]
    Mount(#[from] MountError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What a command says that does the same.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<ClosureError> for VolumeError {
    fn from(e: ClosureError) -> Self {
        Self::Engine(e.into())
    }
}

impl VolumeError {
    /// Of HTTP. podman takes nothing but 200 for a success and looks at `Err` only if it is not;
    /// Docker takes 404 for a request that a plugin need not know.
    fn status(&self) -> u16 {
        match self {
            Self::Unknown(_) => 404,
            Self::Body { .. } | Self::Name(_) | Self::Option(_) => 400,
            _ => 500,
        }
    }
}

/// What an engine is answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// The body of a request; who mounts (`ID`) is of no interest.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    name: String,
}

/// The body of a request to create; Go writes a map that there is none of as null.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Create {
    name: String,
    #[serde(default)]
    opts: Option<options::Options>,
}

/// What container engines see of a state.
#[derive(Debug)]
pub(super) struct Volumes {
    engine: Arc<Engine>,
    completion: Arc<Completion>,
}

impl Volumes {
    /// Of the state of an engine.
    pub(super) fn new(engine: Arc<Engine>, completion: Arc<Completion>) -> Self {
        Self { engine, completion }
    }

    /// Answers a request of a container engine, which may take as long as its fetches do.
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
                let mount = self.whole_mount()?;
                let mount = mount.ok_or_else(|| VolumeError::NotMounted(name.to_string()))?;
                return Ok(json!({ "Mountpoint": store_directory(&mount, &name), "Err": "" }));
            }
            "/VolumeDriver.Path" => {
                let name = self.volume_view(&named()?)?.name.clone();
                let at = self
                    .whole_mount()?
                    .map(|mount| store_directory(&mount, &name));
                return Ok(json!({ "Mountpoint": at.unwrap_or_default(), "Err": "" }));
            }
            // Nobody has to know it any more, and the view may be gone.
            "/VolumeDriver.Unmount" => drop(named()?),
            "/VolumeDriver.Get" => {
                let view = self.volume_view(&named()?)?;
                let mount = self.whole_mount()?;
                let volume = self.describe_volume(&view, mount.as_deref())?;
                return Ok(json!({ "Volume": volume, "Err": "" }));
            }
            "/VolumeDriver.List" => {
                let (views, mount) = (self.engine.store.views().list()?, self.whole_mount()?);
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
        let there = self.view_if_there(&name)?;
        if wanted.is_empty() {
            // It is left to be what it is.
            let there = there.map(drop);
            return there.ok_or_else(|| VolumeError::Undefined(name.to_string()));
        }
        let sources = SourceRequest::default();
        let there = match there {
            Some(view) => {
                // No source is asked where all of it is known.
                let roots = self.engine.supply(&sources)?.resolve_all(&wanted.closure)?;
                (!is_same(&view, &roots, &wanted.profiles)).then_some(view)
            }
            None => self.engine.with_closure(
                &wanted.closure,
                &wanted.profiles,
                &sources,
                &mut NoOutput,
                |roots, profiles| {
                    // Another request may have made it meanwhile.
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
                "the volume {name} is let go; its closure view stays, since `narfs closure` made it"
            );
        }
        Ok(())
    }

    fn view_if_there(&self, name: &ViewName) -> Result<Option<Arc<View>>, VolumeError> {
        let table = self.engine.store.views().table();
        match table.named(name.as_str()) {
            Some(view) => Ok(Some(view.clone())),
            None => {
                // One that is damaged is not absent.
                self.engine.store.views().list()?;
                Ok(None)
            }
        }
    }

    fn volume_view(&self, name: &ViewName) -> Result<Arc<View>, VolumeError> {
        let view = self.view_if_there(name)?;
        Ok(view.ok_or_else(|| self.engine.no_view(name.as_str()))?)
    }

    /// Where all closure views can be seen.
    fn whole_mount(&self) -> Result<Option<PathBuf>, VolumeError> {
        Ok(self.engine.serving.whole_mounts()?.into_iter().next())
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

/// Reads the body of a request.
fn read<T: DeserializeOwned>(endpoint: &str, body: &[u8]) -> Result<T, VolumeError> {
    serde_json::from_slice(body).map_err(|source| VolumeError::Body {
        endpoint: endpoint.to_owned(),
        source,
    })
}

/// Whether a view is of this definition, whatever the order.
fn is_same(view: &View, roots: &[StorePath], profiles: &[String]) -> bool {
    fn is_same_set<T: Eq + Hash>(a: &[T], b: &[T]) -> bool {
        HashSet::<_>::from_iter(a) == HashSet::from_iter(b)
    }
    is_same_set(&view.record.roots, roots) && is_same_set(&view.record.profiles, profiles)
}

/// A time in seconds since 1970 in the form of RFC 3339, which Go reads.
fn timestamp(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (mut days, second) = (seconds / 86400, seconds % 86400);
    let mut year = 1970;
    let is_leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    while days >= 365 + i64::from(is_leap(year)) {
        days -= 365 + i64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + i64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let (day, second) = (days + 1, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

impl Daemon {
    /// Answers container engines from now on.
    ///
    /// # Errors
    /// No threads are to be had.
    pub(super) fn answer_engines(&self, mut socket: PluginSocket) -> io::Result<()> {
        let volumes = Volumes::new(self.engine.clone(), self.completion.clone());
        let answer = move |endpoint: &str, body: &[u8]| {
            let answer = volumes.answer(endpoint, body);
            (answer.status, answer.body.to_string())
        };
        socket.serve(answer, &self.supervisor)?;
        *sync::lock(&self.plugin) = Some(socket);
        Ok(())
    }

    /// Says that this daemon is the last.
    pub(super) fn end_plugin(&self) {
        if let Some(socket) = sync::lock(&self.plugin).take() {
            socket.end(&self.supervisor);
        }
    }
}

#[cfg(test)]
mod tests;
