//! Rotary position embedding, in the half-rotation form of GPT-NeoX and Hugging Face (Su et al., arXiv 2104.09864).

use super::Operand;
use super::par::{self, Parts, Shared};
use super::simd::{L, load, multiversion, store};

/// Cosines and sines of every position, computed once.
#[derive(Clone, Debug)]
pub struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// For positions `0..positions`, from `inv_freq[head_dim / 2]` (already scaled) and the factor that multiplies both.
    /// The angle is the f32 product `position · inv_freq`, as in the reference models; its cosine and sine are taken in f64.
    pub fn new(positions: usize, inv_freq: &[f32], attention_scaling: f32) -> Self {
        let of = |f: fn(f64) -> f64| {
            let angles = (0..positions).flat_map(|p| inv_freq.iter().map(move |&w| p as f32 * w));
            angles.map(|a| f(a as f64) as f32 * attention_scaling).collect()
        };
        RopeTable { cos: of(f64::cos), sin: of(f64::sin), half: inv_freq.len() }
    }

    /// Positions the table covers.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }

    /// Size of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
    }
}

multiversion! {
    /// Rotates the heads of one token; `x` may be `y`.
    unsafe fn rotate<S>(x: *const f32, cos: *const f32, sin: *const f32, y: *mut f32, heads: usize, half: usize, sign: f32) {
        let sign = S::splat(sign);
        for head in 0..heads {
            let (x, y) = (x.add(head * 2 * half), y.add(head * 2 * half));
            let mut i = 0;
            while i < half {
                let n = (half - i).min(L);
                let (a, b) = (load::<S>(x.add(i), n), load::<S>(x.add(half + i), n));
                let (c, s) = (load::<S>(cos.add(i), n), S::mul(load::<S>(sin.add(i), n), sign));
                store::<S>(y.add(i), n, S::sub(S::mul(a, c), S::mul(b, s)));
                store::<S>(y.add(half + i), n, S::add(S::mul(b, c), S::mul(a, s)));
                i += L;
            }
        }
    }
}

/// [`rope`] of one token's `heads` heads from `x` on, in place.
///
/// # Safety
/// The heads are there and nobody else uses them; the table has the position.
pub(super) unsafe fn rope_row(table: &RopeTable, position: usize, x: *mut f32, heads: usize) {
    let at = position * table.half;
    // SAFETY: the caller's.
    unsafe { rotate(x, table.cos[at..].as_ptr(), table.sin[at..].as_ptr(), x, heads, table.half, 1.0) }
}

/// `y[t, heads, head_dim]`: `x` turned by each token's position. `inverse` turns back, which is the gradient.
///
/// # Panics
/// If a position lies beyond the table.
pub fn rope(x: Operand, positions: &[u32], table: &RopeTable, y: &mut [f32], heads: usize, inverse: bool) {
    let (half, width) = (table.half, heads * table.head_dim());
    assert!(y.len() == positions.len() * width, "rope: shapes do not match");
    let x = Shared(x.pointer(y));
    let y = Parts::new(y);
    par::ranges(positions.len() * width / 12, positions.len(), 1, |r| {
        for t in r {
            let p = positions[t] as usize;
            assert!(p < table.positions(), "rope: position {p} is beyond the table's {}", table.positions());
            let (cos, sin) = (&table.cos[p * half..], &table.sin[p * half..]);
            let sign = if inverse { -1.0 } else { 1.0 };
            // SAFETY: sizes checked above; tasks write different tokens.
            unsafe {
                rotate(
                    x.get().add(t * width),
                    cos.as_ptr(),
                    sin.as_ptr(),
                    y.as_ptr().add(t * width),
                    heads,
                    half,
                    sign,
                )
            }
        }
    });
}
