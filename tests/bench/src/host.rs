//! A host in a process of its own: it loads a module, and waits until it is told to end.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::ValueEnum;
use wasmtime::{Cache, CacheConfig, Config, Engine, Module};

use crate::module::{self, host};

/// How a host gets its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Way {
    /// Not at all: what a host is without one.
    Nothing,
    /// `Module::deserialize_file`.
    Map,
    /// By wasmtime's own cache, from WebAssembly.
    Cache,
    /// `std::fs::read` and `Module::deserialize`.
    Read,
}

#[derive(clap::Args, Debug)]
pub struct Args {
    way: Way,
    file: PathBuf,
    /// The directory of wasmtime's cache
    #[arg(long)]
    cache: Option<PathBuf>,
    /// Read every page
    #[arg(long)]
    touch: bool,
    /// Say so when it is loaded, and stay until standard input ends
    #[arg(long)]
    stay: bool,
    /// Load so often
    #[arg(long, default_value_t = 1)]
    times: usize,
}

pub fn run(args: Args) -> Result<()> {
    let engine = match &args.cache {
        Some(dir) => cached_engine(dir)?,
        None => module::engine()?,
    };
    let mut modules = Vec::new();
    for _ in 0..args.times {
        modules.extend(load(&engine, args.way, &args.file)?);
    }
    if args.touch {
        for module in &modules {
            std::hint::black_box(module::touch(module));
        }
    }
    if args.stay {
        println!("loaded");
        std::io::stdout().flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

pub fn load(engine: &Engine, way: Way, file: &Path) -> Result<Option<Module>> {
    Ok(match way {
        Way::Nothing => None,
        // SAFETY: nobody changes what is measured.
        Way::Map => Some(host(unsafe { Module::deserialize_file(engine, file) })?),
        Way::Cache => Some(host(Module::from_file(engine, file))?),
        // SAFETY: as above.
        Way::Read => Some(host(unsafe { Module::deserialize(engine, std::fs::read(file)?) })?),
    })
}

/// An engine with wasmtime's own cache.
pub fn cached_engine(dir: &Path) -> Result<Engine> {
    let mut cache = CacheConfig::new();
    cache.with_directory(dir);
    // It compresses what is used often once more, in the background: not while others are measured.
    cache.with_optimized_compression_usage_counter_threshold(u64::MAX);
    let mut config = Config::new();
    config.cache(Some(host(Cache::new(cache))?));
    host(Engine::new(&config))
}
