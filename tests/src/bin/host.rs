//! A host as others write them: it maps a precompiled module with
//! `Module::deserialize_file` and runs what it is asked to, a line at a time.
//! Built like a host without a compiler: it can load, and not compile.

use std::fs::File;
use std::io::{BufRead, Write};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};
use wasmtime::{Config, Engine, Instance, Module, Store, Strategy};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let path = args.next().context("a path")?;
    let mut config = Config::new();
    match args.next().as_deref() {
        Some("winch") => {
            config.strategy(Strategy::Winch);
        }
        Some("none") => {
            config.cranelift_opt_level(wasmtime::OptLevel::None);
        }
        _ => {}
    }
    let engine = Engine::new(&config).map_err(anyhow::Error::from)?;
    // SAFETY: that nobody changes the file is what the tests are about.
    let module = unsafe { Module::deserialize_file(&engine, &path) };
    let module = module.map_err(anyhow::Error::from)?;
    let held = File::open(&path)?;
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).map_err(anyhow::Error::from)?;
    println!("loaded");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words[..] {
            ["call", name, arg] => call(&mut store, &instance, name, arg)?.to_string(),
            ["fresh", name, arg] => {
                let mut store = Store::new(&engine, ());
                let instance =
                    Instance::new(&mut store, &module, &[]).map_err(anyhow::Error::from)?;
                call(&mut store, &instance, name, arg)?.to_string()
            }
            ["stat"] => {
                let metadata = held.metadata()?;
                format!("{} {}", metadata.ino(), metadata.len())
            }
            _ => bail!("{line}?"),
        };
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn call(store: &mut Store<()>, instance: &Instance, name: &str, arg: &str) -> Result<i32> {
    let function = instance.get_typed_func::<i32, i32>(&mut *store, name);
    let function = function.map_err(anyhow::Error::from)?;
    function.call(store, arg.parse()?).map_err(anyhow::Error::from)
}
