//! Every point at which a process can be made to die has a test in which it does, and none is
//! compiled in by default.
#![cfg(not(loom))]
// A failure is to panic.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn each_kills_in_some_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut src, mut tests) = (String::new(), String::new());
    sources(&root.join("src"), &mut src);
    sources(&root.join("tests"), &mut tests);
    let points: BTreeSet<_> = src.split("kill_point!(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(points.len() > 20, "{points:?}");
    let idle: Vec<_> = points.iter().filter(|point| !tests.contains(&format!("\"{point}\""))).collect();
    assert!(idle.is_empty(), "no test dies at {idle:?}");
}

#[test]
fn nobody_gets_them_by_default() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let (dependencies, development) = manifest.split_once("[dev-dependencies]").unwrap();
    assert!(development.contains("kill-points"));
    assert!(!dependencies.contains("default ="), "features that are on by default");
}
