//! Symbolic tensors with run-time shapes over a luminal graph.
//!
//! luminal's own `GraphTensor<S>` fixes shapes at compile time; [`Tensor`] carries a `ShapeTracker` instead and
//! adds the same twelve primitives. Movement is tracker arithmetic: permute, expand, and reshape of contiguous data.
//! Slices and padding are deliberately absent, and so is any evaluation: see [`crate::plan`].

use std::ops::{Add, Div, Mul, Neg, Sub};

use luminal::{graph::NodeIndex, shape::tracker::ShapeTracker};

use crate::{
    graph::{Graph, Primitive},
    shape::{self, Dim, Shape},
};

/// A node's output seen through a shape.
#[derive(Clone)]
pub struct Tensor {
    /// Node in the luminal graph.
    pub id: NodeIndex,
    /// Which of the node's outputs.
    pub out: u8,
    /// The view.
    pub shape: ShapeTracker,
    pub(crate) graph: Graph,
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "%{}.{} {:?}", self.id.index(), self.out, self.dims())
    }
}

impl Tensor {
    /// Output `out` of node `id`.
    pub fn of_node(graph: &Graph, id: NodeIndex, out: u8) -> Tensor {
        graph.output(id, out, &graph.outputs(id)[out as usize])
    }

    /// The graph the tensor belongs to.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Logical dimensions.
    pub fn dims(&self) -> Shape {
        shape::dims(&self.shape)
    }

    /// Size of the last axis, which must be constant.
    pub fn width(&self) -> usize {
        self.dims().last().expect("a tensor with axes").fixed()
    }

    fn unary(&self, p: Primitive) -> Tensor {
        Tensor { shape: self.shape, ..self.graph.primitive(p, &[self], &[]) }
    }

    fn binary(&self, p: Primitive, rhs: &Tensor) -> Tensor {
        let (a, b) = (self.dims(), rhs.dims());
        if a.is_empty() && !b.is_empty() {
            return self.expand_scalar(&b).binary(p, rhs);
        }
        if b.is_empty() && !a.is_empty() {
            return self.binary(p, &rhs.expand_scalar(&a));
        }
        assert_eq!(a, b, "{p:?} of two shapes");
        self.graph.primitive(p, &[self, rhs], &a)
    }

    fn reduce(&self, p: Primitive, axis: usize) -> Tensor {
        let mut d = self.dims();
        d.remove(axis);
        self.graph.primitive(p, &[self], &d)
    }

    fn scaled(&self, factor: f32) -> Tensor {
        self * &self.graph.constant(factor)
    }

    fn times_recip(&self, rhs: &Tensor) -> Tensor {
        self * &rhs.recip()
    }

    /// log₂ x.
    pub fn log2(&self) -> Tensor {
        self.unary(Primitive::Log2)
    }
    /// 2ˣ.
    pub fn exp2(&self) -> Tensor {
        self.unary(Primitive::Exp2)
    }
    /// sin x.
    pub fn sin(&self) -> Tensor {
        self.unary(Primitive::Sin)
    }
    /// √x.
    pub fn sqrt(&self) -> Tensor {
        self.unary(Primitive::Sqrt)
    }
    /// 1/x.
    pub fn recip(&self) -> Tensor {
        self.unary(Primitive::Recip)
    }
    /// eˣ.
    pub fn exp(&self) -> Tensor {
        (self * std::f32::consts::LOG2_E).exp2()
    }
    /// ln x.
    pub fn ln(&self) -> Tensor {
        self.log2() * std::f32::consts::LN_2
    }
    /// cos x.
    pub fn cos(&self) -> Tensor {
        (-self + std::f32::consts::FRAC_PI_2).sin()
    }
    /// x².
    pub fn square(&self) -> Tensor {
        self * self
    }
    /// Remainder of x / y with the sign of x.
    pub fn rem(&self, rhs: &Tensor) -> Tensor {
        self.binary(Primitive::Mod, rhs)
    }
    /// 1 where x < y, else 0. It has no gradient.
    pub fn less_than(&self, rhs: &Tensor) -> Tensor {
        self.binary(Primitive::LessThan, rhs)
    }
    /// 1 where x = y, else 0. It has no gradient.
    pub fn equals(&self, rhs: &Tensor) -> Tensor {
        (1.0 - &self.less_than(rhs)) * (1.0 - &rhs.less_than(self))
    }
    /// `a` where the mask is 1, `b` where it is 0. Both must be finite.
    pub fn select(&self, a: &Tensor, b: &Tensor) -> Tensor {
        self * a + (1.0 - self) * b
    }
    /// The larger one. At a tie the value and the gradient are those of `self`.
    pub fn max(&self, rhs: &Tensor) -> Tensor {
        self.less_than(rhs).select(rhs, self)
    }
    /// The smaller one. At a tie the value and the gradient are those of `self`.
    pub fn min(&self, rhs: &Tensor) -> Tensor {
        rhs.less_than(self).select(rhs, self)
    }
    /// x limited to `[low, high]`.
    pub fn clamp(&self, low: f32, high: f32) -> Tensor {
        let g = &self.graph;
        self.max(&g.constant(low)).min(&g.constant(high))
    }
    /// Sum over an axis, which disappears.
    pub fn sum(&self, axis: usize) -> Tensor {
        self.reduce(Primitive::SumReduce(axis), axis)
    }
    /// Largest along an axis, which disappears.
    pub fn max_reduce(&self, axis: usize) -> Tensor {
        self.reduce(Primitive::MaxReduce(axis), axis)
    }
    /// Mean over an axis of constant size, which disappears.
    pub fn mean(&self, axis: usize) -> Tensor {
        let n = self.dims()[axis].fixed();
        self.sum(axis) * (1.0 / n as f32)
    }
    /// 0, 1, 2 … along an axis of this tensor: `[that axis]`.
    pub fn iota(&self, axis: usize) -> Tensor {
        let d = self.dims()[axis];
        self.graph.primitive(Primitive::Iota(axis), &[self], &[d])
    }

    /// Whether the view is the buffer in its order.
    pub fn is_contiguous(&self) -> bool {
        self.shape.is_contiguous()
    }

    /// The same numbers laid out in order; a copy only if they aren't yet.
    pub fn contiguous(&self) -> Tensor {
        if self.is_contiguous() {
            return self.clone();
        }
        self.graph.primitive(Primitive::Contiguous, &[self], &self.dims())
    }

    /// Axes in a new order: axis `i` of the result is axis `axes[i]` of this.
    pub fn permute(&self, axes: &[usize]) -> Tensor {
        let mut t = self.clone();
        t.shape.permute(axes);
        t
    }

    /// A new axis before `axis`, along which the numbers repeat.
    pub fn expand(&self, axis: usize, dim: impl Into<Dim>) -> Tensor {
        let mut t = self.clone();
        t.shape.expand(axis, dim.into().expression());
        t
    }

    fn expand_scalar(&self, dims: &[Dim]) -> Tensor {
        dims.iter().enumerate().fold(self.clone(), |t, (i, &d)| t.expand(i, d))
    }

    /// The same numbers under another shape with as many elements.
    pub fn reshape(&self, dims: &[Dim]) -> Tensor {
        let t = self.contiguous();
        assert_eq!(
            shape::Size::of(&t.dims()),
            shape::Size::of(dims),
            "reshape of {:?} to {dims:?}",
            t.dims()
        );
        Tensor { shape: shape::tracker(dims), ..t }
    }
}

macro_rules! operator {
    ($trait:ident, $method:ident, |$a:ident, $b:ident| $tensor:expr, |$x:ident, $c:ident| $right:expr, |$d:ident, $y:ident| $left:expr) => {
        impl $trait<&Tensor> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: &Tensor) -> Tensor {
                let ($a, $b) = (self, rhs);
                $tensor
            }
        }
        impl $trait<Tensor> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: Tensor) -> Tensor {
                $trait::$method(self, &rhs)
            }
        }
        impl $trait<&Tensor> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: &Tensor) -> Tensor {
                $trait::$method(&self, rhs)
            }
        }
        impl $trait<Tensor> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: Tensor) -> Tensor {
                $trait::$method(&self, &rhs)
            }
        }
        impl $trait<f32> for &Tensor {
            type Output = Tensor;
            fn $method(self, rhs: f32) -> Tensor {
                let ($x, $c) = (self, rhs);
                $right
            }
        }
        impl $trait<f32> for Tensor {
            type Output = Tensor;
            fn $method(self, rhs: f32) -> Tensor {
                $trait::$method(&self, rhs)
            }
        }
        impl $trait<&Tensor> for f32 {
            type Output = Tensor;
            fn $method(self, rhs: &Tensor) -> Tensor {
                let ($d, $y) = (self, rhs);
                $left
            }
        }
        impl $trait<Tensor> for f32 {
            type Output = Tensor;
            fn $method(self, rhs: Tensor) -> Tensor {
                $trait::$method(self, &rhs)
            }
        }
    };
}

operator!(Add, add, |a, b| a.binary(Primitive::Add, b), |x, c| x + &x.graph.constant(c), |c, x| x + c);
operator!(Mul, mul, |a, b| a.binary(Primitive::Mul, b), |x, c| x.scaled(c), |c, x| x.scaled(c));
operator!(Sub, sub, |a, b| a + &(-b), |x, c| x + (-c), |c, x| &(-x) + c);
operator!(Div, div, |a, b| a.times_recip(b), |x, c| x.scaled(1.0 / c), |c, x| x.recip().scaled(c));

impl Neg for &Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        self * -1.0
    }
}
impl Neg for Tensor {
    type Output = Tensor;
    fn neg(self) -> Tensor {
        -&self
    }
}
