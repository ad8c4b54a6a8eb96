//! Plans: a graph compiled for a capacity into a flat schedule over one arena.
//!
//! Compilation drops what no output needs, keeps the order in which nodes were added (inputs come first, and
//! checkpointing relies on it), fuses steps, finds lifetimes, places buffers, and replaces the graph by one luminal
//! operator. Executing it allocates nothing and looks nothing up: every operand is an offset or an index.
//!
//! Absent on purpose: plans specialised for small batches. One for 32 tokens took no less time to decode with than one for 512
//! (`benches/results/notes.md`).

mod bind;
mod draft;
mod exec;
mod fuse;
mod kv;
mod memory;
mod panels;
mod planner;
mod primitive;
mod view;

use std::{collections::BTreeMap, fmt::Write};

use luminal::graph::{Graph as Luminal, NodeIndex};

pub use crate::cpu::BLOCK;
pub use bind::{
    Bindings, F32Input, Grads, MAX_F32, MAX_U32, Master, Moments, ParamState, Params, Segment, Slot, U32Input,
};
pub use kv::{KvCache, blocks_for};
pub use panels::{Beside, PanelStore};
pub use view::{Cost, StepInfo};

use crate::{
    Error,
    cpu::Mat,
    graph::Graph,
    shape::{Extent, Shape, Size},
    tensor::Tensor,
};
use exec::{Place, PlanOp};

/// What a plan is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Most packed tokens of an execution.
    pub tokens: usize,
    /// Most selected rows of an execution.
    pub rows: usize,
    /// Parameters are bf16, and the inputs of matrix products are rounded to it.
    pub bf16: bool,
}

/// An input and the number of elements it must have.
#[derive(Clone, Debug)]
struct Input {
    name: String,
    size: Size,
    used: bool,
}

/// A compiled graph. It may move to another thread, unlike the graph it came from.
pub struct Plan {
    luminal: Luminal,
    node: NodeIndex,
    outputs: Vec<(usize, Shape)>,
    f32s: Vec<Input>,
    u32s: Vec<Input>,
    capacity: Extent,
    needs: Needs,
    /// One a step.
    sketches: Vec<view::Sketch>,
}

// SAFETY: the luminal graph holds a single node, the `PlanOp`, which is `Send`, and no tensors.
unsafe impl Send for Plan {}

/// What has to be bound; parameters and gradients with the elements they have.
#[derive(Default)]
struct Needs {
    params: BTreeMap<usize, usize>,
    grads: BTreeMap<usize, usize>,
    summands: BTreeMap<usize, usize>,
    state: bool,
    kv: bool,
}

impl Plan {
    /// Compiles what `outputs` need, and every sink of the graph (gradients, optimizer steps).
    ///
    /// Some kernels' scratch depends on the number of threads: compile inside the rayon pool the plan will run in.
    ///
    /// # Errors
    /// If the graph has more inputs than a plan can bind.
    pub fn compile(graph: &Graph, outputs: &[&Tensor], options: Options) -> Result<Plan, Error> {
        planner::Planner::new(graph, options).compile(outputs, true)
    }

    /// [`Plan::compile`] without fusion, a step a node: what fused plans equal, bit for bit.
    ///
    /// # Errors
    /// As [`Plan::compile`].
    pub fn compile_unfused(graph: &Graph, outputs: &[&Tensor], options: Options) -> Result<Plan, Error> {
        planner::Planner::new(graph, options).compile(outputs, false)
    }

    /// The input called `name`.
    ///
    /// # Errors
    /// If the graph has no such `f32` input.
    pub fn f32_input(&self, name: &str) -> Result<F32Input, Error> {
        find(&self.f32s, name).map(F32Input)
    }

    /// The input called `name`.
    ///
    /// # Errors
    /// If the graph has no such `u32` input.
    pub fn u32_input(&self, name: &str) -> Result<U32Input, Error> {
        find(&self.u32s, name).map(U32Input)
    }

    /// Executes the plan. Results are read by [`Plan::output`], gradients lie in the bound buffers.
    ///
    /// Call it inside a rayon pool to allocate nothing.
    ///
    /// # Errors
    /// If the extent exceeds the capacity, or something needed isn't bound or has the wrong length.
    pub fn run(&mut self, b: &mut Bindings<'_>) -> Result<(), Error> {
        self.check(b)?;
        self.op_mut().lend(Some(b));
        self.luminal.execute();
        Ok(())
    }

    fn check(&self, b: &mut Bindings<'_>) -> Result<(), Error> {
        let (e, c) = (b.extent, self.capacity);
        if e.tokens > c.tokens || e.rows > c.rows || e.distinct > e.tokens {
            return Err(Error::Capacity { found: e, capacity: c });
        }
        let bound =
            |ok: bool, needed: bool, what| if ok || !needed { Ok(()) } else { Err(Error::Unbound(what)) };
        bound(b.params.is_some(), !self.needs.params.is_empty(), "parameters")?;
        bound(b.grads.is_some(), !self.needs.grads.is_empty(), "gradients")?;
        bound(!b.summands.is_empty(), !self.needs.summands.is_empty(), "gradients to sum")?;
        bound(b.state.is_some(), self.needs.state, "optimizer state")?;
        bound(b.kv.is_some(), self.needs.kv, "KV cache")?;
        let length = |input: &dyn Fn() -> String, expected: usize, found: usize| {
            if expected == found { Ok(()) } else { Err(Error::Length { input: input(), expected, found }) }
        };
        for (&i, &n) in &self.needs.params {
            let mat = b.params.expect("just checked").get(i);
            length(&|| format!("parameter {i}"), n, mat.len())?;
            if matches!(mat, Mat::Bf16(_)) && !self.op().bf16 {
                return Err(Error::Precision { param: i });
            }
        }
        for (&i, &n) in &self.needs.grads {
            let found = b.grads.as_deref_mut().expect("just checked").get(i).len();
            length(&|| format!("gradient {i}"), n, found)?;
        }
        for buffer in b.summands.iter() {
            for (&i, &n) in &self.needs.summands {
                length(&|| format!("gradient {i}"), n, <[_]>::get(buffer, i).map_or(0, Vec::len))?;
            }
        }
        for (i, input) in self.f32s.iter().enumerate().filter(|(_, i)| i.used) {
            length(&|| input.name.clone(), input.size.at(e), b.f32s[i].len())?;
        }
        for (i, input) in self.u32s.iter().enumerate().filter(|(_, i)| i.used) {
            length(&|| input.name.clone(), input.size.at(e), b.u32s[i].len())?;
        }
        Ok(())
    }

    /// Output `i` in the order given to [`Plan::compile`], as the last execution left it.
    pub fn output(&self, i: usize) -> &[f32] {
        let (offset, shape) = &self.outputs[i];
        let op = self.op();
        op.read(*offset, Size::of(shape).at(op.extent))
    }

    /// Capacity the plan was compiled for.
    pub fn capacity(&self) -> Extent {
        self.capacity
    }

    /// Bytes of the arena and of the scratch.
    pub fn memory(&self) -> (usize, usize) {
        self.op().memory()
    }

    /// The schedule as text, a line a step: its name, where its inputs and outputs lie.
    pub fn to_text(&self) -> String {
        let mut s = String::new();
        for (i, step) in self.op().steps.iter().enumerate() {
            let list = |places: &[Place]| {
                let used = places.iter().take_while(|p| **p != Place::None);
                used.map(|p| self.place_text(p)).collect::<Vec<_>>().join(", ")
            };
            let _ = write!(s, "{i:4} {:24} {} -> {}", step.name, list(&step.inputs), list(&step.outputs));
            let _ = match step.kernel.formula() {
                Some(formula) => writeln!(s, " = {formula}"),
                None => writeln!(s),
            };
        }
        let (arena, scratch) = self.memory();
        let _ = writeln!(s, "arena {arena} bytes, scratch {scratch} bytes");
        s
    }

    fn place_text(&self, p: &Place) -> String {
        match *p {
            Place::None => "-".into(),
            Place::Arena(at, size) => format!("@{at}+{}", 4 * size.at(self.capacity)),
            Place::Constant(_, n) => format!("const[{n}]"),
            Place::Param(i) => format!("param {i}"),
            Place::Grad(i) => format!("grad {i}"),
            Place::F32(i) => self.f32s[i].name.clone(),
            Place::U32(i) => self.u32s[i].name.clone(),
            Place::Segments => "segments".into(),
            Place::Output(i) => format!("output {i}"),
        }
    }

    fn op(&self) -> &PlanOp {
        let node = self.luminal.graph.node_weight(self.node).expect("the plan's node");
        (**node).as_any().downcast_ref().expect("the plan's operator")
    }

    fn op_mut(&mut self) -> &mut PlanOp {
        let node = self.luminal.graph.node_weight_mut(self.node).expect("the plan's node");
        (**node).as_any_mut().downcast_mut().expect("the plan's operator")
    }
}

fn find(inputs: &[Input], name: &str) -> Result<usize, Error> {
    inputs.iter().position(|i| i.name == name).ok_or_else(|| Error::UnknownInput {
        name: name.to_string(),
        known: inputs.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", "),
    })
}
