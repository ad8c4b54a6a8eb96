//! What several of these test binaries share.

use std::path::PathBuf;

use toolsmith_models::fetch;

/// SmolLM2-135M-Instruct: `$TOOLSMITH_SMOLLM2`, or the file that `toolsmith fetch smollm2` gets. Where there is none, says
/// so and gives nothing.
pub fn smollm2() -> Option<PathBuf> {
    let path = match std::env::var_os("TOOLSMITH_SMOLLM2") {
        Some(path) => PathBuf::from(path),
        None => fetch::smollm2_path(&fetch::default_cache()),
    };
    if !path.exists() {
        eprintln!("skipped: {} is not there; `toolsmith fetch smollm2` gets it", path.display());
    }
    path.exists().then_some(path)
}
