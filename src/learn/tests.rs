//! Whole runs of a minuscule policy: what must hold bit for bit, and what must only hold.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use toolsmith_models::live::TrainingState;
use toolsmith_models::trainer::{Activations, Head, TrainerOptions};
use toolsmith_models::weights::Precision;
use toolsmith_sandbox::tool::python_spec;

use super::batches::{Sequence, pack};
use super::live::{LiveModel, LivePolicy, Sampler};
use super::memory::Footprint;
use super::ppo::{Actor, Task, mini_batches};
use super::problems::Problems;
use super::stages::{Event, Inputs, Surroundings, train};
use super::{Error, Learner, Scorer};
use crate::config::{Aggregation, Algorithm, Config, Dtype, MomentType};
use crate::rng::Rng;
use crate::rollout::tools::Function;
use crate::rollout::{Call, ToolOutput, Trajectory};
use crate::run_dir::{Metrics, RunDir, Stage};

fn minuscule() -> Config {
    let mut config = Config::load(None, "quick", &[]).unwrap();
    config.run.save_steps = 2;
    config.model.hidden_size = 32;
    config.model.intermediate_size = 48;
    config.model.num_hidden_layers = 2;
    config.model.num_attention_heads = 2;
    config.model.num_key_value_heads = 2;
    config.data.eval_size = 3;
    config.rollout.max_completion_length = 12;
    config.rollout.max_context = 80;
    config.rollout.concurrency = 3;
    config.sft.steps = 5;
    config.sft.batch_size = 4;
    config.rl.steps = 5;
    config.rl.prompts_per_step = 3;
    config.rl.num_generations = 2;
    config.rl.num_mini_batches = 2;
    config.rl.micro_batch_tokens = 128;
    config
}

/// A tool that answers every program alike.
fn tool() -> Function<impl Fn(&Call) -> ToolOutput> {
    Function::new(|call: &Call| {
        let code = call.code().expect("the small policy writes code");
        ToolOutput { fuel: 1, ..format!("{:8}", code.len()).into() }
    })
}

/// Runs until the end, or until `stop_after` steps of a stage are done; goes on where `dir` has a run.
fn run(config: &Config, dir: &Path, stop_after: Option<(Stage, usize)>) -> Result<Vec<Metrics>, Error> {
    run_noting(config, dir, stop_after, &mut vec![])
}

/// [`run`], noting what each stage takes.
fn run_noting(
    config: &Config,
    dir: &Path,
    stop_after: Option<(Stage, usize)>,
    taken: &mut Vec<Footprint>,
) -> Result<Vec<Metrics>, Error> {
    let (mut run, config, checkpoint) = match dir.join("config.toml").exists() {
        true => RunDir::resume(dir)?,
        false => (RunDir::create(Some(dir), config)?, config.clone(), None),
    };
    let inputs = match &checkpoint {
        Some(checkpoint) => Inputs::of_checkpoint(&config, &run, checkpoint, &[python_spec()])?,
        None => Inputs::read(&config, dir, &[python_spec()])?,
    };
    let (stop, tool) = (AtomicBool::new(false), tool());
    let mut notify = |event: Event| match event {
        Event::Step { stage, step, .. } if stop_after == Some((stage, step)) => {
            stop.store(true, Ordering::Relaxed);
        }
        Event::Fitted(_, footprint) => taken.push(footprint),
        _ => {}
    };
    let surroundings = Surroundings { tools: Some(&tool), stop: &stop, notify: &mut notify };
    train(&config, inputs, &mut run, checkpoint.as_ref(), surroundings)
}

/// What a run leaves that must not depend on how often it was stopped: the exact states of its last checkpoint,
/// its rollouts, and its metrics but for those that measure time.
fn remains(dir: &Path, config: &Config) -> (Vec<Vec<u8>>, Vec<Value>) {
    let last = dir.join("checkpoints").join(format!("rl-{}", config.rl.steps));
    let mut files = vec![last.join("policy.state"), dir.join("model/model.safetensors")];
    if config.rl.algorithm == Algorithm::Ppo {
        files.push(last.join("critic.state"));
    }
    files.extend((1..=config.rl.steps).map(|n| dir.join(format!("rollouts/step-{n}.jsonl"))));
    let timeless = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line.as_object_mut()
            .unwrap()
            .retain(|name, _| !name.starts_with("perf/") && !name.ends_with("/seconds"));
        line
    };
    let metrics = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
    let bytes = files.iter().map(|file| fs::read(file).unwrap_or_else(|e| panic!("{}: {e}", file.display())));
    (bytes.collect(), metrics.lines().map(timeless).collect())
}

fn assert_same_end(config: &Config, stops: &[(Stage, usize)]) {
    let dir = tempfile::tempdir().unwrap();
    let (through, stopped) = (dir.path().join("through"), dir.path().join("stopped"));
    run(config, &through, None).unwrap();
    for stop in stops {
        assert!(matches!(run(config, &stopped, Some(*stop)), Err(Error::Interrupted)), "{stop:?}");
    }
    let evaluations = run(config, &stopped, None).unwrap();
    assert_eq!(evaluations.len(), 3, "start, cold start, end");
    let ((bytes, metrics), (bytes_stopped, metrics_stopped)) =
        (remains(&through, config), remains(&stopped, config));
    assert_eq!(metrics, metrics_stopped);
    assert!(bytes == bytes_stopped, "weights, moments or rollouts differ");
}

#[test]
fn a_stopped_run_ends_in_the_same_weights() {
    assert_same_end(&minuscule(), &[(Stage::Sft, 3), (Stage::Sft, 5), (Stage::Rl, 1), (Stage::Rl, 4)]);
}

#[test]
fn so_does_one_with_groups_and_a_reference() {
    let mut config = minuscule();
    config.rl.algorithm = Algorithm::Grpo;
    config.rl.kl_coef = 0.1;
    config.rl.num_iterations = 2;
    config.rl.optimizer.moments = MomentType::Bf16;
    assert_same_end(&config, &[(Stage::Rl, 3)]);
}

#[test]
fn a_memory_limit_changes_the_memory_and_no_bit() {
    let mut config = minuscule();
    let dir = tempfile::tempdir().unwrap();
    let of = |config: &Config, name: &str| {
        let mut taken = vec![];
        let end = run_noting(config, &dir.path().join(name), None, &mut taken);
        (end.map(|_| remains(&dir.path().join(name), config)), taken)
    };
    let (free, all) = of(&config, "free");
    assert_eq!(all.iter().map(|f| f.recomputed).collect::<Vec<_>>(), [0, 0]);
    config.run.memory_limit = format!("{}B", all[1].bytes - 1);
    let (tight, some) = of(&config, "tight");
    assert!(some[1].recomputed > 0 && some[1].bytes < all[1].bytes, "{some:?}");
    let (free, tight) = (free.unwrap(), tight.unwrap());
    assert!(free.0 == tight.0, "weights, moments or rollouts differ");
    assert_eq!(free.1, tight.1);
    config.run.memory_limit = "10kB".into();
    let error = of(&config, "none").0.unwrap_err().to_string();
    assert!(error.starts_with("`run.memory_limit`: training takes at least 0.0"), "{error}");
}

/// A kill leaves no time for a checkpoint: what was logged since the last one is done again.
#[test]
fn a_killed_run_ends_in_the_same_weights() {
    let config = minuscule();
    let dir = tempfile::tempdir().unwrap();
    let (through, killed) = (dir.path().join("through"), dir.path().join("killed"));
    run(&config, &through, None).unwrap();
    assert!(matches!(run(&config, &killed, Some((Stage::Rl, 3))), Err(Error::Interrupted)));
    fs::remove_dir_all(killed.join("checkpoints/rl-3")).unwrap();
    run(&config, &killed, None).unwrap();
    assert_eq!(remains(&through, &config).1, remains(&killed, &config).1);
    assert!(remains(&through, &config).0 == remains(&killed, &config).0);
}

/// A policy with random weights, and trajectories that it sampled.
fn sampled(config: &Config, check: impl FnOnce(&mut LivePolicy, &TrainerOptions, Vec<Trajectory>)) {
    let dir = tempfile::tempdir().unwrap();
    let inputs = Inputs::read(config, dir.path(), &[python_spec()]).unwrap();
    let precision = if config.model.dtype == Dtype::F32 { Precision::F32 } else { Precision::Bf16 };
    let specs = Head::Policy.specs(inputs.model());
    let state = TrainingState::init_random(&dir.path().join("policy.state"), specs, precision, 3).unwrap();
    let (stop, tool) = (AtomicBool::new(false), tool());
    let mut sampler =
        Sampler::new(inputs.model(), &config.rollout, precision, inputs.tokenizer(), Some(&tool), &stop)
            .unwrap();
    let options = TrainerOptions {
        max_tokens: 2048,
        activations: Activations::Keep,
        inv_temperature: 1.0 / config.rollout.temperature,
        precision,
    };
    let model = LiveModel::new(state, inputs.model(), Head::Policy, &options, &config.rl.optimizer).unwrap();
    let mut policy = LivePolicy { model, sampler: &mut sampler, rollout: &config.rollout };
    let mut problems = Problems::new(config, inputs.chat(), inputs.tokenizer()).unwrap();
    let requests = problems.requests(0).unwrap();
    let trajectories = policy.rollout(&requests).unwrap().0;
    check(&mut policy, &options, trajectories);
}

fn sequences(trajectories: &[Trajectory]) -> Vec<Sequence> {
    let ids = |t: &Trajectory| t.tokens.iter().map(|t| t.id).collect();
    trajectories.iter().map(|t| Sequence::new(ids(t), t.mask().collect())).collect()
}

/// Whatever the micro-batches: the trainer's log-probabilities are the sampler's, bit for bit.
#[test]
fn the_first_ratio_is_exactly_one() {
    for dtype in [Dtype::Bf16, Dtype::F32] {
        let mut config = minuscule();
        config.model.dtype = dtype;
        config.rollout.temperature = 0.7;
        sampled(&config, |policy, _, trajectories| {
            let sequences = sequences(&trajectories);
            let all: Vec<&Sequence> = sequences.iter().collect();
            for budget in [1, 100, 2048] {
                for (batch, members) in pack(&all, Aggregation::TokenMean, 1, budget) {
                    let scores = policy.score(&batch).unwrap();
                    let sampled = members.iter().flat_map(|&i| &trajectories[i].tokens);
                    for (score, token) in scores.iter().zip(sampled) {
                        assert_eq!(score.to_bits(), token.logprob.to_bits(), "{dtype:?}, {budget} tokens");
                    }
                }
            }
        });
    }
}

#[test]
fn mini_batches_are_of_whole_problems() {
    let mut config = minuscule();
    (config.rl.num_generations, config.rl.num_mini_batches) = (4, 3);
    let drawn = |seed| mini_batches(&config.rl, 7, Rng::new(seed, 0, 0)).collect::<Vec<_>>();
    let passes: Vec<_> = (0..20).map(drawn).collect();
    for pass in &passes {
        assert_eq!(pass.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 12]);
        let problems = pass.iter().flatten().copied().collect::<Vec<_>>();
        assert!(problems.chunks(4).all(|s| s[0] % 4 == 0 && s.windows(2).all(|s| s[0] + 1 == s[1])));
        assert_eq!(problems.iter().collect::<std::collections::BTreeSet<_>>().len(), 28);
    }
    assert!((0..28).step_by(4).all(|i| passes.iter().any(|pass| pass[0].contains(&i))), "always the same");
}

/// The gradient of a mini-batch does not depend on how it is cut into micro-batches.
#[test]
fn micro_batches_do_not_change_the_step() {
    let mut config = minuscule();
    config.model.dtype = Dtype::F32;
    sampled(&config, |policy, _, trajectories| {
        let mut sequences = sequences(&trajectories);
        for (i, (s, t)) in sequences.iter_mut().zip(&trajectories).enumerate() {
            let old = t.tokens.iter().map(|t| t.logprob).collect();
            s.columns = vec![old, vec![if i % 2 == 0 { 1.0 } else { -0.5 }; s.tokens.len()]];
        }
        let all: Vec<&Sequence> = sequences.iter().collect();
        let objective = toolsmith_models::batch::Objective::Policy(toolsmith_models::batch::PolicyLoss {
            clip_range_low: 0.2,
            clip_range_high: 0.2,
            dual_clip: None,
            kl_coef: 0.0,
        });
        let mut norms = Vec::new();
        let mut losses = Vec::new();
        for budget in [1, 70, 2048] {
            let micro_batches = pack(&all, Aggregation::SeqMeanTokenMean, 1, budget);
            assert_eq!(micro_batches.len() == 1, budget == 2048);
            losses.push(
                micro_batches
                    .iter()
                    .map(|(b, _)| policy.accumulate(b, &objective).unwrap().loss)
                    .sum::<f64>(),
            );
            // A learning rate of 0 leaves the weights as they are.
            norms.push(f64::from(policy.step(0.0).unwrap()));
        }
        assert!(norms[0] > 1e-3, "{norms:?}");
        for (norm, loss) in norms.iter().zip(&losses) {
            assert!((norm / norms[0] - 1.0).abs() < 1e-5, "{norms:?}");
            assert!((loss - losses[0]).abs() < 1e-6, "{losses:?}");
        }
    });
}

#[test]
fn every_step_reports_what_users_look_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut config = minuscule();
    config.rl.critic_warmup = 1;
    config.rl.steps = 3;
    run(&config, &path, None).unwrap();
    let lines: Vec<Value> = fs::read_to_string(path.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let rl: Vec<&Value> = lines.iter().filter(|l| l["stage"] == "rl" && l.get("eval").is_none()).collect();
    assert_eq!(rl.len(), 3);
    for name in [
        "objective/reward",
        "objective/accuracy",
        "objective/entropy",
        "rollout/code_share",
        "rollout/code_pass_rate",
        "rollout/tokens",
        "perf/tokens_per_s",
        "perf/decode_idle",
        "perf/kv_blocks_peak",
        "perf/preemptions",
        "explained_variance",
        "losses/value",
        "lr",
    ] {
        assert!(rl.iter().all(|l| l.get(name).is_some()), "{name}");
    }
    assert_eq!(rl[0]["lr"], 0.0, "only the critic learns during its warm-up");
    for line in &rl[1..] {
        for name in ["losses/policy", "losses/approx_kl", "losses/clipfrac", "val/ratio", "grad_norm"] {
            assert!(line[name].is_number(), "{name}");
        }
        assert_eq!(line["val/logprob_gap"], 0.0, "the ratio of the first mini-batch is exactly 1");
    }
    let sft: Vec<f64> = lines.iter().filter_map(|l| l["losses/cross_entropy"].as_f64()).collect();
    assert!(sft.len() == 5 && sft[4] < sft[0], "{sft:?}");

    let episode: Value = serde_json::from_str(
        fs::read_to_string(path.join("rollouts/step-1.jsonl")).unwrap().lines().next().unwrap(),
    )
    .unwrap();
    let tokens = episode["tokens"].as_array().unwrap().len();
    assert_eq!(episode["advantages"].as_array().unwrap().len(), tokens);
    let runs = episode["sources"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run[1].as_u64().unwrap()).sum::<u64>() as usize, tokens);
    assert_eq!(runs[0][0], "prompt");
    assert!(episode["text"].as_str().unwrap().starts_with("Compute "));
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        assert!(
            path.join("model").join(file).exists() && path.join("checkpoints/rl-3").join(file).exists(),
            "{file}"
        );
    }
    assert_eq!(fs::read_to_string(path.join("held-out.jsonl")).unwrap().lines().count(), 3);
}

#[test]
fn a_context_without_room_for_an_answer_is_refused() {
    let mut config = minuscule();
    config.rollout.max_context = 4;
    let error = Inputs::read(&config, Path::new("unused"), &[python_spec()]).err().unwrap().to_string();
    assert!(error.contains("`rollout.max_context`") && error.contains("4 positions"), "{error}");
}

#[test]
fn truncated_completions_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = minuscule();
    config.rl.mask_truncated_completions = true;
    config.rl.steps = 1;
    config.sft.steps = 0;
    // Random weights never end a turn in one token.
    config.rollout.max_completion_length = 1;
    config.rollout.max_turns = 0;
    let path = dir.path().join("run");
    run(&config, &path, None).unwrap();
    let text = fs::read_to_string(path.join("rollouts/step-1.jsonl")).unwrap();
    for line in text.lines() {
        let episode: Value = serde_json::from_str(line).unwrap();
        if episode["end"] == "token_budget" {
            assert!(episode["advantages"].as_array().unwrap().iter().all(|a| a.as_f64() == Some(0.0)));
        }
    }
    assert!(text.contains("token_budget"));
}
