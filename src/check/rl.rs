//! Reinforcement-learning quantities against a JSON file of references computed in f64.
//!
//! The file is a list of cases; each holds a mini-batch with tool spans inside its sequences (zeros in
//! `mask`) and what should come of it: GAE and returns, whitened advantages, clip fraction and KL, the
//! value loss and its gradient, and the policy loss and its gradient under each aggregation.
//! What runs is what training runs: the advantages of `learn`, the loss graphs of `graphs`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toolsmith_graphs::loss::{self, PolicyConstants};
use toolsmith_graphs::{Bindings, DiffOptions, Dim, Graph, Options, Plan, Tensor};

use super::{CheckError, Report};
use crate::config::Aggregation;
use crate::learn::advantages::{Gae, gae, outcome_rewards, whiten};
use crate::learn::batches::loss_weights;
use crate::learn::drift::Drift;

/// Per-token numbers, `[sequences, time]`.
type Grid = Vec<Vec<f64>>;

/// One mini-batch and what should come of it.
#[derive(Debug, Deserialize)]
struct Case {
    gamma: f64,
    lam: f64,
    clip_low: f32,
    clip_high: f32,
    dual_clip: Option<f32>,
    value_clip: f32,
    mask: Grid,
    scores: Vec<f64>,
    old_logprobs: Grid,
    logprobs: Grid,
    old_values: Grid,
    values: Grid,
    advantages: Grid,
    returns: Grid,
    whitened: Grid,
    clipfrac: f64,
    approx_kl_k1: f64,
    value_loss: f64,
    grad_values: Grid,
    policy: BTreeMap<String, Policy>,
}

/// A policy loss under one aggregation.
#[derive(Debug, Deserialize)]
struct Policy {
    loss: f64,
    grad_logprobs: Grid,
}

impl Case {
    /// All grids by name.
    fn grids(&self) -> impl Iterator<Item = (&str, &Grid)> {
        let own = [
            ("mask", &self.mask),
            ("old_logprobs", &self.old_logprobs),
            ("logprobs", &self.logprobs),
            ("old_values", &self.old_values),
            ("values", &self.values),
            ("advantages", &self.advantages),
            ("returns", &self.returns),
            ("whitened", &self.whitened),
            ("grad_values", &self.grad_values),
        ];
        own.into_iter().chain(self.policy.iter().map(|(name, p)| (name.as_str(), &p.grad_logprobs)))
    }

    /// The first grid that has not the mask's shape.
    fn misshapen(&self) -> Option<&str> {
        if self.scores.len() != self.mask.len() {
            return Some("scores");
        }
        let shape = |g: &Grid| g.iter().map(Vec::len).collect::<Vec<_>>();
        let want = shape(&self.mask);
        self.grids().find(|(_, g)| shape(g) != want).map(|(name, _)| name)
    }
}

fn read(path: &Path) -> Result<Vec<Case>, CheckError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| CheckError::Io { path: path.to_owned(), source })?;
    let cases: Vec<Case> = serde_json::from_str(&text)
        .map_err(|e| CheckError::reference(path, format!("not a file of reference cases: {e}")))?;
    for (i, case) in cases.iter().enumerate() {
        if let Some(name) = case.misshapen() {
            return Err(CheckError::reference(
                path,
                format!("case {i}: `{name}` has not the shape of `mask`"),
            ));
        }
    }
    Ok(cases)
}

/// Compares every quantity of every case of the file.
///
/// A row of the report is a quantity over all cases. Sums whose terms cancel (the policy loss, KL) are
/// compared relative to the mean magnitude of their terms, everything else relative to its largest number.
///
/// # Errors
/// If the file cannot be read, is no such file, or names an aggregation that does not exist.
pub fn check(path: &Path) -> Result<Report, CheckError> {
    let mut report = Report::default();
    for case in read(path)? {
        let masks: Vec<Vec<bool>> = case.mask.iter().map(|r| r.iter().map(|&m| m != 0.0).collect()).collect();
        advantages(&case, &masks, &mut report);
        policy(path, &case, &masks, &mut report)?;
        value(&case, &masks, &mut report)?;
    }
    Ok(report)
}

/// GAE, returns and whitening.
fn advantages(case: &Case, masks: &[Vec<bool>], report: &mut Report) {
    let estimates = masks.iter().zip(&case.scores).zip(&case.old_values).map(|((mask, &score), values)| {
        let Gae { advantages, returns } =
            gae(mask, &outcome_rewards(mask, score), values, case.gamma, case.lam);
        (advantages, returns)
    });
    let (mut advantages, returns): (Grid, Grid) = estimates.unzip();
    report.compare("advantages", &advantages.concat(), &case.advantages.concat());
    report.compare("returns", &returns.concat(), &case.returns.concat());
    whiten(&mut advantages, masks);
    report.compare("whitened", &advantages.concat(), &case.whitened.concat());
}

/// The policy loss and its gradient under each aggregation, and what training reports beside them.
fn policy(path: &Path, case: &Case, masks: &[Vec<bool>], report: &mut Report) -> Result<(), CheckError> {
    let constants = PolicyConstants {
        clip_low: case.clip_low,
        clip_high: case.clip_high,
        dual_clip: case.dual_clip,
        kl_coef: 0.0,
    };
    let inputs = [&case.logprobs, &case.old_logprobs, &case.whitened];
    for (name, expected) in &case.policy {
        let aggregation: Aggregation = serde_json::from_value(name.as_str().into()).map_err(|_| {
            CheckError::reference(path, format!("`policy`: no aggregation is called `{name}`"))
        })?;
        let weights = weights(masks, aggregation);
        let (loss, gradient) =
            loss_and_gradient(inputs, &weights, |[logprobs, old, advantages], weights| {
                loss::policy(logprobs, old, advantages, weights, None, &constants)
            })?;
        let scale = case.whitened.iter().flatten().zip(&weights).map(|(a, w)| a.abs() * f64::from(*w)).sum();
        report.compare_scaled(&format!("policy.{name}.loss"), &[loss], &[expected.loss], scale);
        let quantity = format!("policy.{name}.grad_logprobs");
        report.compare(&quantity, &gradient, &expected.grad_logprobs.concat());
    }
    let mut drift = Drift::default();
    let [new, old, advantages] = inputs.map(|grid| grid.concat());
    let mask = masks.concat();
    let (mut moved, mut tokens) = (0.0, 0.0);
    for t in (0..new.len()).filter(|&t| mask[t]) {
        let clip = [case.clip_low, case.clip_high];
        drift.add(new[t] as f32, old[t] as f32, advantages[t] as f32, clip);
        moved += (new[t] - old[t]).abs();
        tokens += 1.0;
    }
    report.compare("clipfrac", &[drift.clip_fraction()], &[case.clipfrac]);
    report.compare_scaled("approx_kl_k1", &[drift.kl_k1()], &[case.approx_kl_k1], moved / tokens);
    Ok(())
}

/// The value loss, averaged over tokens, and its gradient.
fn value(case: &Case, masks: &[Vec<bool>], report: &mut Report) -> Result<(), CheckError> {
    let inputs = [&case.values, &case.old_values, &case.returns];
    let weights = weights(masks, Aggregation::TokenMean);
    let (loss, gradient) = loss_and_gradient(inputs, &weights, |[values, old, returns], weights| {
        loss::value(values, old, returns, weights, Some(case.value_clip))
    })?;
    report.compare("value_loss", &[loss], &[case.value_loss]);
    report.compare("grad_values", &gradient, &case.grad_values.concat());
    Ok(())
}

fn weights(masks: &[Vec<bool>], aggregation: Aggregation) -> Vec<f32> {
    let masks: Vec<&[bool]> = masks.iter().map(Vec::as_slice).collect();
    loss_weights(&masks, aggregation, 1).concat().into_iter().map(|w| w as f32).collect()
}

/// Runs a loss over three inputs and weights, all `[t]`, as a compiled graph; with its gradient for the first.
fn loss_and_gradient(
    inputs: [&Grid; 3],
    weights: &[f32],
    loss: impl FnOnce([&Tensor; 3], &Tensor) -> Tensor,
) -> Result<(f64, Vec<f64>), CheckError> {
    const NAMES: [&str; 3] = ["x", "old", "target"];
    let graph = Graph::new();
    let tensors = NAMES.map(|name| graph.f32_input(name, &[Dim::Tokens]));
    let weight = graph.f32_input("weights", &[Dim::Tokens]);
    let out = loss(tensors.each_ref(), &weight);
    let gradient = graph
        .differentiate(&out, &[&tensors[0]], DiffOptions::default())
        .remove(0)
        .expect("the loss depends on its first input");
    let options = Options { tokens: weights.len(), ..Options::default() };
    let mut plan = Plan::compile(&graph, &[&out, &gradient], options)?;
    let data = inputs.map(|grid| grid.iter().flatten().map(|&x| x as f32).collect::<Vec<f32>>());
    let mut bindings = Bindings::new(weights.len(), 0).f32(plan.f32_input("weights")?, weights);
    for (name, data) in NAMES.iter().zip(&data) {
        bindings = bindings.f32(plan.f32_input(name)?, data);
    }
    plan.run(&mut bindings)?;
    let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect();
    Ok((f64::from(plan.output(0)[0]), wide(plan.output(1))))
}
