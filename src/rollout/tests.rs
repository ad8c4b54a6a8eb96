use super::testing::{Ascii, Scripted, Shuffled, says};
use super::*;
use crate::rng::philox;
use std::cell::RefCell;
use std::time::Duration;
use toolsmith_sandbox::Session;

fn config() -> RolloutConfig {
    RolloutConfig { max_turns: 2, max_completion_length: 40, max_tool_output: 32, ..Default::default() }
}

fn request(problem: usize, prompt: &str, samples: Range<usize>) -> Request {
    Request { problem, prompt: Ascii::default().encode(prompt).unwrap(), samples, seed: 11 }
}

fn ok(output: &str) -> ToolOutput {
    ToolOutput { fuel: 5, ..output.into() }
}

fn one(
    text: &Ascii,
    config: &RolloutConfig,
    turns: &'static [&'static str],
    tool: impl Fn(&str) -> ToolOutput,
) -> (Trajectory, RolloutStats, String) {
    let mut model = Scripted::new(1, 64, 400, says(*text, "Q", turns));
    let pool = Shuffled::new(0, tool);
    let mut log = String::new();
    let mut on_event = |e: Event| {
        match e {
            Event::Sequence { part: Part::Text(t) | Part::Code(t), .. } => log += t,
            Event::Sequence { part: Part::CodeStart, .. } => log += "[",
            Event::Sequence { part: Part::CodeEnd, .. } => log += "]",
            Event::Sequence { part: Part::Output(call), .. } => log += &format!("({})", call.output),
            Event::Sequence { part: Part::End(_), .. } => log += "$",
            Event::Progress(_) => {}
        }
        Control::Continue
    };
    let requests = [request(0, "Q", 0..1)];
    let (mut t, stats) = rollout(&mut model, text, Some(&pool), &requests, config, &mut on_event).unwrap();
    assert_eq!(t.len(), 1);
    (t.remove(0), stats, log)
}

fn by_source(t: &Trajectory, source: Source) -> String {
    Ascii::with_tags()
        .decode(&t.tokens.iter().filter(|t| t.source == source).map(|t| t.id).collect::<Vec<_>>())
}

#[test]
fn the_prompt_offers_what_there_is() {
    let template = |name: &str, dialect, max_turns, tools| {
        let config =
            RolloutConfig { prompt_template: name.into(), dialect, max_turns, ..RolloutConfig::default() };
        config.template(tools).to_owned()
    };
    assert_eq!(template("default", Dialect::Retool, 4, true), "default");
    assert_eq!(template("default", Dialect::Hermes, 4, true), "hermes");
    assert_eq!(template("hermes", Dialect::Retool, 4, true), "default");
    assert_eq!(template("default", Dialect::Hermes, 4, false), "direct");
    assert_eq!(template("default", Dialect::Retool, 0, true), "direct");
    assert_eq!(template("mine.jinja", Dialect::Hermes, 0, false), "mine.jinja");
}

#[test]
fn a_call_is_run_and_answered() {
    let turns = &["so <code>\n```python\nprint(6*7)\n```\n</code>", "it is \\boxed{42}"];
    let roomy = RolloutConfig { max_completion_length: 80, ..config() };
    let (t, stats, log) = one(&Ascii::default(), &roomy, turns, |code| {
        assert_eq!(code, "print(6*7)");
        ok("42\n")
    });
    assert_eq!(t.end, EndReason::EndOfTurn);
    assert_eq!(by_source(&t, Source::Prompt), "Q");
    assert_eq!(by_source(&t, Source::Model), [turns[0], turns[1], "\0"].concat());
    assert_eq!(by_source(&t, Source::Tool), "42");
    assert_eq!(by_source(&t, Source::Template), "\n<interpreter>\n\n</interpreter>\n");
    assert_eq!(
        t.calls,
        [ToolCall {
            tool: "python".into(),
            arguments: serde_json::json!({"code": "print(6*7)"}),
            output: "42\n".into(),
            ok: true,
            cut: 0,
            fuel: 5
        }]
    );
    assert_eq!(log, "so [\n```python\nprint(6*7)\n```\n](42\n)it is \\boxed{42}$");
    assert!(t.tokens.iter().all(|t| t.logprob == 0.0), "a policy without doubt");
    assert_eq!((stats.tool_calls, stats.tool_errors, stats.finished), (1, 0, 1));
    assert_eq!(stats.generated_tokens, t.mask().filter(|m| *m).count());
    assert_eq!(stats.generated_tokens + stats.prefill_tokens, t.tokens.len());
}

#[test]
fn single_token_tags_need_no_lines_of_their_own() {
    let (t, ..) = one(&Ascii::with_tags(), &config(), &["<code>1</code>", "2"], |_| ok("7"));
    assert_eq!(by_source(&t, Source::Template), "<interpreter></interpreter>");
    assert_eq!(t.tokens.len(), 1 + 3 + 3 + 2);
}

#[test]
fn a_call_beyond_the_budget_ends_the_trajectory() {
    let turns = &["<code>1</code>", "<code>2</code>", "<code>3</code>", "x"];
    let (t, stats, _) = one(&Ascii::default(), &config(), turns, ok);
    assert_eq!((t.end, t.calls.len(), stats.tool_calls), (EndReason::TurnBudget, 2, 2));
    assert!(by_source(&t, Source::Model).ends_with("<code>3</code>"));
    let (t, stats, _) =
        one(&Ascii::default(), &RolloutConfig { max_turns: 0, ..config() }, turns, |_| panic!());
    assert_eq!((t.end, stats.tool_calls), (EndReason::TurnBudget, 0));
    assert_eq!(by_source(&t, Source::Model), "<code>1</code>");
}

#[test]
fn budgets_end_a_trajectory() {
    let long = &["0123456789012345678901234567890123456789012345"];
    let (t, ..) = one(&Ascii::default(), &config(), long, ok);
    assert_eq!((t.end, t.tokens.len()), (EndReason::TokenBudget, 41));
    // The budget is a turn's: a call starts it anew.
    let turns = &["0123456789012345678901<code>1</code>", "0123456789012345678901"];
    assert_eq!(one(&Ascii::default(), &config(), turns, ok).0.end, EndReason::EndOfTurn);
    let (t, ..) = one(&Ascii::default(), &RolloutConfig { max_context: 20, ..config() }, long, ok);
    assert_eq!((t.end, t.tokens.len()), (EndReason::ContextFull, 20));
    // Feedback that would not fit is not computed; output that would not is cut.
    let turns = &["<code>1</code>", "x"];
    let (t, stats, _) = one(&Ascii::default(), &RolloutConfig { max_context: 46, ..config() }, turns, ok);
    assert_eq!((t.end, t.tokens.len(), stats.tool_calls), (EndReason::ContextFull, 15, 0));
    let c = RolloutConfig { max_context: 60, ..config() };
    let (t, ..) = one(&Ascii::default(), &c, turns, |_| ok("0123456789abcdef"));
    assert_eq!(by_source(&t, Source::Tool), "012\n[...]\ndef");
    assert_eq!((t.calls[0].cut, t.tokens.len(), t.end), (10, 60, EndReason::ContextFull));
}

#[test]
fn answers_stop_if_asked_to() {
    let stop = RolloutConfig { stop_at_answer: true, ..config() };
    let (t, ..) = one(&Ascii::default(), &stop, &["\\boxed{4} and more"], ok);
    assert_eq!((t.end, by_source(&t, Source::Model).as_str()), (EndReason::Answered, "\\boxed{4}"));
    let (t, ..) = one(&Ascii::default(), &config(), &["\\boxed{4} and more"], ok);
    assert_eq!(t.end, EndReason::EndOfTurn);
}

#[test]
fn failing_programs_are_shown() {
    let fail =
        |_: &str| ToolOutput { text: "ZeroDivisionError: division by zero".into(), ..ToolOutput::default() };
    let c = RolloutConfig { max_tool_output: 100, ..config() };
    let (t, stats, _) = one(&Ascii::default(), &c, &["<code>1/0</code>", "hm"], fail);
    assert_eq!(by_source(&t, Source::Tool), "ZeroDivisionError: division by zero");
    assert_eq!((stats.tool_calls, stats.tool_errors, t.calls[0].ok), (1, 1, false));
}

/// Log-probabilities that depend on the whole context, over digits, tags and the end.
fn hashed(kv: &[u32], row: &mut [f32]) {
    let h = kv.iter().fold([1u32, 2, 3, 4], |h, &id| philox([h[0], h[1], h[2] ^ id, h[3]], [7, 9]));
    let inside = kv.iter().rposition(|&id| id == 128) > kv.iter().rposition(|&id| id == 129);
    for (i, id) in (48..58).chain([if inside { 129 } else { 128 }, 0]).enumerate() {
        row[id] = (philox(h, [i as u32, 0])[0] >> 16) as f32 / 32768.0 + [0.0, 1.5, 0.5][i.saturating_sub(9)];
    }
}

#[test]
fn trajectories_depend_on_seed_and_weights_alone() {
    let text = Ascii::with_tags();
    let c = RolloutConfig { max_turns: 3, top_k: 9, top_p: 0.95, temperature: 0.8, ..config() };
    let requests = [request(3, "12+34", 0..5), request(0, "5", 0..4), request(7, "999*99999", 0..6)];
    let double = |code: &str| ok(&code.repeat(2));
    let run = |slots, batch, concurrency, pool_seed, requests: &[Request]| {
        let mut model = Scripted::new(slots, batch, 90, hashed);
        let c = RolloutConfig { concurrency, ..c.clone() };
        let pool = Shuffled::new(pool_seed, double);
        rollout(&mut model, &text, Some(&pool), requests, &c, &mut |_| Control::Continue).unwrap().0
    };
    let reference = run(1, 7, 1, 0, &requests);
    assert_eq!(reference.len(), 15);
    assert!(reference.iter().filter(|t| !t.calls.is_empty()).count() > 5, "calls are exercised");
    assert!(reference.iter().any(|t| t.end == EndReason::EndOfTurn));
    for (slots, batch, concurrency) in [(2, 3, 2), (3, 64, 1), (4, 2, 8), (16, 512, 16), (5, 16, 3)] {
        for pool_seed in 0..6 {
            assert_eq!(
                run(slots, batch, concurrency, pool_seed, &requests),
                reference,
                "{slots} {batch} {concurrency}"
            );
        }
    }
    // Nor on KV blocks: two hold one context.
    let mut preemptions = 0;
    for (slots, batch, blocks) in [(4, 64, 2), (6, 30, 3), (16, 512, 5), (16, 9, 8)] {
        for pool_seed in 0..3 {
            let mut model = Scripted::with_blocks(slots, batch, 90, blocks, hashed);
            let c = RolloutConfig { concurrency: 8, ..c.clone() };
            let pool = Shuffled::new(pool_seed, double);
            let (found, stats) =
                rollout(&mut model, &text, Some(&pool), &requests, &c, &mut |_| Control::Continue).unwrap();
            assert_eq!(found, reference, "{slots} {batch} {blocks}");
            assert!(
                stats.kv_blocks_peak <= blocks && (stats.recomputed_tokens > 0) == (stats.preemptions > 0)
            );
            preemptions += stats.preemptions;
        }
    }
    assert!(preemptions > 20, "{preemptions} preemptions");
    // Nor on what else was asked for.
    let alone = run(4, 16, 4, 1, &[Request { samples: 2..4, ..requests[2].clone() }]);
    assert_eq!(alone, reference[11..13]);
    let other = Request { seed: 12, ..requests[2].clone() };
    assert_ne!(run(4, 16, 4, 1, &[other]), reference[9..]);
}

#[test]
fn samples_share_their_prompt() {
    let prompt = "a prompt of forty characters, more or less";
    let mut model = Scripted::new(8, 512, 200, says(Ascii::default(), prompt, &["hello"]));
    let c = RolloutConfig { max_turns: 0, ..config() };
    let requests = [request(0, prompt, 0..8)];
    let (t, stats) =
        rollout(&mut model, &Ascii::default(), None, &requests, &c, &mut |_| Control::Continue).unwrap();
    assert_eq!(t.len(), 8);
    // One prefill, and the last prompt token once more for each of the others.
    assert_eq!(stats.prefill_tokens, prompt.len() + 7);
    assert_eq!(stats.steps, 1 + 6);
}

#[test]
fn decoding_goes_on_while_tools_run() {
    // The first sequence calls a tool that answers only after the second has ended.
    let mut model = Scripted::new(2, 64, 200, |kv: &[u32], row: &mut [f32]| {
        let script = if kv[0] == u32::from(b'A') { "<code>1</code>" } else { "0123456789012345678" };
        let written = kv.len() - 1;
        let next = script.as_bytes().get(written).map_or(Ascii::END, |&b| u32::from(b));
        row[next as usize] = 0.0;
    });
    struct Late(std::cell::RefCell<Option<u64>>, std::cell::Cell<usize>);
    impl ToolPool for Late {
        fn submit(&self, id: u64, _: Call, _: Option<Session>) -> Result<(), Error> {
            self.0.replace(Some(id));
            Ok(())
        }
        fn poll(&self, wait: Duration) -> Result<Option<Answer>, Error> {
            if wait.is_zero() {
                return Ok(None);
            }
            self.1.set(self.1.get() + 1);
            Ok(self.0.take().map(|id| Answer { id, output: ok("2"), session: None }))
        }
    }
    let (pool, requests) =
        (Late(Default::default(), Default::default()), [request(0, "A", 0..1), request(1, "B", 0..1)]);
    let (t, stats) =
        rollout(&mut model, &Ascii::default(), Some(&pool), &requests, &config(), &mut |_| Control::Continue)
            .unwrap();
    assert_eq!((t[0].calls.len(), t[1].end), (1, EndReason::EndOfTurn));
    assert_eq!(pool.1.get(), 1, "waited once, when nothing could decode");
    assert!(stats.decode_idle_s > 0.0 && stats.steps >= 20);
}

#[test]
fn cancelling_returns_what_was_started() {
    let mut model = Scripted::new(2, 64, 200, |_: &[u32], row: &mut [f32]| row[49] = 0.0);
    let mut steps = 0;
    let mut on_event = |e: Event| {
        steps += usize::from(matches!(e, Event::Progress(_)));
        if steps > 3 { Control::Stop } else { Control::Continue }
    };
    let requests = [request(0, "1", 0..1), request(1, "2", 0..1), request(2, "3", 0..1)];
    let c = RolloutConfig { max_turns: 0, ..config() };
    let (t, stats) = rollout(&mut model, &Ascii::with_tags(), None, &requests, &c, &mut on_event).unwrap();
    assert_eq!(
        t.iter().map(|t| (t.problem, t.tokens.len(), t.end)).collect::<Vec<_>>(),
        [(0, 4, EndReason::Cancelled), (1, 4, EndReason::Cancelled)]
    );
    assert_eq!((stats.steps, stats.finished, stats.trajectories), (3, 2, 3));
}

#[test]
fn bad_requests_and_bad_weights() {
    let mut model = Scripted::new(1, 8, 16, |_: &[u32], row: &mut [f32]| row[0] = f32::NAN);
    let text = Ascii::default();
    let mut run = |prompt: &str| {
        rollout(&mut model, &text, None, &[request(4, prompt, 2..3)], &config(), &mut |_| Control::Continue)
    };
    assert_eq!(run("").unwrap_err().to_string(), "problem 4: the prompt is empty; check the prompt template");
    assert!(
        run("1")
            .unwrap_err()
            .to_string()
            .starts_with("problem 4, sample 2: the model's logits are not finite")
    );
    let (t, stats) = run("0123456789abcdef").unwrap();
    assert_eq!((t[0].end, t[0].tokens.len(), stats.prompts_too_long), (EndReason::ContextFull, 16, 1));
}

/// Answers a call after it was asked for it `asks` times in passing, or when the loop waits, which takes `pause`.
struct Slow {
    waiting: RefCell<Vec<(u64, usize)>>,
    asks: usize,
    pause: Duration,
}

impl ToolPool for Slow {
    fn submit(&self, id: u64, _: Call, _: Option<Session>) -> Result<(), Error> {
        self.waiting.borrow_mut().push((id, self.asks));
        Ok(())
    }

    fn poll(&self, wait: Duration) -> Result<Option<Answer>, Error> {
        let mut waiting = self.waiting.borrow_mut();
        let Some((_, left)) = waiting.first_mut() else { return Ok(None) };
        if wait.is_zero() && *left > 0 {
            *left -= 1;
            return Ok(None);
        }
        if !wait.is_zero() {
            std::thread::sleep(self.pause);
        }
        let (id, _) = waiting.remove(0);
        Ok(Some(Answer { id, output: ok("1"), session: None }))
    }
}

#[test]
fn idle_is_the_time_in_which_all_wait_for_tools() {
    let pause = Duration::from_millis(3);
    let run = |prompts: &[&str], asks| {
        let text = Ascii::with_tags();
        let [mut short, mut long] =
            [("Q", &["<code>1</code>", "done"][..]), ("P", &["a long text that calls nothing at all"][..])]
                .map(|(prompt, turns)| says(text, prompt, turns));
        let mut model = Scripted::new(4, 64, 400, move |kv: &[u32], row: &mut [f32]| match kv[0] as u8 {
            b'Q' => short(kv, row),
            _ => long(kv, row),
        });
        let pool = Slow { waiting: RefCell::default(), asks, pause };
        let requests: Vec<Request> = prompts.iter().enumerate().map(|(i, p)| request(i, p, 0..1)).collect();
        let mut go = |_: Event| Control::Continue;
        rollout(&mut model, &text, Some(&pool), &requests, &config(), &mut go).unwrap().1
    };
    // One waits, the other computes all the while: the loop only asks in passing.
    let stats = run(&["Q", "P"], 10);
    assert_eq!((stats.tool_calls, stats.idle_waits, stats.decode_idle_s), (1, 0, 0.0));
    // All three wait; each that is answered goes to its end before the loop waits for the next.
    let stats = run(&["Q", "Q", "Q"], usize::MAX);
    assert_eq!((stats.tool_calls, stats.idle_waits), (3, 3));
    assert!(stats.decode_idle_s >= 3.0 * pause.as_secs_f64() && stats.decode_idle_s <= stats.wall_s);
}
