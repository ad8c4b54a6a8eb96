//! Checkpoints and the live training copy on disk: what is read in place, what is refused, what survives a failure.

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::floats;
use half::{bf16, f16};
use proptest::prelude::*;
use serde_json::json;
use toolsmith_graphs::plan::Moments;
use toolsmith_models::checkpoint::{Checkpoint, Dtype, TensorHeader, write_safetensors};
use toolsmith_models::config::{ModelConfig, ParamSpec};
use toolsmith_models::live::{Format, ParamMut, TrainingState, join_master};
use toolsmith_models::weights::{Mat, Precision, Weights};

/// Values that bf16 and f16 hold exactly, told apart by tensor and position.
fn value(tensor: usize, i: usize) -> f32 {
    (tensor * 16) as f32 + (i % 16) as f32 * 0.25
}

fn encode(dtype: Dtype, x: f32) -> Vec<u8> {
    match dtype {
        Dtype::F32 => x.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(x).to_le_bytes().to_vec(),
        Dtype::Bf16 => bf16::from_f32(x).to_le_bytes().to_vec(),
    }
}

/// Writes tensors whose elements are `value(position in the list)`.
fn save(path: &Path, tensors: &[(&str, Dtype, Vec<usize>)]) {
    let headers: Vec<_> =
        tensors.iter().map(|(name, dtype, shape)| TensorHeader { name, dtype: *dtype, shape }).collect();
    write_safetensors(path, &headers, |t, out| {
        let numel: usize = headers[t].shape.iter().product();
        (0..numel).try_for_each(|i| out.write_all(&encode(headers[t].dtype, value(t, i))))
    })
    .unwrap();
}

fn specs() -> Vec<ParamSpec> {
    vec![
        ParamSpec::new("a.weight", &[3, 5]),
        ParamSpec::new("b_norm.weight", &[4]),
        ParamSpec::new("c.bias", &[2]),
    ]
}

/// A checkpoint of `specs` that mixes dtypes.
fn mixed(dir: &Path) {
    let [a, b, c] = specs().try_into().unwrap();
    save(
        &dir.join("model.safetensors"),
        &[(&b.name, Dtype::F32, b.shape), (&a.name, Dtype::Bf16, a.shape), (&c.name, Dtype::F16, c.shape)],
    );
}

#[test]
fn weights_are_used_in_place_or_converted() {
    let dir = tempfile::tempdir().unwrap();
    mixed(dir.path());
    for precision in [Precision::Bf16, Precision::F32] {
        let weights = Weights::load(dir.path(), specs(), precision).unwrap();
        assert_eq!(weights.mapped(), 1, "only the tensor already in {precision:?}");
        for (i, saved) in [(0, 1), (1, 0), (2, 2)] {
            let spec = &specs()[i];
            let expected: Vec<f32> = (0..spec.numel()).map(|j| value(saved, j)).collect();
            assert_eq!(floats(weights.get(i)), expected, "{} in {precision:?}", spec.name);
            assert!(matches!(
                (weights.view().get(i), precision),
                (Mat::Bf16(_), Precision::Bf16) | (Mat::F32(_), Precision::F32)
            ));
        }
    }
}

#[test]
fn an_odd_header_is_read_although_its_tensors_are_not_aligned() {
    let dir = tempfile::tempdir().unwrap();
    let mut header = br#"{"x":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#.to_vec();
    if header.len().is_multiple_of(2) {
        header.push(b' ');
    }
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend([1.5f32, -2.0].iter().flat_map(|x| encode(Dtype::Bf16, *x)));
    fs::write(dir.path().join("model.safetensors"), file).unwrap();
    let weights = Weights::load(dir.path(), vec![ParamSpec::new("x", &[2])], Precision::Bf16).unwrap();
    assert_eq!((weights.mapped(), floats(weights.get(0))), (0, vec![1.5, -2.0]));
}

#[test]
fn shards_are_found_through_their_index() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("one.safetensors"), &[("a.weight", Dtype::F32, vec![3, 5])]);
    let rest = [("b_norm.weight", Dtype::F32, vec![4]), ("c.bias", Dtype::F32, vec![2])];
    save(&dir.path().join("two.safetensors"), &rest);
    let index = |json: serde_json::Value| {
        fs::write(dir.path().join("model.safetensors.index.json"), json.to_string()).unwrap();
        Weights::load(dir.path(), specs(), Precision::F32).map_err(|e| e.to_string())
    };
    let map = |c: &str| json!({"weight_map": {"a.weight": "one.safetensors", "b_norm.weight": "two.safetensors", "c.bias": c}});
    let weights = index(map("two.safetensors")).unwrap();
    assert_eq!(weights.mapped(), 3);
    assert_eq!(floats(weights.get(2)), [value(1, 0), value(1, 1)]);

    for (json, named) in [
        (map("three.safetensors"), ["three.safetensors", "c.bias", "missing"]),
        (map("one.safetensors"), ["one.safetensors", "c.bias", "lacks"]),
        (map("../one.safetensors"), ["index.json", "c.bias", "not a file name"]),
        (json!({}), ["index.json", "weight_map", "object"]),
    ] {
        let message = index(json).map(drop).unwrap_err();
        assert!(named.iter().all(|n| message.contains(n)), "{message}");
    }
}

#[test]
fn a_wrong_checkpoint_is_refused_in_one_line_that_names_file_and_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    let load = |specs: Vec<ParamSpec>| {
        let message = Weights::load(dir.path(), specs, Precision::Bf16).map(drop).unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1);
        message
    };
    assert!(load(specs()).contains("neither model.safetensors"));

    mixed(dir.path());
    let message = load(vec![ParamSpec::new("a.weight", &[5, 3])]);
    assert!(message.contains("model.safetensors: tensor a.weight: has shape [3, 5]"), "{message}");
    assert!(load(vec![ParamSpec::new("d.weight", &[1])]).contains("tensor d.weight: is missing"));

    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let message = load(specs());
    assert!(message.contains("tensor c.bias") && message.contains("truncated"), "{message}");
    fs::write(&file, &whole[..20]).unwrap();
    assert!(load(specs()).contains("truncated or damaged"));
    fs::write(&file, []).unwrap();
    assert!(load(specs()).contains("is empty"));

    // A header that lies: the shape says more than the offsets hold.
    let text = String::from_utf8_lossy(&whole).into_owned();
    let at = text.find("[3,5]").unwrap();
    let mut lying = whole.clone();
    lying[at + 1] = b'9';
    fs::write(&file, lying).unwrap();
    let message = load(specs());
    assert!(message.contains("tensor a.weight") && message.contains("do not fit its shape"), "{message}");

    save(&file, &[("a.weight", Dtype::F32, vec![15])]);
    let mut integers = fs::read(&file).unwrap();
    let at = String::from_utf8_lossy(&integers).find("F32").unwrap();
    integers[at] = b'I';
    fs::write(&file, integers).unwrap();
    let message = load(vec![ParamSpec::new("a.weight", &[15])]);
    assert!(message.contains("tensor a.weight: has dtype I32"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]
    /// Whatever bytes are changed or cut off, opening answers; and what it accepts can be read.
    #[test]
    fn damaged_safetensors_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), cut: prop::sample::Index) {
        static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("model.safetensors");
        let whole = WHOLE.get_or_init(|| {
            mixed(dir.path());
            fs::read(&file).unwrap()
        });
        let mut bytes = whole.clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(bytes.len()) / 4);
        fs::write(&file, bytes).unwrap();
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            for name in checkpoint.names() {
                let _ = checkpoint.tensor(name).map(|t| t.bytes.iter().map(|b| *b as u64).sum::<u64>());
            }
        }
    }
}

fn masters(state: &mut TrainingState) -> Vec<Vec<u32>> {
    let join = |param: ParamMut| match param {
        ParamMut::Bf16 { hi, lo, .. } => {
            hi.iter().zip(lo).map(|(h, l)| join_master(*h, *l).to_bits()).collect()
        }
        ParamMut::F32 { w, .. } => w.iter().map(|x| x.to_bits()).collect(),
    };
    state.params_mut().into_iter().map(join).collect()
}

/// Sets both moments of a parameter, to numbers that bf16 has.
fn fill_moments(param: &mut ParamMut, first: f32, second: f32) {
    let (ParamMut::Bf16 { moments, .. } | ParamMut::F32 { moments, .. }) = param;
    match moments {
        Moments::F32 { m, v } => {
            m.fill(first);
            v.fill(second);
        }
        Moments::Bf16 { m, v } => {
            m.fill(bf16::from_f32(first));
            v.fill(bf16::from_f32(second));
        }
    }
}

/// Both moments of a parameter, one after the other.
fn moments(param: &ParamMut) -> Vec<f32> {
    let (ParamMut::Bf16 { moments, .. } | ParamMut::F32 { moments, .. }) = param;
    match moments {
        Moments::F32 { m, v } => m.iter().chain(v.iter()).copied().collect(),
        Moments::Bf16 { m, v } => m.iter().chain(v.iter()).map(|x| x.to_f32()).collect(),
    }
}

#[test]
fn a_training_state_survives_snapshot_restore_and_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (live, snap) = (dir.path().join("live"), dir.path().join("snap"));
    let kinds = [Precision::Bf16, Precision::F32];
    for (precision, moments_in) in kinds.into_iter().flat_map(|p| kinds.map(|m| (p, m))) {
        let format = Format { precision, moments: moments_in };
        let mut state = TrainingState::init_random(&live, specs(), format, 1).unwrap();
        for (i, param) in state.params_mut().iter_mut().enumerate() {
            param.set(|j| 1.0 + (i * 100 + j) as f32 * 1e-5);
            fill_moments(param, i as f32 + 0.5, i as f32 + 0.25);
        }
        state.set_step(7);
        state.snapshot_to(&snap).unwrap();
        let then = masters(&mut state);

        state.param_mut(0).set(|_| 9.0);
        state.set_step(8);
        let later = masters(&mut state);
        assert_ne!(then, later);
        drop(state);
        let mut reopened = TrainingState::open(&live, specs(), format).unwrap();
        assert_eq!((reopened.step(), masters(&mut reopened)), (8, later));

        let mut restored = TrainingState::restore(&snap, &live, specs(), format).unwrap();
        assert_eq!((restored.step(), masters(&mut restored)), (7, then));
        for (i, param) in restored.params_mut().iter().enumerate() {
            let n = specs()[i].numel();
            let expected = [vec![i as f32 + 0.5; n], vec![i as f32 + 0.25; n]].concat();
            assert_eq!(moments(param), expected);
        }
        let other = Format { moments: kinds[usize::from(moments_in == kinds[0])], ..format };
        let error = TrainingState::open(&live, specs(), other).map(drop).unwrap_err().to_string();
        assert!(error.contains("moments"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no scraps");
    }
}

#[test]
fn kernels_see_the_bytes_the_optimizer_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut state =
        TrainingState::init_random(&dir.path().join("live"), specs(), Precision::Bf16, 1).unwrap();
    state.param_mut(1).set(|j| j as f32 + 0.001);
    assert_eq!(floats(state.weights().get(1)), [0.0009994507, 1.0, 2.0, 3.0]);
    assert_eq!(
        masters(&mut state)[1].iter().map(|b| f32::from_bits(*b)).collect::<Vec<_>>(),
        [0.001, 1.001, 2.001, 3.001]
    );
}

#[test]
fn random_weights_depend_on_seed_and_name_only() {
    let dir = tempfile::tempdir().unwrap();
    let init = |seed: u64, specs: Vec<ParamSpec>| {
        let mut state =
            TrainingState::init_random(&dir.path().join("live"), specs, Precision::F32, seed).unwrap();
        masters(&mut state)
    };
    let one = init(1, specs());
    assert_eq!(one, init(1, specs()));
    assert_ne!(one[0], init(2, specs())[0]);
    let mut longer = specs();
    longer.insert(0, ParamSpec::new("value_head.weight", &[1, 5]));
    assert_eq!(one, init(1, longer)[1..]);
    assert!(one[1].iter().all(|b| f32::from_bits(*b) == 1.0) && one[2].iter().all(|b| *b == 0));
    assert_ne!(one[0][0], one[0][1]);
}

#[test]
fn random_weights_are_scaled_by_what_they_do() {
    let dir = tempfile::tempdir().unwrap();
    let specs = vec![
        ParamSpec::new("model.embed_tokens.weight", &[100, 64]),
        ParamSpec::new("model.layers.0.self_attn.q_proj.weight", &[64, 64]),
        ParamSpec::new("model.layers.0.self_attn.o_proj.weight", &[64, 64]),
        ParamSpec::new("model.layers.0.mlp.down_proj.weight", &[64, 256]),
    ];
    let mut state = TrainingState::init_random(&dir.path().join("live"), specs, Precision::F32, 1).unwrap();
    let residual = 2f32.sqrt();
    for (weights, expected) in
        masters(&mut state).iter().zip([0.02, 0.125, 0.125 / residual, 0.0625 / residual])
    {
        let squares: f32 = weights.iter().map(|b| f32::from_bits(*b).powi(2)).sum();
        let deviation = (squares / weights.len() as f32).sqrt();
        assert!((deviation / expected - 1.0).abs() < 0.05, "{deviation} for {expected}");
    }
}

#[test]
fn a_value_model_starts_from_a_policy() {
    let dir = tempfile::tempdir().unwrap();
    mixed(dir.path());
    let policy = Weights::load(dir.path(), specs(), Precision::F32).unwrap();
    let mut with_head = specs();
    with_head.push(ParamSpec::new("value_head.weight", &[1, 5]));
    let path = dir.path().join("critic");
    let critic = TrainingState::create(&path, with_head, Precision::Bf16, &policy.view()).unwrap();
    assert_eq!(floats(critic.weights().get(0)), floats(policy.get(0)));
    assert_eq!(floats(critic.weights().get(3)), [0.0; 5]);

    let other = vec![ParamSpec::new("a.weight", &[2, 2])];
    let message = TrainingState::create(&path, other, Precision::Bf16, &policy.view())
        .map(drop)
        .unwrap_err()
        .to_string();
    assert!(message.contains("tensor a.weight") && message.contains("[3, 5]"), "{message}");
}

#[test]
fn a_foreign_or_damaged_training_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("live");
    TrainingState::init_random(&path, specs(), Precision::Bf16, 1).unwrap();
    let whole = fs::read(&path).unwrap();
    let refusal = |bytes: &[u8], specs: Vec<ParamSpec>, precision: Precision| {
        fs::write(&path, bytes).unwrap();
        TrainingState::open(&path, specs, precision).map(drop).unwrap_err().to_string()
    };
    let edit = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (message, named) in [
        (refusal(&whole[..100], specs(), Precision::Bf16), "too short"),
        (refusal(&whole[..5000], specs(), Precision::Bf16), "truncated"),
        (refusal(&edit(0), specs(), Precision::Bf16), "not a training state"),
        (refusal(&edit(8), specs(), Precision::Bf16), "version"),
        (refusal(&edit(16), specs(), Precision::Bf16), "other parameters"),
        (refusal(&whole, specs(), Precision::F32), "precision"),
        (refusal(&whole, specs()[..2].to_vec(), Precision::Bf16), "other parameters"),
    ] {
        assert!(message.starts_with(path.to_str().unwrap()) && message.contains(named), "{message}");
    }
}

/// Re-runs one test of this file with a limit on file sizes: what a full disk looks like, without filling one.
#[test]
fn a_full_disk_is_an_error_and_the_last_snapshot_stays() {
    const CHILD: &str = "TOOLSMITH_TEST_FULL_DISK";
    if std::env::var_os(CHILD).is_none() {
        let me = std::env::current_exe().unwrap();
        let name = "a_full_disk_is_an_error_and_the_last_snapshot_stays";
        let child = std::process::Command::new(me).args([name, "--exact"]).env(CHILD, "1").output().unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (live, snap) = (dir.path().join("live"), dir.path().join("snap"));
    let big = vec![ParamSpec::new("a.weight", &[4000])];
    let mut state = TrainingState::init_random(&live, big.clone(), Precision::F32, 1).unwrap();
    state.snapshot_to(&snap).unwrap();
    let good = fs::read(&snap).unwrap();
    // SAFETY: plain calls that concern this child process only.
    unsafe {
        let limit = libc::rlimit { rlim_cur: 8192, rlim_max: 8192 };
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    state.param_mut(0).set(|_| 2.0);
    let exported = dir.path().join("exported");
    let named = |e: &toolsmith_models::Error| e.to_string().contains("exported/model.safetensors: ");
    assert!(state.export(&exported, &tiny_config(), None).is_err_and(|e| named(&e)));
    for failure in [
        state.snapshot_to(&snap),
        TrainingState::init_random(&dir.path().join("new"), big.clone(), Precision::F32, 1).map(drop),
        TrainingState::restore(&snap, &live, big, Precision::F32).map(drop),
    ] {
        let message = failure.unwrap_err().to_string();
        assert!(
            message.starts_with(dir.path().to_str().unwrap()) && message.contains("free some space"),
            "{message}"
        );
    }
    assert_eq!(fs::read(&snap).unwrap(), good);
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["live", "snap"], "no scraps");
}

fn tiny_config() -> ModelConfig {
    let json = json!({"model_type": "llama", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 2, "eos_token_id": 1});
    ModelConfig::from_json(&json, Path::new("config.json")).unwrap()
}

#[test]
fn an_export_is_a_model_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out/step-1"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("tokenizer.json"), "{}").unwrap();
    let config = tiny_config();
    for precision in [Precision::Bf16, Precision::F32] {
        let state =
            TrainingState::init_random(&dir.path().join("live"), config.param_specs(), precision, 1).unwrap();
        state.export(&out, &config, Some(&source)).unwrap();
        let read = ModelConfig::read(&out).unwrap();
        assert_eq!(read.param_specs(), config.param_specs());
        assert_eq!(read.torch_dtype, if precision == Precision::F32 { "float32" } else { "bfloat16" });
        let weights = Weights::load(&out, read.param_specs(), precision).unwrap();
        assert_eq!(weights.mapped(), config.param_specs().len());
        for i in 0..config.param_specs().len() {
            assert_eq!(floats(weights.get(i)), floats(state.weights().get(i)));
        }
        assert_eq!(fs::read_to_string(out.join("tokenizer.json")).unwrap(), "{}");
    }
}
