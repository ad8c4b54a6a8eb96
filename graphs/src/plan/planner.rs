//! From a graph to a schedule: what has to run, in which order, and where every operand lies.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use luminal::graph::{Graph as Luminal, NodeIndex};

use super::{
    Input, Needs, Options, Plan,
    bind::{MAX_F32, MAX_U32},
    draft::{Draft, Key},
    exec::{Place, PlanOp, Step},
    fuse,
    memory::{self, Lifetime},
    primitive,
    view::Sketch,
};
use crate::{
    Error,
    graph::{Graph, LeafKind, Node, Primitive},
    ops::{Kernel, MAX_INPUTS, MAX_OUTPUTS},
    shape::{Extent, Shape, Size},
    tensor::Tensor,
};

/// The state of a compilation.
pub(super) struct Planner<'g> {
    graph: &'g Graph,
    options: Options,
    needs: Needs,
    f32s: Vec<Input>,
    u32s: Vec<Input>,
    constants: Vec<f32>,
    /// Elements and name of each parameter.
    param_sizes: BTreeMap<usize, usize>,
    param_names: BTreeMap<usize, String>,
    places: BTreeMap<Key, Place>,
    /// Step and input to the output that is written over it.
    in_place: BTreeMap<(usize, usize), usize>,
}

impl<'g> Planner<'g> {
    pub fn new(graph: &'g Graph, options: Options) -> Self {
        Planner {
            graph,
            options,
            needs: Needs::default(),
            f32s: vec![],
            u32s: vec![],
            constants: vec![],
            param_sizes: BTreeMap::new(),
            param_names: BTreeMap::new(),
            places: BTreeMap::new(),
            in_place: BTreeMap::new(),
        }
    }

    pub fn compile(mut self, outputs: &[&Tensor], fuse: bool) -> Result<Plan, Error> {
        let outputs: Vec<Tensor> = outputs.iter().map(|t| self.owned(t)).collect();
        let mut drafts = self.drafts(&outputs)?;
        if fuse {
            let kept: BTreeSet<Key> = outputs.iter().map(|t| (t.id.index(), t.out)).collect();
            drafts = fuse::run(drafts, &kept, &self.scalars());
        }
        let Options { tokens, rows, .. } = self.options;
        let capacity = Extent { tokens, rows, distinct: tokens };
        // A bf16 model may keep some parameters in f32.
        let scratch = |d: &Draft| {
            let bf16 = if self.options.bf16 { d.kernel.scratch(capacity, true) } else { 0 };
            bf16.max(d.kernel.scratch(capacity, false))
        };
        let scratch = drafts.iter().map(scratch).max().unwrap_or(0);
        let (steps, sketches, arena) = self.place(drafts, &outputs, capacity);
        let outputs = outputs
            .iter()
            .map(|t| match self.places[&(t.id.index(), t.out)] {
                Place::Arena(at, _) => (at, t.dims()),
                _ => unreachable!("outputs are computed values"),
            })
            .collect();
        let op = PlanOp::new(steps, std::mem::take(&mut self.constants), self.options.bf16, arena, scratch);
        let mut luminal = Luminal::new();
        let node = luminal.add_op(op).finish();
        luminal.compile((), ());
        let Planner { f32s, u32s, needs, .. } = self;
        Ok(Plan { luminal, node, outputs, f32s, u32s, capacity, needs, sketches })
    }

    /// The graph's constant scalars.
    fn scalars(&self) -> BTreeMap<Key, f32> {
        let scalar = |(key, place): (&Key, &Place)| match *place {
            Place::Constant(at, 1) => Some((*key, self.constants[at])),
            _ => None,
        };
        self.places.iter().filter_map(scalar).collect()
    }

    /// The output itself if it is a computed, contiguous value, else a copy of it.
    fn owned(&self, t: &Tensor) -> Tensor {
        let computed = matches!(self.graph.node(t.id), Node::Primitive(_) | Node::Composite(_));
        if computed && t.is_contiguous() {
            return t.clone();
        }
        self.graph.primitive(Primitive::Contiguous, &[t], &t.dims())
    }

    /// The nodes that have to run, in order.
    fn drafts(&mut self, outputs: &[Tensor]) -> Result<Vec<Draft>, Error> {
        let nodes: Vec<Node> = (0..self.graph.len()).map(|i| self.graph.node(NodeIndex::new(i))).collect();
        let inputs: Vec<Vec<Tensor>> =
            (0..nodes.len()).map(|i| self.graph.inputs(NodeIndex::new(i))).collect();
        let mut alive = vec![false; nodes.len()];
        outputs.iter().for_each(|t| alive[t.id.index()] = true);
        for i in (0..nodes.len()).rev() {
            if let Node::Composite(c) = &nodes[i] {
                alive[i] |= c.is_sink();
            }
            if alive[i] {
                inputs[i].iter().for_each(|t| alive[t.id.index()] = true);
            }
        }
        let mut drafts: Vec<Draft> = vec![];
        let count = nodes.len();
        for (i, node) in nodes.into_iter().enumerate() {
            let shapes = self.graph.outputs(NodeIndex::new(i));
            let leaf_place = match &node {
                Node::Leaf(l) => Some(self.leaf(l.kind, &l.name, &shapes[0], alive[i])?),
                Node::Literal(l) => Some(self.constant(&l.data)),
                Node::Constant(v) => Some(self.constant(&[*v])),
                _ => None,
            };
            if let Some(place) = leaf_place {
                self.places.insert((i, 0), place);
            }
            let primitive = matches!(node, Node::Primitive(_));
            let (name, kernel, gradient): (_, Arc<dyn Kernel>, _) = match node {
                _ if !alive[i] => continue,
                Node::Primitive(p) => {
                    (format!("{p:?}"), Arc::new(primitive::PrimitiveKernel::new(p, &inputs[i])), None)
                }
                Node::Composite(c) => (c.name().to_string(), c.clone() as _, c.gradient_of()),
                _ => continue,
            };
            let mut inputs: Vec<Key> = inputs[i].iter().map(|t| (t.id.index(), t.out)).collect();
            if primitive {
                inputs.iter_mut().for_each(|key| *key = self.as_f32(*key, count, &mut drafts));
            }
            let outputs = (0..).map(|o| (i, o)).zip(shapes).collect();
            drafts.push(Draft { name, kernel, inputs, outputs, shown: vec![], gradient });
        }
        Ok(drafts)
    }

    /// Primitives work on f32 numbers: a leaf of another kind is converted once, by a node numbered after all others.
    fn as_f32(&self, key: Key, count: usize, drafts: &mut Vec<Draft>) -> Key {
        if !matches!(self.places.get(&key), Some(Place::Param(_) | Place::U32(_) | Place::Segments)) {
            return key;
        }
        let converted = (count + key.0, 0);
        if drafts.iter().all(|d| d.outputs[0].0 != converted) {
            let shape = self.graph.outputs(NodeIndex::new(key.0)).remove(0);
            drafts.push(Draft {
                name: "to_f32".into(),
                kernel: Arc::new(primitive::ToF32),
                inputs: vec![key],
                outputs: vec![(converted, shape)],
                shown: vec![],
                gradient: None,
            });
        }
        converted
    }

    fn constant(&mut self, data: &[f32]) -> Place {
        let at = self.constants.len();
        self.constants.extend_from_slice(data);
        Place::Constant(at, data.len())
    }

    fn leaf(&mut self, kind: LeafKind, name: &str, shape: &Shape, used: bool) -> Result<Place, Error> {
        let input = Input { name: name.to_string(), size: Size::of(shape), used };
        let too_many = |list: &[Input], most| {
            if list.len() < most {
                Ok(())
            } else {
                Err(Error::TooManyInputs { name: name.to_string(), most })
            }
        };
        Ok(match kind {
            LeafKind::Param(i) => {
                self.param_names.insert(i, name.to_string());
                self.param_sizes.insert(i, Size::of(shape).at(Extent::default()));
                Place::Param(i)
            }
            LeafKind::Grad(i) => {
                self.param_sizes.insert(i, Size::of(shape).at(Extent::default()));
                Place::Grad(i)
            }
            LeafKind::Moment1(_) | LeafKind::Moment2(_) => Place::None,
            LeafKind::F32(i) => {
                too_many(&self.f32s, MAX_F32)?;
                self.f32s.push(input);
                Place::F32(i)
            }
            LeafKind::U32(i) => {
                too_many(&self.u32s, MAX_U32)?;
                self.u32s.push(input);
                Place::U32(i)
            }
            LeafKind::Segments => Place::Segments,
        })
    }

    /// Finds lifetimes and places all buffers; returns the steps and the arena's size.
    fn place(
        &mut self,
        mut drafts: Vec<Draft>,
        outputs: &[Tensor],
        capacity: Extent,
    ) -> (Vec<Step>, Vec<Sketch>, usize) {
        self.redirect_gradients(&mut drafts, outputs);
        let mut last: BTreeMap<Key, usize> = BTreeMap::new();
        for (s, d) in drafts.iter().enumerate() {
            d.inputs.iter().for_each(|&k| {
                last.insert(k, s);
            });
        }
        outputs.iter().for_each(|t| {
            last.insert((t.id.index(), t.out), usize::MAX);
        });
        // Values with a buffer: which, and how many numbers.
        let mut buffers: BTreeMap<Key, (usize, Size)> = BTreeMap::new();
        let mut lifetimes: Vec<Lifetime> = vec![];
        for (s, d) in drafts.iter().enumerate() {
            for (o, &(key, ref shape)) in d.outputs.iter().enumerate() {
                if d.kernel.uses_state() {
                    self.places.insert(key, Place::None);
                }
                if self.places.contains_key(&key) {
                    continue; // a gradient, or updated in place
                }
                let until = last.get(&key).copied().unwrap_or(s);
                let size = Size::of(shape);
                let over = (0..d.inputs.len()).find_map(|i| {
                    let dies =
                        last[&d.inputs[i]] == s && d.kernel.in_place(i) == Some(o) && d.kernel.reads(i);
                    let once = d.inputs.iter().filter(|k| **k == d.inputs[i]).count() == 1;
                    let (buffer, of) = *buffers.get(&d.inputs[i]).filter(|_| dies && once)?;
                    // Not if another output has taken it.
                    (of == size && lifetimes[buffer].last == s).then_some((i, buffer))
                });
                let buffer = match over {
                    Some((i, buffer)) => {
                        self.in_place.insert((s, i), o);
                        lifetimes[buffer].last = until;
                        buffer
                    }
                    None => {
                        let bytes = memory::bytes(size, capacity);
                        lifetimes.push(Lifetime { bytes, first: s, last: until });
                        lifetimes.len() - 1
                    }
                };
                buffers.insert(key, (buffer, size));
            }
        }
        let (offsets, arena) = memory::place(&lifetimes);
        for (key, (buffer, size)) in buffers {
            self.places.insert(key, Place::Arena(offsets[buffer], size));
        }
        let sketches = drafts.iter().map(|d| self.sketch(d)).collect();
        let steps = drafts.into_iter().enumerate().map(|(s, d)| self.step(s, d)).collect();
        (steps, sketches, arena)
    }

    /// Lets a kernel that accumulates write into the gradient itself where an accumulate node is its only reader.
    fn redirect_gradients(&mut self, drafts: &mut Vec<Draft>, outputs: &[Tensor]) {
        let mut readers: BTreeMap<Key, usize> = BTreeMap::new();
        for k in drafts.iter().flat_map(|d| &d.inputs).copied() {
            *readers.entry(k).or_default() += 1;
        }
        for t in outputs {
            *readers.entry((t.id.index(), t.out)).or_default() += 1;
        }
        let adds = |d: &Draft, o: usize| d.kernel.accumulates(o).then_some(d.outputs[o].0);
        let added: BTreeSet<Key> =
            drafts.iter().flat_map(|d| (0..d.outputs.len()).filter_map(|o| adds(d, o))).collect();
        drafts.retain(|d| {
            let Some(param) = d.gradient else { return true };
            let source = d.inputs[0];
            let direct = readers[&source] == 1 && added.contains(&source);
            self.places.insert(if direct { source } else { d.outputs[0].0 }, Place::Grad(param));
            !direct
        });
    }

    /// What a step is shown as.
    fn sketch(&self, d: &Draft) -> Sketch {
        let leaf = |&(id, _): &Key| (id < self.graph.len()).then(|| self.graph.node(NodeIndex::new(id)));
        let named = |key: &Key| match leaf(key) {
            Some(Node::Leaf(l)) if matches!(l.kind, LeafKind::Param(_) | LeafKind::Grad(_)) => Some(l.name),
            _ => None,
        };
        let gradient = || {
            d.outputs.iter().find_map(|(key, _)| match self.places.get(key) {
                Some(Place::Grad(i)) => self.param_names.get(i).cloned(),
                _ => None,
            })
        };
        let shape = |&(id, out): &Key| {
            let node = if id < self.graph.len() { id } else { id - self.graph.len() };
            self.graph.outputs(NodeIndex::new(node))[out as usize].clone()
        };
        let params = match &d.shown[..] {
            [] => d.inputs.iter().find_map(named).or_else(gradient).into_iter().collect(),
            shown => shown.iter().filter_map(|&i| named(&d.inputs[i])).collect(),
        };
        Sketch {
            params,
            inputs: d.inputs.iter().map(shape).collect(),
            outputs: d.outputs.iter().map(|o| o.1.clone()).collect(),
        }
    }

    fn step(&mut self, s: usize, d: Draft) -> Step {
        assert!(
            d.inputs.len() <= MAX_INPUTS && d.outputs.len() <= MAX_OUTPUTS,
            "{} has too many operands",
            d.name
        );
        let mut inputs = [Place::None; MAX_INPUTS];
        for (i, key) in d.inputs.iter().enumerate().filter(|(i, _)| d.kernel.reads(*i)) {
            inputs[i] = match self.in_place.get(&(s, i)) {
                Some(&out) => Place::Output(out),
                None => self.places[key],
            };
        }
        let mut outputs = [Place::None; MAX_OUTPUTS];
        let mut zero = [false; MAX_OUTPUTS];
        for i in 0..d.outputs.len() {
            outputs[i] = self.places[&d.outputs[i].0];
            zero[i] = d.kernel.accumulates(i) && matches!(outputs[i], Place::Arena(..));
        }
        for place in inputs.iter().chain(&outputs) {
            match *place {
                Place::Param(i) => self.needs.params.insert(i, self.param_sizes[&i]),
                Place::Grad(i) => self.needs.grads.insert(i, self.param_sizes[&i]),
                _ => None,
            };
        }
        let gradients: Vec<usize> = outputs.iter().filter_map(Place::gradient).collect();
        let once = gradients.iter().all(|g| gradients.iter().filter(|h| *h == g).count() == 1);
        assert!(once, "{} writes one gradient twice", d.name);
        self.needs.kv |= d.kernel.uses_kv();
        self.needs.state |= d.kernel.uses_state();
        if let Some(i) = d.kernel.takes_gradient() {
            self.needs.summands.insert(i, self.param_sizes[&i]);
        }
        Step { kernel: d.kernel, name: d.name, inputs, outputs, zero }
    }
}
