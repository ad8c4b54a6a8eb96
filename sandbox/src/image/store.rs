//! The folders of a cache: who may write, who is reading, and which are no longer wanted.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::manifest::Manifest;
use super::recipe::Recipe;
use crate::SandboxError;

/// How a name begins under which something is being made, or removed. Under the lock, such a thing is nobody's.
pub(crate) const PART: &str = ".part-";

/// The folder of a cache's images.
pub(crate) fn root(cache: &Path) -> PathBuf {
    cache.join("python")
}

/// The lock under which `root` is changed, waited for, and held until dropped or the process ends.
pub(crate) fn lock(root: &Path) -> Result<File, SandboxError> {
    let path = root.join("lock");
    let lock = || {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        patiently(|| file.lock())?;
        Ok(file)
    };
    lock().map_err(SandboxError::io(&path))
}

/// Marks an image's folder as in use until dropped or the process ends.
pub(crate) fn hold(folder: &Path) -> Result<File, SandboxError> {
    let hold = || {
        let file = File::open(folder)?;
        patiently(|| file.lock_shared())?;
        Ok(file)
    };
    hold().map_err(SandboxError::io(folder))
}

fn patiently(mut lock: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A folder to make an image in.
pub(crate) fn part(root: &Path) -> Result<TempDir, SandboxError> {
    tempfile::Builder::new().prefix(PART).tempdir_in(root).map_err(SandboxError::io(root))
}

/// Puts `part` in place as `folder`, instead of what is damaged there.
pub(crate) fn publish(part: TempDir, folder: &Path) -> Result<(), SandboxError> {
    let publish = || {
        match std::fs::remove_dir_all(folder) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        std::fs::rename(part.path(), folder)
    };
    publish().map_err(SandboxError::io(folder))?;
    let _ = part.keep();
    Ok(())
}

/// Removes what a process left behind that was killed at work here.
pub(crate) fn sweep(root: &Path) {
    for path in entries(root, |name| name.starts_with(PART)) {
        let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
    }
}

/// Removes the other folders of `recipe`, which an older build or another CPU made, unless somebody uses them.
pub(crate) fn retire(root: &Path, keep: &Path, recipe: &Recipe) {
    for path in images(root) {
        if path == keep || Manifest::label(&path).is_none_or(|r| r != *recipe) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        // Renamed first: whoever opens it now finds it whole or not at all.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let away = root.join(format!("{PART}{name}"));
        if std::fs::rename(&path, &away).is_ok() {
            let _ = std::fs::remove_dir_all(&away);
        }
    }
}

/// The folders that are named as an image is, in the order of their names.
pub(crate) fn images(root: &Path) -> Vec<PathBuf> {
    let mut all = entries(root, |name| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit()));
    all.sort();
    all
}

fn entries(root: &Path, which: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let all = std::fs::read_dir(root).into_iter().flatten().flatten();
    all.filter(|e| which(&e.file_name().to_string_lossy())).map(|e| e.path()).collect()
}
