//! Comparison with references made elsewhere: how a user comes to trust the numbers on new hardware.
//!
//! [`rl`] takes a JSON file of reinforcement-learning quantities in f64, [`model`] a model directory with a
//! `golden.safetensors` of logits, losses, gradients and an optimizer step. Both return a [`Report`].

use std::path::{Path, PathBuf};

use serde::Serialize;

pub mod model;
pub mod rl;

/// Why a comparison could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A reference file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// File concerned.
        path: PathBuf,
        /// What the file system answered.
        source: std::io::Error,
    },
    /// A reference file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Reference {
        /// File concerned.
        path: PathBuf,
        /// What is wrong with it, naming the field.
        reason: String,
    },
    /// A graph could not be run.
    #[error(transparent)]
    Graph(#[from] toolsmith_graphs::Error),
    /// The model could not be loaded or run.
    #[error(transparent)]
    Model(#[from] toolsmith_models::Error),
}

impl CheckError {
    fn reference(path: &Path, reason: impl Into<String>) -> Self {
        Self::Reference { path: path.to_owned(), reason: reason.into() }
    }
}

/// One compared quantity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What was compared.
    pub quantity: String,
    /// Numbers compared.
    pub count: usize,
    /// Largest |ours − reference| divided by the quantity's scale.
    pub error: f64,
}

/// All compared quantities.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// In the order they were computed.
    pub rows: Vec<Row>,
}

impl Report {
    /// Largest relative error of all; NaN counts as infinite.
    pub fn worst(&self) -> f64 {
        self.rows.iter().map(|r| r.error).fold(0.0, f64::max)
    }

    /// Compares `ours` with `reference`, relative to the largest magnitude of the reference.
    ///
    /// # Panics
    /// If the lengths differ: callers check shapes when they read the reference.
    fn compare(&mut self, quantity: &str, ours: &[f64], reference: &[f64]) {
        let scale = reference.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
        self.compare_scaled(quantity, ours, reference, scale);
    }

    /// Compares relative to `scale`, for a sum whose terms cancel: its error is that of its terms.
    /// A quantity seen before keeps the larger error.
    fn compare_scaled(&mut self, quantity: &str, ours: &[f64], reference: &[f64], scale: f64) {
        assert_eq!(ours.len(), reference.len(), "{quantity}");
        let worst = ours.iter().zip(reference).fold(0.0, |m: f64, (a, b)| {
            let error = (a - b).abs();
            if error.is_nan() { f64::INFINITY } else { m.max(error) }
        });
        let error = if worst == 0.0 { 0.0 } else { worst / if scale > 0.0 { scale } else { 1.0 } };
        match self.rows.iter_mut().find(|r| r.quantity == quantity) {
            Some(row) => {
                row.count += ours.len();
                row.error = row.error.max(error);
            }
            None => self.rows.push(Row { quantity: quantity.to_owned(), count: ours.len(), error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_is_relative_to_the_largest_reference() {
        let mut report = Report::default();
        report.compare("x", &[1.0, 4.0], &[1.5, 5.0]);
        report.compare("x", &[1.0], &[1.0]);
        report.compare("zero", &[0.25], &[0.0]);
        report.compare_scaled("sum", &[0.5], &[0.25], 10.0);
        assert_eq!(report.rows[0], Row { quantity: "x".into(), count: 3, error: 0.2 });
        assert_eq!(report.rows[1].error, 0.25);
        assert_eq!(report.rows[2].error, 0.025);
        assert_eq!(report.worst(), 0.25);
    }

    #[test]
    fn not_a_number_fails_every_tolerance() {
        let mut report = Report::default();
        report.compare("x", &[f64::NAN, 1.0], &[1.0, 1.0]);
        assert_eq!(report.worst(), f64::INFINITY);
    }
}
