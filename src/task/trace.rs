//! Written traces as tokens with sources, as if a rollout had produced them.
//!
//! What stands between the dialect's result tags becomes a tool's answer, inserted exactly as a rollout
//! inserts one; the rest is the model's. So the loss of a cold start falls on the same tokens, with the same
//! ids around tool output, as in reinforcement learning.

use crate::config::Dialect;
use crate::rollout::dialect::Wrapper;
use crate::rollout::{Error, Source, Text, Token};

/// What a written Hermes trace may spell out around a tool response: the turns that the wrapper brings itself.
const TURNS: (&str, &str) = ("<|im_end|>\n<|im_start|>user", "<|im_end|>\n<|im_start|>assistant");

/// `prompt` followed by `completion`, the end of the turn included. `wrapper` is the dialect's in this vocabulary.
///
/// # Errors
/// If the text cannot be encoded, or a tool's answer is not closed.
pub fn tokens(
    text: &dyn Text,
    dialect: Dialect,
    wrapper: &Wrapper,
    prompt: &[u32],
    completion: &str,
) -> Result<Vec<Token>, Error> {
    let (open, close) = match dialect {
        Dialect::Retool => ("<interpreter>", "</interpreter>"),
        Dialect::Hermes => ("<tool_response>", "</tool_response>"),
    };
    let token = |source| move |id: u32| Token { id, logprob: 0.0, source };
    let mut out: Vec<Token> = prompt.iter().copied().map(token(Source::Prompt)).collect();
    let mut rest = completion;
    while let Some((said, after)) = rest.split_once(open) {
        let Some((output, after)) = after.split_once(close) else {
            return Err(Error::Text(format!("trace: {open} is never closed")));
        };
        let said = said.trim_end_matches('\n');
        let said = said.strip_suffix(TURNS.0).unwrap_or(said).trim_end_matches('\n');
        out.extend(text.encode(said)?.into_iter().map(token(Source::Model)));
        out.extend(wrapper.feedback(text, output.trim_matches('\n'), usize::MAX)?.tokens);
        rest = after.strip_prefix(TURNS.1).unwrap_or(after).trim_start_matches('\n');
    }
    out.extend(text.encode(rest)?.into_iter().chain(text.end()).map(token(Source::Model)));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::testing::Ascii;

    /// Token 65, then `completion`.
    fn read(text: &Ascii, dialect: Dialect, completion: &str) -> Result<Vec<Token>, Error> {
        tokens(text, dialect, &Wrapper::new(dialect, text)?, &[65], completion)
    }

    fn show(text: &Ascii, tokens: &[Token]) -> String {
        let (mut shown, mut last) = (String::new(), None);
        for t in tokens {
            if last != Some(t.source) {
                shown += match t.source {
                    Source::Prompt => "|P:",
                    Source::Model => "|M:",
                    Source::Tool => "|O:",
                    Source::Template => "|T:",
                };
            }
            last = Some(t.source);
            shown += &text.decode(&[t.id]);
        }
        shown
    }

    #[test]
    fn sources_follow_the_tags() {
        let text = Ascii::with_tags();
        let t = read(&text, Dialect::Retool, "<code>1</code><interpreter>1</interpreter>\\boxed{1}").unwrap();
        assert_eq!(
            show(&text, &t),
            "|P:A|M:<code>1</code>|T:<interpreter>|O:1|T:</interpreter>|M:\\boxed{1}\0"
        );
        assert_eq!(show(&text, &read(&text, Dialect::Retool, "x").unwrap()), "|P:A|M:x\0");
        let e = read(&text, Dialect::Retool, "<interpreter>1").unwrap_err();
        assert_eq!(e.to_string(), "trace: <interpreter> is never closed");
    }

    #[test]
    fn spelled_out_lines_and_turns_are_not_doubled() {
        let text = Ascii::default();
        let t = read(&text, Dialect::Retool, "a</code>\n<interpreter>\n1\n</interpreter>\nb").unwrap();
        assert_eq!(show(&text, &t), "|P:A|M:a</code>|T:\n<interpreter>\n|O:1|T:\n</interpreter>\n|M:b\0");
        let text = Ascii::with_tags();
        let written = "a</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n1\n</tool_response><|im_end|>\n<|im_start|>assistant\nb";
        let t = read(&text, Dialect::Hermes, written).unwrap();
        assert_eq!(
            show(&text, &t),
            "|P:A|M:a</tool_call>|T:<|im_end|>\n<|im_start|>user\n<tool_response>\n|O:1\
             |T:\n</tool_response><|im_end|>\n<|im_start|>assistant\n|M:b\0"
        );
    }
}
