//! What is asked and how an answer is judged.

pub mod answer;
pub mod dataset;
pub mod number;
pub mod reward;
