//! The configured tools, as `train`, `eval` and `run` use them.

use std::path::Path;

use toolsmith_sandbox::tool::{Spec, ToolError, Tools, WasmTool};
use toolsmith_sandbox::{Isolation, Limits, Sandbox};

use super::sandbox::prepared_image;
use crate::config::Config;
use crate::rollout::{Toolbox, python_spec};

/// The modules of `rollout.tools`, under the sandbox's limits.
///
/// # Errors
/// The first that cannot be read or used.
pub fn modules(config: &Config) -> Result<Vec<WasmTool>, ToolError> {
    let limits = Limits::from(&config.sandbox);
    config.rollout.tools.iter().map(|path| WasmTool::open(Path::new(path), &limits)).collect()
}

/// What prompts offer: Python, then the modules.
///
/// # Errors
/// Two tools of one name.
pub fn offered(config: &Config, modules: &[WasmTool]) -> Result<Vec<Spec>, ToolError> {
    let mut all = vec![python_spec(config.rollout.stateful)];
    for module in modules {
        let spec = Spec::of(module)?;
        if all.iter().any(|s| s.name == spec.name) {
            return Err(ToolError::Duplicate(spec.name));
        }
        all.push(spec);
    }
    Ok(all)
}

/// Python in processes of its own, and the modules; `None` where tools are off.
///
/// # Errors
/// If the image cannot be prepared, a worker does not start, or two tools have one name.
pub fn toolbox(config: &Config, modules: Vec<WasmTool>) -> anyhow::Result<Option<Toolbox>> {
    if config.rollout.max_turns == 0 {
        return Ok(None);
    }
    let workers = match config.rollout.tool_workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let mut tools = Tools::new();
    for module in modules {
        tools.add(module)?;
    }
    let image = prepared_image(&config.sandbox)?;
    // The rollout bounds what is under way.
    let builder = Sandbox::builder().image(image).limits(Limits::from(&config.sandbox));
    let pool = builder.isolation(Isolation::Process).queue(usize::MAX).pool(workers)?;
    Ok(Some(Toolbox::new(Some(pool), tools, workers)?.stateful(config.rollout.stateful)))
}
