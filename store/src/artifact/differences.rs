//! How two engines differ, in words.

use serde::{Deserialize, Serialize};

use super::compiler::Compiler;
use super::engine::{Engine, EngineDescription};
use super::settings::{Group, Setting};

/// Something in which two engines differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// What it is: `compiler`, `fuel`, `CPU features`.
    pub what: String,
    /// How the first engine has it.
    pub left: String,
    /// How the second has it.
    pub right: String,
}

impl Difference {
    /// In words, of an artifact and the engine called `right` it should be of.
    #[must_use]
    pub fn of_artifact(&self, right: &str) -> String {
        match self.what.as_str() {
            COMPILER => format!("compiled by {}, {right} is {}", self.left, self.right),
            VERSION => format!("compiled by wasmtime {}, {right} is {}", self.left, self.right),
            TARGET => format!("compiled for {}, {right} is for {}", self.left, self.right),
            // The other has what this one hasn't.
            CPU | FEATURES => format!("{} {}", self.what, self.left),
            what => format!("{what}: {}, {right} has {}", self.left, self.right),
        }
    }
}

const VERSION: &str = "wasmtime";
const TARGET: &str = "target";
const COMPILER: &str = "compiler";
const CPU: &str = "CPU features";
const FEATURES: &str = "wasm features";

impl Engine {
    /// Everything in which this engine and another are known to differ. Engines of the same
    /// fingerprint don't; of others there is always something to say.
    #[must_use]
    pub fn differences(&self, other: &Engine) -> Vec<Difference> {
        let (left, right) = (&self.description, &other.description);
        let mut found = Vec::new();
        if left.fingerprint == right.fingerprint {
            return found;
        }
        let mut compare = |what: &str, left: String, right: String| {
            if left != right {
                found.push(Difference { what: what.to_owned(), left, right });
            }
        };
        let code =
            |engine: &EngineDescription| if engine.pulley { "Pulley bytecode" } else { "native" };
        compare(VERSION, or_none(&left.wasmtime), or_none(&right.wasmtime));
        compare(TARGET, or_none(&left.target), or_none(&right.target));
        compare("code", code(left).into(), code(right).into());
        compare(COMPILER, name(left.compiler).into(), name(right.compiler).into());
        if let (Some(left), Some(right)) = (&self.settings, &other.settings) {
            let one_by_one =
                |setting: &&Setting| matches!(setting.group, Group::Flag | Group::Tunable);
            for setting in left.iter().filter(one_by_one) {
                let same =
                    |other: &&Setting| (other.group, &other.name) == (setting.group, &setting.name);
                if let Some(other) = right.iter().find(same) {
                    compare(setting.words(), setting.value.clone(), other.value.clone());
                }
            }
            for (group, what) in [(Group::Cpu, CPU), (Group::Feature, FEATURES)] {
                let (of_left, of_right) =
                    (only_in(group, left, right), only_in(group, right, left));
                if of_left != of_right {
                    compare(what, with(&of_left, &of_right), with(&of_right, &of_left));
                }
            }
        }
        if found.is_empty() {
            let unknown = || "unknown".to_owned();
            found.push(Difference { what: "settings".into(), left: unknown(), right: unknown() });
        }
        found
    }
}

/// What is on in one and off in the other.
fn only_in(group: Group, one: &[Setting], other: &[Setting]) -> String {
    let is = |setting: &Setting, on: bool| setting.group == group && (setting.value != "off") == on;
    let only = one.iter().filter(|setting| {
        is(setting, true) && other.iter().any(|o| is(o, false) && o.name == setting.name)
    });
    let names = only.map(|setting| setting.name.strip_prefix("has_").unwrap_or(&setting.name));
    names.collect::<Vec<_>>().join(" ")
}

fn with(own: &str, others: &str) -> String {
    match (own, others) {
        ("", others) => format!("without {others}"),
        (own, "") => format!("with {own}"),
        (own, others) => format!("with {own}, without {others}"),
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "not named".to_owned() } else { text.to_owned() }
}

fn name(compiler: Compiler) -> &'static str {
    match compiler {
        Compiler::Cranelift => "Cranelift",
        Compiler::Winch => "Winch",
        Compiler::Unknown => "unknown",
    }
}
