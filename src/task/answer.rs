//! The answer in a response: the last balanced `\boxed{…}` the model itself wrote.
//!
//! There is no fallback to the last number of the text: an answer that is not boxed is no answer, which is
//! what keeps the reward hard to game.

use super::number::Number;
use std::borrow::Cow;

/// Regions that are not the response's own statement: what it ran, and what it was told.
const ASIDE: [(&str, &str); 4] = [
    ("<code>", "</code>"),
    ("<interpreter>", "</interpreter>"),
    ("<tool_call>", "</tool_call>"),
    ("<tool_response>", "</tool_response>"),
];

/// The content of the last balanced `\boxed{…}` or `\fbox{…}` in `text`; also TeX's `\boxed 204`.
///
/// An unclosed box, as a cut-off response ends in, is passed over.
pub fn boxed(text: &str) -> Option<&str> {
    let mut end = text.len();
    loop {
        let start = text[..end].rfind("\\boxed").max(text[..end].rfind("\\fbox"))?;
        let name = if text[start..].starts_with("\\boxed") { "\\boxed" } else { "\\fbox" };
        let rest = &text[start + name.len()..];
        let body = rest.trim_start();
        let content = match body.strip_prefix('{') {
            Some(body) => balanced(body),
            None if body.len() < rest.len() => bare(body),
            None => None,
        };
        if content.is_some() {
            return content;
        }
        end = start;
    }
}

/// Whether the last `\boxed{` of `text` is closed.
pub fn closed_box(text: &str) -> bool {
    text.rsplit_once("\\boxed{").is_some_and(|(_, body)| balanced(body).is_some())
}

/// Up to the brace that closes one opened before `body`.
fn balanced(body: &str) -> Option<&str> {
    let (mut depth, mut escaped) = (0usize, false);
    for (i, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' => depth += 1,
            '}' if depth == 0 => return Some(&body[..i]),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The word after a box without braces.
fn bare(body: &str) -> Option<&str> {
    let word = body.split(|c: char| c.is_whitespace() || c == '$').next()?;
    (!word.is_empty()).then_some(word)
}

/// The response without its thinking, its code and what tools answered.
fn statement(text: &str) -> Cow<'_, str> {
    let text = text.rsplit_once("</think>").map_or(text, |(_, after)| after);
    let mut text = Cow::Borrowed(text);
    for (open, close) in ASIDE {
        while let Some(start) = text.find(open) {
            let end = text[start..].find(close).map_or(text.len(), |n| start + n + close.len());
            text.to_mut().replace_range(start..end, " ");
        }
    }
    text
}

/// The content of the last box in a response's own statement, thinking, code and tool output left out.
pub fn stated(response: &str) -> Option<String> {
    boxed(&statement(response)).map(str::to_owned)
}

/// The number a response answers with, if its last box holds one.
pub fn final_answer(response: &str) -> Option<Number> {
    Number::parse(boxed(&statement(response))?)
}

/// Whether the response's answer equals `gold`, exactly.
pub fn verify(response: &str, gold: &Number) -> bool {
    final_answer(response).as_ref() == Some(gold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_last_balanced_box() {
        for (text, content) in [
            ("so \\boxed{7}.", Some("7")),
            ("\\boxed{7} or \\boxed{8}", Some("8")),
            ("\\boxed{7} or \\boxed{8", Some("7")),
            ("\\boxed{\\frac{1}{2}}", Some("\\frac{1}{2}")),
            ("\\boxed{\\boxed{7}}", Some("7")),
            ("\\boxed {7}", Some("7")),
            ("$\\boxed 7$", Some("7")),
            ("\\fbox{7}", Some("7")),
            ("\\boxed{a\\}b}", Some("a\\}b")),
            ("\\boxed{}", Some("")),
            ("\\boxedx", None),
            ("\\boxed", None),
            ("7", None),
        ] {
            assert_eq!(boxed(text), content, "{text}");
        }
    }

    #[test]
    fn a_box_is_closed_by_its_own_brace() {
        assert!(closed_box("so \\boxed{\\frac{1}{2}} then"));
        assert!(!closed_box("\\boxed{1} and \\boxed{\\frac{1}"));
        assert!(!closed_box("{1}"));
    }

    #[test]
    fn only_the_statement_counts() {
        let seven = Number::from(7);
        assert!(verify("\\boxed{7}<code>print(8)</code><interpreter>\\boxed{8}</interpreter>", &seven));
        assert!(!verify("<code>print('\\boxed{7}')</code>", &seven));
        assert!(!verify("<code>print('\\boxed{7}')", &seven));
        assert!(!verify("<think>\\boxed{7}</think> no idea", &seven));
        assert!(verify("<think>\\boxed{8}</think> \\boxed{7}", &seven));
        assert!(!verify("The answer is 7", &seven));
        assert!(verify("\\boxed{n = 7}", &seven));
    }

    proptest! {
        #[test]
        fn never_panics(parts in prop::collection::vec(prop::sample::select(vec![
            "\\boxed", "\\fbox", "{", "}", " ", "7", "\\", "$", "é", "<code>", "</code>", "</think>",
        ]), 0..24)) {
            let _ = final_answer(&parts.concat());
        }
    }
}
