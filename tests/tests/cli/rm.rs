//! Keys that look like versions, on the command line.

use wasmfs_tests::in_each_environment;

use crate::MODULE;

#[test]
fn a_key_may_look_like_a_version() {
    in_each_environment(|env| {
        let file = env.file("m.wat", MODULE);
        let other = env.file("n.wat", "(module)");
        for source in [&file, &other] {
            env.publish(source, "tool", &[]);
        }
        assert_eq!(env.json(&["show", "tool@1"])["key"], "tool");
        env.publish(&file, "tool@1", &[]);
        assert_eq!(env.json(&["show", "tool@1"])["key"], "tool@1");
        assert_eq!(env.json(&["show", "tool@1@1"])["key"], "tool@1");
        env.run(&["rm", "tool@1"]);
        assert_eq!(env.json(&["ls", "tool"])[0]["versions"], 2);
        assert!(env.fail(1, &["show", "tool@+2"]).contains("no key tool@+2"));
    });
}
