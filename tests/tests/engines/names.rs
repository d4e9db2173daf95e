//! `wasmfs engines`, and names of engines wherever one is asked for.

use std::fs;

use wasmfs_tests::in_each_environment;

use crate::{answering, ask, compile, engine};

#[test]
fn engines_are_listed_named_compared_and_asked_for() {
    in_each_environment(|env| {
        env.mount();
        let plain = compile(env, "48", &answering(1), "plain", &[]);
        let winch = compile(env, "48", &answering(1), "winch", &["-C", "compiler=winch"]);
        let fuel =
            compile(env, "48", &answering(1), "fuel", &["-W", "fuel=5", "-O", "opt-level=0"]);
        let prod = env.publish(&plain, "m.cwasm", &[]);
        let label = prod["engine"].as_str().unwrap();
        env.run(&["engines", "alias", "prod", label]);
        // A sample is enough to name an engine; nothing is published.
        env.run(&["engines", "learn", "dev", winch.to_str().unwrap()]);
        assert_eq!(engine(env, "dev")["keys"], 0);
        assert_eq!(wasmfs_tests::names(&env.mounted(".wasmfs/engines/dev")), [""; 0]);
        assert_eq!(engine(env, "prod")["keys"], 1);
        let text = env.run(&["engines"]);
        assert!(text.contains(&format!("prod = {label}")) && text.contains("winch"), "{text}");

        // In words.
        let diff = env.run(&["engines", "diff", "prod", fuel.to_str().unwrap()]);
        let row = |what: &str| {
            let line = diff.lines().find(|line| line.starts_with(what)).unwrap_or_default();
            line[what.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(row("optimization level"), ["speed", "none"]);
        assert_eq!(row("fuel"), ["off", "on"]);
        assert_eq!(diff.lines().count(), 3, "{diff}");
        assert!(env.run(&["engines", "diff", "prod", label]).contains("the same engine"));

        // An artifact of any other engine is refused, with what differs.
        let refused = env
            .fail(1, &["publish", winch.to_str().unwrap(), "--key", "m.cwasm", "--engine", "prod"]);
        assert!(refused.contains("compiled by Winch, prod is Cranelift"), "{refused}");
        assert!(refused.contains("hint:"));
        let refused = env
            .fail(1, &["publish", fuel.to_str().unwrap(), "--key", "m.cwasm", "--engine", label]);
        assert!(refused.contains(&format!("fuel: on, {label} has off")), "{refused}");
        assert_eq!(env.json(&["log", "m.cwasm"]).as_array().unwrap().len(), 1);
        env.publish(&winch, "m.cwasm", &["--engine", "dev"]);
        assert_eq!(ask(env, "48", &env.mounted(".wasmfs/engines/prod/m.cwasm")).unwrap(), "1");

        // A link by alias goes through the alias.
        let cache = env.path("cache");
        env.run(&["link", cache.to_str().unwrap(), "--engine", "prod"]);
        let link = fs::read_link(cache.join("m.cwasm")).unwrap();
        assert_eq!(link, env.mounted(".wasmfs/engines/prod/m.cwasm"));

        // What can't be is said, and what to do.
        for (args, why) in [
            (&["engines", "alias", "wasmtime-x", "prod"][..], "given by wasmfs itself"),
            (&["engines", "alias", "a/b", "prod"], "can't be an engine's alias"),
            (&["engines", "alias", "x", "nobody"], "there is no engine called nobody"),
            (&["engines", "unalias", "nobody"], "there is no alias nobody"),
            (&["engines", "learn", "x", "plain.wat"], "WebAssembly text"),
            (&["engines", "learn", "x", "absent"], "can't be opened"),
            (&["engines", "diff", "prod", "absent"], "there is no engine called absent"),
            (&["publish", "plain", "--engine", "nobody"], "there is no engine called nobody"),
            (&["publish", "--engine", "nobody", "--", "plain"], "there is no engine called nobody"),
            (&["import", "cache", "--engine", "nobody"], "there is no engine called nobody"),
            (&["link", "cache", "--engine", "nobody"], "there is no engine called nobody"),
            (&["default", "m.cwasm", "nobody"], "there is no engine called nobody"),
        ] {
            let said = env.fail(1, args);
            assert!(said.contains(why), "{args:?}: {said}");
        }
        assert!(cache.join("m.cwasm").exists(), "a typo takes no link away");
        env.run(&["engines", "unalias", "prod"]);
        assert!(!env.mounted(".wasmfs/engines/prod").exists());
        let json = env.run(&[
            "--store",
            env.store().to_str().unwrap(),
            "engines",
            "--json",
            "alias",
            "x",
            label,
        ]);
        assert!(json.starts_with('{'), "{json}");
        env.unmount();
        // The same without a server.
        env.run(&["engines", "alias", "prod", &label[label.len() - 8..]]);
        assert_eq!(engine(env, "prod")["label"], label);
    });
}
