//! The results file: one JSON line a sample, appended as samples finish, resumable at any line.
//!
//! The settings that the samples depend on stand beside it in `NAME.settings.json`, so that a file is never
//! continued under other ones. How many samples and problems are wanted is not among them: a finished
//! file can be extended. A sample's seed is its own, so resuming changes nothing but the order of lines.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::Sample;

/// Why a results file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// File concerned.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// A complete line is not a sample.
    #[error("{}: line {line}: not a sample of an evaluation: {reason}", path.display())]
    Line {
        /// Results file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Something else stands there.
    #[error("{}: holds something other than samples; give another --out", path.display())]
    Foreign {
        /// Results file.
        path: PathBuf,
    },
    /// Samples without their settings.
    #[error("{}: holds samples, but {} is missing or unreadable; give another --out", path.display(), settings.display())]
    NoSettings {
        /// Results file.
        path: PathBuf,
        /// Where the settings should be.
        settings: PathBuf,
    },
    /// The file was begun under other settings.
    #[error("{}: begun with {key} = {old}, now {new}; give another --out or the old setting", path.display())]
    Mismatch {
        /// Results file.
        path: PathBuf,
        /// First setting that differs.
        key: String,
        /// Its value in the file.
        old: String,
        /// Its value now.
        new: String,
    },
}

/// An open results file.
#[derive(Debug)]
pub struct Results {
    path: PathBuf,
    file: File,
    done: Vec<Sample>,
    seen: BTreeSet<(usize, usize)>,
}

impl Results {
    /// Opens or creates `path`. Complete lines are read back; a torn last line is dropped from the file.
    ///
    /// # Errors
    /// If the settings beside the file differ from `settings`, a line is no sample, or the disk refuses.
    pub fn open(path: &Path, settings: &Map<String, Value>) -> Result<Self, ResultsError> {
        let io = |source| ResultsError::Io { path: path.to_owned(), source };
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io)?;
        let whole = bytes.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        let mut done = Vec::new();
        let mut seen = BTreeSet::new();
        for (i, line) in bytes[..whole].split_inclusive(|&b| b == b'\n').enumerate() {
            let fail = |reason| ResultsError::Line { path: path.to_owned(), line: i + 1, reason };
            let sample: Sample = serde_json::from_slice(line).map_err(|e| fail(e.to_string()))?;
            if !seen.insert((sample.problem, sample.sample)) {
                return Err(fail(format!("problem {} has sample {} twice", sample.problem, sample.sample)));
            }
            done.push(sample);
        }
        // One torn line may be the first of an evaluation, or a file of the user's: only the former has settings beside it.
        if done.is_empty() && !bytes.is_empty() && !settings_of(path).exists() {
            return Err(ResultsError::Foreign { path: path.to_owned() });
        }
        agree(path, settings, done.is_empty())?;
        file.set_len(whole as u64).map_err(io)?;
        file.seek(SeekFrom::Start(whole as u64)).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, done, seen })
    }

    /// Samples in the file, in the order of its lines.
    pub fn samples(&self) -> &[Sample] {
        &self.done
    }

    /// Whether the file holds this sample of this problem.
    pub fn has(&self, problem: usize, sample: usize) -> bool {
        self.seen.contains(&(problem, sample))
    }

    /// Appends one sample as one write.
    ///
    /// # Errors
    /// If the disk refuses. A partial line is dropped when the file is next opened.
    pub fn push(&mut self, sample: Sample) -> Result<(), ResultsError> {
        let io = |source| ResultsError::Io { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&sample).map_err(|e| io(e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(io)?;
        self.seen.insert((sample.problem, sample.sample));
        self.done.push(sample);
        Ok(())
    }
}

/// Where the settings of a results file stand.
fn settings_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".settings.json");
    name.into()
}

/// Compares the settings beside the file with `new`, or writes them if the file holds nothing yet.
fn agree(path: &Path, new: &Map<String, Value>, empty: bool) -> Result<(), ResultsError> {
    let settings = settings_of(path);
    let io = |source| ResultsError::Io { path: settings.clone(), source };
    if empty {
        let text = serde_json::to_string_pretty(new).map_err(|e| io(e.into()))?;
        return fs::write(&settings, text + "\n").map_err(io);
    }
    let old: Map<String, Value> = fs::read(&settings)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| ResultsError::NoSettings { path: path.to_owned(), settings: settings.clone() })?;
    for key in new.keys().chain(old.keys()) {
        let (was, is) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
        if was != is {
            let (key, old, new) = (key.clone(), was.to_string(), is.to_string());
            return Err(ResultsError::Mismatch { path: path.to_owned(), key, old, new });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::EndReason;

    fn settings(temperature: f64) -> Map<String, Value> {
        let json = serde_json::json!({"model": "m", "temperature": temperature});
        json.as_object().unwrap().clone()
    }

    fn sample(problem: usize, sample: usize) -> Sample {
        Sample { sample, text: "\\boxed{1}\n".into(), ..Sample::blank(problem, EndReason::Answered) }
    }

    #[test]
    fn keeps_whole_lines_and_drops_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        let mut results = Results::open(&path, &settings(1.0)).unwrap();
        results.push(sample(0, 0)).unwrap();
        results.push(sample(0, 1)).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [&whole[..], b"{\"problem\": 1, \"sam"].concat()).unwrap();

        let mut results = Results::open(&path, &settings(1.0)).unwrap();
        assert_eq!(results.samples(), [sample(0, 0), sample(0, 1)]);
        assert_eq!(fs::read(&path).unwrap(), whole);
        assert!(results.has(0, 1) && !results.has(1, 0));
        results.push(sample(1, 0)).unwrap();
        let again = Results::open(&path, &settings(1.0)).unwrap();
        assert_eq!(again.samples(), [sample(0, 0), sample(0, 1), sample(1, 0)]);
    }

    #[test]
    fn refuses_other_settings_and_foreign_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        Results::open(&path, &settings(1.0)).unwrap().push(sample(0, 0)).unwrap();
        let error = Results::open(&path, &settings(0.5)).unwrap_err().to_string();
        assert!(error.contains("begun with temperature = 1.0, now 0.5"), "{error}");

        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"{\"problem\": 1}\n");
        fs::write(&path, &bytes).unwrap();
        let error = Results::open(&path, &settings(1.0)).unwrap_err().to_string();
        assert!(error.contains("line 2: not a sample"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes, "a refused file stays as it was");

        fs::remove_file(dir.path().join("r.jsonl.settings.json")).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 15]).unwrap();
        assert!(matches!(Results::open(&path, &settings(1.0)), Err(ResultsError::NoSettings { .. })));
    }

    #[test]
    fn a_file_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        fs::write(&path, "no line break at the end").unwrap();
        assert!(matches!(Results::open(&path, &settings(1.0)), Err(ResultsError::Foreign { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "no line break at the end");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);

        // What a kill leaves of a first line is taken up.
        let path = dir.path().join("r.jsonl");
        Results::open(&path, &settings(1.0)).unwrap();
        fs::write(&path, "{\"prob").unwrap();
        assert!(Results::open(&path, &settings(1.0)).unwrap().samples().is_empty());
    }

    #[test]
    fn a_sample_twice_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.jsonl");
        Results::open(&path, &settings(1.0)).unwrap().push(sample(0, 0)).unwrap();
        let line = fs::read(&path).unwrap();
        fs::write(&path, [&line[..], &line[..]].concat()).unwrap();
        let error = Results::open(&path, &settings(1.0)).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("twice"), "{error}");
    }
}
