//! A plan to look at: its steps with their shapes, and what each of them took in a recorded execution.

use std::time::Duration;

use super::Plan;
use crate::{
    ops::Work,
    shape::{Extent, Shape, Size},
};

/// What a step looked like in the graph.
#[derive(Clone, Debug, Default)]
pub(super) struct Sketch {
    pub params: Vec<String>,
    pub inputs: Vec<Shape>,
    pub outputs: Vec<Shape>,
}

/// One kernel call of a plan.
#[derive(Clone, Copy, Debug)]
pub struct StepInfo<'a> {
    /// The kernel.
    pub name: &'a str,
    /// The parameter that it reads, or whose gradient or state it writes, by name; the first, if there are several. Of a
    /// fused step the weights of its layers, in order.
    pub params: &'a [String],
    /// Shapes of its inputs, as the graph has them.
    pub inputs: &'a [Shape],
    /// Shapes of its outputs.
    pub outputs: &'a [Shape],
    /// What it took in the last execution, if that was recorded.
    pub cost: Option<Cost>,
}

/// What a step took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// What it had to do.
    pub work: Work,
    /// Whether parameters among its inputs, or the inputs of its products, are bf16.
    pub bf16: bool,
    /// Time from finding the operands to the kernel's end.
    pub time: Duration,
}

impl Plan {
    /// The steps in the order of execution.
    pub fn steps(&self) -> impl ExactSizeIterator<Item = StepInfo<'_>> {
        let op = self.op();
        let costs = op.record.as_deref().unwrap_or_default();
        op.steps.iter().zip(&self.sketches).enumerate().map(|(i, (step, sketch))| StepInfo {
            name: &step.name,
            params: &sketch.params,
            inputs: &sketch.inputs,
            outputs: &sketch.outputs,
            cost: costs.get(i).copied(),
        })
    }

    /// Whether executions to come note the cost of each step, which [`Plan::steps`] then gives. An execution that isn't
    /// recorded pays a branch a step.
    pub fn record(&mut self, on: bool) {
        let op = self.op_mut();
        op.record = on.then(|| Vec::with_capacity(op.steps.len()));
    }

    /// Tokens and rows of the last execution.
    pub fn extent(&self) -> Extent {
        self.op().extent
    }
}

impl Extent {
    /// The numbers behind a shape in an execution of this extent.
    pub fn resolve(self, shape: &[crate::Dim]) -> Vec<usize> {
        shape.iter().map(|&d| Size::of(&[d]).at(self)).collect()
    }
}
