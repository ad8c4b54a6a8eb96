//! Integer arithmetic too hard to do in the head of a small model: the embedded problems and their cold-start
//! traces.
//!
//! Problem i of a seed is a pure function of both. Whether a problem is held out is a function of its text
//! alone, so that no seed can train on what another evaluates.

use super::dataset::Problem;
use crate::rng::{Rng, philox};

/// One problem in this many is held out.
const HELD_OUT: u32 = 16;

/// An endless list of problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Seed of the list.
    pub seed: u64,
    /// Draws from the held-out problems; else from all others.
    pub held_out: bool,
}

impl Arithmetic {
    /// Problem `i`: the bare expression, such as `372*48-915`, and its value.
    pub fn problem(&self, i: u64) -> Problem {
        let mut rng = Rng::new(self.seed, i as u32, (i >> 32) as u32);
        loop {
            let (text, value) = expression(&mut rng);
            if held_out(&text) == self.held_out {
                return Problem { text, answer: value.into(), extra: Default::default() };
            }
        }
    }
}

/// What the small policy's tokenizer has as single tokens besides characters and turns.
///
/// Copying over a distance that varies is what a small transformer learns slowest; merged words leave it little else
/// to learn.
pub const TOKENS: [&str; 8] = [
    "<code>",
    "</code>",
    "<interpreter>",
    "</interpreter>",
    "<|assistant|>",
    "Compute ",
    "print(",
    "\\boxed{",
];

/// A product, three times in four with a term before or behind it; operands of 2 to 4 digits.
fn expression(rng: &mut Rng) -> (String, i64) {
    let (shape, plus) = (rng.below(4), rng.below(2) == 0);
    let mut number = |most: u64| {
        let digits = rng.range(2, most) as u32;
        rng.range(10u64.pow(digits - 1), 10u64.pow(digits) - 1) as i64
    };
    let (a, b, c) = (number(4), number(if shape == 0 { 4 } else { 3 }), number(4));
    let sign = if plus { '+' } else { '-' };
    let signed = |x: i64| if plus { x } else { -x };
    match shape {
        0 => (format!("{a}*{b}"), a * b),
        1 => (format!("{c}{sign}{a}*{b}"), c + signed(a * b)),
        _ => (format!("{a}*{b}{sign}{c}"), a * b + signed(c)),
    }
}

fn held_out(text: &str) -> bool {
    let hash =
        text.bytes().fold([0; 4], |h, byte| philox([h[0] ^ u32::from(byte), h[1], h[2], h[3]], [0, 0]));
    hash[0] % HELD_OUT == 0
}

/// The response a cold start teaches: a call and its answer, or the answer straight away.
///
/// `problem` must come from [`Arithmetic::problem`]: its text is a Python expression.
pub fn completion(problem: &Problem, tool: bool) -> String {
    let value = problem.answer.to_string();
    let answer = format!("\\boxed{{{value}}}");
    if !tool {
        return answer;
    }
    let code = &problem.text;
    format!("<code>print({code})</code><interpreter>{value}</interpreter>{answer}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Chat;
    use crate::config::Dialect;
    use crate::rollout::Source;
    use crate::rollout::dialect::Wrapper;
    use crate::task::{number::Number, trace};
    use toolsmith_models::tokenizer::Tokenizer;

    #[test]
    fn problems_are_pure_and_right() {
        let list = Arithmetic { seed: 5, held_out: false };
        let problems: Vec<Problem> = (0..500).map(|i| list.problem(i)).collect();
        assert_eq!(list.problem(123), problems[123]);
        for p in &problems {
            assert_eq!(Number::parse(&p.text).as_ref(), Some(&p.answer), "{}", p.text);
            assert!(p.text.len() <= 13 && p.text.contains('*'), "{}", p.text);
        }
        assert!(problems.iter().any(|p| p.answer.to_string().starts_with('-')));
        assert_ne!(Arithmetic { seed: 6, held_out: false }.problem(0), problems[0]);
    }

    #[test]
    fn held_out_problems_are_never_trained_on() {
        let texts = |seed, held_out| (0..2000).map(move |i| Arithmetic { seed, held_out }.problem(i).text);
        assert!(texts(1, true).all(|t| held_out(&t)));
        assert!(texts(2, false).all(|t| !held_out(&t)));
        let distinct: std::collections::BTreeSet<String> = texts(1, true).take(200).collect();
        assert!(distinct.len() > 195);
    }

    #[test]
    fn traces_call_or_answer() {
        let p = Problem { text: "12*34+5".into(), answer: 413.into(), extra: Default::default() };
        let answer = "\\boxed{413}";
        let call = "<code>print(12*34+5)</code><interpreter>413</interpreter>";
        assert_eq!(completion(&p, true), format!("{call}{answer}"));
        assert_eq!(completion(&p, false), answer);
        assert!(crate::task::answer::verify(&completion(&p, true), &p.answer));
    }

    #[test]
    fn a_trace_is_characters_and_a_few_words() {
        let tokenizer = Tokenizer::digits(&TOKENS);
        let chat = Chat::load("tiny", &tokenizer).unwrap();
        let wrapper = Wrapper::new(Dialect::Retool, &tokenizer).unwrap();
        let list = Arithmetic { seed: 1, held_out: false };
        for i in 0..50 {
            let p = list.problem(i);
            let prompt = chat.ids(&tokenizer, &p.text).unwrap();
            assert_eq!(prompt.len(), 1 + p.text.len() + 2, "{}", p.text);
            let t =
                trace::tokens(&tokenizer, Dialect::Retool, &wrapper, &prompt, &completion(&p, true)).unwrap();
            let count = |source| t.iter().filter(|t| t.source == source).count();
            let digits = p.answer.to_string().len();
            assert_eq!((count(Source::Tool), count(Source::Template)), (digits, 2));
            // <code> print( … ) </code>, then \boxed{ … } and the end of the turn.
            assert_eq!(count(Source::Model), 4 + p.text.len() + 1 + digits + 2);
            let ids: Vec<u32> = t.iter().map(|t| t.id).collect();
            let shown = tokenizer.decode(&ids);
            assert_eq!(shown, format!("Compute {}.<|assistant|>{}<|im_end|>", p.text, completion(&p, true)));
        }
    }
}
