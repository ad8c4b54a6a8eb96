//! What a plan is bound to for one execution: parameters, gradients, inputs, segments, the KV cache.

use half::bf16;

use crate::{
    cpu::{Mat, Panels},
    plan::KvCache,
    shape::Extent,
};

/// Most `f32` inputs of a graph.
pub const MAX_F32: usize = 16;
/// Most `u32` inputs of a graph.
pub const MAX_U32: usize = 8;

pub use crate::cpu::Segment;

/// The parameters of a model by index.
pub trait Params: Sync {
    /// Parameter `index`, row-major as stored.
    fn get(&self, index: usize) -> Mat<'_>;
    /// Its panels, where they are made already: see [`PanelStore`](super::PanelStore).
    fn panels(&self, index: usize) -> Option<&Panels> {
        let _ = index;
        None
    }
}

impl Params for Vec<Vec<f32>> {
    fn get(&self, index: usize) -> Mat<'_> {
        Mat::F32(&self[index])
    }
}

impl Params for Vec<Vec<bf16>> {
    fn get(&self, index: usize) -> Mat<'_> {
        Mat::Bf16(&self[index])
    }
}

/// Gradient buffers by parameter index. A plan adds to them; zeroing is the caller's.
///
/// # Safety
/// Two indices never share memory, and a buffer stays valid where it is while others are asked for: a step may hold several.
pub unsafe trait Grads: Send {
    /// The buffer of parameter `index`, in the parameter's layout.
    fn get(&mut self, index: usize) -> &mut [f32];
}

// SAFETY: each buffer is an allocation of its own, which `get` does not touch.
unsafe impl Grads for Vec<Vec<f32>> {
    fn get(&mut self, index: usize) -> &mut [f32] {
        &mut self[index]
    }
}

/// A parameter the optimizer may change.
pub enum Master<'a> {
    /// f32 mode: the parameter itself.
    F32(&'a mut [f32]),
    /// bf16 mode: the f32 master in two halves, see [`crate::cpu::split_master`].
    Bf16 {
        /// The nearest bf16: the weights everybody reads.
        hi: &'a mut [bf16],
        /// What is missing from the master.
        lo: &'a mut [i16],
    },
}

/// What AdamW keeps for a parameter.
pub struct Slot<'a> {
    /// The weights.
    pub weights: Master<'a>,
    /// The moments.
    pub moments: Moments<'a>,
}

/// First and second moments.
#[allow(missing_docs)]
pub enum Moments<'a> {
    F32 {
        m: &'a mut [f32],
        v: &'a mut [f32],
    },
    /// Half the memory; see [`crate::cpu::Moment`].
    Bf16 {
        m: &'a mut [bf16],
        v: &'a mut [bf16],
    },
}

/// Parameters with their optimizer state, by index.
pub trait ParamState: Send {
    /// Parameter `index`.
    fn slot(&mut self, index: usize) -> Slot<'_>;
    /// Bytes of the moments of parameter `index`; its master weight has four for each element in either precision.
    fn moment_bytes(&self, index: usize) -> usize;
}

impl Moments<'_> {
    /// Bytes of both.
    pub fn bytes(&self) -> usize {
        match self {
            Moments::F32 { m, v } => size_of_val(*m) + size_of_val(*v),
            Moments::Bf16 { m, v } => size_of_val(*m) + size_of_val(*v),
        }
    }
}

/// Everything one execution reads and writes. Building one allocates nothing.
pub struct Bindings<'a> {
    /// Tokens and selected rows of this execution.
    pub extent: Extent,
    /// Parameters.
    pub params: Option<&'a dyn Params>,
    /// Gradients, if the graph has a backward pass.
    pub grads: Option<&'a mut dyn Grads>,
    /// For an optimizer's graph, `[buffers][parameters][elements]`: a parameter's gradient is the sum of its buffers in
    /// their order. The optimizer leaves zeros in all of them.
    pub summands: &'a mut [Vec<Vec<f32>>],
    /// Optimizer state, for an optimizer's graph.
    pub state: Option<&'a mut dyn ParamState>,
    /// KV cache, for an inference graph.
    pub kv: Option<&'a mut KvCache>,
    /// The blocks of the cache that the segments' sequences have, in their order.
    pub blocks: &'a [u32],
    /// Segments of the packed tokens.
    pub segments: &'a [Segment],
    pub(crate) f32s: [&'a [f32]; MAX_F32],
    pub(crate) u32s: [&'a [u32]; MAX_U32],
}

/// An `f32` input of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct F32Input(pub(crate) usize);

/// A `u32` input of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct U32Input(pub(crate) usize);

impl<'a> Bindings<'a> {
    /// Nothing bound, `tokens` packed tokens and `rows` selected rows.
    pub fn new(tokens: usize, rows: usize) -> Self {
        Bindings {
            extent: Extent { tokens, rows, distinct: 0 },
            params: None,
            grads: None,
            summands: &mut [],
            state: None,
            kv: None,
            blocks: &[],
            segments: &[],
            f32s: [&[]; MAX_F32],
            u32s: [&[]; MAX_U32],
        }
    }

    /// Says how many different tokens there are among the packed ones, for a graph that asks.
    pub fn distinct(mut self, n: usize) -> Self {
        self.extent.distinct = n;
        self
    }

    /// Binds parameters.
    pub fn params(mut self, params: &'a dyn Params) -> Self {
        self.params = Some(params);
        self
    }
    /// Binds gradient buffers.
    pub fn grads(mut self, grads: &'a mut dyn Grads) -> Self {
        self.grads = Some(grads);
        self
    }
    /// Binds the buffers whose sums are the gradients that an optimizer takes.
    pub fn summands(mut self, buffers: &'a mut [Vec<Vec<f32>>]) -> Self {
        self.summands = buffers;
        self
    }
    /// Binds optimizer state.
    pub fn state(mut self, state: &'a mut dyn ParamState) -> Self {
        self.state = Some(state);
        self
    }
    /// Binds a KV cache, and the table of blocks into which segments point.
    pub fn kv(mut self, kv: &'a mut KvCache, blocks: &'a [u32]) -> Self {
        (self.kv, self.blocks) = (Some(kv), blocks);
        self
    }
    /// Binds segments.
    pub fn segments(mut self, segments: &'a [Segment]) -> Self {
        self.segments = segments;
        self
    }
    /// Binds an `f32` input; a scalar is one number.
    pub fn f32(mut self, input: F32Input, data: &'a [f32]) -> Self {
        self.f32s[input.0] = data;
        self
    }
    /// Binds a `u32` input.
    pub fn u32(mut self, input: U32Input, data: &'a [u32]) -> Self {
        self.u32s[input.0] = data;
        self
    }
}
