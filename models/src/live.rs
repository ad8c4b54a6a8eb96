//! The live training copy: one memory-mapped file that holds every parameter's weights and AdamW moments. The
//! optimizer updates it in place and the sampler reads the same bytes, so there is no weight sync.
//!
//! The file, little-endian: a page of header (magic, version, precision, a hash of the parameters' names and shapes,
//! the step), then four regions, each holding all parameters in order: the weights (bf16, or f32 in f32 mode), the low
//! halves of the f32 master weights (bf16 mode only, see [`split_master`]), first moments and second moments (f32, or bf16
//! where [`Format`] says so).
//! Weights come first and together because decoding reads nothing else.
//!
//! The live file may be torn by a crash at any moment. What a run resumes from is a snapshot:
//! [`TrainingState::snapshot_to`] writes a whole copy beside it, syncs and renames, and [`TrainingState::restore`]
//! starts from one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use half::bf16;
use memmap2::MmapMut;
use toolsmith_graphs::plan::Moments;

use crate::checkpoint::{TensorHeader, write_safetensors};
use crate::config::{ModelConfig, ParamSpec};
use crate::error::{Error, Result};
use crate::files;
pub use crate::weights::{Mat, Precision, Weights, WeightsView, join_master, split_master};
use crate::weights::{Plain, aligned, aligned_mut, bytes_of, shape_mismatch};

const MAGIC: &[u8; 8] = b"tsm-live";
const VERSION: u32 = 1;
const HEADER: usize = 4096;
const STEP_AT: usize = 32;
const MOMENTS_AT: usize = 40;
/// Parameters start at multiples of this many elements: a cache line of bf16.
const ALIGN: usize = 32;

/// One parameter's weights and moments, to be updated together. All slices have the parameter's element count.
pub enum ParamMut<'a> {
    /// The master weight of element `i` is `join_master(hi[i], lo[i])`; kernels read `hi`.
    Bf16 {
        hi: &'a mut [bf16],
        lo: &'a mut [i16],
        moments: Moments<'a>,
    },
    F32 {
        w: &'a mut [f32],
        moments: Moments<'a>,
    },
}

/// What weights and moments are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// The weights that kernels read; master weights are f32 in either.
    pub precision: Precision,
    /// AdamW's moments.
    pub moments: Precision,
}

impl From<Precision> for Format {
    /// Moments in f32.
    fn from(precision: Precision) -> Format {
        Format { precision, moments: Precision::F32 }
    }
}

/// The training copy of a model's parameters.
pub struct TrainingState {
    path: PathBuf,
    map: MmapMut,
    specs: Vec<ParamSpec>,
    format: Format,
    layout: Layout,
}

/// Where things lie in the file, in elements within a region and in bytes between regions.
struct Layout {
    /// The first element of each parameter; one more for the end.
    starts: Vec<usize>,
    weight_size: usize,
    lo_size: usize,
    moment_size: usize,
}

impl Layout {
    fn new(specs: &[ParamSpec], format: Format) -> Layout {
        let mut starts = vec![0];
        for spec in specs {
            let end = starts[starts.len() - 1] + spec.numel();
            starts.push(end.next_multiple_of(ALIGN));
        }
        let (weight_size, lo_size) = match format.precision {
            Precision::Bf16 => (2, 2),
            Precision::F32 => (4, 0),
        };
        let moment_size = match format.moments {
            Precision::Bf16 => 2,
            Precision::F32 => 4,
        };
        Layout { starts, weight_size, lo_size, moment_size }
    }

    fn elements(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    fn file_len(&self) -> usize {
        HEADER + self.elements() * (self.weight_size + self.lo_size + 2 * self.moment_size)
    }

    /// Cuts what follows the header into the regions weights, lo, m, v.
    fn regions_mut<'a>(&self, body: &'a mut [u8]) -> [&'a mut [u8]; 4] {
        let n = self.elements();
        let (weights, rest) = body.split_at_mut(n * self.weight_size);
        let (lo, rest) = rest.split_at_mut(n * self.lo_size);
        let (m, v) = rest.split_at_mut(n * self.moment_size);
        [weights, lo, m, v]
    }
}

/// Cuts the parameters' elements out of one region.
fn cut<'a, T: Plain>(region: &'a mut [u8], specs: &[ParamSpec], layout: &Layout) -> Vec<&'a mut [T]> {
    let mut rest: &mut [T] = aligned_mut(region).expect("regions are cut at cache lines of a mapped page");
    let mut out = Vec::with_capacity(specs.len());
    for (spec, bounds) in specs.iter().zip(layout.starts.windows(2)) {
        let (param, after) = rest.split_at_mut(bounds[1] - bounds[0]);
        out.push(&mut param[..spec.numel()]);
        rest = after;
    }
    out
}

impl TrainingState {
    /// Makes the file at `path` with the weights of `init`, taken by name. A parameter that `init` lacks (a new value
    /// head) starts at zero; the moments and the step do too. The whole file is allocated here, so that a full disk
    /// is an error now and not a fault later.
    ///
    /// # Errors
    /// A parameter of another shape in `init`; those of the file system.
    pub fn create(
        path: &Path,
        specs: Vec<ParamSpec>,
        format: impl Into<Format>,
        init: &WeightsView,
    ) -> Result<TrainingState> {
        for spec in &specs {
            if let Some(i) = init.index_of(&spec.name)
                && init.specs()[i].shape != spec.shape
            {
                return Err(shape_mismatch(path, spec, &init.specs()[i].shape));
            }
        }
        TrainingState::build(path, specs, format.into(), |spec, param| {
            let Some(i) = init.index_of(&spec.name) else { return };
            match init.get(i) {
                Mat::F32(source) => param.set(|j| source[j]),
                Mat::Bf16(source) => param.set(|j| source[j].to_f32()),
            }
        })
    }

    /// Makes the file at `path` with random weights: norms one, biases zero, the embedding normal with a standard
    /// deviation of 0.02, matrices with 1/√fan-in, those that write to the residual stream divided by √(2 · layers)
    /// besides (GPT-2's scaling). A small model learns to copy far sooner than from 0.02 throughout. An element depends
    /// on the seed, its parameter's name and its position, its size on the number of layers.
    pub fn init_random(
        path: &Path,
        specs: Vec<ParamSpec>,
        format: impl Into<Format>,
        seed: u64,
    ) -> Result<TrainingState> {
        let to_residual = |name: &str| name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
        let residual = specs.iter().filter(|spec| to_residual(&spec.name)).count() as f32;
        TrainingState::build(path, specs, format.into(), |spec, param| {
            if spec.name.ends_with("norm.weight") {
                param.set(|_| 1.0);
            } else if !spec.name.ends_with(".bias") {
                let key = mix(seed ^ fnv(spec.name.bytes()));
                let fan_in = *spec.shape.last().expect("a parameter has a dimension") as f32;
                let deviation = match spec.name.as_str() {
                    name if name.ends_with("embed_tokens.weight") => 0.02,
                    name if to_residual(name) => 1.0 / (fan_in * residual).sqrt(),
                    _ => 1.0 / fan_in.sqrt(),
                };
                param.set(|j| deviation * normal(key, j as u64));
            }
        })
    }

    fn build(
        path: &Path,
        specs: Vec<ParamSpec>,
        format: Format,
        fill: impl Fn(&ParamSpec, &mut ParamMut),
    ) -> Result<TrainingState> {
        let layout = Layout::new(&specs, format);
        let map = files::create_mapped(path, layout.file_len(), |map| {
            map[..8].copy_from_slice(MAGIC);
            map[8..12].copy_from_slice(&VERSION.to_le_bytes());
            map[12..16].copy_from_slice(&precision_tag(format.precision).to_le_bytes());
            map[MOMENTS_AT..MOMENTS_AT + 4].copy_from_slice(&moments_tag(format.moments).to_le_bytes());
            map[16..24].copy_from_slice(&spec_hash(&specs).to_le_bytes());
            map[24..32].copy_from_slice(&(layout.file_len() as u64).to_le_bytes());
            for (spec, param) in specs.iter().zip(&mut params(&mut map[HEADER..], &specs, format, &layout)) {
                fill(spec, param);
            }
        })?;
        Ok(TrainingState { path: path.to_owned(), map, specs, format, layout })
    }

    /// Maps an existing file for these parameters, to go on from where it stands.
    ///
    /// # Errors
    /// It is no training state, is truncated, or is one of another model or precision.
    pub fn open(path: &Path, specs: Vec<ParamSpec>, format: impl Into<Format>) -> Result<TrainingState> {
        let format = format.into();
        let layout = Layout::new(&specs, format);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(Error::io(path))?;
        let len = file.metadata().map_err(Error::io(path))?.len();
        if len < HEADER as u64 {
            return Err(Error::file(path, "is not a training state: it is too short"));
        }
        // SAFETY: the file is this run's own; a run directory is locked by the run that uses it, and this crate
        // replaces files by rename, never by truncation.
        let map = unsafe { MmapMut::map_mut(&file) }.map_err(Error::io(path))?;
        let u32_at = |at: usize| u32::from_le_bytes(map[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(map[at..at + 8].try_into().expect("eight bytes"));
        if map[..8] != *MAGIC {
            return Err(Error::file(path, "is not a training state"));
        }
        if u32_at(8) != VERSION {
            let message =
                format!("has version {} of the training state; this program reads {VERSION}", u32_at(8));
            return Err(Error::file(path, message));
        }
        if u32_at(12) != precision_tag(format.precision) {
            let message = format!("was not trained in the precision asked for, {:?}", format.precision);
            return Err(Error::file(path, message));
        }
        if u32_at(MOMENTS_AT) != moments_tag(format.moments) {
            let message = format!("does not keep its moments in what was asked for, {:?}", format.moments);
            return Err(Error::file(path, message));
        }
        if u64_at(16) != spec_hash(&specs) {
            return Err(Error::file(path, "was made for a model with other parameters"));
        }
        if len != layout.file_len() as u64 || u64_at(24) != len {
            return Err(Error::file(path, format!("is truncated: {len} of {} bytes", layout.file_len())));
        }
        Ok(TrainingState { path: path.to_owned(), map, specs, format, layout })
    }

    /// Starts the file at `path` from a snapshot, which stays as it is.
    pub fn restore(
        snapshot: &Path,
        path: &Path,
        specs: Vec<ParamSpec>,
        format: impl Into<Format>,
    ) -> Result<TrainingState> {
        let mut source = File::open(snapshot).map_err(Error::io(snapshot))?;
        files::write_file(path, |out| io::copy(&mut source, out).map(drop))?;
        // A fault found in the copy is the snapshot's: name that.
        TrainingState::open(path, specs, format).map_err(|e| match e {
            Error::File { message, .. } => Error::file(snapshot, message),
            other => other,
        })
    }

    /// The weights as kernels read them: the file's own bytes.
    pub fn weights(&self) -> WeightsView<'_> {
        let bounds = self.layout.starts.iter().zip(&self.specs);
        let mats = bounds
            .map(|(&start, spec)| {
                let begin = HEADER + start * self.layout.weight_size;
                let bytes = &self.map[begin..begin + spec.numel() * self.layout.weight_size];
                match self.format.precision {
                    Precision::Bf16 => Mat::Bf16(aligned(bytes).expect("parameters start at cache lines")),
                    Precision::F32 => Mat::F32(aligned(bytes).expect("parameters start at cache lines")),
                }
            })
            .collect();
        WeightsView { specs: &self.specs, mats }
    }

    /// Every parameter, in order, to be updated; in parallel if the caller likes.
    pub fn params_mut(&mut self) -> Vec<ParamMut<'_>> {
        params(&mut self.map[HEADER..], &self.specs, self.format, &self.layout)
    }

    /// Parameter `i`.
    pub fn param_mut(&mut self, i: usize) -> ParamMut<'_> {
        self.params_mut().swap_remove(i)
    }

    /// The parameters' names and shapes.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// What the weights are stored and multiplied in.
    pub fn precision(&self) -> Precision {
        self.format.precision
    }

    /// Optimizer steps taken: AdamW's `t`.
    pub fn step(&self) -> u64 {
        u64::from_le_bytes(self.map[STEP_AT..STEP_AT + 8].try_into().expect("eight bytes"))
    }

    /// Sets [`TrainingState::step`].
    pub fn set_step(&mut self, step: u64) {
        self.map[STEP_AT..STEP_AT + 8].copy_from_slice(&step.to_le_bytes());
    }

    /// Bytes of the file: weights and moments.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// Where the live file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a copy of the whole file to `path`: beside it, synced, renamed. On an error (a full disk) what stood
    /// there stays.
    pub fn snapshot_to(&self, path: &Path) -> Result<()> {
        files::write_file(path, |out| out.write_all(&self.map))
    }

    /// Writes a Hugging Face directory that `transformers` loads: the weights in this state's precision,
    /// `config.json`, and the tokenizer files of `tokenizer_dir`. It takes the place of `dir` only when complete.
    pub fn export(&self, dir: &Path, config: &ModelConfig, tokenizer_dir: Option<&Path>) -> Result<()> {
        let weights = self.weights();
        files::write_dir(dir, |dir| {
            export_weights(&dir.join("model.safetensors"), &weights, self.format.precision)?;
            let dtype = match self.format.precision {
                Precision::Bf16 => "bfloat16",
                Precision::F32 => "float32",
            };
            let config = ModelConfig { torch_dtype: dtype.to_string(), ..config.clone() };
            files::write_json(&dir.join("config.json"), &config.to_json())?;
            tokenizer_dir.map_or(Ok(()), |from| copy_tokenizer(from, dir))
        })
    }
}

impl ParamMut<'_> {
    /// Sets every element's master weight.
    pub fn set(&mut self, value: impl Fn(usize) -> f32) {
        match self {
            ParamMut::Bf16 { hi, lo, .. } => {
                for (j, (hi, lo)) in hi.iter_mut().zip(lo.iter_mut()).enumerate() {
                    (*hi, *lo) = split_master(value(j));
                }
            }
            ParamMut::F32 { w, .. } => w.iter_mut().enumerate().for_each(|(j, w)| *w = value(j)),
        }
    }
}

fn params<'a>(body: &'a mut [u8], specs: &[ParamSpec], format: Format, layout: &Layout) -> Vec<ParamMut<'a>> {
    let [weights, lo, m, v] = layout.regions_mut(body);
    let moments: Vec<Moments> = match format.moments {
        Precision::F32 => {
            let pairs = cut(m, specs, layout).into_iter().zip(cut(v, specs, layout));
            pairs.map(|(m, v)| Moments::F32 { m, v }).collect()
        }
        Precision::Bf16 => {
            let pairs = cut(m, specs, layout).into_iter().zip(cut(v, specs, layout));
            pairs.map(|(m, v)| Moments::Bf16 { m, v }).collect()
        }
    };
    match format.precision {
        Precision::Bf16 => {
            let weights = cut::<bf16>(weights, specs, layout).into_iter().zip(cut::<i16>(lo, specs, layout));
            weights.zip(moments).map(|((hi, lo), moments)| ParamMut::Bf16 { hi, lo, moments }).collect()
        }
        Precision::F32 => {
            let weights = cut::<f32>(weights, specs, layout).into_iter();
            weights.zip(moments).map(|(w, moments)| ParamMut::F32 { w, moments }).collect()
        }
    }
}

fn export_weights(path: &Path, weights: &WeightsView, precision: Precision) -> Result<()> {
    let headers: Vec<_> = weights
        .specs()
        .iter()
        .map(|s| TensorHeader { name: &s.name, dtype: precision.dtype(), shape: &s.shape })
        .collect();
    write_safetensors(path, &headers, |i, out| out.write_all(bytes_of(weights.get(i))))
}

/// The files of a Hugging Face directory that concern text, not weights.
const TOKENIZER_FILES: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

/// Copies the tokenizer files that `from` has.
pub(crate) fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for name in TOKENIZER_FILES {
        let source = from.join(name);
        if source.exists() {
            let content = fs::read(&source).map_err(Error::io(&source))?;
            files::write_file(&to.join(name), |out| out.write_all(&content))?;
        }
    }
    Ok(())
}

fn precision_tag(precision: Precision) -> u32 {
    match precision {
        Precision::Bf16 => 0,
        Precision::F32 => 1,
    }
}

fn moments_tag(moments: Precision) -> u32 {
    match moments {
        Precision::F32 => 0,
        Precision::Bf16 => 1,
    }
}

/// FNV-1a, 64 bits: a fixed hash that no library's version changes.
fn fnv(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}

fn spec_hash(specs: &[ParamSpec]) -> u64 {
    fnv(specs.iter().flat_map(|s| format!("{} {:?}\n", s.name, s.shape).into_bytes()))
}

/// The finaliser of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Sample `i` of the standard normal stream `key` (Box–Muller; two counters a sample).
fn normal(key: u64, i: u64) -> f32 {
    let uniform = |n: u64| ((mix(key.wrapping_add(n)) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let (a, b) = (uniform(2 * i), uniform(2 * i + 1));
    ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_stream_is_normal() {
        let n = 100_000;
        let x: Vec<f64> = (0..n).map(|i| normal(mix(7), i) as f64).collect();
        let mean = x.iter().sum::<f64>() / n as f64;
        let moment = |p: i32| x.iter().map(|v| v.powi(p)).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.01 && (moment(2) - 1.0).abs() < 0.02 && (moment(4) - 3.0).abs() < 0.1);
    }
}
