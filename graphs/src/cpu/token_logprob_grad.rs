//! Gradients of [`token_logprob`]: the logits again, the softmax, and both products with its gradient, block by block of the vocabulary.
//!
//! Of a block's logits a task computes a piece that stays in its cache, turns it into gradients there and leaves them
//! rounded, once for each product that reads them: rows for the gradient of the hidden states, panels for the head's.
//! All rows pass a block before the next, so that the head and its gradient are touched once.

use super::Mat;
use super::outer::{COLUMNS, Lie, Outer, ROWS as PANEL, panels, row, units};
use super::pack::{pack_columns, pack_columns_to, pack_rows, round_rows, round_to};
use super::par::{self, Parts, Shared};
use super::scratch::{Scratch, bytes_of};
use super::simd::Elem;
use super::softmax::{RowGradient, logit_gradients};
use super::token_logprob::{Active, LmHead, TokenLogprobs, token_logprob, token_logprob_scratch};
use half::bf16;

/// Tokens taken together.
const ROWS: usize = 2048;
/// Rows of the head taken together.
const BLOCK: usize = 20 * COLUMNS;
/// Rows and columns of the logits that a task computes.
const PIECE: (usize, usize) = (128, 5 * COLUMNS);

/// Gradients coming in, and what the forward pass saved.
#[derive(Clone, Copy)]
pub struct TokenLogprobsGrad<'a> {
    /// `[t]`
    pub dlogprobs: &'a [f32],
    /// `[t]`: gradient of the entropy, if it is wanted.
    pub dentropy: Option<&'a [f32]>,
    /// `[t]`: lse and entropy as the forward pass gave them; computed again if absent (or entropy is needed and absent).
    pub lse: Option<&'a [f32]>,
    pub entropy: Option<&'a [f32]>,
}

/// Bytes of scratch for [`token_logprob_backward`] on `t` tokens, with the threads of the present pool.
pub fn token_logprob_backward_scratch(t: usize, vocab: usize, h: usize, bf16_weights: bool) -> usize {
    let of = if bf16_weights { Buffers::bytes::<bf16> } else { Buffers::bytes::<f32> };
    let rows = t.min(ROWS);
    let block = Active::bytes(rows, h) + bytes_of::<f32>(rows * h) + of(rows, vocab.min(BLOCK), h);
    3 * bytes_of::<f32>(t) + block.max(token_logprob_scratch(t, vocab, h, bf16_weights))
}

/// Operands of the products as units.
struct Buffers<'a> {
    /// The hidden states, in rows and in panels.
    x: &'a mut [u32],
    x_panels: &'a mut [u32],
    /// A block of the head, and its transpose, in panels.
    w: &'a mut [u32],
    wt: &'a mut [u32],
    /// Gradients of the block's logits, in rows and in panels.
    g: &'a mut [u32],
    g_panels: &'a mut [u32],
    /// A piece of logits for each thread.
    pieces: &'a mut [f32],
}

impl<'a> Buffers<'a> {
    fn sizes<E: Elem>(rows: usize, block: usize, h: usize) -> ([usize; 6], usize) {
        let (rows_deep, block_deep, h_deep) = (units::<E>(rows), units::<E>(block), units::<E>(h));
        let operands = [
            rows * row::<E>(h),
            panels(h, rows_deep),
            panels(h, block_deep),
            panels(block, h_deep),
            rows * row::<E>(block),
            panels(block, rows_deep),
        ];
        (operands, rayon::current_num_threads() * PIECE.0 * PIECE.1)
    }

    fn bytes<E: Elem>(rows: usize, block: usize, h: usize) -> usize {
        let (operands, pieces) = Self::sizes::<E>(rows, block, h);
        operands.into_iter().map(bytes_of::<u32>).sum::<usize>() + bytes_of::<f32>(pieces)
    }

    fn new<E: Elem>(scratch: &mut Scratch<'a>, rows: usize, block: usize, h: usize) -> Self {
        let (operands, pieces) = Self::sizes::<E>(rows, block, h);
        let [x, x_panels, w, wt, g, g_panels] = operands.map(|n| scratch.take::<u32>(n));
        Buffers { x, x_panels, w, wt, g, g_panels, pieces: scratch.take(pieces) }
    }
}

/// Gradients of [`token_logprob`]: `dx[t, h]` (replaced, 0 for skipped rows) and, if wanted, `dhead[vocab, h]` (+=).
pub fn token_logprob_backward(
    x: &[f32],
    head: &LmHead,
    targets: &[u32],
    grad: &TokenLogprobsGrad,
    dx: &mut [f32],
    dhead: Option<&mut [f32]>,
    scratch: &mut Scratch,
) {
    head.check(x, targets);
    let t = targets.len();
    assert!(dx.len() == x.len() && grad.dlogprobs.len() == t, "token_logprob_backward: shapes do not match");
    assert!(
        dhead.as_ref().is_none_or(|d| d.len() == head.w.len()),
        "token_logprob_backward: dhead is not [vocab, h]"
    );
    let mut scratch = scratch.reborrow();
    let known = grad.lse.is_some() && (grad.dentropy.is_none() || grad.entropy.is_some());
    let (lse, entropy) = (scratch.take::<f32>(t), scratch.take::<f32>(t));
    if known {
        lse.copy_from_slice(grad.lse.expect("lse is known"));
        match grad.entropy {
            Some(e) => entropy.copy_from_slice(e),
            None => entropy.fill(0.0),
        }
    } else {
        let logprobs = scratch.take::<f32>(t);
        let entropy = grad.dentropy.is_some().then_some(&mut *entropy);
        token_logprob(x, head, targets, TokenLogprobs { logprobs, entropy, lse: Some(lse) }, &mut scratch);
    }
    let grad = TokenLogprobsGrad { lse: Some(lse), entropy: Some(entropy), ..*grad };
    match head.w {
        Mat::F32(w) => backward(x, w, head, targets, &grad, dx, dhead, scratch),
        Mat::Bf16(w) => backward(x, w, head, targets, &grad, dx, dhead, scratch),
    }
}

#[allow(clippy::too_many_arguments)]
fn backward<E: Elem>(
    x: &[f32],
    w: &[E],
    head: &LmHead,
    targets: &[u32],
    grad: &TokenLogprobsGrad,
    dx: &mut [f32],
    mut dhead: Option<&mut [f32]>,
    mut scratch: Scratch,
) {
    let (t, h) = (targets.len(), head.h);
    let (rows, block) = (t.min(ROWS), head.vocab.min(BLOCK));
    let mut active = Active::new(&mut scratch, h, rows);
    let dx_rows = scratch.take::<f32>(rows * h);
    let b = Buffers::new::<E>(&mut scratch, rows, block, h);
    dx.fill(0.0);
    let mut from = 0;
    while from < t {
        let (n, next) = active.gather(x, targets, h, from);
        from = next;
        if n == 0 {
            break;
        }
        let (deep, x_row, g_row) = (units::<E>(n), row::<E>(h), row::<E>(block));
        round_rows::<E>(active.x, n, h, b.x, x_row);
        pack_columns::<f32, E>(active.x, n, h, COLUMNS, b.x_panels);
        let dx_parts = Parts::new(&mut dx_rows[..n * h]);
        for first in (0..head.vocab).step_by(BLOCK) {
            let width = (head.vocab - first).min(BLOCK);
            let w = &w[first * h..(first + width) * h];
            pack_rows(w, width, h, COLUMNS, b.wt);
            pack_columns::<E, E>(w, width, h, COLUMNS, b.w);
            let logits = Logits {
                x: Shared(b.x.as_ptr()),
                x_row,
                wt: Shared(b.wt.as_ptr()),
                h: units::<E>(h),
                rows: &active.rows[..n],
                targets,
                first,
                width,
                grad,
                inv_temperature: head.inv_temperature,
            };
            let (g, g_panels) = (Parts::new(b.g), Parts::new(b.g_panels));
            logits.gradients::<E>(&Parts::new(b.pieces), &g, g_row, &g_panels);
            let (g, g_panels) = (Shared(g.as_ptr().cast_const()), Shared(g_panels.as_ptr().cast_const()));
            let (w, x) = (Shared(b.w.as_ptr()), Shared(b.x_panels.as_ptr()));
            let product = Outer {
                a: g,
                lie: Lie::Rows(g_row),
                b: w,
                c: &dx_parts,
                ldc: h,
                m: n,
                n: h,
                p: units::<E>(width),
                acc: first > 0,
            };
            // SAFETY: rows of gradients, `g_row` apart, by the block in panels, into `[n, h]`.
            unsafe { product.run::<E>() };
            if let Some(dhead) = dhead.as_deref_mut() {
                let c = Parts::new(&mut dhead[first * h..(first + width) * h]);
                let product = Outer {
                    a: g_panels,
                    lie: Lie::Panels,
                    b: x,
                    c: &c,
                    m: width,
                    p: deep,
                    acc: true,
                    ..product
                };
                // SAFETY: gradients in panels by the hidden states in panels, into `[width, h]`.
                unsafe { product.run::<E>() };
            }
        }
        for (i, &row) in active.rows[..n].iter().enumerate() {
            dx[row as usize * h..(row as usize + 1) * h].copy_from_slice(&dx_rows[i * h..(i + 1) * h]);
        }
    }
}

/// The logits of some rows and a block of the vocabulary.
struct Logits<'a> {
    x: Shared<u32>,
    x_row: usize,
    wt: Shared<u32>,
    /// Units summed over.
    h: usize,
    rows: &'a [u32],
    targets: &'a [u32],
    /// The block's first token, and its tokens.
    first: usize,
    width: usize,
    grad: &'a TokenLogprobsGrad<'a>,
    inv_temperature: f32,
}

impl Logits<'_> {
    /// Gradients of all logits of the block, rounded: in rows `g_row` units apart, and in panels.
    fn gradients<E: Elem>(&self, pieces: &Parts<f32>, g: &Parts<u32>, g_row: usize, g_panels: &Parts<u32>) {
        let (n, deep) = (self.rows.len(), units::<E>(self.rows.len()));
        let columns = self.width.div_ceil(PIECE.1);
        let threads = par::threads(n * self.width * self.h / 64);
        par::run(threads, n.div_ceil(PIECE.0) * columns, |lane, task| {
            let (i, j) = (task / columns * PIECE.0, task % columns * PIECE.1);
            let (rows, width) = ((n - i).min(PIECE.0), (self.width - j).min(PIECE.1));
            // SAFETY: a lane has one task at a time.
            let piece = unsafe { pieces.get(lane * PIECE.0 * PIECE.1..(lane + 1) * PIECE.0 * PIECE.1) };
            // SAFETY: rows and panels from where the piece begins; the destination holds `PIECE`.
            unsafe {
                let c = Parts::new(&mut *piece);
                let product = Outer {
                    a: Shared(self.x.get().add(i * self.x_row)),
                    lie: Lie::Rows(self.x_row),
                    b: Shared(self.wt.get().add(j * self.h)),
                    c: &c,
                    ldc: width,
                    m: rows,
                    n: width,
                    p: self.h,
                    acc: false,
                };
                product.rectangle::<E>(0..rows, 0..width);
            }
            for (r, logits) in piece.chunks_exact_mut(width).take(rows).enumerate() {
                self.row(self.rows[i + r] as usize, j, logits);
            }
            // SAFETY: the places of this piece, which begin at a row that begins a unit, and at whole panels.
            unsafe {
                let rows_at = g.as_ptr().add(i * g_row + units::<E>(j));
                round_to::<E>(piece.as_ptr(), width, rows, width, rows_at, g_row);
                let panels_at = g_panels.as_ptr().add(j * deep + units::<E>(i) * PANEL);
                pack_columns_to::<f32, E>(piece.as_ptr(), width, 0, rows, width, PANEL, panels_at, deep);
            }
        });
    }

    /// Replaces logits of row `row`, from token `first + j` on, by their gradients.
    fn row(&self, row: usize, j: usize, logits: &mut [f32]) {
        let of = |x: Option<&[f32]>| x.map_or(0.0, |x| x[row]);
        let g = RowGradient {
            lse: of(self.grad.lse),
            inv_temperature: self.inv_temperature,
            dlogprob: self.grad.dlogprobs[row],
            dentropy: of(self.grad.dentropy),
            entropy: of(self.grad.entropy),
        };
        // SAFETY: the slice's own length.
        unsafe { logit_gradients(logits.as_mut_ptr(), logits.len(), &g) };
        let target = (self.targets[row] as usize).wrapping_sub(self.first + j);
        if let Some(logit) = logits.get_mut(target) {
            *logit += g.dlogprob * g.inv_temperature;
        }
    }
}
