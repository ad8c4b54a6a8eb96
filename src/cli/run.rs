//! `toolsmith run`: one answer, streamed, the code in it run as it is written.

use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::inference::Inference;
use super::sandbox::prepared_image;
use super::tools::modules;
use super::transcript::Transcript;
use super::{BadInput, Interrupted, stop_on_ctrl_c};
use crate::agent::{Agent, AgentBuilder};
use crate::rollout::{Control, EndReason, Source};

/// Answer a prompt, running the Python that the model writes.
///
/// The answer goes to standard output, code and what it printed set apart; tokens a second to standard error.
/// Greedy unless a temperature is given.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to ask; `-` reads it from standard input.
    #[arg(value_name = "PROMPT")]
    prompt: String,
    /// WebAssembly module (.wasm, or .wat as text) to offer beside Python; may be given several times.
    #[arg(long, value_name = "FILE", conflicts_with = "no_tool")]
    tool: Vec<String>,
    #[command(flatten)]
    inference: Inference,
}

/// Answers.
///
/// # Errors
/// Bad input before anything is sampled; what goes wrong on the way; Ctrl-C.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let mut first = None;
    let mut config = args.inference.load()?;
    if args.inference.config.is_none() && !args.inference.sets("rollout.temperature") {
        config.rollout.temperature = 0.0;
    }
    config.rollout.tools.extend(args.tool);
    let prompt = match args.prompt.as_str() {
        "-" => {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).map_err(|e| BadInput(format!("standard input: {e}")))?;
            text.trim_end().to_owned()
        }
        prompt => prompt.to_owned(),
    };
    let builder = Agent::builder(&args.inference.model)
        .dtype(config.model.dtype)
        .seed(config.run.seed)
        .sampling(config.rollout.clone());
    let builder = match config.rollout.max_turns {
        0 => builder.no_tools(),
        _ => modules(&config)?.into_iter().fold(builder.limits(&config.sandbox), AgentBuilder::tool),
    };
    let mut agent = builder.build()?;
    if config.rollout.max_turns > 0 {
        prepared_image(&config.sandbox)?;
    }

    let stop = stop_on_ctrl_c()?;
    let stdout = io::stdout();
    let mut transcript = Transcript::new(stdout.lock(), stdout.is_terminal());
    let mut written = Ok(());
    let start = Instant::now();
    let reply = agent.run(&prompt, |event| {
        first.get_or_insert_with(|| begun.elapsed());
        if written.is_ok() {
            written = transcript.event(&event);
        }
        if written.is_err() || stop.load(Ordering::Relaxed) { Control::Stop } else { Control::Continue }
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let of = |source| reply.trajectory.tokens.iter().filter(|t| t.source == source).count();
    let (asked, tokens) = (of(Source::Prompt), of(Source::Model));
    if tokens == 0 && reply.end() == EndReason::ContextFull {
        let what = "longer than the model's context or `rollout.max_context`";
        return Err(BadInput(format!("the prompt has {asked} tokens, {what}")).into());
    }
    written.and_then(|()| transcript.finish(reply.answer.as_deref()))?;
    if stop.load(Ordering::Relaxed) {
        return Err(Interrupted(None).into());
    }
    let calls = match reply.trajectory.calls.len() {
        1 => "1 call".to_owned(),
        n => format!("{n} calls"),
    };
    let rate = tokens as f64 / seconds;
    let end = serde_json::to_value(reply.end())?;
    let end = end.as_str().unwrap_or_default().replace('_', " ");
    let first =
        first.map_or(String::new(), |t| format!(", the first {:.2} s after the start", t.as_secs_f64()));
    writeln!(
        io::stderr(),
        "{tokens} tokens in {seconds:.1} s ({rate:.1} tok/s){first}, {calls}, ended by {end}"
    )?;
    Ok(ExitCode::SUCCESS)
}
