//! What can go wrong when a graph is compiled or a plan is bound.

use crate::shape::Extent;

/// A graph that cannot be compiled or a plan that is bound wrongly.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// More tokens or rows than the plan has memory for.
    #[error("a batch of {} tokens and {} rows exceeds the plan's {} and {}; compile it for more or split the batch",
        found.tokens, found.rows, capacity.tokens, capacity.rows)]
    Capacity {
        /// Of the bindings.
        found: Extent,
        /// Of the plan.
        capacity: Extent,
    },
    /// Something the graph reads was not bound.
    #[error("the plan needs {0}, which are not bound")]
    Unbound(&'static str),
    /// An input of the wrong length.
    #[error("input `{input}` has {found} elements where the batch needs {expected}")]
    Length {
        /// Its name.
        input: String,
        /// By the shape.
        expected: usize,
        /// Bound.
        found: usize,
    },
    /// A bf16 parameter in a plan compiled without memory for rounding.
    #[error("parameter {param} is bf16 but the plan was compiled for f32; compile it with `bf16: true`")]
    Precision {
        /// Its index.
        param: usize,
    },
    /// No such input.
    #[error("the graph has no input `{name}`; it has: {known}")]
    UnknownInput {
        /// Asked for.
        name: String,
        /// All there are.
        known: String,
    },
    /// Too many inputs of a kind.
    #[error("input `{name}` is one too many: a plan binds {most} of its type")]
    TooManyInputs {
        /// Its name.
        name: String,
        /// The limit.
        most: usize,
    },
}
