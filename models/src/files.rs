//! Writing so that a reader sees the old content or the new, never half of either: write beside, sync, rename.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut};

use crate::error::{Error, Result};

/// Removes what it names unless `keep` was called: what is left of a failed write.
struct Scrap(Option<PathBuf>);

impl Scrap {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Scrap {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Nothing can be done about a scrap that cannot be removed; it is named as one.
            let _ = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
        }
    }
}

/// A hidden sibling of `path`, unique to this process and call.
fn sibling(path: &Path) -> Result<PathBuf> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| Error::file(path, "has no file name to write to"))?;
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".{}.{}-{n}.partial", name.to_string_lossy(), std::process::id());
    Ok(path.with_file_name(name))
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::io(parent))
}

/// Writes `path` through `fill`: beside it, synced, renamed over it. On any error the previous file stays.
///
/// `fill` reports I/O errors as they are; they are named after `path` here.
pub fn write_file(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> Result<()> {
    let partial = sibling(path)?;
    let file = File::create(&partial).map_err(Error::io(path))?;
    let scrap = Scrap(Some(partial.clone()));
    let mut out = BufWriter::with_capacity(1 << 20, file);
    fill(&mut out)
        .and_then(|()| out.flush())
        .and_then(|()| out.get_ref().sync_all())
        .and_then(|()| fs::rename(&partial, path))
        .map_err(Error::io(path))?;
    scrap.keep();
    sync_parent(path)
}

/// Fills a new directory through `fill`, then puts it in the place of `path`, whatever stood there.
pub fn write_dir(path: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    let partial = sibling(path)?;
    fs::create_dir(&partial).map_err(Error::io(path))?;
    let scrap = Scrap(Some(partial.clone()));
    // What failed is named as the reader will know it.
    fill(&partial).map_err(|e| match e {
        Error::Io { path: at, source } => {
            let at = at.strip_prefix(&partial).map_or(at.clone(), |rest| path.join(rest));
            Error::Io { path: at, source }
        }
        other => other,
    })?;
    if path.exists() {
        let old = sibling(path)?;
        fs::rename(path, &old).map_err(Error::io(path))?;
        if let Err(source) = fs::rename(&partial, path) {
            let _ = fs::rename(&old, path);
            return Err(Error::io(path)(source));
        }
        drop(Scrap(Some(old)));
    } else {
        fs::rename(&partial, path).map_err(Error::io(path))?;
    }
    scrap.keep();
    sync_parent(path)
}

/// Makes `path` a mapped file of `len` bytes, all allocated on disk, filled by `fill` before it gets its name.
pub fn create_mapped(path: &Path, len: usize, fill: impl FnOnce(&mut MmapMut)) -> Result<MmapMut> {
    let partial = sibling(path)?;
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(&partial).map_err(Error::io(path))?;
    let scrap = Scrap(Some(partial.clone()));
    // A store to an unallocated page of a mapped file kills the process when the disk is full.
    // SAFETY: a plain system call on a descriptor that is open for writing.
    let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, len as libc::off_t) };
    if code != 0 {
        return Err(Error::io(path)(io::Error::from_raw_os_error(code)));
    }
    // SAFETY: the file was just created by this process under a name nobody else uses.
    let mut map = unsafe { MmapMut::map_mut(&file) }.map_err(Error::io(path))?;
    fill(&mut map);
    fs::rename(&partial, path).map_err(Error::io(path))?;
    scrap.keep();
    Ok(map)
}

/// Writes a JSON file, indented, with a final newline.
pub fn write_json(path: &Path, json: &serde_json::Value) -> Result<()> {
    write_file(path, |out| writeln!(out, "{json:#}"))
}

/// Reads a text file whole.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io(path))
}

/// Reads and parses a JSON file; a syntax error carries its line and column.
pub fn read_json(path: &Path) -> Result<serde_json::Value> {
    serde_json::from_str(&read_text(path)?).map_err(|e| Error::file(path, format!("not valid JSON: {e}")))
}

/// [`read_json`] for a file that need not exist.
pub fn read_json_if_present(path: &Path) -> Result<Option<serde_json::Value>> {
    path.exists().then(|| read_json(path)).transpose()
}

/// Maps `file` read-only.
pub fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path))?;
    let meta = file.metadata().map_err(Error::io(path))?;
    if !meta.is_file() {
        return Err(Error::file(path, "is not a file"));
    }
    if meta.len() == 0 {
        return Err(Error::file(path, "is empty"));
    }
    // SAFETY: the mapping is read-only and private to this process. That nobody else shortens or rewrites a model
    // file while it is in use is the contract of every program that maps weights; this crate replaces files by
    // rename only, which leaves existing mappings whole.
    unsafe { Mmap::map(&file) }.map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_no_scrap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_file(&path, |w| w.write_all(b"old")).unwrap();
        let failed = write_file(&path, |w| {
            w.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        let message = failed.unwrap_err().to_string();
        assert!(
            message.starts_with(path.to_str().unwrap()) && message.contains("free some space"),
            "{message}"
        );
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model");
        let put = |name: &'static str| move |d: &Path| fs::write(d.join(name), "x").map_err(Error::io(d));
        write_dir(&path, put("one")).unwrap();
        write_dir(&path, put("two")).unwrap();
        assert!(!path.join("one").exists() && path.join("two").exists());
        write_dir(&path, |d| {
            fs::write(d.join("three"), "x").unwrap();
            Err(Error::file(d, "no"))
        })
        .unwrap_err();
        assert!(path.join("two").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
