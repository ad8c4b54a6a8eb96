//! Luminal's primitives as kernels: strided loops with broadcast, axes merged where all operands allow it.

use crate::{
    cpu::{
        Mat,
        par::{self, Parts},
    },
    expr::{Binary, Node, Unary, View},
    graph::Primitive,
    ops::{Io, Kernel, Value, Work},
    shape::{self, Extent, Shape, Size},
    tensor::Tensor,
};

/// Elements that a task takes at least.
const CHUNK: usize = 1 << 12;
/// Most axes luminal's trackers have.
const AXES: usize = 6;

/// One primitive with the views of its inputs.
#[derive(Debug)]
pub(crate) struct PrimitiveKernel {
    op: Primitive,
    dims: Shape,
    strides: Vec<Vec<Option<Size>>>,
}

impl PrimitiveKernel {
    pub fn new(op: Primitive, inputs: &[Tensor]) -> Self {
        let dims = inputs[0].dims();
        let strides = inputs.iter().map(|t| shape::strides(&t.shape)).collect();
        PrimitiveKernel { op, dims, strides }
    }

    /// Whether it is `op` on whole buffers, element by element.
    pub fn is_plain(&self, op: Primitive) -> bool {
        let n = self.dims.len();
        let plain = |s: &Vec<Option<Size>>| (0..n).all(|i| s[i] == Some(Size::of(&self.dims[i + 1..])));
        self.op == op && self.strides.iter().all(plain)
    }

    /// The numbers an expression with this primitive has; `None` if it can't be in one.
    pub fn elements(&self) -> Option<Size> {
        let inside = match self.op {
            Primitive::MaxReduce(_) | Primitive::Iota(_) => false,
            // Sums of consecutive numbers.
            Primitive::SumReduce(axis) => axis + 1 == self.dims.len() && self.view(0) == View::Flat,
            op if op.is_unary() => self.strides[0].iter().all(Option::is_some),
            _ => true,
        };
        inside.then(|| Size::of(&self.dims))
    }

    /// How each input is seen. Unary primitives run over the buffer whatever its view.
    pub fn views(&self) -> impl Iterator<Item = View> {
        (0..self.strides.len()).map(|i| if self.op.is_unary() { View::Flat } else { self.view(i) })
    }

    fn view(&self, i: usize) -> View {
        let (strides, n) = (&self.strides[i], self.dims.len());
        if Size::of(&self.dims) == Size::ONE
            || (0..n).all(|a| strides[a] == Some(Size::of(&self.dims[a + 1..])))
        {
            View::Flat
        } else if strides.iter().all(Option::is_none) {
            View::Scalar
        } else {
            View::Strided { dims: self.dims.clone(), strides: strides.clone() }
        }
    }

    /// The primitive as a node; `None` for one that passes its input on.
    pub fn node(&self, x: &[usize]) -> Option<Node> {
        Some(match self.op {
            Primitive::Log2 => Node::Unary(Unary::Log2, x[0]),
            Primitive::Exp2 => Node::Unary(Unary::Exp2, x[0]),
            Primitive::Sin => Node::Unary(Unary::Sin, x[0]),
            Primitive::Sqrt => Node::Unary(Unary::Sqrt, x[0]),
            Primitive::Recip => Node::Unary(Unary::Recip, x[0]),
            Primitive::Add => Node::Binary(Binary::Add, x[0], x[1]),
            Primitive::Mul => Node::Binary(Binary::Mul, x[0], x[1]),
            Primitive::Mod => Node::Binary(Binary::Mod, x[0], x[1]),
            Primitive::LessThan => Node::Binary(Binary::LessThan, x[0], x[1]),
            _ => return None,
        })
    }

    /// Whether it computes each number from those of its inputs.
    pub fn computes(&self) -> bool {
        !matches!(self.op, Primitive::Contiguous | Primitive::SumReduce(_))
    }

    pub fn is_sum(&self) -> bool {
        self.sum_row().is_some()
    }

    /// How many numbers a sum takes.
    pub fn sum_row(&self) -> Option<Size> {
        match self.op {
            Primitive::SumReduce(axis) => Some(Size::of(&self.dims[axis..=axis])),
            _ => None,
        }
    }

    /// Its name among others.
    pub fn word(&self) -> Option<String> {
        match self.op {
            Primitive::Contiguous => None,
            Primitive::SumReduce(_) => Some("sum".into()),
            op => Some(format!("{op:?}").to_lowercase()),
        }
    }

    fn axes<const N: usize>(&self, e: Extent) -> Axes<N> {
        let mut axes = Axes { n: self.dims.len(), dims: [1; AXES], strides: [[0; AXES]; N] };
        for (i, &d) in self.dims.iter().enumerate() {
            axes.dims[i] = Size::of(&[d]).at(e);
            for (s, strides) in axes.strides.iter_mut().zip(&self.strides) {
                s[i] = strides[i].map_or(0, |s| s.at(e));
            }
        }
        axes
    }
}

/// Dimensions and strides at run time.
struct Axes<const N: usize> {
    n: usize,
    dims: [usize; AXES],
    strides: [[usize; AXES]; N],
}

impl<const N: usize> Axes<N> {
    /// Merges neighbouring axes that all inputs step through alike.
    fn merged(mut self) -> Self {
        let mut i = 0;
        while i + 1 < self.n {
            let inner = self.dims[i + 1];
            if self.strides.iter().all(|s| s[i] == s[i + 1] * inner) {
                self.remove_merged(i);
            } else {
                i += 1;
            }
        }
        self
    }

    fn remove_merged(&mut self, i: usize) {
        self.dims[i] *= self.dims[i + 1];
        for s in &mut self.strides {
            s[i] = s[i + 1];
        }
        self.remove(i + 1);
    }

    /// Drops an axis.
    fn remove(&mut self, i: usize) {
        self.dims.copy_within(i + 1.., i);
        for s in &mut self.strides {
            s.copy_within(i + 1.., i);
        }
        self.n -= 1;
    }

    fn inner(&self) -> usize {
        if self.n == 0 { 1 } else { self.dims[self.n - 1] }
    }

    fn inner_strides(&self) -> [usize; N] {
        std::array::from_fn(|k| if self.n == 0 { 0 } else { self.strides[k][self.n - 1] })
    }

    /// Offsets of row `row` (all axes but the last) in each input.
    fn offsets(&self, mut row: usize) -> [usize; N] {
        let mut at = [0; N];
        for i in (0..self.n.saturating_sub(1)).rev() {
            let x = row % self.dims[i];
            row /= self.dims[i];
            for (at, s) in at.iter_mut().zip(&self.strides) {
                *at += x * s[i];
            }
        }
        at
    }
}

fn map(x: &[f32], y: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    let (n, y) = (y.len(), Parts::new(y));
    par::ranges(n, n, CHUNK, |r| {
        // SAFETY: tasks take different ranges.
        unsafe { y.get(r.clone()) }.iter_mut().zip(&x[r]).for_each(|(y, &x)| *y = f(x));
    });
}

fn zip(axes: Axes<2>, a: &[f32], b: &[f32], y: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    let axes = axes.merged();
    let (n, [sa, sb]) = (axes.inner(), axes.inner_strides());
    if n == 0 {
        return;
    }
    let row = |y: &mut [f32], a: &[f32], b: &[f32]| match (sa, sb) {
        (1, 1) => {
            let (a, b) = (&a[..y.len()], &b[..y.len()]);
            y.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = f(a, b));
        }
        (1, 0) => y.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b[0])),
        (0, 1) => y.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a[0], b)),
        _ => y.iter_mut().enumerate().for_each(|(i, y)| *y = f(a[i * sa], b[i * sb])),
    };
    let (len, y) = (y.len(), Parts::new(y));
    if axes.n <= 1 {
        par::ranges(len / 4, len, CHUNK, |r| {
            // SAFETY: tasks take different ranges.
            row(unsafe { y.get(r.clone()) }, &a[r.start * sa..], &b[r.start * sb..]);
        });
        return;
    }
    par::ranges(len / 4, len / n, CHUNK.div_ceil(n), |r| {
        // SAFETY: as above.
        let rows = unsafe { y.get(r.start * n..r.end * n) }.chunks_mut(n);
        for (r, y) in r.zip(rows) {
            let [oa, ob] = axes.offsets(r);
            row(y, &a[oa..], &b[ob..]);
        }
    });
}

fn copy(axes: Axes<1>, x: &[f32], y: &mut [f32]) {
    let axes = axes.merged();
    let (n, [s]) = (axes.inner(), axes.inner_strides());
    if n == 0 {
        return;
    }
    for (r, y) in y.chunks_mut(n).enumerate() {
        let x = &x[axes.offsets(r)[0]..];
        if s == 1 {
            y.copy_from_slice(&x[..n]);
        } else {
            y.iter_mut().enumerate().for_each(|(i, y)| *y = x[i * s]);
        }
    }
}

/// Folds an axis in order; sums are kept in f64, so that a loss over many tokens stays exact.
fn reduce(mut axes: Axes<1>, axis: usize, x: &[f32], y: &mut [f32], sum: bool) {
    let (n, step) = (axes.dims[axis], axes.strides[0][axis]);
    axes.remove(axis);
    // Add an axis of one element: `offsets` walks all but the last.
    let last = axes.n;
    axes.dims[last] = 1;
    axes.n += 1;
    for (r, y) in y.iter_mut().enumerate() {
        let x = &x[axes.offsets(r)[0].min(x.len())..];
        let items = (0..n).map(|i| x[i * step]);
        *y = if sum {
            items.map(f64::from).sum::<f64>() as f32
        } else {
            items.fold(f32::NEG_INFINITY, f32::max)
        };
    }
}

impl Kernel for PrimitiveKernel {
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io).flop(match self.op {
            Primitive::Contiguous | Primitive::Iota(_) => 0,
            Primitive::SumReduce(_) | Primitive::MaxReduce(_) => Size::of(&self.dims).at(io.extent),
            _ => io.output_len(0),
        })
    }
    fn run(&self, io: &mut Io<'_>) {
        let (e, y, a) = (io.extent, io.take(0), io.f32(0));
        // Each arm has a loop of its own, with the operation inlined.
        macro_rules! two {
            ($f:expr) => {
                zip(self.axes::<2>(e), a, io.f32(1), y, $f)
            };
        }
        match self.op {
            Primitive::Log2 => map(a, y, f32::log2),
            Primitive::Exp2 => map(a, y, f32::exp2),
            Primitive::Sin => map(a, y, f32::sin),
            Primitive::Sqrt => map(a, y, f32::sqrt),
            Primitive::Recip => map(a, y, f32::recip),
            Primitive::Add => two!(|a, b| a + b),
            Primitive::Mul => two!(|a, b| a * b),
            Primitive::Mod => two!(|a, b| a % b),
            Primitive::LessThan => two!(|a: f32, b: f32| f32::from(a < b)),
            Primitive::Contiguous => copy(self.axes(e), a, y),
            Primitive::SumReduce(axis) => reduce(self.axes(e), axis, a, y, true),
            Primitive::MaxReduce(axis) => reduce(self.axes(e), axis, a, y, false),
            Primitive::Iota(_) => y.iter_mut().enumerate().for_each(|(i, y)| *y = i as f32),
        }
    }
}

/// A leaf as the f32 numbers primitives work on: integers, a parameter of any kind, each token's segment.
#[derive(Debug)]
pub(crate) struct ToF32;

impl Kernel for ToF32 {
    fn work(&self, io: &Io<'_>) -> Work {
        self.operands(io)
    }
    fn run(&self, io: &mut Io<'_>) {
        let y = io.take(0);
        match io.inputs[0] {
            Value::F32(x) | Value::Mat(Mat::F32(x), _) => y.copy_from_slice(x),
            Value::Mat(Mat::Bf16(x), _) => y.iter_mut().zip(x).for_each(|(y, x)| *y = x.to_f32()),
            Value::U32(x) => y.iter_mut().zip(x).for_each(|(y, &x)| *y = x as f32),
            Value::Segments(x) => {
                x.iter().enumerate().for_each(|(i, s)| y[s.queries()].fill(i as f32));
            }
            Value::None | Value::Output(_) => unreachable!("a leaf is bound"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Dim;

    #[test]
    fn axes_that_step_alike_merge() {
        let dims = vec![Dim::Tokens, Dim::Fixed(3), Dim::Fixed(4)];
        let full = vec![Some(Size::of(&dims[1..])), Some(Size::of(&dims[2..])), Some(Size::ONE)];
        let column = vec![Some(Size::ONE), None, None];
        let e = Extent { tokens: 5, ..Extent::default() };
        let k = PrimitiveKernel {
            op: Primitive::Add,
            dims: dims.clone(),
            strides: vec![full.clone(), full.clone()],
        };
        let axes = k.axes::<2>(e).merged();
        assert_eq!((axes.n, axes.dims[0], axes.strides[0][0]), (1, 60, 1));
        let k = PrimitiveKernel { op: Primitive::Add, dims, strides: vec![full, column] };
        let axes = k.axes::<2>(e).merged();
        assert_eq!((axes.n, &axes.dims[..2], axes.strides[1][0]), (2, &[5, 12][..], 1));
    }
}
