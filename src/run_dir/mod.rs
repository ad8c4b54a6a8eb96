//! A run's directory: what it was told, what it measured, what it sampled, and where it can go on from.
//!
//! ```text
//! config.toml            the configuration as it was resolved
//! metrics.jsonl          one line a step and an evaluation
//! held-out.jsonl         the problems that evaluation asks
//! rollouts/step-N.jsonl  the trajectories of reinforcement step N
//! checkpoints/rl-20/     a Hugging Face directory, the exact training state beside it
//! live/                  the memory-mapped weights and moments in use; scratch, not to be resumed from
//! tokenizer/             the policy's tokenizer
//! model/                 the finished policy as a Hugging Face directory
//! ```
//!
//! One process owns a run at a time (a lock on `config.toml`). Everything a resume reads is written beside its
//! place, synced and renamed; what was logged after the checkpoint is dropped when the run goes on from it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toolsmith_models::files;

use crate::config::{Config, ConfigError};

mod checkpoint;

pub use checkpoint::{Checkpoint, Stage};

/// Why a run directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {what}", path.display())]
    Unfit { path: PathBuf, what: String },
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Model(#[from] toolsmith_models::Error),
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::Io { path: path.into(), source }
    }

    fn unfit(path: &Path, what: impl Into<String>) -> Self {
        Self::Unfit { path: path.into(), what: what.into() }
    }
}

/// Named numbers of one step, in the order they were put in: a line of `metrics.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metrics(Map<String, Value>);

impl Metrics {
    /// Sets a number or a name. JSON has no infinities: what is not finite becomes `null`.
    pub fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.into(), value.into());
    }

    /// A number, if it was put in and is finite.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name)?.as_f64()
    }

    /// A name, if it was put in.
    pub fn name(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// All of `other`'s entries, each name behind `prefix`.
    pub fn extend(&mut self, prefix: &str, other: &Self) {
        for (name, value) in &other.0 {
            self.0.insert(format!("{prefix}{name}"), value.clone());
        }
    }
}

/// An open run directory.
pub struct RunDir {
    path: PathBuf,
    metrics: File,
    _lock: File,
}

impl RunDir {
    /// Makes a run directory with the resolved configuration in it. `path` must not exist or be empty; without one,
    /// `runs/train-seedN` is taken, or the first of `runs/train-seedN-2`, `-3`, … that is free.
    ///
    /// # Errors
    /// If the directory holds something already or cannot be made.
    pub fn create(path: Option<&Path>, config: &Config) -> Result<Self, Error> {
        let path = match path {
            Some(path) => path.to_path_buf(),
            None => free_name(Path::new("runs"), config.run.seed),
        };
        if path.join("config.toml").exists() {
            let what = format!(
                "holds a run already: `--resume {}` goes on with it, another --out starts anew",
                path.display()
            );
            return Err(Error::unfit(&path, what));
        }
        match fs::read_dir(&path).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => return Err(Error::unfit(&path, "is not empty: give --out a new directory")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(&path)(e)),
        }
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        files::write_file(&path.join("config.toml"), |out| {
            out.write_all(config.to_commented_toml().as_bytes())
        })?;
        Self::open(path)
    }

    /// Opens a run to go on with: its configuration, and the newest checkpoint or `None` where it has none yet.
    /// What was logged after that checkpoint is dropped.
    ///
    /// # Errors
    /// If there is no run, if another process uses it, or if its configuration or checkpoint is damaged.
    pub fn resume(path: &Path) -> Result<(Self, Config, Option<Checkpoint>), Error> {
        let file = path.join("config.toml");
        if !file.exists() {
            return Err(Error::unfit(path, "holds no run to resume (there is no config.toml in it)"));
        }
        let config = Config::read(&file)?;
        let run = Self::open(path.to_path_buf())?;
        checkpoint::remove_scraps(&run.checkpoints())?;
        let checkpoint = checkpoint::latest(&run.checkpoints())?;
        let kept = checkpoint.as_ref().map_or(0, |c| c.metrics_bytes);
        let metrics = run.path.join("metrics.jsonl");
        let length = run.metrics.metadata().map_err(Error::io(&metrics))?.len();
        run.metrics.set_len(kept.min(length)).map_err(Error::io(&metrics))?;
        Ok((run, config, checkpoint))
    }

    /// Takes the lock, and makes what folders there are not: a user may have cleared the rollouts away.
    fn open(path: PathBuf) -> Result<Self, Error> {
        let file = path.join("config.toml");
        let lock = File::open(&file).map_err(Error::io(&file))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(Error::unfit(&path, "is in use by another process"));
            }
            Err(fs::TryLockError::Error(e)) => return Err(Error::io(&file)(e)),
        }
        for folder in ["rollouts", "checkpoints", "live"] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        }
        let file = path.join("metrics.jsonl");
        let metrics = OpenOptions::new().create(true).append(true).open(&file).map_err(Error::io(&file))?;
        Ok(Self { path, metrics, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a memory-mapped state in use lies: `live/<name>.state`.
    pub fn live(&self, name: &str) -> PathBuf {
        self.path.join("live").join(format!("{name}.state"))
    }

    /// Where the tokenizer is kept.
    pub fn tokenizer(&self) -> PathBuf {
        self.path.join("tokenizer")
    }

    /// Where the held-out problems are kept.
    pub fn held_out(&self) -> PathBuf {
        self.path.join("held-out.jsonl")
    }

    /// Where the finished policy goes.
    pub fn model(&self) -> PathBuf {
        self.path.join("model")
    }

    fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    /// Appends a line to `metrics.jsonl`.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn log(&mut self, metrics: &Metrics) -> Result<(), Error> {
        let mut line = serde_json::to_string(metrics).expect("metrics are plain data");
        line.push('\n');
        self.metrics.write_all(line.as_bytes()).map_err(Error::io(&self.path.join("metrics.jsonl")))
    }

    /// Every line of `metrics.jsonl`.
    ///
    /// # Errors
    /// Those of the file system; a line that is no JSON object.
    pub fn lines(&self) -> Result<Vec<Metrics>, Error> {
        let path = self.path.join("metrics.jsonl");
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let parse = |(n, line): (usize, &str)| {
            serde_json::from_str(line)
                .map_err(|e| Error::unfit(&path, format!("line {} is damaged: {e}", n + 1)))
        };
        text.lines().enumerate().map(parse).collect()
    }

    /// Writes the trajectories of a reinforcement step (counted from 1), one JSON object a line.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_rollouts<T: Serialize>(&self, step: usize, lines: &[T]) -> Result<(), Error> {
        write_lines(&self.path.join("rollouts").join(format!("step-{step}.jsonl")), lines)
    }

    /// Writes the held-out problems, one JSON object a line.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_held_out<T: Serialize>(&self, lines: &[T]) -> Result<(), Error> {
        write_lines(&self.held_out(), lines)
    }

    /// Writes a checkpoint and then removes old ones, so that at most `keep` stay. `fill` puts the model and its
    /// training state into the directory it is given.
    ///
    /// # Errors
    /// Those of the file system or of `fill`; the checkpoints that were there stay then.
    pub fn write_checkpoint(
        &self,
        stage: Stage,
        step: usize,
        keep: usize,
        fill: impl FnOnce(&Path) -> Result<(), toolsmith_models::Error>,
    ) -> Result<PathBuf, Error> {
        let file = self.path.join("metrics.jsonl");
        self.metrics.sync_all().map_err(Error::io(&file))?;
        let metrics_bytes = self.metrics.metadata().map_err(Error::io(&file))?.len();
        checkpoint::write(&self.checkpoints(), stage, step, metrics_bytes, keep, fill)
    }
}

fn write_lines<T: Serialize>(path: &Path, lines: &[T]) -> Result<(), Error> {
    files::write_file(path, |out| {
        lines.iter().try_for_each(|line| {
            serde_json::to_writer(&mut *out, line)?;
            out.write_all(b"\n")
        })
    })?;
    Ok(())
}

fn free_name(parent: &Path, seed: u64) -> PathBuf {
    let first = parent.join(format!("train-seed{seed}"));
    let others = (2..).map(|n| parent.join(format!("train-seed{seed}-{n}")));
    std::iter::once(first).chain(others).find(|path| !path.exists()).expect("the numbers do not run out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize) -> Metrics {
        let mut metrics = Metrics::default();
        metrics.put("step", step);
        metrics.put("objective/reward", f64::NAN);
        metrics
    }

    fn fill(name: &'static str) -> impl FnOnce(&Path) -> Result<(), toolsmith_models::Error> {
        move |dir| files::write_file(&dir.join("policy.state"), |out| out.write_all(name.as_bytes()))
    }

    #[test]
    fn names_are_taken_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(free_name(dir.path(), 3), dir.path().join("train-seed3"));
        fs::create_dir(dir.path().join("train-seed3")).unwrap();
        assert_eq!(free_name(dir.path(), 3), dir.path().join("train-seed3-2"));
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        drop(RunDir::create(Some(&path), &Config::default()).unwrap());
        let message = RunDir::create(Some(&path), &Config::default()).err().unwrap().to_string();
        assert!(message.contains("holds a run already: `--resume"), "{message}");
        fs::remove_file(path.join("config.toml")).unwrap();
        let message = RunDir::create(Some(&path), &Config::default()).err().unwrap().to_string();
        assert!(message.contains("is not empty"), "{message}");
        let message = RunDir::resume(&path).err().unwrap().to_string();
        assert!(message.contains("no run to resume"), "{message}");
    }

    #[test]
    fn one_process_uses_a_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let first = RunDir::create(Some(&path), &Config::default()).unwrap();
        assert!(RunDir::resume(&path).err().unwrap().to_string().contains("in use by another process"));
        drop(first);
        RunDir::resume(&path).unwrap();
    }

    #[test]
    fn resuming_drops_what_was_logged_after_the_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let mut config = Config::default();
        config.rl.steps = 9;
        let mut run = RunDir::create(Some(&path), &config).unwrap();
        run.log(&line(1)).unwrap();
        run.write_checkpoint(Stage::Sft, 1, 2, fill("one")).unwrap();
        run.log(&line(2)).unwrap();
        fs::create_dir(path.join("checkpoints/.rl-3.partial")).unwrap();
        drop(run);
        let (mut run, read, checkpoint) = RunDir::resume(&path).unwrap();
        assert_eq!(read, config);
        let checkpoint = checkpoint.unwrap();
        assert_eq!((checkpoint.stage, checkpoint.step), (Stage::Sft, 1));
        assert!(!path.join("checkpoints/.rl-3.partial").exists());
        run.log(&line(3)).unwrap();
        let text = fs::read_to_string(path.join("metrics.jsonl")).unwrap();
        let steps: Vec<Value> =
            text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].clone()).collect();
        assert_eq!(steps, [1, 3]);
        assert!(text.contains("\"objective/reward\":null"));
    }

    #[test]
    fn a_run_without_a_checkpoint_starts_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let mut run = RunDir::create(Some(&path), &Config::default()).unwrap();
        run.log(&line(1)).unwrap();
        drop(run);
        let (_, _, checkpoint) = RunDir::resume(&path).unwrap();
        assert!(checkpoint.is_none());
        assert_eq!(fs::read_to_string(path.join("metrics.jsonl")).unwrap(), "");
    }

    #[test]
    fn a_run_whose_folders_were_cleared_away_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        drop(RunDir::create(Some(&path), &Config::default()).unwrap());
        for folder in ["rollouts", "checkpoints", "live"] {
            fs::remove_dir(path.join(folder)).unwrap();
        }
        let (run, ..) = RunDir::resume(&path).unwrap();
        run.write_rollouts(1, &["a"]).unwrap();
        run.write_checkpoint(Stage::Rl, 1, 1, fill("one")).unwrap();
    }

    #[test]
    fn a_full_disk_leaves_the_last_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let run = RunDir::create(Some(&path), &Config::default()).unwrap();
        run.write_checkpoint(Stage::Rl, 1, 1, fill("one")).unwrap();
        let full = |dir: &Path| {
            fs::write(dir.join("half"), "written").unwrap();
            let path = dir.join("policy.state");
            Err(toolsmith_models::Error::Io { path, source: io::ErrorKind::StorageFull.into() })
        };
        let message = run.write_checkpoint(Stage::Rl, 2, 1, full).unwrap_err().to_string();
        assert!(message.contains("policy.state") && message.lines().count() == 1, "{message}");
        let left: Vec<_> =
            fs::read_dir(path.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["rl-1"]);
        drop(run);
        assert_eq!(RunDir::resume(&path).unwrap().2.unwrap().step, 1);
    }

    #[test]
    fn old_checkpoints_go_when_the_new_one_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let run = RunDir::create(Some(&path), &Config::default()).unwrap();
        for (stage, step) in [(Stage::Sft, 9), (Stage::Sft, 10), (Stage::Rl, 1), (Stage::Rl, 2)] {
            run.write_checkpoint(stage, step, 2, fill("state")).unwrap();
        }
        let mut left: Vec<_> =
            fs::read_dir(path.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["rl-1", "rl-2"]);
    }
}
