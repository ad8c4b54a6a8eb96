//! Fused elementwise expressions, evaluated in blocks that stay in the first-level cache.
//!
//! A node's block is computed by a loop of its own over the blocks of its operands, with the operations of luminal's primitives:
//! the same bits as a kernel a node. Sums are taken in f64, in order, as the primitive takes them.

use std::mem::MaybeUninit;

use super::par::{self, Parts};
use super::simd::{L, load, multiversion, store};
use crate::expr::{Binary, Expr, Node, Unary};

/// Most values of an expression that are stored.
pub(crate) const STORES: usize = 4;

/// Numbers of a block.
const BLOCK: usize = 256;
/// Most nodes of an expression.
pub(crate) const MAX_NODES: usize = 96;
/// Most blocks alive at once.
pub(crate) const MAX_REGISTERS: usize = 16;
/// Most axes of a load.
const AXES: usize = 6;

/// An input of an expression.
#[derive(Clone, Copy)]
pub(crate) enum Input<'a> {
    Flat(&'a [f32]),
    /// What the first output holds.
    Output,
    Scalar(f32),
    Strided {
        x: &'a [f32],
        axes: usize,
        dims: [usize; AXES],
        strides: [usize; AXES],
    },
}

/// An expression with the block each node is computed into.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    expr: Expr,
    /// `u8::MAX` for a node that needs none.
    registers: Vec<u8>,
}

impl Program {
    /// Blocks for the nodes of `expr`; `wanted` nodes are kept to the end, `gathered` says which loads are copied. `None` if it
    /// takes too many.
    pub fn new(expr: Expr, wanted: &[usize], gathered: impl Fn(usize) -> bool) -> Option<Program> {
        let nodes = expr.nodes();
        if nodes.len() > MAX_NODES {
            return None;
        }
        let operands = |i: usize| match nodes[i] {
            Node::Unary(_, a) => [Some(a), None],
            Node::Binary(_, a, b) => [Some(a), Some(b)],
            _ => [None, None],
        };
        let last = |i: usize| {
            let reads = |j: &usize| operands(*j).contains(&Some(i));
            if wanted.contains(&i) { nodes.len() } else { (i..nodes.len()).rfind(reads).unwrap_or(i) }
        };
        let mut busy = [0; MAX_REGISTERS]; // until after which node
        let mut registers = Vec::with_capacity(nodes.len());
        for (i, node) in nodes.iter().enumerate() {
            if matches!(node, Node::Constant(_)) || matches!(node, Node::Load(l) if !gathered(*l)) {
                registers.push(u8::MAX);
                continue;
            }
            // An operand's block is free for the result: loops read a number before they write it.
            let free = busy.iter().position(|&until| until <= i)?;
            busy[free] = last(i).max(i + 1);
            registers.push(free as u8);
        }
        Some(Program { expr, registers })
    }

    pub fn expr(&self) -> &Expr {
        &self.expr
    }
}

/// What a node's block is.
#[derive(Clone, Copy)]
enum Values {
    At(*const f32),
    Splat(f32),
}

impl Values {
    fn get(self, i: usize) -> f32 {
        match self {
            // SAFETY: `i` is inside the block.
            Values::At(p) => unsafe { *p.add(i) },
            Values::Splat(x) => x,
        }
    }
}

/// The kinds of nodes that run on vectors.
#[derive(Clone, Copy)]
enum Vector {
    Add,
    Mul,
    /// Of the first operand.
    Recip,
}

multiversion! {
    /// `n` results; operands that repeat one number say so. An operand may be `y`.
    unsafe fn vector<S>(op: Vector, a: *const f32, one_a: bool, b: *const f32, one_b: bool, y: *mut f32, n: usize) {
        let (sa, sb) = (S::splat(*a), S::splat(*b));
        let mut i = 0;
        while i < n {
            let w = (n - i).min(L);
            let x = if one_a { sa } else { load::<S>(a.add(i), w) };
            let z = if one_b { sb } else { load::<S>(b.add(i), w) };
            let r = match op {
                Vector::Add => S::add(x, z),
                Vector::Mul => S::mul(x, z),
                Vector::Recip => S::div(S::splat(1.0), x),
            };
            store::<S>(y.add(i), w, r);
            i += L;
        }
    }
}

fn scalar_unary(op: Unary) -> fn(f32) -> f32 {
    match op {
        Unary::Log2 => f32::log2,
        Unary::Exp2 => f32::exp2,
        Unary::Sin => f32::sin,
        Unary::Sqrt => f32::sqrt,
        Unary::Recip => f32::recip,
    }
}

fn scalar_binary(op: Binary) -> fn(f32, f32) -> f32 {
    match op {
        Binary::Add => |a, b| a + b,
        Binary::Mul => |a, b| a * b,
        Binary::Mod => |a, b| a % b,
        Binary::LessThan => |a, b| f32::from(a < b),
    }
}

/// Where results go: `node`'s numbers, in the order of the output.
pub(crate) struct Store<'a> {
    pub node: usize,
    pub y: &'a mut [f32],
}

/// A sum of each `row` consecutive numbers of a node.
pub(crate) struct Sum<'a> {
    pub node: usize,
    pub row: usize,
    pub y: &'a mut [f32],
}

struct Call<'a> {
    program: &'a Program,
    inputs: &'a [Input<'a>],
    stores: [Option<(usize, Parts<'a, f32>)>; STORES],
    sum: Option<(usize, usize, Parts<'a, f32>)>,
}

/// Evaluates `program` for `n` numbers. [`Input::Output`] is what `stores[0]` holds.
pub(crate) fn evaluate(
    program: &Program,
    inputs: &[Input],
    n: usize,
    stores: [Option<Store>; STORES],
    sum: Option<Sum>,
) {
    let flat = |i: &Input| match i {
        Input::Flat(x) => x.len() == n,
        _ => true,
    };
    assert!(
        inputs.iter().all(flat) && stores.iter().flatten().all(|s| s.y.len() == n),
        "an expression's lengths"
    );
    assert!(sum.as_ref().is_none_or(|s| s.y.len() * s.row == n), "an expression's sums");
    let call = Call {
        program,
        inputs,
        stores: stores.map(|s| s.map(|s| (s.node, Parts::new(s.y)))),
        sum: sum.map(|s| (s.node, s.row, Parts::new(s.y))),
    };
    let slow = |n: &&Node| {
        matches!(n, Node::Unary(Unary::Log2 | Unary::Exp2 | Unary::Sin, _) | Node::Binary(Binary::Mod, ..))
    };
    let slow = program.expr.nodes().iter().filter(slow).count();
    let ns = n * (2 + program.expr.nodes().len() + 60 * slow) / 16;
    match call.sum {
        // A task sums whole rows.
        Some((.., ref y)) => par::ranges(ns, y.len(), 1, |rows| rows.for_each(|r| call.row(r))),
        None => par::ranges(ns, n, BLOCK, |r| {
            r.clone().step_by(BLOCK).for_each(|i| {
                call.block(i, BLOCK.min(r.end - i), |_| ());
            })
        }),
    }
}

impl Call<'_> {
    fn row(&self, r: usize) {
        let Some((_, row, y)) = &self.sum else { unreachable!("a call with sums") };
        // What the primitive's sum starts from.
        let mut total: f64 = std::iter::empty::<f64>().sum();
        for at in (0..*row).step_by(BLOCK) {
            let n = BLOCK.min(row - at);
            self.block(r * row + at, n, |x| (0..n).for_each(|i| total += f64::from(x.get(i))));
        }
        // SAFETY: tasks have different rows.
        unsafe { y.get(r..r + 1)[0] = total as f32 }
    }

    /// Computes and stores the numbers from `at` on; `summed` is given the block of the sum's node.
    fn block(&self, at: usize, n: usize, summed: impl FnOnce(Values)) {
        let mut registers = [const { MaybeUninit::<[f32; BLOCK]>::uninit() }; MAX_REGISTERS];
        let mut values = [Values::Splat(0.0); MAX_NODES];
        for (i, node) in self.program.expr.nodes().iter().enumerate() {
            let mut into =
                || -> *mut f32 { registers[self.program.registers[i] as usize].as_mut_ptr().cast() };
            values[i] = match *node {
                Node::Constant(c) => Values::Splat(c),
                Node::Load(l) => match self.inputs[l] {
                    Input::Scalar(x) => Values::Splat(x),
                    Input::Flat(x) => Values::At(x[at..at + n].as_ptr()),
                    Input::Output => Values::At(
                        self.stores[0].as_ref().expect("written in place").1.as_ptr().wrapping_add(at),
                    ),
                    Input::Strided { x, axes, dims, strides } => {
                        let y = into();
                        for i in 0..n {
                            let (mut rest, mut from) = (at + i, 0);
                            for a in (0..axes).rev() {
                                from += rest % dims[a] * strides[a];
                                rest /= dims[a];
                            }
                            // SAFETY: inside the register.
                            unsafe { *y.add(i) = x[from] }
                        }
                        Values::At(y)
                    }
                },
                Node::Unary(op, a) => match (op, values[a]) {
                    (op, Values::Splat(x)) => Values::Splat(scalar_unary(op)(x)),
                    (Unary::Recip, Values::At(a)) => {
                        let y = into();
                        // SAFETY: blocks hold `n` numbers.
                        unsafe { vector(Vector::Recip, a, false, a, true, y, n) };
                        Values::At(y)
                    }
                    (op, x) => {
                        let (y, f) = (into(), scalar_unary(op));
                        // SAFETY: inside the register.
                        (0..n).for_each(|i| unsafe { *y.add(i) = f(x.get(i)) });
                        Values::At(y)
                    }
                },
                Node::Binary(op, a, b) => match (values[a], values[b]) {
                    (Values::Splat(a), Values::Splat(b)) => Values::Splat(scalar_binary(op)(a, b)),
                    (a, b) => {
                        let y = into();
                        let kind = match op {
                            Binary::Add => Some(Vector::Add),
                            Binary::Mul => Some(Vector::Mul),
                            _ => None,
                        };
                        let f = scalar_binary(op);
                        let part = |x: &Values| match x {
                            Values::At(p) => (*p, false),
                            Values::Splat(x) => (x as *const f32, true),
                        };
                        match kind {
                            Some(kind) => {
                                let ((pa, one_a), (pb, one_b)) = (part(&a), part(&b));
                                // SAFETY: blocks hold `n` numbers, a repeated operand one.
                                unsafe { vector(kind, pa, one_a, pb, one_b, y, n) }
                            }
                            // SAFETY: inside the register.
                            None => (0..n).for_each(|i| unsafe { *y.add(i) = f(a.get(i), b.get(i)) }),
                        }
                        Values::At(y)
                    }
                },
            };
        }
        if let Some((node, ..)) = &self.sum {
            summed(values[*node]);
        }
        // Last, since an output may be an input.
        for (node, y) in self.stores.iter().flatten() {
            // SAFETY: tasks have different ranges.
            let y = unsafe { std::slice::from_raw_parts_mut(y.as_ptr().add(at), n) };
            y.iter_mut().enumerate().for_each(|(i, y)| *y = values[*node].get(i));
        }
    }
}
