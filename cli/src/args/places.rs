//! Where things are unless the user says otherwise.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use wasmfs_store::check_parent;

use crate::ui::Error;

/// Which store a command is about.
#[derive(Args, Clone, Debug)]
pub struct StoreArg {
    /// The store's directory [default: $XDG_DATA_HOME/wasmfs]
    #[arg(long = "store", value_name = "DIR", env = "WASMFS_STORE", global = true)]
    store: Option<PathBuf>,
}

/// Where a store is.
pub struct StorePath {
    /// Absolute.
    pub path: PathBuf,
    /// Whether the user named it.
    pub is_given: bool,
}

impl StorePath {
    /// The path, for a command that makes a store if none is there. Root makes none in another
    /// user's home that nobody named: `HOME` may be left from that user.
    pub fn to_make(&self) -> Result<&Path> {
        if !self.is_given {
            check_parent(&self.path)?;
        }
        Ok(&self.path)
    }
}

impl StoreArg {
    /// The store's directory, absolute.
    pub fn dir(&self) -> Result<PathBuf> {
        let dir = match &self.store {
            Some(dir) => dir.clone(),
            None => base("XDG_DATA_HOME", ".local/share")?.join("wasmfs"),
        };
        let dir = std::path::absolute(&dir).with_context(|| format!("the store {}", dir.display()));
        // Without a slash at the end, which would have a symbolic link be followed.
        Ok(dir?.components().collect())
    }

    /// Whether the user named it.
    pub fn is_given(&self) -> bool {
        self.store.is_some()
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
    /// The mount point, absolute.
    pub fn path(&self) -> Result<PathBuf> {
        match &self.mount_point {
            Some(path) => absolute(path.clone()),
            None => default_mount_point(),
        }
    }

    /// The same, to mount there.
    pub fn to_mount(&self) -> Result<PathBuf> {
        let path = self.path()?;
        if self.mount_point.is_none() {
            check_parent(&path)?;
        }
        Ok(path)
    }
}

/// The mount point of those who name none.
pub fn default_mount_point() -> Result<PathBuf> {
    match env::var_os("WASMFS_MOUNT") {
        Some(path) => absolute(path.into()),
        None => absolute(base("XDG_CACHE_HOME", ".cache")?.join("wasm-modules")),
    }
}

/// A mount point that the user named, absolute.
pub fn absolute(path: PathBuf) -> Result<PathBuf> {
    if path.to_str().is_none() {
        return Err(Error::usage(
            format!("the mount point {} is not UTF-8", path.display()),
            "choose another path",
        )
        .into());
    }
    Ok(wasmfs_fs::mount::absolute(&path)?)
}

/// A base directory of the XDG specification: relative values don't count.
fn base(variable: &str, under_home: &str) -> Result<PathBuf> {
    let set = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = env::home_dir().filter(|home| home.is_absolute());
    match set.or_else(|| home.map(|home| home.join(under_home))) {
        Some(path) => Ok(path),
        None => Err(Error::usage(
            format!("neither {variable} nor HOME is set"),
            "name the store with --store and the mount point as an argument",
        )
        .into()),
    }
}
