//! Run-time shapes: what a dimension may be, how many elements follow from it, and how luminal's
//! `ShapeTracker` is read.
//!
//! A dimension is a constant or one of three numbers known at execution: the packed tokens of a batch (luminal's symbol `t`),
//! the rows selected from them (`r`) and the different tokens among them (`d`). Slices and padding are deliberately absent.

use luminal::shape::{
    symbolic::{Expression, Term},
    tracker::ShapeTracker,
};

/// One dimension of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Known when the graph is built.
    Fixed(usize),
    /// The packed tokens of a batch.
    Tokens,
    /// The rows selected from those tokens, for instance the ones whose logits are wanted.
    Rows,
    /// The different ones among those tokens.
    Distinct,
}

/// Dimensions, outermost first; empty for a scalar.
pub type Shape = Vec<Dim>;

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Dim::Fixed(n)
    }
}

impl Dim {
    /// The constant behind the dimension.
    ///
    /// Panics if it is symbolic: widths of composite ops are always constants.
    pub fn fixed(self) -> usize {
        match self {
            Dim::Fixed(n) => n,
            _ => panic!("a width has to be a constant, not {self:?}"),
        }
    }

    pub(crate) fn expression(self) -> Expression {
        match self {
            Dim::Fixed(n) => Expression::from(n),
            Dim::Tokens => Expression::from('t'),
            Dim::Rows => Expression::from('r'),
            Dim::Distinct => Expression::from('d'),
        }
    }

    fn from_expression(e: &Expression) -> Self {
        match e.terms.as_slice() {
            [Term::Num(n)] => Dim::Fixed(*n as usize),
            [Term::Var('t')] => Dim::Tokens,
            [Term::Var('r')] => Dim::Rows,
            [Term::Var('d')] => Dim::Distinct,
            _ => panic!("dimension {e:?} is neither a constant, t, r nor d"),
        }
    }
}

/// The symbols' values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Packed tokens.
    pub tokens: usize,
    /// Selected rows.
    pub rows: usize,
    /// Different tokens among the packed ones: no more than those.
    pub distinct: usize,
}

/// A number of elements `coef · tᵃ · rᵇ · dᶜ`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    coef: usize,
    tokens: u8,
    rows: u8,
    distinct: u8,
}

impl Size {
    /// One element.
    pub const ONE: Size = Size { coef: 1, tokens: 0, rows: 0, distinct: 0 };

    /// The elements of a shape.
    pub fn of(dims: &[Dim]) -> Self {
        dims.iter().fold(Size::ONE, |s, &d| s.times(d))
    }

    fn times(mut self, d: Dim) -> Self {
        match d {
            Dim::Fixed(n) => self.coef *= n,
            Dim::Tokens => self.tokens += 1,
            Dim::Rows => self.rows += 1,
            Dim::Distinct => self.distinct += 1,
        }
        self
    }

    /// The number at run time.
    #[inline]
    pub fn at(self, e: Extent) -> usize {
        let powers = [(e.tokens, self.tokens), (e.rows, self.rows), (e.distinct, self.distinct)];
        powers.into_iter().fold(self.coef, |n, (base, exponent)| n * base.pow(exponent.into()))
    }
}

/// The contiguous tracker of a shape.
pub(crate) fn tracker(dims: &[Dim]) -> ShapeTracker {
    ShapeTracker::new(&dims.iter().map(|d| d.expression()).collect::<Vec<_>>())
}

/// Logical dimensions of a tracker.
pub(crate) fn dims(s: &ShapeTracker) -> Shape {
    s.indexes.iter().map(|&i| Dim::from_expression(&s.dims[i])).collect()
}

/// Dimensions that have storage, in storage order: the shape of the buffer behind the view.
pub(crate) fn stored(s: &ShapeTracker) -> Shape {
    (0..s.dims.len()).filter(|&i| !s.fake[i]).map(|i| Dim::from_expression(&s.dims[i])).collect()
}

/// For each logical axis the position of its stored dimension within [`stored`], `None` where the axis is an expansion.
pub(crate) fn axis_storage(s: &ShapeTracker) -> Vec<Option<usize>> {
    s.indexes.iter().map(|&i| (!s.fake[i]).then(|| (0..i).filter(|&j| !s.fake[j]).count())).collect()
}

/// Stride of each logical axis in elements, `None` where the axis is an expansion.
pub(crate) fn strides(s: &ShapeTracker) -> Vec<Option<Size>> {
    let stored = stored(s);
    axis_storage(s).into_iter().map(|p| p.map(|p| Size::of(&stored[p + 1..]))).collect()
}
