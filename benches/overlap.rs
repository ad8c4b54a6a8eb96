//! How long decoding stands still for tools: `cargo bench --bench overlap -- MODEL [SEQUENCES]`.
//!
//! A rollout on a real model in which a script, not the model, says what is written, so that 30 % of turns call Python
//! whatever the model is: the forward pass, the sampler, the sandbox and the loop are those of a run. Printed is
//! `perf/decode_idle`: the share of the rollout in which no sequence could compute because all waited for tools.

use std::collections::VecDeque;
use std::path::Path;

use toolsmith::config::RolloutConfig;
use toolsmith::rollout::{Control, Request, Toolbox, rollout};
use toolsmith_models::batch::{Batch, Decode};
use toolsmith_models::blocks::KvBlocks;
use toolsmith_models::convert::ModelSource;
use toolsmith_models::engine::{Bound, Engine};
use toolsmith_models::tokenizer::{Specials, Tokenizer};
use toolsmith_models::weights::Precision;
use toolsmith_sandbox::tool::Tools;
use toolsmith_sandbox::{Image, Sandbox};

/// Turns in a hundred that call.
const CALLS: usize = 30;
/// Rollouts of this many trajectories for each that decodes at a time.
const ROUNDS: usize = 4;

/// A model that computes what it is asked to, and says what a script does.
struct Scripted<'a> {
    model: Bound<'a>,
    ends: Vec<u32>,
    calls: Vec<u32>,
    /// What each slot's sequence has yet to say in this turn.
    rest: Vec<VecDeque<u32>>,
    turns: usize,
    called: usize,
    out: Vec<f32>,
}

impl Decode for Scripted<'_> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }
    fn slots(&self) -> usize {
        self.model.slots()
    }
    fn max_context(&self) -> usize {
        self.model.max_context()
    }
    fn max_batch_tokens(&self) -> usize {
        self.model.max_batch_tokens()
    }
    fn forward(&mut self, batch: &Batch) -> Result<&[f32], toolsmith_models::Error> {
        let vocab = self.model.vocab_size();
        let rows = self.model.forward(batch)?.len() / vocab;
        self.out.clear();
        self.out.resize(rows * vocab, f32::NEG_INFINITY);
        for (span, row) in batch.spans.iter().filter(|s| s.logits).zip(self.out.chunks_mut(vocab)) {
            let rest = &mut self.rest[span.slot];
            if span.past == 0 || rest.is_empty() {
                let call = self.turns * 37 % 100 < CALLS;
                self.turns += 1;
                self.called += usize::from(call);
                rest.clear();
                rest.extend(if call { &self.calls } else { &self.ends });
            }
            row[rest.pop_front().expect("a turn says something") as usize] = 0.0;
        }
        Ok(&self.out)
    }
    fn kv(&mut self) -> &mut KvBlocks {
        self.model.kv()
    }
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, Specials::Parse).expect("text of the bench has ids")
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let Some(path) = args.next() else {
        println!("overlap: name a model directory to measure: cargo bench --bench overlap -- MODEL");
        return;
    };
    let sequences = args.next().map_or(16, |n| n.parse().expect("a number of sequences"));
    let model = ModelSource::open(Path::new(&path), &Image::default_cache()).expect("a model");
    let precision = Precision::Bf16;
    let config = RolloutConfig {
        concurrency: sequences,
        max_turns: 16,
        max_completion_length: 400,
        max_context: 1024,
        ..RolloutConfig::default()
    };
    let options = config.engine(model.config.max_position_embeddings, precision);
    let mut engine = Engine::new(&model.config, options).expect("a plan");
    let weights = model.weights(precision).expect("weights");
    let view = weights.view();
    let tokenizer = &model.tokenizer;
    let prose =
        "Let us think about it step by step, and write down what is known before we compute. ".repeat(3);
    let program = "from sympy import symbols, solve\nx = symbols('x')\nprint(solve(x**2 - 5*x + 6, x))";
    let calls = ids(tokenizer, &format!("{prose}\n<code>\n```python\n{program}\n```\n</code>"));
    let ends = [ids(tokenizer, &prose), vec![tokenizer.eos()[0]]].concat();
    let slots = options.slots;
    let mut scripted = Scripted {
        model: engine.bind(&view),
        ends,
        calls,
        rest: vec![VecDeque::new(); slots],
        turns: 0,
        called: 0,
        out: vec![],
    };
    let pool = Sandbox::builder().pool(2).expect("Python");
    let tools = Toolbox::new(Some(pool), Tools::new(), 1).expect("a toolbox");
    let prompt = ids(tokenizer, "What are the roots of the polynomial? ");
    let request = |problem| Request { problem, prompt: prompt.clone(), samples: 0..1, seed: 0 };
    let requests: Vec<Request> = (0..ROUNDS * sequences).map(request).collect();
    let mut go = |_: toolsmith::rollout::Event| Control::Continue;
    let (_, stats) =
        rollout(&mut scripted, tokenizer, Some(&tools), &requests, &config, &mut go).expect("a rollout");
    println!(
        "{sequences} sequences at a time, {} in all: {} of {} turns call ({:.0} %), {:.0} tok/s, \
         decode_idle {:.2} % ({} waits in {:.1} s)",
        stats.finished,
        scripted.called,
        scripted.turns,
        100.0 * scripted.called as f64 / scripted.turns as f64,
        stats.generated_tokens as f64 / stats.wall_s,
        100.0 * stats.decode_idle_s / stats.wall_s,
        stats.idle_waits,
        stats.wall_s,
    );
}
