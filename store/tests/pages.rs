//! Long answers come in pages.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod support;

use support::{artifact, key, open, publish};
use wasmfs_store::{Error, Key, Store, Version};

fn names(store: &Store, prefix: &str, limit: usize) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut after: Option<Key> = None;
    loop {
        let page = store.keys_page(prefix, after.as_ref(), limit).unwrap();
        pages.push(page.items.into_iter().map(|info| info.key.to_string()).collect());
        after = page.next;
        if after.is_none() {
            return pages;
        }
    }
}

#[test]
fn keys_come_in_their_order_whatever_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    let bytes = artifact(1, 1, 100);
    let all = ["a-b", "a.b", "a/b", "a/c/d", "ab", "b"];
    for name in all.iter().rev() {
        publish(&store, name, &bytes);
    }
    publish(&store, "gone", &bytes);
    publish(&store, "zz", &bytes);
    store.remove(&key("gone"), None).unwrap();
    let expected: Vec<_> = all.iter().chain(&["zz"]).map(|name| (*name).to_owned()).collect();
    for limit in 1..10 {
        assert_eq!(names(&store, "", limit).concat(), expected, "{limit}");
    }
    assert_eq!(names(&store, "a/", 1).concat(), ["a/b", "a/c/d"]);
    assert_eq!(names(&store, "none", 1).concat(), [""; 0]);
    assert_eq!(names(&store, "", 3)[0], ["a-b", "a.b", "a/b"]);
    assert_eq!(store.key(&key("ab")).unwrap(), store.keys("ab").unwrap()[0]);
    assert!(matches!(store.key(&key("gone")), Err(Error::KeyRemoved(_))));
    assert!(matches!(store.key(&key("a")), Err(Error::NoKey(_))));
}

#[test]
fn versions_come_newest_first_whatever_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), &Default::default());
    for seed in 0..7 {
        publish(&store, "a", &artifact(1, seed, 100));
    }
    publish(&store, "a/b".replace('/', "-").as_str(), &artifact(1, 1, 100));
    let numbers = |limit| {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = store.versions_page(&key("a"), before, limit).unwrap();
            assert!(page.items.len() <= limit);
            found.extend(page.items.into_iter().map(|info| info.version.get()));
            before = page.next;
            if before.is_none() {
                return found;
            }
        }
    };
    for limit in 1..10 {
        assert_eq!(numbers(limit), [7, 6, 5, 4, 3, 2, 1], "{limit}");
    }
    let page = store.versions_page(&key("a"), Some(Version(3)), 1).unwrap();
    assert_eq!((page.items[0].version, page.next), (Version(2), Some(Version(2))));
    assert!(matches!(store.versions_page(&key("b"), None, 9), Err(Error::NoKey(_))));
}
