//! Gradients of linear layers that read the same rows, in one call, with what stands around them: SwiGLU's gradient before,
//! the norm's and the residual sum after.
//!
//! Rows are taken a chunk at a time. A chunk's numbers are read once and rounded to rows of pairs along the features, which
//! the input's gradient wants; a few columns at a time these become the panels of pairs along the tokens that the weights'
//! gradients want. (Both forms at once took the second-level cache.) A norm of the input is computed again, not kept. What is in
//! cache goes on to the next step before the next rows come: neither a layer's share of the input's gradient nor a gradient behind
//! SwiGLU is ever written whole.
//!
//! Every number is summed as by the kernels that stand alone ([`linear_dx`](super::linear_dx), [`linear_dw`](super::linear_dw),
//! [`rms_norm_backward`](super::rms_norm_backward), [`swiglu_backward`](super::swiglu_backward)), to the bit: chunks end where
//! the blocks of their sums do.

use half::bf16;

use super::elementwise::{add_at, swiglu_rounded};
use super::linear_grad::bias_grad;
use super::norm::{CHUNK as BLOCK, RmsNorm, backward_block, normed_columns};
use super::outer::{COLUMNS, KC, Lie, Outer, ROWS, panels, row, units};
use super::pack::{Rounded, pack_columns, pack_columns_to, round_to};
use super::par::{self, Parts, Shared};
use super::scratch::{Scratch, bytes_of};
use super::short::Panels;
use super::simd::Elem;
use super::{Mat, Operand};

use std::ops::Range;

/// Most layers of one input.
pub const MAX_LAYERS: usize = 3;

/// Rows in which the sums of the weights' gradients are cut, in f32 twice.
const SUMMED: usize = 2 * KC;
/// Most outputs of a layer in a task of its weight's gradient: their panels take 64 KB.
const OUTPUTS: usize = 128;

/// A layer whose gradients are wanted.
pub struct LayerGrad<'a> {
    /// `[n, k]`.
    pub w: Mat<'a>,
    /// Of `w`, if they are made already.
    pub panels: Option<&'a Panels>,
    /// Of the layer's output, `[t, n]`.
    pub dy: Dy<'a>,
    /// `[n, k]`, added to.
    pub dw: &'a mut [f32],
}

/// Where the gradient of a layer's output comes from.
#[derive(Clone, Copy)]
pub enum Dy<'a> {
    /// It is there.
    Given(&'a [f32]),
    /// It is that of SwiGLU's gate.
    Gate,
    /// It is that of SwiGLU's other operand.
    Up,
}

/// `silu(gate) · up` behind two of the layers, and its gradient, each `[t, n]`.
#[derive(Clone, Copy)]
pub struct SwigluGrad<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub dy: &'a [f32],
}

/// The rows that the layers read, and their gradient.
pub struct InputGrad<'a> {
    /// `[t, k]`, before the norm if there is one.
    pub x: &'a [f32],
    /// The norm, and the gradient of its weight, `[k]`, added to.
    pub norm: Option<(RmsNorm<'a>, &'a mut [f32])>,
    /// What is added to the gradient, `[t, k]`.
    pub plus: Option<Operand<'a>>,
    /// `[t, k]`, replaced.
    pub dx: &'a mut [f32],
}

/// Bytes of scratch for [`linear_backward`] on at most `t` rows of `k`, with layers of `outputs` each.
pub fn linear_backward_scratch(t: usize, k: usize, outputs: &[usize], bf16_weights: bool) -> usize {
    let layers = outputs.iter().map(|&n| (n, bf16_weights));
    bytes(t, k, layers, bf16_weights, rayon::current_num_threads().max(1))
}

/// Rows of a chunk for so many threads.
fn chunk(t: usize, threads: usize) -> usize {
    (SUMMED * threads.min(8)).min(t)
}

/// Scratch for layers of so many outputs, with bf16 weights or without.
fn bytes(
    t: usize,
    k: usize,
    layers: impl Iterator<Item = (usize, bool)>,
    bf16: bool,
    threads: usize,
) -> usize {
    let rows = chunk(t, threads);
    let depth = depth(rows, bf16);
    let layer = |(n, half)| {
        let (w, ld) = weight_units(n, k, half);
        bytes_of::<u32>(w) + bytes_of::<u32>(rows * ld)
    };
    let layers: usize = layers.map(layer).sum();
    let sums = bytes_of::<f32>(t.div_ceil(BLOCK) * k);
    layers + bytes_of::<u32>(panels(k, depth)) + sums + bytes_of::<u32>(threads * lane(k, depth))
}

/// What each thread has for itself.
fn lane(k: usize, depth: usize) -> usize {
    2 * BLOCK * k + panels(OUTPUTS, depth)
}

/// Units of a column over `rows` rows.
fn depth(rows: usize, half: bool) -> usize {
    if half { units::<bf16>(rows) } else { rows }
}

/// Units of a packed weight `[n, k]`, and of a row of its layer's gradient.
fn weight_units(n: usize, k: usize, half: bool) -> (usize, usize) {
    if half { (panels(k, units::<bf16>(n)), row::<bf16>(n)) } else { (panels(k, n), row::<f32>(n)) }
}

/// Gradients of `y_i = norm(x) · w_iᵀ`: of the weights (`dw_i += dy_iᵀ · norm(x)`, both rounded to bf16 first if `bf16`), of the
/// norm's weight, and of `x`: `dx = norm'(Σ dy_i · w_i) + plus`, summed over the layers in their order, `dy_i` rounded to bf16
/// where `w_i` is.
///
/// # Panics
/// If shapes do not fit, if there is no layer, or if there are more than [`MAX_LAYERS`].
pub fn linear_backward<'a>(
    input: InputGrad<'a>,
    layers: impl IntoIterator<Item = LayerGrad<'a>>,
    swiglu: Option<SwigluGrad<'a>>,
    bf16: bool,
    k: usize,
    scratch: &mut Scratch<'a>,
) {
    let InputGrad { x, norm, plus, dx } = input;
    let t = x.len() / k;
    let (norm, norm_dw) = norm.unzip();
    let fits =
        norm.is_none_or(|n| n.h == k && n.w.len() == k) && norm_dw.as_ref().is_none_or(|d| d.len() == k);
    assert!(x.len() == t * k && dx.len() == x.len() && fits, "linear_backward: rows are not [t, {k}]");
    let mut given = [const { None }; MAX_LAYERS];
    layers.into_iter().enumerate().for_each(|(i, layer)| given[i] = Some(layer));
    let dy = |l: &LayerGrad| match l.dy {
        Dy::Given(dy) => dy.len(),
        _ => swiglu
            .filter(|s| s.gate.len() == s.dy.len() && s.up.len() == s.dy.len())
            .map_or(0, |s| s.dy.len()),
    };
    let fits = |l: &LayerGrad| {
        let n = l.w.len() / k;
        l.w.len() == n * k && l.dw.len() == n * k && dy(l) == t * n
    };
    assert!(
        given[0].is_some() && given.iter().flatten().all(fits),
        "linear_backward: layers do not fit [{t}, {k}]"
    );
    if t == 0 {
        return;
    }
    let sizes = || given.iter().flatten().map(|l| (l.w.len() / k, l.w.is_bf16()));
    let n: usize = sizes().map(|s| s.0).sum();
    let threads = (1..=par::threads(t * n * k / 64)).rev();
    let room = |&threads: &usize| bytes(t, k, sizes(), bf16, threads) <= scratch.len();
    let threads = { threads }.find(room).unwrap_or(1);
    let (whole, blocks) = (chunk(t, threads), t.div_ceil(BLOCK));
    let depth = depth(whole, bf16);
    let lane = lane(k, depth);
    let sums = scratch.take::<f32>(blocks * k);
    let call = Call {
        k,
        bf16,
        x: Shared(x.as_ptr()),
        norm,
        plus: Shared(plus.map_or(std::ptr::null(), |p| p.pointer(dx))),
        dx: Parts::new(dx),
        sums: Parts::new(sums),
        columns: Parts::new(scratch.take(panels(k, depth))),
        layers: given.map(|l| l.map(|l| Layer::new(l, k, whole, scratch))),
        swiglu,
        lanes: Parts::new(scratch.take(threads * lane)),
        lane,
    };
    let share =
        if threads == 1 { OUTPUTS } else { n.div_ceil(4 * threads).next_multiple_of(ROWS).min(OUTPUTS) };
    let pieces = |l: &Layer| l.n.div_ceil(share);
    let pieces_in_all: usize = call.layers.iter().flatten().map(pieces).sum();
    for first in (0..t).step_by(whole) {
        let chunk = Chunk { first, rows: whole.min(t - first) };
        let blocks = chunk.rows.div_ceil(BLOCK);
        // SAFETY: sizes were checked; tasks write different rows.
        par::run(threads, blocks, |_, b| unsafe { call.read(&chunk, b * BLOCK) });
        par::run(threads, blocks + pieces_in_all, |lane, task| {
            let Some(mut piece) = task.checked_sub(blocks) else {
                // SAFETY: as above, and each lane has memory of its own.
                return unsafe { call.input(&chunk, task * BLOCK, lane) };
            };
            let layer = call.layers.iter().flatten().find(|l| match piece.checked_sub(pieces(l)) {
                Some(rest) => {
                    piece = rest;
                    false
                }
                None => true,
            });
            let layer = layer.expect("as many tasks as pieces");
            let outputs = piece * share..((piece + 1) * share).min(layer.n);
            // SAFETY: as above; tasks write different rows of the gradients.
            unsafe { call.weight(&chunk, layer, outputs, lane) }
        });
    }
    if let Some(dw) = norm_dw {
        bias_grad(sums, dw, blocks, k);
    }
}

/// What the tasks of a call share.
struct Call<'a> {
    k: usize,
    bf16: bool,
    x: Shared<f32>,
    norm: Option<RmsNorm<'a>>,
    plus: Shared<f32>,
    dx: Parts<'a, f32>,
    /// The norm's weight's gradient, a row for each [`BLOCK`] of rows.
    sums: Parts<'a, f32>,
    /// The chunk's input in panels.
    columns: Parts<'a, u32>,
    layers: [Option<Layer<'a>>; MAX_LAYERS],
    swiglu: Option<SwigluGrad<'a>>,
    /// So much for each thread: a block of the input's gradient and a layer's share of it, then the panels of a task's outputs.
    lanes: Parts<'a, u32>,
    lane: usize,
}

struct Layer<'a> {
    n: usize,
    dy: Dy<'a>,
    dw: Parts<'a, f32>,
    /// The weight is bf16.
    half: bool,
    /// The weight in panels.
    w: Shared<u32>,
    /// The chunk's gradient in rows so many units apart, of the weight's kind.
    rows: Parts<'a, u32>,
    ld: usize,
}

impl<'a> Layer<'a> {
    fn new(layer: LayerGrad<'a>, k: usize, rows: usize, scratch: &mut Scratch<'a>) -> Self {
        let (n, half) = (layer.w.len() / k, layer.w.is_bf16());
        let (packed, ld) = weight_units(n, k, half);
        let w = match layer.panels.and_then(|p| p.columns(&layer.w)) {
            Some(made) => made,
            None => {
                let w = scratch.take::<u32>(packed);
                match layer.w {
                    Mat::F32(from) => pack_columns::<f32, f32>(from, n, k, COLUMNS, w),
                    Mat::Bf16(from) => pack_columns::<bf16, bf16>(from, n, k, COLUMNS, w),
                }
                w
            }
        };
        Layer {
            n,
            dy: layer.dy,
            dw: Parts::new(layer.dw),
            half,
            w: Shared(w.as_ptr()),
            rows: Parts::new(scratch.take(rows * ld)),
            ld,
        }
    }

    fn rounded(&self) -> Rounded {
        Rounded { n: self.n, half: self.half, rows: self.rows.as_ptr(), ld: self.ld }
    }
}

/// Rows in hand.
struct Chunk {
    first: usize,
    rows: usize,
}

impl Call<'_> {
    /// Rounds what the rows of the block from row `i` of the chunk bring.
    ///
    /// # Safety
    /// Sizes are as [`linear_backward`] checks them; nobody else uses what is made of these rows.
    unsafe fn read(&self, chunk: &Chunk, i: usize) {
        // SAFETY: the caller's.
        unsafe {
            match self.bf16 {
                true => self.read_as::<bf16>(chunk, i),
                false => self.read_as::<f32>(chunk, i),
            }
        }
    }

    unsafe fn read_as<P: Elem>(&self, chunk: &Chunk, i: usize) {
        let (k, depth) = (self.k, units::<P>(chunk.rows));
        let rows = i..(i + BLOCK).min(chunk.rows);
        // SAFETY: the caller's: from here on a chunk's rows count from its first.
        unsafe {
            let x = self.x.get().add(chunk.first * k);
            let to = self.columns.as_ptr();
            match &self.norm {
                Some(norm) => normed_columns::<P>(x, norm, rows.clone(), COLUMNS, to, depth),
                None => pack_columns_to::<f32, P>(x, k, rows.start, rows.end, k, COLUMNS, to, depth),
            }
            let layers = || self.layers.iter().flatten();
            for layer in layers() {
                if let Dy::Given(dy) = layer.dy {
                    let (n, to) = (layer.n, layer.rows.as_ptr().add(i * layer.ld));
                    let dy = dy.as_ptr().add((chunk.first + i) * n);
                    match layer.half {
                        true => round_to::<bf16>(dy, n, rows.len(), n, to, layer.ld),
                        false => round_to::<f32>(dy, n, rows.len(), n, to, layer.ld),
                    }
                }
            }
            if let Some(s) = &self.swiglu {
                let gate = layers().find(|l| matches!(l.dy, Dy::Gate));
                let up = layers().find(|l| matches!(l.dy, Dy::Up));
                let [gate, up] = [gate, up].map(|l| l.expect("both layers before SwiGLU").rounded());
                let from = [s.gate, s.up, s.dy].map(|x| x.as_ptr().add(chunk.first * gate.n));
                swiglu_rounded(&from, rows.start, rows.end, &gate, &up);
            }
        }
    }

    /// The gradient of the input's rows from row `i` of the chunk on.
    ///
    /// # Safety
    /// As [`Call::read`], which is done; nobody else uses these rows of the gradient, or the lane's tiles.
    unsafe fn input(&self, chunk: &Chunk, i: usize, lane: usize) {
        let (k, rows) = (self.k, BLOCK.min(chunk.rows - i));
        let (at, len) = (chunk.first + i, rows * k);
        // SAFETY: the caller's.
        unsafe {
            let dx = self.dx.get(at * k..at * k + len);
            let plus = self.plus.get();
            let plus = if plus.is_null() { plus } else { plus.add(at * k) };
            let tiles = self.lanes.get(lane * self.lane..lane * self.lane + 2 * BLOCK * k);
            let tiles = std::slice::from_raw_parts_mut(tiles.as_mut_ptr().cast::<f32>(), tiles.len());
            let (sum, other) = tiles.split_at_mut(BLOCK * k);
            let last = self.norm.is_none() && plus.is_null();
            let sum = if last { &mut *dx } else { &mut sum[..len] };
            for (j, layer) in self.layers.iter().flatten().enumerate() {
                // A product of one block added as it is stored is the sum of two.
                if j == 0 || depth(layer.n, layer.half) <= KC {
                    layer.product(i, rows, k, &Parts::new(sum), j > 0);
                } else {
                    layer.product(i, rows, k, &Parts::new(&mut other[..len]), false);
                    add_at(sum.as_ptr(), other.as_ptr(), sum.as_mut_ptr(), len);
                }
            }
            let sum = sum.as_ptr();
            match &self.norm {
                Some(norm) => {
                    let sums = self.sums.get(at / BLOCK * k..(at / BLOCK + 1) * k);
                    backward_block(norm, self.x.get().add(at * k), sum, plus, dx, sums);
                }
                None if !last => add_at(sum, plus, dx.as_mut_ptr(), len),
                None => {}
            }
        }
    }

    /// What the chunk adds to the gradient of the weights of these outputs of `layer`.
    ///
    /// # Safety
    /// As [`Call::read`], which is done; nobody else uses these rows of the gradient, or the lane's panels.
    unsafe fn weight(&self, chunk: &Chunk, layer: &Layer, outputs: Range<usize>, lane: usize) {
        // SAFETY: the caller's.
        unsafe {
            match (self.bf16, layer.half) {
                (true, true) => self.weight_as::<bf16, bf16>(chunk, layer, outputs, lane),
                (true, false) => self.weight_as::<f32, bf16>(chunk, layer, outputs, lane),
                (false, true) => self.weight_as::<bf16, f32>(chunk, layer, outputs, lane),
                (false, false) => self.weight_as::<f32, f32>(chunk, layer, outputs, lane),
            }
        }
    }

    unsafe fn weight_as<T: Elem, P: Elem>(
        &self,
        chunk: &Chunk,
        layer: &Layer,
        outputs: Range<usize>,
        lane: usize,
    ) {
        let (k, m, p) = (self.k, outputs.len(), units::<P>(chunk.rows));
        // SAFETY: the caller's: rows of the chunk hold elements `T`.
        unsafe {
            let rows = layer.rows.as_ptr().cast::<T>().add(outputs.start);
            let panels = self.lanes.get((lane + 1) * self.lane - panels(m, p)..(lane + 1) * self.lane);
            let a = panels.as_mut_ptr();
            pack_columns_to::<T, P>(rows, layer.ld * T::R, 0, chunk.rows, m, ROWS, a, p);
            let c = Parts::new(layer.dw.get(outputs.start * k..outputs.end * k));
            let (a, b) = (Shared(a.cast_const()), Shared(self.columns.as_ptr().cast_const()));
            let g = Outer { a, lie: Lie::Panels, b, c: &c, ldc: k, m, n: k, p, acc: true };
            g.rectangle::<P>(0..m, 0..k);
        }
    }
}

impl Layer<'_> {
    /// `to[rows, k] (=, or += if acc) dy · w` for the rows from row `i` of the chunk on.
    unsafe fn product(&self, i: usize, rows: usize, k: usize, to: &Parts<f32>, acc: bool) {
        // SAFETY: the caller's: the chunk's rows are there.
        unsafe {
            let a = Shared(self.rows.as_ptr().add(i * self.ld).cast_const());
            let p = depth(self.n, self.half);
            let g = Outer { a, lie: Lie::Rows(self.ld), b: self.w, c: to, ldc: k, m: rows, n: k, p, acc };
            match self.half {
                true => g.rectangle::<bf16>(0..rows, 0..k),
                false => g.rectangle::<f32>(0..rows, 0..k),
            }
        }
    }
}
