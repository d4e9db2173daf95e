//! What is read from the artifacts of every wasmtime whose layout is known.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use wasmfs_store::artifact::KNOWN_WASMTIME;
use wasmfs_tests::{Environment, Inline, User, real_host, succeed};

use crate::{answering, cli, compile};

const MAKE: &str = "\
import sys, wasmtime
def make(path, **settings):
    config = wasmtime.Config()
    for name, value in settings.items():
        setattr(config, name, value)
    module = wasmtime.Module(wasmtime.Engine(config), '(module (func (export \"f\")))')
    open(path, 'wb').write(module.serialize())
make(sys.argv[1] + '-plain')
make(sys.argv[1] + '-set', consume_fuel=True, epoch_interruption=True, cranelift_opt_level='none',
     debug_info=True, wasm_simd=False, wasm_relaxed_simd=False)
";

fn settings(engine: &Value) -> BTreeMap<String, (String, Option<String>)> {
    let settings = engine["settings"].as_array().unwrap_or_else(|| panic!("{engine}"));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    settings
        .iter()
        .map(|s| (text(&s["name"]).unwrap(), (text(&s["value"]).unwrap(), text(&s["default"]))))
        .collect()
}

#[test]
fn every_known_layout_is_decoded_to_its_last_byte() {
    let env = &Environment::new(User::Root, Inline::Default);
    let script = env.file("make.py", MAKE);
    for major in KNOWN_WASMTIME {
        let mut python = env.command(real_host("python/bin/python3"));
        python.env("PYTHONPATH", real_host(&format!("wheel{major}")));
        let out = env.path(format!("w{major}"));
        succeed(python.arg(&script).arg(&out));
        let of = |kind: &str| {
            let file = env.path(format!("w{major}-{kind}"));
            let label = env.publish(&file, &format!("w{major}-{kind}"), &[])["engine"].clone();
            crate::engine(env, label.as_str().unwrap())
        };
        let (plain, set) = (of("plain"), of("set"));
        for engine in [&plain, &set] {
            assert_eq!(engine["compiler"], "cranelift", "{major}");
            let version = engine["wasmtime"].as_str().unwrap();
            assert_eq!(version.split('.').next().unwrap(), major.to_string());
        }
        let (plain, set) = (settings(&plain), settings(&set));
        // A feature without a name is shown by its number.
        let unnamed: Vec<_> =
            plain.keys().chain(set.keys()).filter(|name| name.starts_with("bit ")).collect();
        assert!(unnamed.is_empty(), "{major}: {unnamed:?}");
        // Nobody asked for anything: where something differs, it is because of
        // what the wheel was built with.
        let unusual: Vec<_> = plain
            .iter()
            .filter(|(_, (value, default))| default.as_ref().is_some_and(|d| d != value))
            .map(|(name, (value, _))| (name.as_str(), value.as_str()))
            .collect();
        let built_with = [("collector", "drc"), ("concurrency_support", "off")];
        assert!(unusual.iter().all(|found| built_with.contains(found)), "{major}: {unusual:?}");
        // And here it is what was asked for, and nothing else.
        let changed: BTreeMap<_, _> = set
            .iter()
            .filter(|(name, (value, _))| plain[*name].0 != *value)
            .map(|(name, (value, _))| (name.as_str(), value.as_str()))
            .collect();
        let mut expected = BTreeMap::from([
            ("consume_fuel", "on"),
            ("debug_native", "on"),
            ("epoch_interruption", "on"),
            ("opt_level", "none"),
            ("simd", "off"),
        ]);
        if plain["relaxed_simd"].0 == "on" {
            expected.insert("relaxed_simd", "off");
        }
        assert_eq!(changed, expected, "{major}");
    }
    for major in ["36", "48", "49"] {
        let flags = ["-C", "compiler=winch"];
        let artifact = compile(env, major, &answering(1), &format!("winch{major}"), &flags);
        let published = env.publish(&artifact, &format!("winch{major}"), &[]);
        assert_eq!(published["compiler"], "winch", "{major}");
        let engine = crate::engine(env, published["engine"].as_str().unwrap());
        let unusual = settings(&engine);
        let unusual: Vec<_> =
            unusual.iter().filter(|(_, (v, d))| d.as_ref().is_some_and(|d| d != v)).collect();
        assert!(unusual.is_empty(), "{major}: {unusual:?}");
    }
}

/// Puts other bytes in the place of the first `from`, of the same length.
fn patch(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let at = bytes.windows(from.len()).position(|window| window == from).expect("it is there");
    bytes[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn an_unknown_version_is_unknown_and_no_error() {
    let env = &Environment::new(User::Root, Inline::Default);
    let known = compile(env, "48", &answering(1), "known", &[]);
    for (name, version) in [("later", "99"), ("custom", "\u{e9}")] {
        let mut bytes = fs::read(&known).unwrap();
        patch(&mut bytes, b"\0\x0248", &[b"\0\x02", version.as_bytes()].concat());
        let file = env.file(name, bytes);
        let published = env.publish(&file, name, &[]);
        assert_eq!(
            (&published["wasmtime"], &published["compiler"]),
            (&version.into(), &"unknown".into())
        );
        assert_eq!(published["target"], "x86_64-unknown-linux-gnu");
        let engine = crate::engine(env, published["engine"].as_str().unwrap());
        assert!(engine["settings"].is_null());
    }
    let text = env.run(&["engines"]);
    assert!(text.contains("settings unknown"), "{text}");
    let diff = env.run(&["engines", "diff", "later", known.to_str().unwrap()]);
    assert!(diff.contains("wasmtime") && diff.contains("unknown"), "{diff}");
    // A layout that changed within a version is noticed, since bytes are left over.
    let mut bytes = fs::read(&known).unwrap();
    patch(&mut bytes, b"\0\x0248", b"\0\x0247");
    let same_layout = env.publish(&env.file("47", &bytes), "47", &[]);
    assert_eq!(same_layout["compiler"], "cranelift");
    patch(&mut bytes, b"\0\x0247", b"\0\x0244");
    let other_layout = env.publish(&env.file("44", bytes), "44", &[]);
    assert_eq!(other_layout["compiler"], "unknown");
    let version = succeed(env.command(cli("48")).arg("--version"));
    assert!(version.starts_with("wasmtime 48."));
}
