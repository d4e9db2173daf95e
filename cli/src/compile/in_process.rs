//! Compiling WebAssembly: with the linked wasmtime, in the calling process, or
//! with a wasmtime command of the host's own.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use wasmtime::{Config, Engine, OptLevel, Strategy};

use super::external::External;

use crate::ui::Error;

/// The most commands that compile at once: each uses all cores, and may need
/// gigabytes for a large module.
const MOST_JOBS: usize = 8;

/// How to compile what isn't compiled yet.
#[derive(Args, Clone, Debug)]
pub struct CompileArgs {
    /// The compiler of the wasmtime inside wasmfs [default: cranelift]
    #[arg(long, value_enum)]
    pub compiler: Option<CompilerArg>,
    /// The optimization level of Cranelift [default: speed]
    #[arg(long, value_enum)]
    pub opt_level: Option<OptLevelArg>,
    /// The target triple to compile for [default: this machine]
    #[arg(long, value_name = "TRIPLE")]
    pub target: Option<String>,
    /// Compile with this wasmtime command instead of the wasmtime inside wasmfs; FLAGS are for it
    ///
    /// A host loads only artifacts of its own build of wasmtime.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["compiler", "opt_level", "target"])]
    pub with: Option<PathBuf>,
    /// Flags for the compiler that --with names
    #[arg(last = true, value_name = "FLAGS")]
    pub flags: Vec<OsString>,
}

/// wasmtime's compilers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompilerArg {
    /// The optimizing compiler.
    Cranelift,
    /// The baseline compiler.
    Winch,
}

/// Cranelift's optimization levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OptLevelArg {
    /// None.
    None,
    /// For speed.
    Speed,
    /// For speed and size.
    SpeedAndSize,
}

impl CompileArgs {
    /// Whether anything was asked for.
    pub fn any(&self) -> bool {
        self.compiler.is_some()
            || self.opt_level.is_some()
            || self.target.is_some()
            || self.with.is_some()
    }

    fn engine(&self) -> Result<Engine> {
        let mut config = Config::new();
        if let Some(compiler) = self.compiler {
            config.strategy(match compiler {
                CompilerArg::Cranelift => Strategy::Cranelift,
                CompilerArg::Winch => Strategy::Winch,
            });
        }
        if let Some(level) = self.opt_level {
            config.cranelift_opt_level(match level {
                OptLevelArg::None => OptLevel::None,
                OptLevelArg::Speed => OptLevel::Speed,
                OptLevelArg::SpeedAndSize => OptLevel::SpeedAndSize,
            });
        }
        if let Some(target) = &self.target {
            config.target(target).map_err(|_| Error::UnknownTarget(target.clone()))?;
        }
        Engine::new(&config).map_err(anyhow::Error::from).context("setting up the compiler")
    }

    /// The compiler that was asked for, ready to compile.
    pub fn compiler(&self) -> Result<Compiler> {
        Ok(match &self.with {
            None => Compiler::Linked(self.engine()?),
            Some(path) => Compiler::External(Box::new(External::new(path, &self.flags)?)),
        })
    }
}

/// A compiler that is ready.
pub enum Compiler {
    /// The linked wasmtime.
    Linked(Engine),
    /// A command.
    External(Box<External>),
}

impl Compiler {
    /// Exactly what compiles; artifacts say no more than the major version.
    pub fn producer(&self) -> String {
        match self {
            Compiler::Linked(_) => {
                let wasmtime = wasmtime_environ::VERSION;
                format!("wasmfs {} with wasmtime {wasmtime}", env!("CARGO_PKG_VERSION"))
            }
            Compiler::External(command) => command.producer.clone(),
        }
    }

    /// How many modules are compiled at once: the linked one uses every core for each.
    pub fn jobs(&self) -> usize {
        match self {
            Compiler::Linked(_) => 1,
            Compiler::External(_) => {
                std::thread::available_parallelism().map_or(1, usize::from).min(MOST_JOBS)
            }
        }
    }

    /// Compiles a module or component in binary form to an artifact. What the
    /// compiler says goes to `say`, line by line; `name` is its file's.
    pub fn compile(
        &self,
        name: &str,
        source: &[u8],
        say: impl FnMut(&str),
    ) -> Result<Box<dyn Read>> {
        match self {
            Compiler::Linked(engine) => {
                let artifact = if is_component(source) {
                    engine.precompile_component(source)
                } else {
                    engine.precompile_module(source)
                };
                let artifact = artifact.map_err(|e| cannot_compile(&anyhow::Error::from(e)))?;
                Ok(Box::new(io::Cursor::new(artifact)))
            }
            Compiler::External(command) => Ok(Box::new(command.compile(name, source, say)?)),
        }
    }
}

/// Text as the binary form; what is binary stays as it is. Errors name `path`.
pub fn to_binary<'a>(path: &Path, source: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    let parsed = wat::Parser::new().parse_bytes(Some(path), source);
    parsed.map_err(|e| cannot_compile(&e.into()).into())
}

fn cannot_compile(error: &anyhow::Error) -> Error {
    Error::CannotCompile(format!("{error:#}"))
}

/// The layer field of the binary format's preamble: 0 is a core module.
fn is_component(binary: &[u8]) -> bool {
    binary.get(6).is_some_and(|layer| *layer != 0)
}

/// Whether a file is WebAssembly, to be compiled; anything else is an artifact,
/// or something that the store will refuse. Told by the content; text has no
/// sure sign, so its file name counts too.
pub fn is_source(name: &str, head: &[u8]) -> bool {
    let text = head.trim_ascii_start();
    let is_text =
        name.ends_with(".wat") || text.starts_with(b"(module") || text.starts_with(b"(component");
    head.starts_with(b"\0asm") || (is_text && !head.starts_with(b"\x7fELF"))
}
