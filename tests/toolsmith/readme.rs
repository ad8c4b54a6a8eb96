//! What the README promises about the repository itself.

use std::path::{Path, PathBuf};

const README: &str = include_str!("../../README.md");

/// Paths of the README's tree: two spaces of indentation a level, a comment after two spaces.
fn tree() -> Vec<PathBuf> {
    let block = README.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a tree");
    let mut parents: Vec<PathBuf> = Vec::new();
    let mut paths = Vec::new();
    for line in block.lines() {
        let depth = (line.len() - line.trim_start().len()) / 2;
        let name = line.split_whitespace().next().expect("no empty line in the tree");
        parents.truncate(depth);
        let path = parents.last().cloned().unwrap_or_default().join(name);
        parents.push(path.clone());
        paths.push(path);
    }
    paths
}

#[test]
fn every_file_of_the_tree_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let paths = tree();
    assert!(paths.len() > 20, "the tree was read: {paths:?}");
    for path in &paths {
        let there = root.join(path);
        assert!(there.exists(), "the README names {}, which does not exist", path.display());
        let folder = path.to_string_lossy().ends_with('/');
        assert_eq!(there.is_dir(), folder, "{}: a folder's name ends in /", path.display());
    }
}

#[test]
fn the_tree_leaves_out_nothing_of_src() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named: Vec<PathBuf> = tree().iter().map(|p| root.join(p)).collect();
    for entry in root.join("src").read_dir().unwrap() {
        let path = entry.unwrap().path();
        // A file `x.rs` beside a folder `x/` is one module; the tree names either.
        let covered = named.iter().any(|n| n.with_extension("") == path.with_extension(""));
        assert!(covered, "the README's tree leaves out {}", path.display());
    }
}

#[test]
fn lines_fit_a_terminal() {
    for (i, line) in README.lines().enumerate() {
        let width = line.chars().count();
        assert!(width <= 80 || line.starts_with('|'), "README.md:{} is {width} columns wide", i + 1);
    }
}

#[test]
fn both_commands_stand_at_the_top() {
    let top: String = README.lines().take(16).collect::<Vec<_>>().join("\n");
    assert!(top.contains("cargo run --release -- train"));
    assert!(top.contains("cargo test --release"));
}
