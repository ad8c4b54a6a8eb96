//! What is asked, how an answer is judged, and what a cold start is shown.

pub mod answer;
pub mod arithmetic;
pub mod dataset;
pub mod number;
pub mod reward;
pub mod trace;

pub use dataset::Problem;
pub use number::Number;
