//! The one operator a plan consists of, and the only place where its memory is reached by pointer.

use std::{ptr::NonNull, sync::Arc, time::Instant};

use luminal::{
    op::{InputTensor, Operator},
    shape::tracker::ShapeTracker,
    tensor::Tensor as Data,
};

use super::{bind::Bindings, view::Cost};
use crate::{
    cpu::{Lines, team},
    ops::{Io, Kernel, MAX_INPUTS, MAX_OUTPUTS, Value},
    shape::{Extent, Size},
};

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// Nowhere: an absent optional input, or one the kernel doesn't read.
    None,
    /// In the arena, from a byte offset.
    Arena(usize, Size),
    /// Among the plan's constants.
    Constant(usize, usize),
    /// A bound parameter.
    Param(usize),
    /// A bound gradient.
    Grad(usize),
    /// A bound input.
    F32(usize),
    /// A bound input.
    U32(usize),
    /// The bound segments.
    Segments,
    /// Where the step's output of this number lies.
    Output(usize),
}

impl Place {
    /// The parameter whose gradient lies there.
    pub fn gradient(&self) -> Option<usize> {
        match *self {
            Place::Grad(i) => Some(i),
            _ => None,
        }
    }
}

/// One kernel call.
#[derive(Debug)]
pub(crate) struct Step {
    pub kernel: Arc<dyn Kernel>,
    pub name: String,
    pub inputs: [Place; MAX_INPUTS],
    pub outputs: [Place; MAX_OUTPUTS],
    /// Outputs to zero first.
    pub zero: [bool; MAX_OUTPUTS],
}

/// The schedule with its memory.
pub(crate) struct PlanOp {
    pub steps: Vec<Step>,
    pub constants: Vec<f32>,
    pub bf16: bool,
    /// Extent of the last execution.
    pub extent: Extent,
    /// What each step of the last execution took, if that is wanted; its memory is there already.
    pub record: Option<Vec<Cost>>,
    arena: Lines,
    scratch: Lines,
    /// The bindings during a call of `Plan::run`, else `None`.
    call: Option<NonNull<()>>,
}

// SAFETY: everything inside is `Send` but `call`, which is `None` whenever no `Plan::run` is on the stack.
unsafe impl Send for PlanOp {}

impl std::fmt::Debug for PlanOp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plan of {} steps", self.steps.len())
    }
}

impl PartialEq for PlanOp {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl PlanOp {
    /// The planner guarantees that places in the arena lie inside `arena_bytes` at any extent up to the
    /// capacity, and that the outputs of a step overlap neither each other nor its inputs. An input over which an output
    /// is written is therefore none to the executor: its place is [`Place::Output`], and the kernel, which knows that it
    /// may be, gets that output's slice only.
    pub fn new(
        steps: Vec<Step>,
        constants: Vec<f32>,
        bf16: bool,
        arena_bytes: usize,
        scratch_bytes: usize,
    ) -> Self {
        let (arena, scratch) = (Lines::new(arena_bytes), Lines::new(scratch_bytes));
        PlanOp { steps, constants, bf16, extent: Extent::default(), record: None, arena, scratch, call: None }
    }

    /// Bytes of the arena and of the scratch.
    pub fn memory(&self) -> (usize, usize) {
        (self.arena.len(), self.scratch.len())
    }

    /// Lends the bindings to the next `process`. The caller clears them before `bindings` ends.
    pub fn lend(&mut self, bindings: Option<&mut Bindings<'_>>) {
        self.call = bindings.map(|b| NonNull::from(b).cast());
    }

    /// Numbers in the arena, as the last execution left them.
    pub fn read(&self, offset: usize, len: usize) -> &[f32] {
        bytemuck::cast_slice(&self.arena.get()[offset..offset + len * size_of::<f32>()])
    }

    fn run(&mut self, b: &mut Bindings<'_>) {
        let e = b.extent;
        self.extent = e;
        let arena_bytes = self.arena.len();
        let arena = self.arena.get_mut().as_mut_ptr();
        let at = |offset: usize, size: Size| {
            let len = size.at(e);
            assert!(offset + len * size_of::<f32>() <= arena_bytes, "a plan's buffer lies inside its arena");
            // SAFETY: just checked.
            (unsafe { arena.add(offset) }.cast::<f32>(), len)
        };
        let mut record = self.record.as_mut();
        if let Some(costs) = &mut record {
            costs.clear();
        }
        for step in &self.steps {
            let begun = record.is_some().then(Instant::now);
            let mut inputs = [Value::None; MAX_INPUTS];
            for (value, place) in inputs.iter_mut().zip(&step.inputs) {
                *value = match *place {
                    Place::None => continue,
                    Place::Arena(offset, size) => {
                        let (p, n) = at(offset, size);
                        // SAFETY: inside the arena; the planner keeps this step's outputs away from it.
                        Value::F32(unsafe { std::slice::from_raw_parts(p, n) })
                    }
                    Place::Constant(at, len) => Value::F32(&self.constants[at..at + len]),
                    Place::Param(i) => {
                        let params = b.params.expect("checked by Plan::run");
                        Value::Mat(params.get(i), params.panels(i))
                    }
                    Place::Grad(i) => {
                        let g = b.grads.as_deref_mut().expect("checked by Plan::run").get(i);
                        // SAFETY: the buffer outlives the step (`Grads`). A step that reads a gradient writes none.
                        Value::F32(unsafe { std::slice::from_raw_parts(g.as_ptr(), g.len()) })
                    }
                    Place::F32(i) => Value::F32(b.f32s[i]),
                    Place::U32(i) => Value::U32(b.u32s[i]),
                    Place::Segments => Value::Segments(b.segments),
                    Place::Output(i) => Value::Output(i),
                };
            }
            let mut outputs = [const { None }; MAX_OUTPUTS];
            for ((out, place), zero) in outputs.iter_mut().zip(&step.outputs).zip(step.zero) {
                let (p, n) = match *place {
                    Place::Arena(offset, size) => at(offset, size),
                    Place::Grad(i) => {
                        let g = b.grads.as_deref_mut().expect("checked by Plan::run").get(i);
                        (g.as_mut_ptr(), g.len())
                    }
                    _ => break,
                };
                // SAFETY: an arena buffer that no other operand of this step overlaps, or a gradient, of which the step
                // names each once (both kept by the planner) and no two share memory (`Grads`).
                let slice = unsafe { std::slice::from_raw_parts_mut(p, n) };
                if zero {
                    slice.fill(0.0);
                }
                *out = Some(slice);
            }
            let mut io = Io {
                extent: e,
                bf16: self.bf16,
                inputs,
                outputs,
                scratch: self.scratch.get_mut(),
                kv: b.kv.as_deref_mut(),
                blocks: b.blocks,
                summands: b.summands,
                state: match &mut b.state {
                    Some(s) => Some(&mut **s),
                    None => None,
                },
            };
            let (Some(costs), Some(begun)) = (&mut record, begun) else {
                step.kernel.run(&mut io);
                continue;
            };
            let prepared = begun.elapsed();
            let work = step.kernel.work(&io);
            let bf16 = io.reads_bf16() || work.bf16_flops > 0;
            let begun = Instant::now();
            step.kernel.run(&mut io);
            costs.push(Cost { work, bf16, time: prepared + begun.elapsed() });
        }
    }
}

impl Operator for PlanOp {
    /// Runs the schedule on the bindings lent by `Plan::run`. Results stay in the arena; luminal sees none.
    fn process(&mut self, _: Vec<(InputTensor, ShapeTracker)>) -> Vec<Data> {
        let call = self.call.take().expect("a plan is executed through Plan::run");
        // SAFETY: `Plan::run` holds the only reference to these bindings until this call returns.
        let bindings = unsafe { call.cast::<Bindings<'_>>().as_mut() };
        team::with(|| self.run(bindings));
        vec![]
    }
}
