//! Luminal graphs with run-time shapes: build, differentiate, compile to a plan, run.
//!
//! - [`graph`], [`tensor`]: [`Graph`] and [`Tensor`] over luminal's twelve primitives.
//! - [`ops`]: composite ops, each with a shape rule, a decomposition into primitives, a gradient and a kernel.
//! - [`autograd`]: reverse mode as a compiler pass, with checkpointing by region.
//! - [`decompose`]: replaces composites by primitives, for luminal's own executor and for tests.
//! - [`loss`]: masked cross-entropy, policy and value losses in primitives.
//! - [`expr`]: what fused elementwise steps compute.
//! - [`plan`]: a graph compiled into one operator with one arena; running it allocates nothing.
//! - [`cpu`]: the kernels.
//!
//! This crate knows no files, tokens or text. It never prints and never ends the process.
//!
//! # Two layers, built, differentiated, compiled and run
//! ```
//! use toolsmith_graphs::{Bindings, Dim, DiffOptions, Graph, Options, Plan};
//!
//! let g = Graph::new();
//! // Parameters have an index; what is bound for it comes at run time. Tokens is the one dimension not known yet.
//! let (w1, w2) = (g.param(0, "w1", &[8, 4]), g.param(1, "w2", &[1, 8]));
//! let norm = g.param(2, "norm", &[8]);
//! let x = g.f32_input("x", &[Dim::Tokens, 4.into()]);
//! let target = g.f32_input("target", &[Dim::Tokens]);
//! let weights = g.f32_input("weights", &[Dim::Tokens]);
//!
//! // A region is what activation checkpointing recomputes as one, usually a layer.
//! let h = g.region(|| x.linear(&w1, None).rms_norm(&norm, 1e-6));
//! let y = h.linear(&w2, None).reshape(&[Dim::Tokens]);
//! let loss = ((&y - &target).square() * &weights).sum(0);
//! // Adds the backward pass: gradients go to the buffers bound at run time, those of `x` are returned.
//! let dx = g.differentiate(&loss, &[&x], DiffOptions { recompute: usize::MAX }).remove(0).unwrap();
//!
//! let mut plan = Plan::compile(&g, &[&loss, &y, &dx], Options { tokens: 16, rows: 0, bf16: false })?;
//! let ids = (plan.f32_input("x")?, plan.f32_input("target")?, plan.f32_input("weights")?);
//!
//! let params = vec![vec![0.1; 32], vec![0.2; 8], vec![1.0; 8]];
//! let mut grads = vec![vec![0.0; 32], vec![0.0; 8], vec![0.0; 8]];
//! let data: Vec<f32> = (0..12).map(|i| i as f32).collect();
//! let (target, weights) = ([1.0, 2.0, 3.0], [1.0 / 3.0; 3]);
//! let mut bindings = Bindings::new(3, 0)
//!     .params(&params)
//!     .grads(&mut grads)
//!     .f32(ids.0, &data)
//!     .f32(ids.1, &target)
//!     .f32(ids.2, &weights);
//! plan.run(&mut bindings)?;
//! assert_eq!((plan.output(0).len(), plan.output(1).len(), plan.output(2).len()), (1, 3, 12));
//! assert!(grads[1].iter().all(|g| *g != 0.0));
//! # Ok::<(), toolsmith_graphs::Error>(())
//! ```

pub mod autograd;
pub mod cpu;
pub mod decompose;
mod error;
pub mod expr;
pub mod graph;
pub mod loss;
pub mod ops;
pub mod optimizer;
pub mod plan;
mod shape;
pub mod tensor;

pub use autograd::DiffOptions;
pub use error::Error;
pub use graph::Graph;
pub use ops::{AttentionShape, RopeAngles};
pub use plan::{Bindings, Grads, KvCache, Options, Params, Plan, Segment};
pub use shape::{Dim, Extent, Shape, Size};
pub use tensor::Tensor;
