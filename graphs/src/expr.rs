//! The fused-expression IR: what an elementwise kernel computes for each number of its outputs.
//!
//! One IR for every backend: the CPU evaluates it in blocks that stay in the first-level cache ([`crate::cpu`]), a device prints
//! it as source. Operations are luminal's elementwise primitives; how a load broadcasts is its view. Sums of an expression belong
//! to the kernel around it.

use std::fmt::{self, Display};

use crate::shape::{Shape, Size};

/// A primitive of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Unary {
    Log2,
    Exp2,
    Sin,
    Sqrt,
    Recip,
}

/// A primitive of two operands; `LessThan` is 1 or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Mul,
    Mod,
    LessThan,
}

/// A value of an expression; operands are numbers of nodes before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Node {
    /// The kernel's input of this number, through its view.
    Load(usize),
    /// A number.
    Constant(f32),
    /// A primitive.
    Unary(Unary, usize),
    /// A primitive.
    Binary(Binary, usize, usize),
}

/// How a load finds the number that belongs to an output's.
#[derive(Clone, Debug, PartialEq)]
pub enum View {
    /// In the same place.
    Flat,
    /// In the only one.
    Scalar,
    /// By strides over the axes of `dims`, `None` along which it repeats.
    Strided {
        /// As many numbers as the expression has.
        dims: Shape,
        /// One an axis.
        strides: Vec<Option<Size>>,
    },
}

/// A sequence of nodes in the order of evaluation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expr {
    nodes: Vec<Node>,
}

impl Expr {
    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Adds a node, or finds the same one; returns its number.
    pub fn push(&mut self, node: Node) -> usize {
        let same = |n: &Node| match (n, &node) {
            (Node::Constant(a), Node::Constant(b)) => a.to_bits() == b.to_bits(),
            (a, b) => a == b,
        };
        self.nodes.iter().position(same).unwrap_or_else(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    /// Operations for each number.
    pub fn flops(&self) -> usize {
        self.nodes.iter().filter(|n| matches!(n, Node::Unary(..) | Node::Binary(..))).count()
    }

    /// Node `i` as a formula of loads `a`, `b`, …
    pub fn formula(&self, i: usize) -> Formula<'_> {
        Formula(self, i)
    }
}

/// A node to print.
pub struct Formula<'a>(&'a Expr, usize);

impl Display for Formula<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |i: usize| Formula(self.0, i);
        match self.0.nodes[self.1] {
            Node::Load(i) => write!(f, "{}", (b'a' + i as u8) as char),
            Node::Constant(c) => write!(f, "{c}"),
            Node::Unary(op, x) => write!(f, "{}({})", format!("{op:?}").to_lowercase(), of(x)),
            Node::Binary(op, x, y) => {
                let sign = match op {
                    Binary::Add => '+',
                    Binary::Mul => '*',
                    Binary::Mod => '%',
                    Binary::LessThan => '<',
                };
                write!(f, "({} {sign} {})", of(x), of(y))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_nodes_are_one_and_print() {
        let mut e = Expr::default();
        let (a, b) = (e.push(Node::Load(0)), e.push(Node::Load(1)));
        let sum = e.push(Node::Binary(Binary::Add, a, b));
        let zero = e.push(Node::Constant(0.0));
        assert_ne!(zero, e.push(Node::Constant(-0.0)), "they differ in their bits");
        let root = e.push(Node::Unary(Unary::Recip, sum));
        assert_eq!(sum, e.push(Node::Binary(Binary::Add, a, b)));
        let less = e.push(Node::Binary(Binary::LessThan, root, zero));
        assert_eq!(e.formula(less).to_string(), "(recip((a + b)) < 0)");
        assert_eq!(e.flops(), 3);
    }
}
