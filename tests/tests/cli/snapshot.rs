//! What commands print, with whatever differs from run to run taken out.

use std::process::Output;

use wasmfs_tests::{Environment, output};

/// What a command printed, and how it ended, as a snapshot shows it.
pub fn shown(env: &Environment, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = output(env.wasmfs().args(args));
    let mut text = format!("$ wasmfs {}\n", args.join(" "));
    text += &String::from_utf8_lossy(&stdout);
    for line in String::from_utf8_lossy(&stderr).lines() {
        text += &format!("! {line}\n");
    }
    if let Some(code) = status.code().filter(|code| *code != 0) {
        text += &format!("exit status {code}\n");
    }
    text
}

/// Several commands, one after the other.
pub fn session(env: &Environment, commands: &[&[&str]]) -> String {
    let all: Vec<_> = commands.iter().map(|args| shown(env, args)).collect();
    all.join("\n")
}

/// Checks `text` against the snapshot of this name, beside the tests. `make snapshots` writes them
/// anew. What differs from run to run is taken out: paths, digests, times, and in JSON the numbers
/// of fields that are called `size` or `bytes`.
pub fn check(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.add_filter(r"/\S*/wasmfs-test-[A-Za-z0-9]+", "[HOME]");
    settings.add_filter(r"\b([0-9a-f]{64}|[0-9a-f]{12})\b", "[SHA256]");
    // Engines have the features of this machine's processor.
    settings.add_filter(r"wasmtime-48-x86_64-[0-9a-f]{8}", "wasmtime-48-x86_64-[ENGINE]");
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "[TIME]");
    settings.add_filter(r"\d+(\.\d+)? (k|M|G)B\b", "[SIZE]");
    settings.add_filter(r#"("(size|bytes|before|after)": )\d+"#, "${1}[SIZE]");
    settings.add_filter(r"\b\d+ bytes\b", "[SIZE] bytes");
    // Columns are as wide as their sizes.
    settings.add_filter(r"\[SIZE\] {2,}", "[SIZE]  ");
    settings.add_filter(r"(process(es)? )\d+", "${1}[PID]");
    settings.add_filter(r"wasmfs \d+\.\d+\.\d+", "wasmfs [VERSION]");
    settings.add_filter(r"wasmtime 48\.\d+\.\d+", "wasmtime [VERSION]");
    settings.bind(|| insta::assert_snapshot!(name, text));
}
