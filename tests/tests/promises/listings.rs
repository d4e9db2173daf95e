//! Promises about listings.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use wasmfs_tests::{Environment, as_root, in_each_environment, names};

use crate::publish;

#[test]
fn listings_are_fresh() {
    in_each_environment(|env| {
        env.mount();
        publish(env, "dir/known", 1);
        let dir = env.mounted("dir");
        let mtime = || {
            let m = fs::metadata(&dir).unwrap();
            (m.mtime(), m.mtime_nsec())
        };
        assert_eq!(names(&dir), ["known"]);
        let first = mtime();
        // A name that nobody ever looked up.
        publish(env, "dir/unknown", 2);
        assert_eq!(names(&dir), ["known", "unknown"]);
        let second = mtime();
        assert!(second > first);
        env.run(&["rm", "dir/unknown"]);
        assert_eq!(names(&dir), ["known"]);
        let third = mtime();
        assert!(third > second);
        // A new version of a key changes what its directory says of it.
        publish(env, "dir/known", 3);
        assert!(mtime() > third);
        // A directory above, and one that appears and goes.
        publish(env, "new/key", 4);
        assert_eq!(names(&env.mount_point()), ["dir", "new"]);
        env.run(&["rm", "new/key"]);
        assert_eq!(names(&env.mount_point()), ["dir"]);
        env.unmount();
    });
}

/// The keys of a large directory: publishing each by a command would take an
/// hour, so one command publishes the same artifact under all of them.
const KEYS: usize = 100_000;

fn fill(env: &Environment) {
    let published = publish(env, "seed", 1);
    let artifact = fs::read(env.mounted(published["path"].as_str().unwrap())).unwrap();
    env.unmount();
    let many = env.dir("many");
    for n in 0..KEYS {
        fs::write(many.join(format!("{n:06}.cwasm")), &artifact).unwrap();
    }
    let script = format!(
        "cd {} && printf '%s\\0' * | xargs -0 -n 5000 {} publish --prefix many",
        many.display(),
        env.binary("wasmfs").display()
    );
    wasmfs_tests::succeed(env.command("sh").args(["-c", &script]));
    env.mount();
}

#[test]
fn a_listing_neither_skips_nor_repeats() {
    as_root(|env| {
        env.mount();
        fill(env);
        let dir = env.mounted("many");
        let start = Instant::now();
        let listed = names(&dir);
        println!("listing {KEYS} keys takes {:?}", start.elapsed());
        assert_eq!(listed.len(), KEYS);
        assert!(listed.is_sorted());
        let throughout: HashSet<String> = listed.into_iter().collect();
        for round in 0..5 {
            // Names at the start, in the middle and at the end come and go while it lists.
            let mut seen = HashSet::new();
            for (count, entry) in fs::read_dir(&dir).unwrap().enumerate() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(seen.insert(name.clone()), "{name} twice");
                if count % 20_000 == 10_000 {
                    for key in ["many/000000.a", "many/050000.b", "many/zzz"] {
                        publish(env, &format!("{key}.{round}.{count}"), 2);
                    }
                    env.run(&["rm", &format!("many/000000.a.{round}.{count}")]);
                    // A version over the very name that was just listed.
                    publish(env, &format!("many/{name}"), 100 + round);
                }
            }
            let skipped: Vec<_> = throughout.difference(&seen).collect();
            assert!(skipped.is_empty(), "{skipped:?}");
        }
        env.unmount();
    });
}
