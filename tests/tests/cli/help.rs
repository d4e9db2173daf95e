//! `--help`: the reference of the command line.

use std::fs;
use std::path::Path;

use wasmfs_tests::{Environment, Inline, User};

#[test]
fn help_hides_what_is_not_for_users() {
    let env = Environment::new(User::Root, Inline::Default);
    let help = env.run(&["--help"]);
    assert!(!help.contains("\n  keeper ") && !help.contains("\n  worker "));
    assert!(env.run(&["--version"]).starts_with("wasmfs "));
    assert!(env.fail(1, &["ls"]).contains("there is no store at"));
}

/// The commands that `--help` lists, of `wasmfs` or of a command.
fn commands(help: &str) -> Vec<String> {
    let list = help.split("Commands:\n").nth(1).unwrap_or_default();
    let list = list.lines().take_while(|line| line.starts_with("  "));
    let names = list.filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Adds the section of a command, and of those below it.
fn section(env: &Environment, command: &[&str], text: &mut String) {
    let help = env.run(&[command, &["--help"]].concat());
    *text += &format!("\n## wasmfs {}\n\n```text\n{}\n```\n", command.join(" "), help.trim_end());
    for below in commands(&help) {
        section(env, &[command, &[&below]].concat(), text);
    }
}

/// `make snapshots` writes the reference anew.
#[test]
fn the_reference_is_what_help_says() {
    let env = Environment::new(User::Root, Inline::Default);
    let help = env.run(&["--help"]);
    let mut text = format!(
        "# The command line\n\nWhat `--help` prints, for every command. A test keeps this page true.\n\n\
         ```text\n{}\n```\n",
        help.trim_end()
    );
    for command in commands(&help) {
        section(&env, &[&command], &mut text);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli-reference.md");
    if std::env::var_os("WASMFS_UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/cli-reference.md differs from what --help prints: \
         `make snapshots` writes it anew"
    );
}
