//! Elementwise primitives, and a sum at their end, as one kernel. The plan's fusion makes it.

use super::{Io, Kernel, MAX_INPUTS, Value, Work};
use crate::{
    cpu::expr::{Input, Program, STORES, Store, Sum, evaluate},
    expr::{Expr, View},
    shape::Size,
};

/// Values of an expression, stored or summed.
#[derive(Debug, Clone)]
pub(crate) struct FusedElementwise {
    program: Program,
    /// One an input.
    views: Vec<View>,
    /// Numbers the expression has.
    size: Size,
    /// Node summed, and how many consecutive numbers of it a sum takes: the first output.
    sum: Option<(usize, Size)>,
    /// Nodes stored: the outputs after that.
    stored: Vec<usize>,
}

impl FusedElementwise {
    /// `None` if there are more inputs, outputs or values alive at once than a kernel has.
    pub fn new(
        expr: Expr,
        views: Vec<View>,
        size: Size,
        sum: Option<(usize, Size)>,
        stored: Vec<usize>,
    ) -> Option<Self> {
        if views.len() > MAX_INPUTS || stored.len() > STORES {
            return None;
        }
        let wanted: Vec<usize> = sum.iter().map(|s| s.0).chain(stored.iter().copied()).collect();
        let program = Program::new(expr, &wanted, |l| matches!(views[l], View::Strided { .. }))?;
        Some(FusedElementwise { program, views, size, sum, stored })
    }

    /// What each output is, loads named `a`, `b`, … in the order of the inputs.
    fn formulas(&self) -> impl Iterator<Item = String> {
        let expr = self.program.expr();
        let sum = self.sum.map(|(node, _)| format!("sum{}", expr.formula(node)));
        sum.into_iter().chain(self.stored.iter().map(|&node| expr.formula(node).to_string()))
    }

    fn input<'a>(&self, io: &Io<'a>, i: usize) -> Input<'a> {
        match &self.views[i] {
            _ if matches!(io.inputs[i], Value::Output(_)) => Input::Output,
            View::Flat => Input::Flat(io.f32(i)),
            View::Scalar => Input::Scalar(io.f32(i)[0]),
            View::Strided { dims, strides } => {
                let at = |s: Option<&Size>, none| s.map_or(none, |s| s.at(io.extent));
                Input::Strided {
                    x: io.f32(i),
                    axes: dims.len(),
                    dims: std::array::from_fn(|a| at(dims.get(a).map(|&d| Size::of(&[d])).as_ref(), 1)),
                    strides: std::array::from_fn(|a| at(strides.get(a).and_then(Option::as_ref), 0)),
                }
            }
        }
    }
}

impl Kernel for FusedElementwise {
    fn in_place(&self, i: usize) -> Option<usize> {
        // A sum comes first among the outputs, and is none of these numbers.
        (self.sum.is_none() && self.views[i] == View::Flat).then_some(0)
    }
    fn formula(&self) -> Option<String> {
        Some(self.formulas().collect::<Vec<_>>().join(", "))
    }
    fn work(&self, io: &Io<'_>) -> Work {
        let flops = self.program.expr().flops() + usize::from(self.sum.is_some());
        self.operands(io).flop(flops * self.size.at(io.extent))
    }
    fn run(&self, io: &mut Io<'_>) {
        let mut inputs = [Input::Scalar(0.0); MAX_INPUTS];
        for (i, input) in inputs.iter_mut().enumerate().take(self.views.len()) {
            *input = self.input(io, i);
        }
        let sum = self.sum.map(|(node, row)| Sum { node, row: row.at(io.extent), y: io.take(0) });
        let first = usize::from(sum.is_some());
        let stores =
            std::array::from_fn(|i| self.stored.get(i).map(|&node| Store { node, y: io.take(first + i) }));
        evaluate(&self.program, &inputs[..self.views.len()], self.size.at(io.extent), stores, sum);
    }
}
