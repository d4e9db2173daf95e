//! `make bench`: what wasmfs costs and saves, side by side with its peers in one run. Everything
//! is measured here and now: no figure is a limit, and none is compared with another machine's.
//!
//! As root: page caches are dropped, images are mounted. Everything lies under one directory
//! of `/var/tmp`, and the guard of the tests takes the mounts away, on failure too.

mod calls;
mod host;
mod loads;
mod machine;
mod memory;
mod module;
mod names;
mod peers;
mod plot;
mod publish;
mod report;
mod stats;
mod workplace;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};

use report::Report;
use workplace::Workplace;

/// The modules of the tables, from small to large.
const MODULES: [&str; 8] = [
    "icepll",
    "boolector",
    "quickjs",
    "sqlite3",
    "dprint-typescript",
    "esbuild",
    "lightningcss",
    "yosys",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Loads,
    Memory,
    Publish,
    Names,
    Calls,
}

/// Measure wasmfs beside its peers
#[derive(Parser, Debug)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these modules
    #[arg(long, value_delimiter = ',', default_values_t = MODULES.map(String::from))]
    modules: Vec<String>,
    /// Multiplies how often everything is measured
    #[arg(long, default_value_t = 1.0)]
    rounds: f64,
    /// Sizes of the stores of the names, in keys
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    keys: Vec<u64>,
    /// Numbers of hosts that share a module
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 50])]
    hosts: Vec<usize>,
    /// The size of the store whose server's memory is measured, in GB
    #[arg(long, default_value_t = 10)]
    store_gb: u64,
    /// Where it works; compiled modules stay there
    #[arg(long, default_value = "/var/tmp/wasmfs-bench")]
    work: PathBuf,
    /// A directory to write RESULTS.md, loads.svg and results.json to
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// A host, as the parts start it
    #[command(hide = true)]
    Host(host::Args),
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Command::Host(args)) = args.command {
        return host::run(args);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "the benchmark drops page caches: run it as root"
    );
    workplace::heed_signals()?;
    let place = Workplace::new(&args.work)?;
    let mut report = Report::new(machine::describe(&place)?);
    let measured = measure(&args, &place, &mut report);
    drop(place);
    if args.json {
        println!("{}", report.json()?);
    } else {
        print!("{}", report.tables());
    }
    measured?;
    args.out.map_or(Ok(()), |out| report.write(&out))
}

fn measure(args: &Args, place: &Workplace, report: &mut Report) -> Result<()> {
    let wanted = |part| args.only.is_empty() || args.only.contains(&part);
    if wanted(Part::Memory) {
        memory::check_space(place, args.store_gb)?;
    }
    if wanted(Part::Loads) {
        let modules = module::prepare(&args.modules, &args.work)?;
        report.add("loads", loads::measure(place, &modules, args.rounds)?)?;
    }
    if wanted(Part::Calls) {
        let modules = module::prepare(&args.modules, &args.work)?;
        report.add("calls", calls::measure(place, &modules)?)?;
    }
    if wanted(Part::Memory) {
        // Of the "75 MB class", or the largest there is.
        let name = args.modules.iter().find(|name| *name == "lightningcss");
        let name = name.or(args.modules.last()).context("which module?")?.clone();
        let module = module::prepare(&[name], &args.work)?.remove(0);
        report.add("memory", memory::measure(place, &module, &args.hosts)?)?;
        report.add("server", memory::of_a_large_store(place, args.store_gb)?)?;
    }
    if wanted(Part::Publish) {
        let modules = module::prepare(&args.modules, &args.work)?;
        report.add("publish", publish::measure(place, &modules, args.rounds)?)?;
    }
    if wanted(Part::Names) {
        report.add("names", names::measure(place, &args.keys)?)?;
    }
    Ok(())
}
