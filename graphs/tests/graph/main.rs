//! Graphs as their users see them: meaning, gradients, losses, plans, the optimizer.

mod autograd;
mod composites;
mod harness;
mod losses;
mod optimizer;
mod plans;
