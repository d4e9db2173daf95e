//! `--help`: the reference of the command line.

use wasmfs_tests::{Environment, Inline, User};

#[test]
fn help_names_every_command() {
    let env = Environment::new(User::Root, Inline::Default);
    let help = env.run(&["--help"]);
    for command in [
        "mount", "unmount", "reload", "publish", "link", "ls", "log", "show", "rollback", "rm",
        "status",
    ] {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        env.run(&[command, "--help"]);
    }
    assert!(!help.contains("\n  keeper ") && !help.contains("\n  worker "));
    assert!(env.run(&["--version"]).starts_with("wasmfs "));
    assert!(env.fail(1, &["ls"]).contains("there is no store at"));
}
