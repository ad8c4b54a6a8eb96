//! AdamW in one pass over weights, moments and gradients (Loshchilov & Hutter, arXiv 1711.05101), as PyTorch has it, and the
//! pass before it, which sums a gradient's buffers and their squares. Either leaves zeros where it took a gradient, for the
//! next step to add to.
//!
//! A bf16 training copy keeps each f32 master weight as the bf16 the sampler reads and its 16 low bits beside it:
//! `master = (hi << 16) + lo` on the bit patterns, `hi` being the nearest bf16 (halves away from zero). Exact, and in place.
//!
//! Moments may be kept in bf16. Rounded to the nearest, a second moment could never shrink: 0.1 % less is under half a
//! unit in its last place of 0.4 to 0.8 %. So what is added before the lower bits are cut runs evenly through all their values
//! from step to step ([`dither`]): a moment moves as often as its exact change asks for, and nothing is drawn at random.
//! A second moment then wanders by a few percent about its exact value, and is right on the whole.

use super::par::{self, Parts};
use super::scratch::{Scratch, bytes_of};
use half::bf16;
use std::mem::take;

/// Hyper-parameters of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    /// Decoupled: the weight shrinks by `lr * weight_decay` first.
    pub weight_decay: f32,
    /// 1 at the first step; for the bias correction.
    pub step: u64,
    /// Factor of every gradient, for clipping and averaging.
    pub grad_scale: f32,
}

/// A master weight as the nearest bf16 and the rest of its bits.
#[inline(always)]
pub fn split_master(w: f32) -> (bf16, i16) {
    let bits = w.to_bits();
    let hi = bits.wrapping_add(0x8000) >> 16;
    (bf16::from_bits(hi as u16), bits as i16)
}

/// The master weight of its two halves.
#[inline(always)]
pub fn join_master(hi: bf16, lo: i16) -> f32 {
    f32::from_bits(((hi.to_bits() as u32) << 16).wrapping_add(lo as i32 as u32))
}

/// What moments are kept in.
pub trait Moment: Copy + Send + Sync {
    /// As a number.
    fn widen(self) -> f32;
    /// Kept; `dither` below 2¹⁶ says where between two bf16 the number goes to the larger.
    fn narrow(x: f32, dither: u32) -> Self;
}

impl Moment for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(x: f32, _: u32) -> f32 {
        x
    }
}

impl Moment for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    #[inline(always)]
    fn narrow(x: f32, dither: u32) -> bf16 {
        bf16::from_bits((x.to_bits().wrapping_add(dither) >> 16) as u16)
    }
}

/// Element `i` at step `start / 0x9e37_79b9`: multiples of an irrational number, whose fractions lie evenly, over steps; those of
/// another over elements, so that not all are rounded alike.
#[inline(always)]
fn dither(start: u32, i: u32) -> u32 {
    start.wrapping_add(i.wrapping_mul(0xb504_f333)) >> 16
}

/// The factors of a step that all weights share.
#[derive(Clone, Copy)]
struct Step {
    keep: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    inv_sqrt_correction: f32,
    eps: f32,
    grad_scale: f32,
    /// Of [`dither`].
    start: u32,
}

impl Step {
    fn new(o: &AdamW) -> Self {
        let power = o.step as f64;
        let correction1 = 1.0 - (o.beta1 as f64).powf(power);
        let correction2 = 1.0 - (o.beta2 as f64).powf(power);
        Step {
            keep: (1.0 - o.lr as f64 * o.weight_decay as f64) as f32,
            beta1: o.beta1,
            beta2: o.beta2,
            rate: (o.lr as f64 / correction1) as f32,
            inv_sqrt_correction: (1.0 / correction2.sqrt()) as f32,
            eps: o.eps,
            grad_scale: o.grad_scale,
            start: (o.step as u32).wrapping_mul(0x9e37_79b9),
        }
    }

    /// The weight after the step. Plain arithmetic, so every instruction set gives the same bits.
    #[inline(always)]
    fn apply<M: Moment>(&self, i: u32, w: f32, g: f32, m: &mut M, v: &mut M) -> f32 {
        let g = g * self.grad_scale;
        let first = self.beta1 * m.widen() + (1.0 - self.beta1) * g;
        let second = self.beta2 * v.widen() + (1.0 - self.beta2) * (g * g);
        let dither = dither(self.start, i);
        (*m, *v) = (M::narrow(first, dither), M::narrow(second, dither));
        w * self.keep - self.rate * first / (second.sqrt() * self.inv_sqrt_correction + self.eps)
    }
}

/// Compiles a loop of plain Rust for the wider vectors of the machine.
macro_rules! vectorised {
    (fn $name:ident$(<$g:ident: $b:path>)?($($a:ident: $t:ty),*) $body:block) => {
        fn $name$(<$g: $b>)?($($a: $t),*) {
            #[inline(always)]
            fn body$(<$g: $b>)?($($a: $t),*) $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512$(<$g: $b>)?($($a: $t),*) { body($($a),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2$(<$g: $b>)?($($a: $t),*) { body($($a),*) }
            match super::Isa::current() {
                // SAFETY: `Isa::current` names only sets this machine has.
                #[cfg(target_arch = "x86_64")]
                super::Isa::Avx512 | super::Isa::Avx512Bf16 => unsafe { avx512($($a),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                super::Isa::Avx2 => unsafe { avx2($($a),*) },
                _ => body($($a),*),
            }
        }
    };
}

vectorised! {
    fn step_f32<M: Moment>(s: &Step, first: u32, w: &mut [f32], g: &mut [f32], m: &mut [M], v: &mut [M]) {
        for (i, (((w, g), m), v)) in (first..).zip(w.iter_mut().zip(g).zip(m).zip(v)) {
            *w = s.apply(i, *w, take(g), m, v);
        }
    }
}

vectorised! {
    fn step_bf16<M: Moment>(
        s: &Step, first: u32, hi: &mut [bf16], lo: &mut [i16], g: &mut [f32], m: &mut [M], v: &mut [M]
    ) {
        for (i, ((((hi, lo), g), m), v)) in (first..).zip(hi.iter_mut().zip(lo).zip(g).zip(m).zip(v)) {
            (*hi, *lo) = split_master(s.apply(i, join_master(*hi, *lo), take(g), m, v));
        }
    }
}

/// One step on f32 weights; `g` is zero afterwards.
pub fn adamw_f32<M: Moment>(w: &mut [f32], g: &mut [f32], m: &mut [M], v: &mut [M], o: &AdamW) {
    let n = w.len();
    assert!([g.len(), m.len(), v.len()] == [n; 3], "adamw_f32: lengths do not match");
    let step = Step::new(o);
    let (w, g, m, v) = (Parts::new(w), Parts::new(g), Parts::new(m), Parts::new(v));
    par::ranges(n, n, 1024, |r| {
        // SAFETY: tasks take different ranges.
        let (w, g) = unsafe { (w.get(r.clone()), g.get(r.clone())) };
        // SAFETY: as above.
        let (m, v) = unsafe { (m.get(r.clone()), v.get(r.clone())) };
        step_f32(&step, r.start as u32, w, g, m, v);
    });
}

/// One step on split weights: `hi` are the weights the sampler reads, `lo` their remainders (see [`split_master`]). `g` is zero
/// afterwards.
pub fn adamw_bf16<M: Moment>(
    hi: &mut [bf16],
    lo: &mut [i16],
    g: &mut [f32],
    m: &mut [M],
    v: &mut [M],
    o: &AdamW,
) {
    let n = hi.len();
    assert!([lo.len(), g.len(), m.len(), v.len()] == [n; 4], "adamw_bf16: lengths do not match");
    let step = Step::new(o);
    let (hi, lo, g) = (Parts::new(hi), Parts::new(lo), Parts::new(g));
    let (m, v) = (Parts::new(m), Parts::new(v));
    par::ranges(n, n, 1024, |r| {
        // SAFETY: tasks take different ranges.
        let (hi, lo, g) = unsafe { (hi.get(r.clone()), lo.get(r.clone()), g.get(r.clone())) };
        // SAFETY: as above.
        let (m, v) = unsafe { (m.get(r.clone()), v.get(r.clone())) };
        step_bf16(&step, r.start as u32, hi, lo, g, m, v);
    });
}

/// Elements whose squares are summed in one go.
const LEAF: usize = 4096;

vectorised! {
    fn leaf_squares(g: &[f32], acc: &mut [f64; 16]) {
        let chunks = g.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (a, &x) in acc.iter_mut().zip(chunk) {
                *a += x as f64 * x as f64;
            }
        }
        acc.iter_mut().zip(rest).for_each(|(a, &x)| *a += x as f64 * x as f64);
    }
}

vectorised! {
    fn add_and_clear(sum: &mut [f32], part: &mut [f32]) {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += take(part));
    }
}

/// Buffers that one pass adds.
const TOGETHER: usize = 8;

/// Bytes of scratch for [`sum_squares`] of `n` elements.
pub const fn sum_squares_scratch(n: usize) -> usize {
    bytes_of::<f64>(n.div_ceil(LEAF))
}

/// Adds `others` to `sum`, one after the other, and leaves zeros in them; returns `Σ sum²`, over a tree that depends on the length
/// alone.
pub fn sum_squares<'a>(
    sum: &mut [f32],
    others: impl Iterator<Item = &'a mut [f32]>,
    scratch: &mut Scratch,
) -> f64 {
    let n = sum.len();
    let leaves = scratch.take::<f64>(n.div_ceil(LEAF));
    let (sum, parts) = (Parts::new(sum), Parts::new(leaves));
    let mut others = others.peekable();
    loop {
        let group: [Option<Parts<f32>>; TOGETHER] = std::array::from_fn(|_| {
            let other = Parts::new(others.next()?);
            assert!(other.len() == n, "sum_squares: lengths do not match");
            Some(other)
        });
        let last = others.peek().is_none();
        let ns = n / 4 * (1 + group.iter().flatten().count());
        par::ranges(ns, n.div_ceil(LEAF), 1, |r| {
            for leaf in r {
                let range = leaf * LEAF..n.min((leaf + 1) * LEAF);
                // SAFETY: tasks take different leaves.
                let sum = unsafe { sum.get(range.clone()) };
                for other in group.iter().flatten() {
                    // SAFETY: as above.
                    add_and_clear(sum, unsafe { other.get(range.clone()) });
                }
                if last {
                    let mut acc = [0.0; 16];
                    leaf_squares(sum, &mut acc);
                    // SAFETY: as above.
                    let part = unsafe { parts.get(leaf..leaf + 1) };
                    part[0] = acc.chunks(2).map(|pair| pair[0] + pair[1]).sum();
                }
            }
        });
        if last {
            return tree(leaves, n);
        }
    }
}

/// The sum of the leaves of `n` elements.
fn tree(leaves: &[f64], n: usize) -> f64 {
    if let &[leaf] = leaves {
        return leaf;
    }
    let half = (n / 2).next_multiple_of(LEAF);
    match leaves.split_at(half / LEAF) {
        ([], []) => 0.0,
        (a, b) => tree(a, half) + tree(b, n - half),
    }
}
