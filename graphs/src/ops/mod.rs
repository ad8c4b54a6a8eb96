//! Composite ops: one luminal node each that knows its shape rule, its meaning in primitives, its gradient and its kernel.
//!
//! The decomposition is the specification: kernels are tested against it, forward and backward, and a backend without a
//! kernel can run it. Gradients are graphs too, often of further composites (`linear_dx`, `rms_norm_backward`).
//! A pass asks a node for its composite through `Operator::custom("composite", …)`.

use std::{any::Any, fmt::Debug, sync::Arc};

use luminal::{
    op::{InputTensor, Operator},
    shape::tracker::ShapeTracker,
    tensor::Tensor as Data,
};

use crate::{
    cpu::{Mat, Operand, Panels, Scratch},
    graph::Graph,
    plan::{KvCache, ParamState, Segment},
    shape::{Extent, Shape},
    tensor::Tensor,
};

mod accumulate;
mod adamw;
mod attention;
mod embedding;
mod fused_elementwise;
mod fused_gradients;
mod fused_linear;
mod gather_rows;
mod linear;
mod rms_norm;
mod rope;
mod swiglu;
mod token_logprob;
mod work;

pub(crate) use accumulate::Accumulate;
pub use adamw::{AdamW, AdamWConstants, SumSquares};
pub use attention::{Attention, AttentionBackward, AttentionShape, CachedAttention};
pub use embedding::{Embedding, EmbeddingDw};
pub(crate) use fused_elementwise::FusedElementwise;
pub(crate) use fused_gradients::FusedGradients;
pub(crate) use fused_linear::{FusedLinear, Layer, Norm, Part, Then};
pub use gather_rows::{GatherRows, ScatterRows};
pub use linear::{BiasGrad, Linear, LinearDw, LinearDx};
pub use rms_norm::{RmsNorm, RmsNormBackward};
pub use rope::{Rope, RopeAngles};
pub use swiglu::{Swiglu, SwigluBackward};
pub use token_logprob::{TokenLogprob, TokenLogprobBackward};
pub use work::Work;

/// Most inputs a kernel takes in a plan.
pub const MAX_INPUTS: usize = 12;
/// Most outputs a kernel has.
pub const MAX_OUTPUTS: usize = 5;

/// A product with a weight `[n, k]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows of the weight: outputs of the layer.
    pub n: usize,
    /// Inputs of the layer.
    pub k: usize,
    /// Whether the product is the gradient of the layer's input rather than its output.
    pub gradient: bool,
}

/// What the plan calls.
pub trait Kernel: Any + Debug + Send + Sync {
    /// Bytes of scratch needed for at most `capacity` tokens and rows.
    fn scratch(&self, capacity: Extent, bf16: bool) -> usize {
        let _ = (capacity, bf16);
        0
    }

    /// Whether output `out` is added to rather than written. The plan zeroes such a buffer first, or points it
    /// at a gradient that is to be added to anyway.
    fn accumulates(&self, out: usize) -> bool {
        let _ = out;
        false
    }

    /// The output that may lie where input `i` lay, if nothing reads that input later. The kernel is then given the input as
    /// [`Value::Output`]; it has read each of its numbers when it writes that place.
    fn in_place(&self, i: usize) -> Option<usize> {
        let _ = i;
        None
    }

    /// Whether the kernel has to run though nothing reads its outputs.
    fn is_sink(&self) -> bool {
        false
    }

    /// Whether the kernel reads input `i` through [`Io`]; the optimizer reads its state through the bindings instead.
    fn reads(&self, i: usize) -> bool {
        let _ = i;
        true
    }

    /// The product that can read [`Panels`] of input `i`, a weight `[n, k]`.
    fn product_of(&self, i: usize) -> Option<Product> {
        let _ = i;
        None
    }

    /// Whether it needs the KV cache.
    fn uses_kv(&self) -> bool {
        false
    }

    /// Whether it updates the optimizer's state in place; its outputs then have no buffers of their own.
    fn uses_state(&self) -> bool {
        false
    }

    /// The parameter whose gradient it takes through the bindings, from all its buffers, for an optimizer's op.
    fn takes_gradient(&self) -> Option<usize> {
        None
    }

    /// What it computes, for a printed plan, where its name can't say it.
    fn formula(&self) -> Option<String> {
        None
    }

    /// What the call `io` describes has to move and to compute.
    fn work(&self, io: &Io<'_>) -> Work;

    /// The bytes of the operands: inputs read, outputs written, those that accumulate read too.
    fn operands(&self, io: &Io<'_>) -> Work {
        let bytes = |v: &Value| match *v {
            Value::Output(i) => io.output_len(i) * size_of::<f32>(),
            ref v => v.bytes(),
        };
        let inputs = io.inputs.iter().map(bytes).sum();
        let outputs = (0..MAX_OUTPUTS).map(|i| (i, io.output_len(i) * size_of::<f32>()));
        outputs.fold(Work::default().reading(inputs), |work, (i, bytes)| {
            work.writing(bytes).reading(if self.accumulates(i) { bytes } else { 0 })
        })
    }

    /// Computes the outputs. Every element of an output that isn't accumulated is written.
    fn run(&self, io: &mut Io<'_>);
}

/// An op of the graph above luminal's primitives.
pub trait Composite: Kernel {
    /// Name in messages and printed plans.
    fn name(&self) -> &'static str;
    /// Shapes of the outputs.
    fn infer(&self, inputs: &[Shape]) -> Vec<Shape>;
    /// The same outputs in primitives (or simpler composites).
    fn decompose(&self, graph: &Graph, inputs: &[Tensor]) -> Vec<Tensor>;
    /// Gradients of the inputs, where there are any and `needs` asks for one.
    ///
    /// Panics if the op has no gradient.
    fn gradient(&self, node: &Backward<'_>) -> Vec<Option<Tensor>> {
        let _ = node;
        panic!("{} has no gradient", self.name())
    }
    /// Whether a gradient can reach the inputs at all.
    fn differentiable(&self) -> bool {
        true
    }
    /// The parameter to whose gradient output 0 is added, for the op that does this.
    fn gradient_of(&self) -> Option<usize> {
        None
    }
}

/// What a gradient rule is given.
pub struct Backward<'a> {
    /// The graph to add to.
    pub graph: &'a Graph,
    /// The node's inputs.
    pub inputs: &'a [Tensor],
    /// The node's outputs.
    pub outputs: &'a [Tensor],
    /// Gradients of the outputs; at least one is there.
    pub grads: &'a [Option<Tensor>],
    /// Which inputs want a gradient.
    pub needs: &'a [bool],
}

impl Backward<'_> {
    /// The gradient of the only differentiable output.
    pub fn grad(&self) -> &Tensor {
        self.grads[0].as_ref().expect("the first output has a gradient")
    }
}

/// An input as a kernel sees it.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// Nothing is there.
    None,
    /// Numbers.
    F32(&'a [f32]),
    /// Ids, positions, rows.
    U32(&'a [u32]),
    /// A parameter, and its panels if they are made already.
    Mat(Mat<'a>, Option<&'a Panels>),
    /// The batch's segments.
    Segments(&'a [Segment]),
    /// Numbers that an output of this number holds until it is written.
    Output(usize),
}

impl Value<'_> {
    /// Bytes behind it; segments are not counted.
    fn bytes(&self) -> usize {
        match self {
            Value::F32(x) => size_of_val(*x),
            Value::U32(x) => size_of_val(*x),
            Value::Mat(x, _) => x.bytes(),
            Value::None | Value::Segments(_) | Value::Output(_) => 0,
        }
    }
}

/// One call of a kernel.
pub struct Io<'a> {
    /// Tokens and rows of this execution.
    pub extent: Extent,
    /// Whether inputs of matrix products are rounded to bf16.
    pub bf16: bool,
    pub(crate) inputs: [Value<'a>; MAX_INPUTS],
    pub(crate) outputs: [Option<&'a mut [f32]>; MAX_OUTPUTS],
    pub(crate) scratch: &'a mut [u8],
    pub(crate) kv: Option<&'a mut KvCache>,
    pub(crate) blocks: &'a [u32],
    pub(crate) summands: &'a mut [Vec<Vec<f32>>],
    pub(crate) state: Option<&'a mut dyn ParamState>,
}

impl<'a> Io<'a> {
    /// Input `i`, numbers.
    pub fn f32(&self, i: usize) -> &'a [f32] {
        match self.inputs[i] {
            Value::F32(x) | Value::Mat(Mat::F32(x), _) => x,
            _ => panic!("input {i} is not f32 numbers"),
        }
    }
    /// Input `i`, integers.
    pub fn u32(&self, i: usize) -> &'a [u32] {
        match self.inputs[i] {
            Value::U32(x) => x,
            _ => panic!("input {i} is not u32 numbers"),
        }
    }
    /// Input `i`, a parameter.
    pub fn mat(&self, i: usize) -> Mat<'a> {
        match self.inputs[i] {
            Value::Mat(x, _) => x,
            Value::F32(x) => Mat::F32(x),
            _ => panic!("input {i} is not a parameter"),
        }
    }
    /// Input `i`, a parameter, if the op was given one.
    pub fn optional_mat(&self, i: usize) -> Option<Mat<'a>> {
        (!matches!(self.inputs[i], Value::None)).then(|| self.mat(i))
    }
    /// The panels of input `i`, a parameter, if they are made already.
    pub fn panels(&self, i: usize) -> Option<&'a Panels> {
        match self.inputs[i] {
            Value::Mat(_, panels) => panels,
            _ => None,
        }
    }
    /// Input `i`, segments.
    pub fn segments(&self, i: usize) -> &'a [Segment] {
        match self.inputs[i] {
            Value::Segments(x) => x,
            _ => panic!("input {i} is not segments"),
        }
    }
    /// Elements of output `i`, 0 if there is none or it was taken.
    pub fn output_len(&self, i: usize) -> usize {
        self.outputs[i].as_ref().map_or(0, |y| y.len())
    }
    /// Input `i`, numbers that may be what an output holds.
    pub fn operand(&self, i: usize) -> Operand<'a> {
        match self.inputs[i] {
            Value::Output(_) => Operand::Output,
            _ => Operand::Slice(self.f32(i)),
        }
    }
    /// Whether a parameter among the inputs is bf16.
    pub(crate) fn reads_bf16(&self) -> bool {
        self.inputs.iter().any(|v| matches!(v, Value::Mat(Mat::Bf16(_), _)))
    }
    /// Output `i`; it can be taken once.
    pub fn take(&mut self, i: usize) -> &'a mut [f32] {
        self.outputs[i].take().expect("an output is taken once")
    }
    /// Working memory of at least [`Kernel::scratch`] bytes.
    pub fn scratch(&mut self) -> Scratch<'a> {
        Scratch::new(std::mem::take(&mut self.scratch))
    }
}

/// The luminal operator of a composite.
#[derive(Clone)]
pub struct CompositeOp(pub Arc<dyn Composite>);

impl Debug for CompositeOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.name())
    }
}

impl PartialEq for CompositeOp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Operator for CompositeOp {
    /// luminal's own executor only sees composites after [`crate::decompose::Decompose`].
    fn process(&mut self, _: Vec<(InputTensor, ShapeTracker)>) -> Vec<Data> {
        panic!("{} runs in a plan; decompose the graph to execute it on primitives", self.0.name())
    }
    fn custom(&mut self, key: &str, _: Box<dyn Any>) -> Option<Box<dyn Any>> {
        (key == "composite").then(|| Box::new(self.0.clone()) as _)
    }
}
