//! `wasmfs engines`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;
use wasmfs_store::EngineInfo;
use wasmfs_store::artifact::{Artifact, inspect};
use wasmfs_store::artifact::{Difference, Engine};

use crate::client::StoreClient;
use crate::client::stable_file::open_named;
use crate::control::requests::{Alias, Committed, Engine as EngineNamed, Engines};
use crate::ui::output;
use crate::ui::{Error, Outcome, warn_if_not_visible};

/// List the engines that compiled the store's artifacts, and name them
///
/// ENGINE is an alias, a label, or the start of a fingerprint.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  wasmfs engines
  wasmfs engines alias prod wasmtime-48-x86_64-c6d3db11
  wasmfs engines diff prod app.cwasm")]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Give an alias to an engine, or move it there
    Alias {
        /// A name of your own
        name: String,
        /// An alias, a label, or the start of a fingerprint
        engine: String,
    },
    /// Remove an alias
    Unalias {
        /// The alias
        name: String,
    },
    /// Give an alias to the engine that compiled a file; the file is not published
    Learn {
        /// A name of your own
        name: String,
        /// A compiled file
        file: PathBuf,
    },
    /// Say how two engines differ
    Diff {
        /// An engine, or a compiled file
        left: String,
        /// An engine, or a compiled file
        right: String,
    },
}

pub fn run(store: &Path, args: Args) -> Result<Outcome> {
    let alias = match args.action {
        None => return list(store, args.json),
        Some(Action::Diff { left, right }) => return diff(store, &left, &right, args.json),
        Some(Action::Alias { name, engine }) => Alias::Set { name, engine },
        Some(Action::Unalias { name }) => Alias::Remove { name },
        Some(Action::Learn { name, file }) => {
            Alias::Learn { name, section: artifact(&file)?.section }
        }
    };
    let client = match alias {
        // It may be all that is known so far.
        Alias::Learn { .. } => StoreClient::open_or_create(store)?,
        _ => StoreClient::open(store)?,
    };
    let answer = client.ask(alias.clone())?;
    client.close()?;
    if args.json {
        output::json(&answer)?;
    } else {
        let Committed { outcome: EngineInfo { label, .. }, .. } = &answer;
        match &alias {
            Alias::Set { name, .. } | Alias::Learn { name, .. } => {
                output::line(format_args!("{name} is now an alias of {label}"))?;
            }
            Alias::Remove { name } => {
                output::line(format_args!("{name} is no alias of {label} any more"))?;
            }
        }
    }
    warn_if_not_visible(answer.visible);
    Ok(Outcome::Done)
}

fn list(store: &Path, json: bool) -> Result<Outcome> {
    let engines = StoreClient::open(store)?.ask(Engines {})?;
    if json {
        output::json(&engines)?;
        return Ok(Outcome::Done);
    }
    for engine in &engines {
        output::line(format_args!("{}", title(engine)))?;
        let about = &engine.engine.description;
        let pulley = if about.pulley { ", Pulley bytecode" } else { "" };
        let version = if about.wasmtime.is_empty() { "unversioned" } else { &about.wasmtime };
        output::line(format_args!(
            "  wasmtime {version}, {}, {}{pulley}",
            about.compiler, about.target
        ))?;
        output::line(format_args!("  {}", unusual(engine)))?;
        if let Some(producer) = &engine.producer {
            output::line(format_args!("  compiled by {producer}"))?;
        }
        let last = engine.last_publish.as_deref().unwrap_or("never");
        let keys = if engine.keys == 1 { "key" } else { "keys" };
        output::line(format_args!("  {} {keys}, last published {last}", engine.keys))?;
    }
    Ok(Outcome::Done)
}

fn title(engine: &EngineInfo) -> String {
    let names: Vec<_> = engine.aliases.iter().chain([&engine.label]).map(String::as_str).collect();
    names.join(" = ")
}

/// The settings that somebody asked for.
fn unusual(engine: &EngineInfo) -> String {
    let Some(settings) = &engine.engine.settings else {
        return "settings unknown: this wasmfs doesn't know this version's layout".into();
    };
    let unusual = settings.iter().filter(|setting| setting.is_unusual());
    let unusual: Vec<_> = unusual.map(|s| format!("{} {}", s.words(), s.value)).collect();
    match unusual.is_empty() {
        true => "the default settings of this version".into(),
        false => format!("differs from the defaults of this version: {}", unusual.join(", ")),
    }
}

fn artifact(file: &Path) -> Result<Artifact> {
    let read = || -> Result<Artifact> {
        let opened = open_named(file).map_err(Error::CannotOpen)?;
        Ok(inspect(opened).map_err(wasmfs_store::Error::from)?)
    };
    read().with_context(|| file.display().to_string())
}

#[derive(Serialize)]
struct Diff<'a> {
    left: &'a str,
    right: &'a str,
    differences: Vec<Difference>,
}

fn diff(store: &Path, left: &str, right: &str, json: bool) -> Result<Outcome> {
    let (one, other) = (engine(store, left)?, engine(store, right)?);
    let differences = one.differences(&other);
    if json {
        output::json(&Diff { left, right, differences })?;
        return Ok(Outcome::Done);
    }
    if differences.is_empty() {
        output::line(format_args!("{left} and {right} are the same engine"))?;
        return Ok(Outcome::Done);
    }
    let mut rows = vec![[String::new(), left.to_owned(), right.to_owned()]];
    rows.extend(differences.into_iter().map(|d| [d.what, d.left, d.right]));
    output::table(&rows)?;
    Ok(Outcome::Done)
}

/// The engine that a name means, or that compiled a file.
fn engine(store: &Path, name: &str) -> Result<Engine> {
    let asked = StoreClient::open(store)
        .and_then(|client| client.ask(EngineNamed { name: name.to_owned() }));
    match asked {
        Ok(info) => Ok(info.engine),
        Err(_) if Path::new(name).is_file() => Ok(artifact(Path::new(name))?.described()),
        Err(e) => Err(e),
    }
}
