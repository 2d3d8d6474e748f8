//! `--volume-plugin`, an option of `narfs mount` and `narfs daemon`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;

use super::config::Setting;

/// The socket of the volume plugin.
#[derive(Debug, Args)]
pub(super) struct VolumePlugin {
    /// Answer podman and docker at this unix socket: with `volume create --driver narfs -o
    /// closure=PATH:PATH… NAME`, or `-o profile=PROFILE`, they have closure views as volumes.
    /// docker looks for /run/docker/plugins/narfs.sock; `none` for none [default: none]
    #[arg(long = "volume-plugin", value_name = "SOCKET")]
    socket: Option<Socket>,
}

/// An absolute path, or `none`.
#[derive(Clone, Debug)]
struct Socket(Option<PathBuf>);

impl FromStr for Socket {
    type Err = std::io::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(match text {
            "none" => None,
            path => Some(std::path::absolute(path)?),
        }))
    }
}

impl VolumePlugin {
    /// The choice made by this flag.
    pub(super) fn choice(&self) -> Option<Setting<Option<PathBuf>>> {
        let socket = self.socket.clone();
        socket.map(|Socket(path)| Setting::flag(path))
    }

    /// The same flag for a daemon in the background, valid in any working directory.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let Some(Socket(path)) = &self.socket else {
            return Vec::new();
        };
        let path = path.clone().unwrap_or_else(|| "none".into());
        vec!["--volume-plugin".into(), path.into()]
    }

    /// The flag as it was given.
    pub(super) fn given(&self) -> Option<String> {
        let Socket(path) = self.socket.as_ref()?;
        let path = path.as_ref().map(|path| path.display().to_string());
        let path = path.unwrap_or_else(|| "none".to_owned());
        Some(format!("--volume-plugin {path}"))
    }
}
