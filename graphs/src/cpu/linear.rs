//! Linear layers that read the same rows, in one call, with what comes before them and what comes after.
//!
//! The rows are normalised and rounded once, and threads share out the columns of all layers together: small layers cost no
//! waking of threads of their own. A task does its columns' products and then what follows them while they are in cache.
//! With bf16 weights both operands of each product are rounded to bf16 (nearest even) and summed in f32; with f32 weights nothing
//! is rounded. Every number is computed as by the kernels that stand alone ([`rms_norm`](super::rms_norm), [`rope`](super::rope),
//! [`swiglu`](super::swiglu), [`add`](super::add)), to the bit.

use half::bf16;

use super::elementwise::{add_at, swiglu_at};
use super::gemm::{Cut, Nt, nt};
use super::norm::{RmsNorm, head_norms, norm_rows};
use super::outer::{COLUMNS, units};
use super::pack::{convert, stride};
use super::par::{self, Parts, Shared};
use super::rope::{RopeTable, rope_row};
use super::scratch::{Plain, Scratch, bytes_of};
use super::short::{self, Panels};
use super::simd::Elem;
use super::{Mat, Operand};

/// Numbers of a thread's working memory: a task's columns before they are combined.
const BLOCK: usize = 32 * 1024;
/// Columns a task's share is a multiple of.
const UNIT: usize = 16;
/// Rows of a task whose products read panels: they stay in the first-level cache.
const PANEL_ROWS: usize = 128;

/// Sizes of a linear layer on `t` rows: `x[t, k]`, `w[n, k]`, `y[t, n]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    /// Rows (packed tokens).
    pub t: usize,
    /// Output features.
    pub n: usize,
    /// Input features.
    pub k: usize,
}

/// A layer: `w[n, k]` as stored in a checkpoint, `bias[n]`.
#[derive(Clone, Copy, Debug)]
pub struct Layer<'a> {
    pub w: Mat<'a>,
    pub bias: Option<Mat<'a>>,
    /// Of `w`, if they are made already.
    pub panels: Option<&'a Panels>,
}

/// What is done to each head of a layer's output `[t, heads · head_dim]`.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    pub head_dim: usize,
    /// First a norm.
    pub norm: Option<RmsNorm<'a>>,
    /// Then a turn by each token's position.
    pub rope: Option<(&'a RopeTable, &'a [u32])>,
}

/// One output of [`linears`].
pub struct Job<'a> {
    layer: Layer<'a>,
    y: Parts<'a, f32>,
    then: Then<'a>,
}

enum Then<'a> {
    Nothing,
    Add(Shared<f32>),
    Heads(Heads<'a>),
    /// The layer is the gate.
    Swiglu {
        up: Layer<'a>,
        kept: Option<[Parts<'a, f32>; 2]>,
    },
}

impl<'a> Job<'a> {
    /// `y = x · wᵀ (+ bias)`.
    pub fn linear(layer: Layer<'a>, y: &'a mut [f32]) -> Self {
        Job { layer, y: Parts::new(y), then: Then::Nothing }
    }

    /// `y = x · wᵀ (+ bias) + addend`.
    pub fn add(layer: Layer<'a>, addend: Operand<'a>, y: &'a mut [f32]) -> Self {
        let from = addend.pointer(y);
        Job { layer, y: Parts::new(y), then: Then::Add(Shared(from)) }
    }

    /// `y = x · wᵀ (+ bias)`, its heads normalised and turned.
    pub fn heads(layer: Layer<'a>, heads: Heads<'a>, y: &'a mut [f32]) -> Self {
        Job { layer, y: Parts::new(y), then: Then::Heads(heads) }
    }

    /// `y = silu(gate) · up`; `kept` gets gate and up themselves.
    pub fn swiglu(
        gate: Layer<'a>,
        up: Layer<'a>,
        kept: Option<[&'a mut [f32]; 2]>,
        y: &'a mut [f32],
    ) -> Self {
        let kept = kept.map(|k| k.map(Parts::new));
        Job { layer: gate, y: Parts::new(y), then: Then::Swiglu { up, kept } }
    }

    fn layers(&self) -> impl Iterator<Item = &Layer<'a>> {
        let up = match &self.then {
            Then::Swiglu { up, .. } => Some(up),
            _ => None,
        };
        [&self.layer].into_iter().chain(up)
    }

    /// Columns of the output.
    fn width(&self, k: usize) -> usize {
        self.layer.w.len() / k
    }

    fn check(&self, t: usize, k: usize) {
        let n = self.width(k);
        let fits = |l: &Layer| l.w.len() == n * k && l.bias.is_none_or(|b| b.len() == n);
        assert!(self.layers().all(fits) && self.y.len() == t * n, "linears: shapes do not match [{t}, {k}]");
        match &self.then {
            Then::Heads(h) => {
                let norm = h.norm.is_none_or(|norm| norm.h == h.head_dim && norm.w.len() == norm.h);
                let rope = |(table, at): (&RopeTable, &[u32])| {
                    table.head_dim() == h.head_dim
                        && at.len() == t
                        && at.iter().all(|&p| (p as usize) < table.positions())
                };
                let ok = n.is_multiple_of(h.head_dim) && norm && h.rope.is_none_or(rope);
                assert!(ok, "linears: heads that do not fit, or a position beyond the table");
            }
            Then::Swiglu { kept: Some(kept), .. } => {
                assert!(kept.iter().all(|p| p.len() == t * n), "linears: shapes do not match [{t}, {k}]");
            }
            _ => {}
        }
    }

    /// Columns of a task where one layer alone would get `nc` and `rows` rows are taken at once: a multiple of `unit`.
    fn share(&self, nc: usize, rows: usize, unit: usize) -> usize {
        let most = (BLOCK / rows / unit * unit).max(unit);
        let nc = nc.next_multiple_of(unit);
        match &self.then {
            Then::Nothing => nc,
            Then::Add(_) => nc.min(most),
            Then::Heads(h) => {
                let whole = if unit == UNIT { h.head_dim } else { lcm(unit, h.head_dim) };
                (nc / whole).max(1) * whole
            }
            Then::Swiglu { .. } => nc.div_ceil(2).next_multiple_of(unit).min(most),
        }
    }
}

fn lcm(a: usize, b: usize) -> usize {
    (1..=b).map(|i| i * a).find(|n| n.is_multiple_of(b)).expect("a · b is one")
}

/// Bytes of scratch for [`linears`] of `ns` columns each on at most `t` rows of `k`.
pub fn linears_scratch(
    t: usize,
    ns: impl Iterator<Item = usize>,
    k: usize,
    norm: bool,
    bf16_weights: bool,
) -> usize {
    let lanes = rayon::current_num_threads().max(1) * bytes_of::<f32>(BLOCK);
    let normed = if norm { bytes_of::<f32>(t * k) } else { 0 };
    let rounded = if bf16_weights { bytes_of::<bf16>(t * stride::<bf16>(k)) } else { 0 };
    let panels = if bf16_weights { short::panel_units::<bf16> } else { short::panel_units::<f32> };
    lanes + normed + rounded + ns.map(|n| bytes_of::<u32>(panels(t, n, k))).sum::<usize>()
}

/// Bytes of scratch for [`linear`].
pub fn linear_scratch(d: Dims, bf16_weights: bool) -> usize {
    linears_scratch(d.t, std::iter::once(d.n), d.k, false, bf16_weights)
}

/// `y[t, n] = x[t, k] · wᵀ (+ bias)`, with `w[n, k]` as stored in a checkpoint.
pub fn linear(x: &[f32], w: Mat, bias: Option<Mat>, y: &mut [f32], d: Dims, scratch: &mut Scratch) {
    assert!(x.len() == d.t * d.k && w.len() == d.n * d.k, "linear: shapes do not match {d:?}");
    linears(x, None, d.k, &[Some(Job::linear(Layer { w, bias, panels: None }, y))], scratch);
}

/// The rows as products of either kind read them.
#[derive(Clone, Copy)]
struct Rows {
    f32: Shared<f32>,
    bf16: Shared<bf16>,
}

/// All `jobs` on `x[t, k]`, whose rows are normalised first if there is a norm. With bf16 weights rows are rounded.
pub fn linears(x: &[f32], norm: Option<&RmsNorm>, k: usize, jobs: &[Option<Job>], scratch: &mut Scratch) {
    let t = x.len() / k;
    assert!(
        x.len() == t * k && norm.is_none_or(|n| n.h == k && n.w.len() == k),
        "linears: rows are not [t, {k}]"
    );
    let jobs = || jobs.iter().flatten();
    jobs().for_each(|j| j.check(t, k));
    let layers = || jobs().flat_map(Job::layers);
    let n: usize = layers().map(|l| l.w.len() / k).sum();
    if t == 0 || n == 0 {
        return;
    }
    let mut scratch = scratch.reborrow();
    let kinds = [layers().any(|l| l.w.is_bf16()), layers().any(|l| !l.w.is_bf16())];
    let rows = Rows {
        bf16: if kinds[0] { rounded(x, norm, &mut scratch) } else { Shared(std::ptr::null()) },
        f32: match norm {
            Some(_) if kinds[1] => rounded(x, norm, &mut scratch),
            _ => Shared(x.as_ptr()),
        },
    };
    // Where weights of both kinds meet, panels are made of one; the other's products are the same without.
    let made = |l: &Layer<'_>| l.panels.and_then(|p| p.rows(&l.w)).map(<[u32]>::as_ptr);
    let packed = |l: &Layer| {
        if made(l).is_none() && l.w.is_bf16() == kinds[0] { panel_units(&l.w, t, k) } else { 0 }
    };
    let panels = Shared(scratch.take::<u32>(0).as_ptr());
    let mut any = false;
    for layer in layers() {
        let of = scratch.take::<u32>(packed(layer));
        any |= !of.is_empty() || made(layer).is_some();
        match layer.w {
            _ if of.is_empty() => {}
            Mat::F32(w) => short::pack(w, k, of),
            Mat::Bf16(w) => short::pack(w, k, of),
        }
    }
    let cut = Cut::new(t, n, k, if kinds[0] { size_of::<bf16>() } else { size_of::<f32>() });
    let (unit, mc) = match any {
        false => (UNIT, cut.mc.min(BLOCK / UNIT)),
        true => (COLUMNS, cut.mc.next_multiple_of(8).min(PANEL_ROWS)),
    };
    let lanes = cut.threads.min(scratch.len() / bytes_of::<f32>(BLOCK)).max(1);
    let work = Parts::new(scratch.take::<f32>(lanes * BLOCK));
    let pieces = |j: &Job| j.width(k).div_ceil(j.share(cut.nc, mc, unit));
    let columns: usize = jobs().map(pieces).sum();
    par::run(lanes, t.div_ceil(mc) * columns, |lane, task| {
        let (i, mut piece, mut at) = (task / columns * mc, task % columns, 0);
        let job = jobs().find(|j| match piece.checked_sub(pieces(j)) {
            Some(rest) => {
                piece = rest;
                at += j.layers().map(|l| lines(packed(l))).sum::<usize>();
                false
            }
            None => true,
        });
        let job = job.expect("as many tasks as pieces");
        let share = job.share(cut.nc, mc, unit);
        let (j, end) = (piece * share, ((piece + 1) * share).min(job.width(k)));
        let rect = Rect { i, rows: mc.min(t - i), j, cols: end - j, k, n: job.width(k) };
        let mut next = panels.get().wrapping_add(at);
        let panels = job.layers().map(|l| {
            let n = packed(l);
            let of = made(l).or((n > 0).then_some(next));
            next = next.wrapping_add(lines(n));
            of
        });
        // SAFETY: sizes were checked, tasks write different rectangles, and each lane has its own work.
        unsafe { rect.run(job, panels, &rows, work.get(lane * BLOCK..(lane + 1) * BLOCK)) }
    });
}

/// Units of the panels that a layer's product of `t` rows takes, 0 if none.
fn panel_units(w: &Mat, t: usize, k: usize) -> usize {
    let n = w.len() / k;
    if w.is_bf16() { short::panel_units::<bf16>(t, n, k) } else { short::panel_units::<f32>(t, n, k) }
}

/// Units from the beginning of a piece of scratch of so many to the next.
fn lines(units: usize) -> usize {
    bytes_of::<u32>(units) / size_of::<u32>()
}

/// `x`, normalised and rounded to the element.
fn rounded<E: Elem + Plain>(x: &[f32], norm: Option<&RmsNorm>, scratch: &mut Scratch) -> Shared<E> {
    let to = scratch.take::<E>(x.len());
    match norm {
        Some(norm) => norm_rows(x, norm, to),
        None => convert(x, to),
    }
    Shared(to.as_ptr())
}

/// A task's part of an output: `rows` rows from `i`, `cols` columns from `j` of `n`.
struct Rect {
    i: usize,
    rows: usize,
    j: usize,
    cols: usize,
    k: usize,
    n: usize,
}

impl Rect {
    /// # Safety
    /// Rows, layers and outputs have the sizes named here; nobody else uses this part of the outputs, or `work`.
    unsafe fn run(
        &self,
        job: &Job,
        mut panels: impl Iterator<Item = Option<*const u32>>,
        rows: &Rows,
        work: &mut [f32],
    ) {
        let Rect { i, j, n, .. } = *self;
        let mut panels = || panels.next().expect("one a layer");
        let at = |y: &Parts<f32>| y.as_ptr().wrapping_add(i * n + j);
        // SAFETY: the caller's.
        unsafe {
            match &job.then {
                Then::Nothing => self.product(&job.layer, panels(), rows, at(&job.y), n),
                Then::Add(addend) => {
                    let part = work.as_mut_ptr();
                    self.product(&job.layer, panels(), rows, part, self.cols);
                    for r in 0..self.rows {
                        let other = addend.get().add((i + r) * n + j);
                        add_at(other, part.add(r * self.cols), at(&job.y).add(r * n), self.cols);
                    }
                }
                Then::Heads(heads) => {
                    let y = at(&job.y);
                    self.product(&job.layer, panels(), rows, y, n);
                    (0..self.rows).for_each(|r| heads.run(y.add(r * n), self.cols, i + r));
                }
                Then::Swiglu { up, kept } => {
                    let (g, u, ld) = match kept {
                        Some([g, u]) => (at(g), at(u), n),
                        None => (at(&job.y), work.as_mut_ptr(), self.cols),
                    };
                    self.product(&job.layer, panels(), rows, g, n);
                    self.product(up, panels(), rows, u, ld);
                    for r in 0..self.rows {
                        swiglu_at(g.add(r * n), u.add(r * ld), at(&job.y).add(r * n), self.cols);
                    }
                }
            }
        }
    }

    /// This part of a layer's product, to rows `ldc` apart from `c` on; `panels` are the layer's.
    unsafe fn product(
        &self,
        layer: &Layer,
        panels: Option<*const u32>,
        rows: &Rows,
        c: *mut f32,
        ldc: usize,
    ) {
        let columns = self.j..self.j + self.cols;
        let bias = layer.bias.map(|b| match b {
            Mat::F32(b) => Mat::F32(&b[columns.clone()]),
            Mat::Bf16(b) => Mat::Bf16(&b[columns.clone()]),
        });
        // SAFETY: the caller's.
        unsafe {
            match layer.w {
                Mat::F32(w) => self.product_of(rows.f32, w, panels, c, ldc, bias),
                Mat::Bf16(w) => self.product_of(rows.bf16, w, panels, c, ldc, bias),
            }
        }
    }

    unsafe fn product_of<E: Elem>(
        &self,
        rows: Shared<E>,
        w: &[E],
        panels: Option<*const u32>,
        c: *mut f32,
        ldc: usize,
        bias: Option<Mat>,
    ) {
        let &Rect { i, rows: m, j, cols: n, k, .. } = self;
        // SAFETY: the caller's.
        unsafe {
            let (a, w) = (rows.get().add(i * k), w.as_ptr().add(j * k));
            let g = Nt { a, lda: k, w, ldw: k, c, ldc, k, bias };
            match panels {
                Some(panels) => short::by_panels(&g, panels.add(j * units::<E>(k)), m, n),
                None if short::is_short::<E>(k) => short::as_stored(&g, m, n),
                None => nt(&g, m, n),
            }
        }
    }
}

impl Heads<'_> {
    /// The heads in `cols` columns of token `t`, from `y` on, in place.
    unsafe fn run(&self, y: *mut f32, cols: usize, t: usize) {
        let heads = cols / self.head_dim;
        // SAFETY: the caller's columns are whole heads; positions were checked.
        unsafe {
            if let Some(norm) = &self.norm {
                head_norms(norm, y, heads);
            }
            if let Some((table, positions)) = self.rope {
                rope_row(table, positions[t] as usize, y, heads);
            }
        }
    }
}
