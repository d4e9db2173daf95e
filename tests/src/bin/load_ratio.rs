//! How long `Module::deserialize_file` takes for each of some files,
//! interleaved: medians, quartiles, and the ratio to the first.
//!
//!     load_ratio ROUNDS EXT4_FILE MOUNT_FILE...

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use wasmtime::{Engine, Module};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let rounds: usize = args.next().context("how many rounds?")?.parse()?;
    let files: Vec<String> = args.collect();
    let engine = Engine::default();
    let mut times = vec![Vec::with_capacity(rounds); files.len()];
    for round in 0..rounds + 3 {
        for (file, times) in files.iter().zip(&mut times) {
            let start = Instant::now();
            // SAFETY: nobody changes the files meanwhile; one is in a mount, the other our own.
            let module = unsafe { Module::deserialize_file(&engine, file) };
            let elapsed = start.elapsed();
            drop(module.map_err(anyhow::Error::from)?);
            // The first rounds bring everything into memory.
            if round >= 3 {
                times.push(elapsed);
            }
        }
    }
    let microseconds = |d: Duration| d.as_nanos() as f64 / 1000.0;
    let mut first = None;
    for (file, mut times) in files.into_iter().zip(times) {
        times.sort();
        let at = |part: usize| microseconds(times[times.len() * part / 4]);
        let median = at(2);
        let base = *first.get_or_insert(median);
        println!("{median:9.1} us  ({:.1} to {:.1})  {:.3} x  {file}", at(1), at(3), median / base);
    }
    Ok(())
}
