//! A model's parameters as kernels read them: in [`ModelConfig::param_specs`](crate::config::ModelConfig::param_specs)
//! order, in one precision, from the mapped checkpoint where it already has that precision and converted once otherwise.

use std::path::Path;

use half::{bf16, f16};
pub use toolsmith_graphs::cpu::{Mat, join_master, split_master};

use crate::checkpoint::{Checkpoint, Dtype, TensorView};
use crate::config::ParamSpec;
use crate::error::{Error, Result};

/// What weights are stored and multiplied in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// bf16 weights; the default.
    Bf16,
    /// f32 weights, for parity with references.
    F32,
}

impl Precision {
    /// The dtype of a weight.
    pub fn dtype(self) -> Dtype {
        match self {
            Precision::Bf16 => Dtype::Bf16,
            Precision::F32 => Dtype::F32,
        }
    }
}

/// The elements' bytes, as files hold them.
pub(crate) fn bytes_of<'a>(mat: Mat<'a>) -> &'a [u8] {
    // SAFETY: f32 and bf16 have no padding, and any byte is a valid u8.
    unsafe {
        match mat {
            Mat::F32(data) => data.align_to().1,
            Mat::Bf16(data) => data.align_to().1,
        }
    }
}

/// A checkpoint's parameters.
pub struct Weights {
    specs: Vec<ParamSpec>,
    /// Keeps the mapping alive; `None` once nothing refers to it.
    checkpoint: Option<Checkpoint>,
    stores: Vec<Store>,
}

enum Store {
    /// In the mapped checkpoint, under the spec's name.
    Mapped,
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Weights {
    /// The parameters `specs` of the checkpoint in `dir`. A tensor already in `precision` is used in place.
    ///
    /// # Errors
    /// Those of [`Checkpoint::open`]; a missing tensor, or one of another shape or dtype.
    pub fn load(dir: &Path, specs: Vec<ParamSpec>, precision: Precision) -> Result<Weights> {
        let checkpoint = Checkpoint::open(dir)?;
        let stores = specs
            .iter()
            .map(|spec| {
                let view = checkpoint.tensor_of_shape(&spec.name, &spec.shape)?;
                Ok(match precision {
                    _ if in_place(&view, precision).is_some() => Store::Mapped,
                    Precision::F32 => Store::F32(to_f32(&view)),
                    Precision::Bf16 => Store::Bf16(to_bf16(&view)),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let mapped = stores.iter().any(|s| matches!(s, Store::Mapped));
        Ok(Weights { specs, checkpoint: mapped.then_some(checkpoint), stores })
    }

    /// What kernels take.
    pub fn view(&self) -> WeightsView<'_> {
        let mats = (0..self.specs.len()).map(|i| self.get(i)).collect();
        WeightsView { specs: &self.specs, mats }
    }

    /// Parameter `i` of the specs.
    pub fn get(&self, i: usize) -> Mat<'_> {
        match (&self.stores[i], &self.checkpoint) {
            (Store::F32(data), _) => Mat::F32(data),
            (Store::Bf16(data), _) => Mat::Bf16(data),
            (Store::Mapped, Some(checkpoint)) => {
                let view =
                    checkpoint.tensor(&self.specs[i].name).expect("found when the weights were loaded");
                let precision = if view.dtype == Dtype::F32 { Precision::F32 } else { Precision::Bf16 };
                in_place(&view, precision).expect("aligned when the weights were loaded")
            }
            (Store::Mapped, None) => unreachable!("a mapped parameter keeps its checkpoint"),
        }
    }

    /// The parameters' names and shapes.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// How many parameters are read from the mapped file itself.
    pub fn mapped(&self) -> usize {
        self.stores.iter().filter(|s| matches!(s, Store::Mapped)).count()
    }
}

/// Parameters to read, wherever they lie: of a checkpoint ([`Weights::view`]) or of the live training copy
/// ([`TrainingState::weights`](crate::live::TrainingState::weights)).
#[derive(Clone)]
pub struct WeightsView<'a> {
    pub(crate) specs: &'a [ParamSpec],
    pub(crate) mats: Vec<Mat<'a>>,
}

impl<'a> WeightsView<'a> {
    /// Parameter `i` of the specs.
    pub fn get(&self, i: usize) -> Mat<'a> {
        self.mats[i]
    }

    /// All parameters, in order.
    pub fn mats(&self) -> &[Mat<'a>] {
        &self.mats
    }

    /// The parameters' names and shapes.
    pub fn specs(&self) -> &'a [ParamSpec] {
        self.specs
    }

    /// The position of the parameter of that name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        self.specs.iter().position(|s| s.name == name)
    }
}

impl toolsmith_graphs::Params for WeightsView<'_> {
    fn get(&self, index: usize) -> Mat<'_> {
        self.mats[index]
    }
}

/// The tensor as a slice, if it has that precision and its bytes are aligned for it.
fn in_place<'a>(view: &TensorView<'a>, precision: Precision) -> Option<Mat<'a>> {
    if view.dtype != precision.dtype() {
        return None;
    }
    match precision {
        Precision::F32 => aligned(view.bytes).map(Mat::F32),
        Precision::Bf16 => aligned(view.bytes).map(Mat::Bf16),
    }
}

/// Element types for which every bit pattern is a value.
pub(crate) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for bf16 {}
impl Plain for i16 {}

/// Bytes as elements, if they are aligned and whole.
pub(crate) fn aligned<T: Plain>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: every bit pattern is a valid `T`, and `align_to` gives only whole, aligned elements.
    let (before, elements, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty()).then_some(elements)
}

/// [`aligned`], to be written.
pub(crate) fn aligned_mut<T: Plain>(bytes: &mut [u8]) -> Option<&mut [T]> {
    // SAFETY: as in `aligned`; and any `T` leaves valid bytes behind.
    let (before, elements, after) = unsafe { bytes.align_to_mut::<T>() };
    (before.is_empty() && after.is_empty()).then_some(elements)
}

fn to_f32(view: &TensorView) -> Vec<f32> {
    match view.dtype {
        Dtype::F32 => view.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => halves(view).map(|h| f16::from_bits(h).to_f32()).collect(),
        Dtype::Bf16 => halves(view).map(|h| bf16::from_bits(h).to_f32()).collect(),
    }
}

/// A tensor's elements, rounded to bf16 (nearest even).
pub(crate) fn to_bf16(view: &TensorView) -> Vec<bf16> {
    match view.dtype {
        Dtype::F32 => {
            view.bytes.as_chunks().0.iter().map(|b| bf16::from_f32(f32::from_le_bytes(*b))).collect()
        }
        Dtype::F16 => halves(view).map(|h| bf16::from_f32(f16::from_bits(h).to_f32())).collect(),
        Dtype::Bf16 => halves(view).map(bf16::from_bits).collect(),
    }
}

fn halves<'a>(view: &TensorView<'a>) -> impl Iterator<Item = u16> + use<'a> {
    view.bytes.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b))
}

/// A parameter that a model needs and `init` has in another shape, or a checkpoint that is not this model's.
pub(crate) fn shape_mismatch(path: &Path, spec: &ParamSpec, got: &[usize]) -> Error {
    Error::tensor(
        path,
        &spec.name,
        format!("the initial weights have shape {got:?}, the model needs {:?}", spec.shape),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The file format of the training copy rests on this: exact for every f32 (whose bits, not value, are compared), and `hi` is the nearest bf16.
        #[test]
        fn a_master_weight_splits_and_joins_exactly(bits: u32) {
            let master = f32::from_bits(bits);
            let (hi, lo) = split_master(master);
            prop_assert_eq!(join_master(hi, lo).to_bits(), bits);
            if master.is_finite() && hi.to_f32().is_finite() {
                let nearest = bf16::from_f32(master).to_f32();
                prop_assert_eq!((hi.to_f32() - master).abs(), (nearest - master).abs());
            }
        }
    }
}
