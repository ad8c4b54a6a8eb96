//! A model's logits, gradients and optimizer step against PyTorch's, in f32 mode.
//!
//! The directory holds a model and `golden.safetensors` with `input_ids` and `labels` `[batch, time]` (−100
//! leaves a label out; token t+1 is predicted from t) and what should come of them; `golden.json` names the
//! constants of the AdamW step and the sum and L2 norm of every parameter after it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use toolsmith_models::batch::{Objective, TrainBatch};
use toolsmith_models::config::ModelConfig;
use toolsmith_models::live::TrainingState;
use toolsmith_models::trainer::{self, Activations, Head, Trainer, TrainerOptions, logits};
use toolsmith_models::weights::{Mat, Precision, Weights};

use super::{CheckError, Report};

/// `golden.json`.
#[derive(Debug, Deserialize)]
struct Step {
    adamw: AdamW,
}

#[derive(Debug, Deserialize)]
struct AdamW {
    lr: f32,
    betas: [f32; 2],
    eps: f32,
    weight_decay: f32,
    /// Sum and L2 norm of each parameter after the step.
    after_step_sum_and_l2: BTreeMap<String, [f64; 2]>,
}

impl AdamW {
    fn read(dir: &Path) -> Result<Self, CheckError> {
        let path = dir.join("golden.json");
        let step: Step = serde_json::from_slice(&read(&path)?)
            .map_err(|e| CheckError::reference(&path, format!("not the constants of an AdamW step: {e}")))?;
        Ok(step.adamw)
    }

    fn hyper(&self) -> trainer::AdamW {
        let [beta1, beta2] = self.betas;
        trainer::AdamW { lr: self.lr, beta1, beta2, eps: self.eps, weight_decay: self.weight_decay }
    }
}

/// `golden.safetensors`, read.
struct Golden {
    path: PathBuf,
    /// Sequences `[batch][time]`.
    ids: Vec<Vec<u32>>,
    /// Which tokens are predicted and count, `[batch][time]`; never the first.
    mask: Vec<Vec<bool>>,
    /// Everything in f32, flat, by name.
    tensors: BTreeMap<String, Vec<f64>>,
}

impl Golden {
    fn read(dir: &Path) -> Result<Self, CheckError> {
        let path = dir.join("golden.safetensors");
        let fail = |reason: String| CheckError::reference(&path, reason);
        let bytes = read(&path)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| fail(e.to_string()))?;
        let integers = |name: &str| -> Result<Vec<Vec<i64>>, CheckError> {
            let t = file.tensor(name).map_err(|e| fail(format!("`{name}`: {e}")))?;
            match (t.dtype(), t.shape()) {
                (Dtype::I64, &[_, time]) if time > 1 => {
                    let flat: Vec<i64> =
                        t.data().as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
                    Ok(flat.chunks(time).map(<[i64]>::to_vec).collect())
                }
                _ => Err(fail(format!("`{name}` is not I64 [batch, time]"))),
            }
        };
        let ids = integers("input_ids")?
            .into_iter()
            .map(|row| row.into_iter().map(u32::try_from).collect::<Result<Vec<_>, _>>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| fail("`input_ids` holds a number that is no token id".into()))?;
        let labels = integers("labels")?;
        if labels.iter().map(Vec::len).ne(ids.iter().map(Vec::len)) {
            return Err(fail("`labels` has not the shape of `input_ids`".into()));
        }
        let mask =
            labels.iter().map(|r| r.iter().enumerate().map(|(t, &l)| t > 0 && l != -100).collect()).collect();
        let floats = |t: &[u8]| t.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
        let tensors = file
            .iter()
            .filter(|(_, t)| t.dtype() == Dtype::F32)
            .map(|(name, t)| (name.to_owned(), floats(t.data())))
            .collect();
        Ok(Self { path, ids, mask, tensors })
    }

    /// A tensor that must be there, of `len` numbers.
    fn get(&self, name: &str, len: usize) -> Result<&[f64], CheckError> {
        let fail = |reason| CheckError::reference(&self.path, format!("`{name}` {reason}"));
        let tensor = self.tensors.get(name).ok_or_else(|| fail("is missing".to_owned()))?;
        if tensor.len() != len {
            return Err(fail(format!("has {} numbers, not {len}", tensor.len())));
        }
        Ok(tensor)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CheckError> {
    std::fs::read(path).map_err(|source| CheckError::Io { path: path.to_owned(), source })
}

/// Compares the model in `dir` with the references beside it.
///
/// # Errors
/// If the model or the references cannot be read or are not of one model.
pub fn check(dir: &Path) -> Result<Report, CheckError> {
    let golden = Golden::read(dir)?;
    let constants = AdamW::read(dir)?;
    let config = ModelConfig::read(dir)?;
    let weights = Weights::load(dir, config.param_specs(), Precision::F32)?;
    let specs = weights.specs();
    if let Some(id) = golden.ids.iter().flatten().find(|&&id| id as usize >= config.vocab_size) {
        let reason = format!("`input_ids` holds {id}, the model's vocabulary ends at {}", config.vocab_size);
        return Err(CheckError::reference(&golden.path, reason));
    }
    let mut report = Report::default();
    let tokens = golden.ids.concat();
    let lens: Vec<usize> = golden.ids.iter().map(Vec::len).collect();

    for (name, causal) in [("logits", true), ("logits_bidirectional", false)] {
        if causal || golden.tensors.contains_key(name) {
            let ours = logits(&config, Precision::F32, causal, &weights.view(), &tokens, &lens)?;
            report.compare(name, &wide(&ours), golden.get(name, ours.len())?);
        }
    }

    let options = TrainerOptions {
        max_tokens: tokens.len(),
        activations: Activations::Keep,
        inv_temperature: 1.0,
        precision: Precision::F32,
    };
    let mut trainer = Trainer::new(&config, Head::Policy, &options);
    let batch = |mask: &dyn Fn(usize, usize) -> f32| TrainBatch {
        tokens: tokens.clone(),
        lens: lens.clone(),
        weights: lens.iter().enumerate().flat_map(|(b, &len)| (0..len).map(move |t| mask(b, t))).collect(),
        columns: vec![],
    };
    let scored = trainer.forward(&weights.view(), &batch(&|_, t| if t == 0 { 0.0 } else { 1.0 }))?;
    let logprobs: Vec<f64> = scored.chunks(lens[0]).flat_map(|row| wide(&row[1..])).collect();
    report.compare("token_logprobs", &logprobs, golden.get("token_logprobs", logprobs.len())?);

    let count = golden.mask.iter().flatten().filter(|m| **m).count() as f32;
    let labelled = batch(&|b, t| if golden.mask[b][t] { 1.0 / count } else { 0.0 });
    let before = trainer.accumulate(&weights.view(), &labelled, &Objective::CrossEntropy)?.loss;
    report.compare("loss", &[before], golden.get("loss", 1)?);
    for (i, spec) in specs.iter().enumerate() {
        let name = format!("grad.{}", spec.name);
        report.compare(&name, &wide(&trainer.gradient(i)), golden.get(&name, spec.numel())?);
    }

    let live = tempfile::tempdir().map_err(|source| CheckError::Io { path: std::env::temp_dir(), source })?;
    let file = live.path().join("state");
    let mut state = TrainingState::create(&file, specs.to_vec(), Precision::F32, &weights.view())?;
    let norm = trainer.step(&mut state, &constants.hyper(), 0.0)?;
    report.compare("grad_norm", &[norm.into()], golden.get("grad_norm", 1)?);
    let after = trainer.accumulate(&state.weights(), &labelled, &Objective::CrossEntropy)?.loss;
    report.compare("loss_after_step", &[after], golden.get("loss_after_step", 1)?);
    updated(&golden, &constants, &state, &mut report)?;
    Ok(report)
}

/// Epsilons above which a gradient's size settles AdamW's first update.
const SETTLED: f64 = 100.0;

/// The parameters after the step: some whole, where their gradients settle the update, the embedding's first rows, and every
/// one's sum and norm.
fn updated(
    golden: &Golden,
    constants: &AdamW,
    state: &TrainingState,
    report: &mut Report,
) -> Result<(), CheckError> {
    let (view, eps) = (state.weights(), f64::from(constants.hyper().eps));
    for (i, spec) in view.specs().iter().enumerate() {
        let Mat::F32(values) = view.get(i) else { unreachable!("the state was made in f32") };
        let values = wide(values);
        let name = format!("adamw.{}", spec.name);
        if golden.tensors.contains_key(&name) {
            let reference = golden.get(&name, values.len())?;
            let gradient = golden.get(&format!("grad.{}", spec.name), values.len())?;
            // The first step divides a gradient by its own size: where that is near epsilon (a key's bias, whose gradient softmax
            // cancels), the reference's update is its rounding. The gradient itself is compared above.
            let settled = |&i: &usize| gradient[i] == 0.0 || gradient[i].abs() > SETTLED * eps;
            let of = |x: &[f64]| (0..x.len()).filter(settled).map(|i| x[i]).collect::<Vec<f64>>();
            report.compare(&name, &of(&values), &of(reference));
        }
        if spec.name == "model.embed_tokens.weight"
            && let Some(rows) = golden.tensors.get("adamw.embed_rows_ids_0_8")
        {
            report.compare("adamw.embed_rows_ids_0_8", &values[..rows.len().min(values.len())], rows);
        }
        if let Some(&[sum, norm]) = constants.after_step_sum_and_l2.get(&spec.name) {
            let magnitude = values.iter().map(|x| x.abs()).sum();
            report.compare_scaled("adamw sums", &[values.iter().sum()], &[sum], magnitude);
            let l2 = values.iter().map(|x| x * x).sum::<f64>().sqrt();
            report.compare("adamw norms", &[l2], &[norm]);
        }
    }
    Ok(())
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}
