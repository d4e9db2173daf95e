//! Real modules: compiled once, loaded, touched, and called.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use wasmtime::{
    Caller, Config, Engine, Extern, ExternType, Linker, Memory, Module, Store, Val, ValType,
};

/// A module, and its artifact.
#[derive(Clone, Debug)]
pub struct Subject {
    pub name: String,
    pub wasm: PathBuf,
    pub artifact: PathBuf,
    /// The size of the artifact in bytes.
    pub size: u64,
}

/// wasmtime's errors as everybody else's.
pub fn host<T>(result: wasmtime::Result<T>) -> Result<T> {
    result.map_err(anyhow::Error::from)
}

/// The engine of every host here.
pub fn engine() -> Result<Engine> {
    host(Engine::new(&Config::new()))
}

/// Compiles what is not compiled yet, as files under `work`.
pub fn prepare(names: &[String], work: &Path) -> Result<Vec<Subject>> {
    let engine = engine()?;
    let dir = work.join("artifacts");
    fs::create_dir_all(&dir)?;
    let mut subjects = Vec::new();
    for name in names {
        let file = format!("{name}.wasm");
        let mut wasm = wasmfs_tests::real_host("modules").join(&file);
        if !wasm.exists() {
            wasm = wasmfs_tests::real_host("more-modules").join(&file);
        }
        let artifact = dir.join(format!("{name}.cwasm"));
        // SAFETY: the file is ours alone.
        let usable =
            artifact.exists() && unsafe { Module::deserialize_file(&engine, &artifact) }.is_ok();
        if !usable {
            let start = Instant::now();
            let bytes = fs::read(&wasm).with_context(|| format!("reading {}", wasm.display()))?;
            let compiled = host(engine.precompile_module(&bytes))?;
            fs::write(&artifact, compiled)?;
            eprintln!("compiled {name} in {:.1} s", start.elapsed().as_secs_f64());
        }
        let size = fs::metadata(&artifact)?.len();
        subjects.push(Subject { name: name.clone(), wasm, artifact, size });
    }
    Ok(subjects)
}

/// Reads a byte of every page of a loaded module.
pub fn touch(module: &Module) -> u8 {
    let range = module.image_range();
    let len = range.end.addr() - range.start.addr();
    let mut sum = 0u8;
    for at in (0..len).step_by(4096) {
        // SAFETY: the image is mapped readable, and lives as long as the module.
        sum = sum.wrapping_add(unsafe { range.start.add(at).read_volatile() });
    }
    sum
}

/// What a command is asked: something that it answers at once.
fn arguments(name: &str) -> &'static [&'static str] {
    match name {
        "yosys" => &["yosys", "-V"],
        "boolector" => &["boolector", "--version"],
        _ => &["module", "-h"],
    }
}

/// Instantiates a module and calls its first function: `_start` of a WASI command, else the first
/// export that takes nothing. How it ends doesn't matter; it does the same for every peer.
pub fn call(module: &Module, name: &str) -> Result<()> {
    let mut store = Store::new(module.engine(), ());
    let mut linker = Linker::new(module.engine());
    define_wasi(&mut linker, module, arguments(name))?;
    if linker.define_unknown_imports_as_default_values(&mut store, module).is_err() {
        host(linker.define_unknown_imports_as_traps(module))?;
    }
    let instance = host(linker.instantiate(&mut store, module))?;
    let takes_nothing = |ty: ExternType| ty.func().is_some_and(|ty| ty.params().len() == 0);
    let first = module.exports().find(|e| takes_nothing(e.ty())).map(|e| e.name());
    let start = instance.get_func(&mut store, "_start");
    let function = start.or_else(|| instance.get_func(&mut store, first?));
    let function = function.ok_or_else(|| anyhow!("{name} exports nothing to call"))?;
    let mut results = vec![Val::I32(0); function.ty(&store).results().len()];
    // A command ends by a trap of proc_exit.
    let _ = function.call(&mut store, &[], &mut results);
    Ok(())
}

/// As much of WASI (preview 1) as a command needs to answer a simple question: arguments, and
/// output that nobody reads. There are no files.
fn define_wasi(
    linker: &mut Linker<()>,
    module: &Module,
    arguments: &'static [&'static str],
) -> Result<()> {
    const BAD_DESCRIPTOR: i32 = 8;
    for import in module.imports() {
        let (ExternType::Func(ty), "wasi_snapshot_preview1") = (import.ty(), import.module())
        else {
            continue;
        };
        let name = import.name().to_owned();
        let one_result = ty.results().len() == 1;
        let function = move |mut caller: Caller<'_, ()>, params: &[Val], results: &mut [Val]| {
            let memory = caller.get_export("memory").and_then(Extern::into_memory);
            let at = |index: usize| params.get(index).and_then(Val::i32).unwrap_or(0) as u32;
            let mut errno = 0;
            match (name.as_str(), memory) {
                ("proc_exit", _) => return Err(wasmtime::Error::msg("it ends")),
                ("args_sizes_get", Some(memory)) => {
                    let bytes: usize = arguments.iter().map(|a| a.len() + 1).sum();
                    put(&memory, &mut caller, at(0), &(arguments.len() as u32).to_le_bytes());
                    put(&memory, &mut caller, at(1), &(bytes as u32).to_le_bytes());
                }
                ("args_get", Some(memory)) => {
                    let mut text = at(1);
                    for (index, argument) in arguments.iter().enumerate() {
                        let place = at(0) + 4 * index as u32;
                        put(&memory, &mut caller, place, &text.to_le_bytes());
                        put(&memory, &mut caller, text, argument.as_bytes());
                        text += argument.len() as u32 + 1;
                    }
                }
                ("environ_sizes_get", Some(memory)) => {
                    put(&memory, &mut caller, at(0), &[0; 4]);
                    put(&memory, &mut caller, at(1), &[0; 4]);
                }
                ("fd_write", Some(memory)) => {
                    let mut written = 0;
                    for index in 0..at(2) {
                        let mut len = [0; 4];
                        let _ = memory.read(&caller, (at(1) + 8 * index + 4) as usize, &mut len);
                        written += u32::from_le_bytes(len);
                    }
                    put(&memory, &mut caller, at(3), &written.to_le_bytes());
                }
                ("fd_fdstat_get", Some(memory)) => {
                    // A character device that may do everything.
                    let mut stat = [0xff; 24];
                    stat[..8].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
                    put(&memory, &mut caller, at(1), &stat);
                }
                ("clock_time_get", Some(memory)) => {
                    put(&memory, &mut caller, at(2), &1_000_000_000u64.to_le_bytes());
                }
                ("environ_get" | "random_get" | "sched_yield" | "fd_close", _) => {}
                _ => errno = BAD_DESCRIPTOR,
            }
            if let Some(result) = results.first_mut() {
                *result = Val::I32(errno);
            }
            Ok(())
        };
        if one_result && !matches!(ty.results().next(), Some(ValType::I32)) {
            continue;
        }
        host(linker.func_new(import.module(), import.name(), ty, function))?;
    }
    Ok(())
}

fn put(memory: &Memory, caller: &mut Caller<'_, ()>, at: u32, bytes: &[u8]) {
    // Out of bounds is the guest's fault, and it gets what it finds there.
    let _ = memory.write(caller, at as usize, bytes);
}

/// A small module's artifact, as bytes.
pub fn small() -> Result<Vec<u8>> {
    let text = "(module (func (export \"answer\") (result i32) i32.const 42))";
    host(engine()?.precompile_module(text.as_bytes()))
}
