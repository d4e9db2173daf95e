//! Compiling WebAssembly with the linked wasmtime, in the calling process.

use std::borrow::Cow;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use wasmtime::{Config, Engine, OptLevel, Strategy};

/// How to compile what isn't compiled yet.
#[derive(Args, Clone, Debug)]
pub struct CompileArgs {
    /// The compiler for .wasm and .wat files [default: cranelift]
    #[arg(long, value_enum)]
    pub compiler: Option<CompilerArg>,
    /// How hard Cranelift optimizes [default: speed]
    #[arg(long, value_enum)]
    pub opt_level: Option<OptLevelArg>,
    /// The target triple to compile for [default: this machine]
    #[arg(long, value_name = "TRIPLE")]
    pub target: Option<String>,
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
        self.compiler.is_some() || self.opt_level.is_some() || self.target.is_some()
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
            config.target(target).map_err(anyhow::Error::from)?;
        }
        Engine::new(&config).map_err(anyhow::Error::from).context("setting up the compiler")
    }

    /// Compiles a module or component, in binary or text form, to an artifact.
    pub fn compile(&self, source: &[u8]) -> Result<Vec<u8>> {
        let binary: Cow<'_, [u8]> = wat::parse_bytes(source)?;
        let engine = self.engine()?;
        let artifact = if is_component(&binary) {
            engine.precompile_component(&binary)
        } else {
            engine.precompile_module(&binary)
        };
        artifact.map_err(anyhow::Error::from)
    }
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
