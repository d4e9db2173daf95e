//! Where things are unless the user says otherwise.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::ui::Error;

/// Which store a command is about.
#[derive(Args, Clone, Debug)]
pub struct StoreArg {
    /// The store's directory [default: $XDG_DATA_HOME/wasmfs]
    #[arg(long = "store", value_name = "DIR", env = "WASMFS_STORE", global = true)]
    store: Option<PathBuf>,
}

impl StoreArg {
    /// The store's directory, absolute.
    pub fn dir(&self) -> Result<PathBuf> {
        let dir = match &self.store {
            Some(dir) => dir.clone(),
            None => base("XDG_DATA_HOME", ".local/share")?.join("wasmfs"),
        };
        std::path::absolute(&dir).with_context(|| format!("the store {}", dir.display()))
    }
}

/// Which mount a command is about.
#[derive(Args, Clone, Debug)]
pub struct MountArg {
    /// The mount point [default: $XDG_CACHE_HOME/wasm-modules]
    #[arg(value_name = "MOUNTPOINT", env = "WASMFS_MOUNT")]
    mount_point: Option<PathBuf>,
}

impl MountArg {
    /// The mount point, if it was given.
    pub fn given(&self) -> Result<Option<PathBuf>> {
        self.mount_point.as_deref().map(|path| absolute(path.to_owned())).transpose()
    }

    /// The mount point, absolute.
    pub fn path(&self) -> Result<PathBuf> {
        match self.given()? {
            Some(path) => Ok(path),
            None => default_mount_point(),
        }
    }
}

/// The mount point of those who name none.
pub fn default_mount_point() -> Result<PathBuf> {
    match env::var_os("WASMFS_MOUNT") {
        Some(path) => absolute(path.into()),
        None => absolute(base("XDG_CACHE_HOME", ".cache")?.join("wasm-modules")),
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    if path.to_str().is_none() {
        return Err(Error::usage(
            format!("the mount point {} is not UTF-8", path.display()),
            "choose another path",
        )
        .into());
    }
    wasmfs_fs::mount::absolute(&path).with_context(|| format!("the mount point {}", path.display()))
}

/// A base directory of the XDG specification: relative values don't count.
fn base(variable: &str, under_home: &str) -> Result<PathBuf> {
    let set = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    match set.or_else(|| env::home_dir().map(|home| home.join(under_home))) {
        Some(path) => Ok(path),
        None => Err(Error::usage(
            format!("neither {variable} nor HOME is set"),
            "name the store with --store and the mount point as an argument",
        )
        .into()),
    }
}
