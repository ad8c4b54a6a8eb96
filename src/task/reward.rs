//! Outcome rewards.

use super::{answer, number::Number};

/// +1 if the response's answer equals `gold`, −1 otherwise (ReTool, arXiv 2504.11536, eq. 2).
///
/// `response` must hold the model's own tokens only.
pub fn outcome(response: &str, gold: &Number) -> f32 {
    if answer::verify(response, gold) { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plus_or_minus_one() {
        assert_eq!(outcome("\\boxed{12}", &12.into()), 1.0);
        assert_eq!(outcome("\\boxed{13}", &12.into()), -1.0);
        assert_eq!(outcome("12", &12.into()), -1.0);
    }
}
