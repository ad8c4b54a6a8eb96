//! Checkpoints: directories named after stage and step, complete or absent.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toolsmith_models::files;

use super::Error;

/// File that says where in the run a checkpoint stands.
const STATE: &str = "trainer_state.json";

/// The stages of a run, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Cold start.
    Sft,
    /// Reinforcement learning.
    Rl,
}

impl Stage {
    /// As it stands in file names and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sft => "sft",
            Self::Rl => "rl",
        }
    }
}

/// `trainer_state.json`. Problems, samples and orders are drawn by counters made of seed, stage and step, so these
/// are all the state that random numbers have.
#[derive(Debug, Serialize, Deserialize)]
struct TrainerState {
    stage: Stage,
    /// Steps of that stage that are done.
    step: usize,
    /// Length of `metrics.jsonl` at this point.
    metrics_bytes: u64,
}

/// A checkpoint to go on from.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The directory.
    pub path: PathBuf,
    /// The stage it was written in.
    pub stage: Stage,
    /// Steps of that stage that are done.
    pub step: usize,
    /// Length of `metrics.jsonl` when it was written.
    pub metrics_bytes: u64,
}

/// Removes what an interrupted write left behind.
pub(super) fn remove_scraps(folder: &Path) -> Result<(), Error> {
    for path in entries(folder)?.into_iter().filter(|path| name(path).starts_with('.')) {
        fs::remove_dir_all(&path).map_err(Error::io(&path))?;
    }
    Ok(())
}

/// The newest checkpoint in the folder.
pub(super) fn latest(folder: &Path) -> Result<Option<Checkpoint>, Error> {
    Ok(all(folder)?.pop())
}

/// All checkpoints, oldest first.
fn all(folder: &Path) -> Result<Vec<Checkpoint>, Error> {
    let mut found = Vec::new();
    for path in entries(folder)?.into_iter().filter(|path| !name(path).starts_with('.')) {
        let file = path.join(STATE);
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            // Not ours: complete checkpoints have the file.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io(&file)(e)),
        };
        let state: TrainerState =
            serde_json::from_str(&text).map_err(|e| Error::unfit(&file, format!("is damaged: {e}")))?;
        let TrainerState { stage, step, metrics_bytes } = state;
        found.push(Checkpoint { path, stage, step, metrics_bytes });
    }
    found.sort_by_key(|c| (c.stage, c.step));
    Ok(found)
}

/// Writes a checkpoint beside the others, then removes the oldest until `keep` are left.
pub(super) fn write(
    folder: &Path,
    stage: Stage,
    step: usize,
    metrics_bytes: u64,
    keep: usize,
    fill: impl FnOnce(&Path) -> Result<(), toolsmith_models::Error>,
) -> Result<PathBuf, Error> {
    let path = folder.join(format!("{}-{step}", stage.name()));
    let state = serde_json::to_value(TrainerState { stage, step, metrics_bytes }).expect("plain data");
    files::write_dir(&path, |dir| {
        fill(dir)?;
        files::write_json(&dir.join(STATE), &state)
    })?;
    let mut all = all(folder)?;
    all.truncate(all.len().saturating_sub(keep));
    for old in all {
        fs::remove_dir_all(&old.path).map_err(Error::io(&old.path))?;
    }
    Ok(path)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = fs::read_dir(folder).and_then(|entries| entries.map(|e| Ok(e?.path())).collect());
    read.map_err(Error::io(folder))
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
