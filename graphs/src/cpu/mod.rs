//! CPU kernels: pure functions on slices, on every instruction set and any number of threads.
//!
//! Slices are row-major; `t` counts packed tokens, without padding. Kernels allocate nothing: what they
//! need beyond their arguments is [`Scratch`], sized by the `*_scratch` function beside each. They panic on shapes
//! that do not fit, which only a faulty plan can pass.
//!
//! **Numerics.** With bf16 weights the inputs of every matrix product are rounded to bf16 (nearest even) and summed
//! in f32, everything else is f32; with f32 weights nothing is rounded. Every output is summed in one order that
//! depends on the length of the sum alone: not on the number of rows, the place in a batch, tiles or threads.
//!
//! To allocate nothing, call kernels from inside a rayon pool: entering it from outside allocates in rayon's queue.
//! Absent on purpose: anything that knows of graphs, layers or files.

mod adamw;
mod attention;
mod elementwise;
mod embedding;
pub(crate) mod expr;
mod gemm;
mod isa;
mod linear;
mod linear_backward;
mod linear_grad;
mod norm;
mod outer;
mod pack;
pub(crate) mod par;
mod peak;
mod rope;
mod sample;
mod scratch;
mod short;
mod simd;
mod softmax;
pub(crate) mod team;
mod token_logprob;
mod token_logprob_grad;

pub use adamw::{
    AdamW, Moment, adamw_bf16, adamw_f32, join_master, split_master, sum_squares, sum_squares_scratch,
};
pub use attention::{
    Attention, AttentionGrads, AttentionSaved, BLOCK, Claims, KvLayer, Segment, attention,
    attention_backward, attention_backward_scratch, attention_scratch, cached_attention,
    cached_attention_scratch,
};
pub use elementwise::{add, add_assign, exp_slice, scale, swiglu, swiglu_backward};
pub use embedding::{embedding, embedding_backward};
use half::bf16;
pub use isa::Isa;
pub use linear::{Dims, Heads, Job, Layer, linear, linear_scratch, linears, linears_scratch};
pub use linear_backward::{
    Dy, InputGrad, LayerGrad, MAX_LAYERS, SwigluGrad, linear_backward, linear_backward_scratch,
};
pub use linear_grad::{bias_grad, linear_dw, linear_dw_scratch, linear_dx, linear_dx_scratch};
pub use norm::{RmsNorm, rms_norm, rms_norm_backward, rms_norm_backward_scratch};
pub use peak::{dot_bf16, fma_f32};
pub use rope::{RopeTable, rope};
pub use sample::{Softmax, softmax_buckets, softmax_weights};
pub(crate) use scratch::Lines;
pub use scratch::{ALIGN, Scratch, ScratchBuf};
pub use short::Panels;
pub use softmax::{entropy, logsumexp, token_logprob_of};
pub use team::apart;
pub use token_logprob::{LmHead, SKIP, TokenLogprobs, token_logprob, token_logprob_scratch};
pub use token_logprob_grad::{TokenLogprobsGrad, token_logprob_backward, token_logprob_backward_scratch};

/// Numbers that a kernel reads: a slice, or what the output of the same place holds, which it writes over.
#[derive(Clone, Copy, Debug)]
pub enum Operand<'a> {
    /// As many as the output has.
    Slice(&'a [f32]),
    /// The output's.
    Output,
}

impl Operand<'_> {
    fn pointer(self, output: &[f32]) -> *const f32 {
        match self {
            Operand::Slice(x) => {
                assert_eq!(x.len(), output.len(), "an operand is as long as the output");
                x.as_ptr()
            }
            Operand::Output => output.as_ptr(),
        }
    }
}

/// A weight as stored in a checkpoint, used in place.
#[derive(Clone, Copy, Debug)]
pub enum Mat<'a> {
    /// f32 mode.
    F32(&'a [f32]),
    /// bf16 mode.
    Bf16(&'a [bf16]),
}

impl Mat<'_> {
    /// Elements.
    pub fn len(&self) -> usize {
        match self {
            Mat::F32(w) => w.len(),
            Mat::Bf16(w) => w.len(),
        }
    }

    /// Bytes as stored.
    pub fn bytes(&self) -> usize {
        match self {
            Mat::F32(w) => size_of_val(*w),
            Mat::Bf16(w) => size_of_val(*w),
        }
    }

    /// Whether it is bf16.
    pub fn is_bf16(&self) -> bool {
        matches!(self, Mat::Bf16(_))
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
