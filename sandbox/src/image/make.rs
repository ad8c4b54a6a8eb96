//! Making an image's files, and what they are made from.

use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::descriptor::Descriptor;
use super::fetch::{self, Source, hex};
use super::manifest::{self, Manifest};
use super::recipe::Recipe;
use super::seal::Seal;
use super::{CODE, DATA, MEMORY, Progress, Stage, archive, slim, store, strip};
use crate::meter::Meter;
use crate::{SandboxError, engine, snapshot};

/// Makes the image's files in `part`. Code that any folder of the cache holds intact is taken over: neither a damaged snapshot
/// nor a new warm-up costs a compilation.
pub(crate) fn make(
    recipe: &Recipe,
    part: &Path,
    source: &Source,
    cache: &Path,
    seal: &Seal,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), SandboxError> {
    let of = recipe.packages.descriptor();
    if let Some(old) = compiled(of, cache, seal) {
        for name in [CODE, DATA, of.archive] {
            let to = part.join(name);
            let linked = std::fs::hard_link(old.join(name), &to);
            linked
                .or_else(|_| std::fs::copy(old.join(name), &to).map(drop))
                .map_err(SandboxError::io(&to))?;
        }
    } else {
        let (module, library) = fetch::fetch(of, source, &cache.join("downloads"), progress)?;
        progress(Progress::new(Stage::Slim, None));
        let (module, data) = slim::data(&slim::wasm(&module, of)?)?;
        write(&part.join(DATA), &data)?;
        write(&part.join(of.archive), &slim::library(&library, of)?)?;
        drop(library);
        let code = engine::compile(&module, Meter::trusted(&module)?, &mut |fraction| {
            progress(Progress::new(Stage::Compile, fraction));
        })?;
        write(&part.join(CODE), &strip::strip(code)?)?;
    }
    // SAFETY: compiled by this call, or compared with its digest by `compiled`.
    let code = unsafe { engine::load(&part.join(CODE))? };
    let data = part.join(DATA);
    let data = std::fs::read(&data).map_err(SandboxError::io(&data))?;
    let memory = part.join(MEMORY);
    let registers = snapshot::take(&code, &data, archive(part, recipe)?, recipe, &memory, progress)?;
    let digest = |name: &str| {
        let path = part.join(name);
        seal.file(&path).map_err(SandboxError::io(&path))
    };
    let manifest = Manifest {
        recipe: recipe.clone(),
        key: key(recipe),
        code_key: code_key(of),
        code: digest(CODE)?,
        data: digest(DATA)?,
        library: digest(of.archive)?,
        memory: digest(MEMORY)?,
        registers,
    };
    write(&part.join(manifest::FILE), &manifest.sealed(seal))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SandboxError> {
    let written = File::create(path).and_then(|mut file| {
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()
    });
    written.map_err(SandboxError::io(path))
}

/// Whether making the image compiles nothing.
pub(crate) fn is_compiled(recipe: &Recipe, cache: &Path) -> bool {
    let seal = Seal::read(&store::root(cache)).ok();
    seal.is_some_and(|seal| compiled(recipe.packages.descriptor(), cache, &seal).is_some())
}

/// A folder of the cache whose code and library are intact and made from what this build would make them from.
fn compiled(of: &Descriptor, cache: &Path, seal: &Seal) -> Option<PathBuf> {
    let wanted = code_key(of);
    let intact = |folder: &PathBuf| {
        let found = Manifest::sealed_by(seal, folder).filter(|m| m.code_key == wanted);
        found.is_some_and(|m| {
            let same = |name: &str, digest| seal.file(&folder.join(name)).is_ok_and(|d| d == digest);
            same(CODE, m.code) && same(DATA, m.data) && same(of.archive, m.library)
        })
    };
    store::images(&store::root(cache)).into_iter().find(intact)
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
pub(crate) fn key(recipe: &Recipe) -> String {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::memory::Original;
    use crate::vm::Vm;
    use crate::{Image, Recipe};

    const PROGRAMS: [(&str, &str); 4] = [
        ("a loop", "x = 0\nfor i in range(10**6): x += i"),
        ("calls", "def f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nf(21)"),
        ("floats", "v = [1.0, 2.0, 3.0]\nfor i in range(10**5): v = [v[1], v[2], v[0] * 0.5 + v[1] * 0.25]"),
        ("words", "d = {}\nfor i in range(10**5): d[str(i % 977)] = d.get(str(i % 977), 0) + 1"),
    ];

    /// `cargo test --release -p toolsmith-sandbox what_fuel_costs -- --ignored --nocapture`
    #[test]
    #[ignore = "prints times, after compiling Python twice"]
    fn what_fuel_costs() {
        let recipe = Recipe::default();
        let of = recipe.packages.descriptor();
        let downloads = Image::default_cache().join("downloads");
        let quiet: &mut dyn FnMut(Progress) = &mut |_| {};
        let (module, library) = fetch::fetch(of, &Source::default(), &downloads, quiet).unwrap();
        let (module, data) = slim::data(&slim::wasm(&module, of).unwrap()).unwrap();
        let mut python = |meter: Meter| {
            let part = tempfile::tempdir().unwrap();
            write(&part.path().join(of.archive), &slim::library(&library, of).unwrap()).unwrap();
            let code = engine::compile(&module, meter, &mut |_| {}).unwrap();
            write(&part.path().join(CODE), &strip::strip(code).unwrap()).unwrap();
            // SAFETY: compiled above.
            let code = unsafe { engine::load(&part.path().join(CODE)).unwrap() };
            let archive = archive(part.path(), &recipe).unwrap();
            let memory = part.path().join(MEMORY);
            let registers = snapshot::take(&code, &data, archive.clone(), &recipe, &memory, quiet).unwrap();
            let original = Arc::new(Original::new(File::open(memory).unwrap()).unwrap());
            let vm = Vm::new(&code.0, &code.1, archive, Some((original, &registers)), 8192).unwrap();
            (vm, registers, part)
        };
        let mut both = [python(Meter::idle()), python(Meter::trusted(&module).unwrap())];
        for (name, source) in PROGRAMS {
            let mut best = [Duration::MAX; 2];
            for _ in 0..25 {
                for ((vm, registers, _), best) in both.iter_mut().zip(&mut best) {
                    let started = Instant::now();
                    vm.host().begin(format!("last 0\n{source}").into_bytes(), 1000);
                    vm.set_fuel(u64::MAX);
                    assert_eq!(vm.turn(snapshot::RUN).unwrap(), 0);
                    assert!(vm.host().report.done && vm.host().report.field(b't').is_none());
                    *best = started.elapsed().min(*best);
                    vm.reset(registers).unwrap();
                }
            }
            let percent = (best[1].as_secs_f64() / best[0].as_secs_f64() - 1.0) * 100.0;
            println!("{name}: {:?} without charges, {:?} with, {percent:+.1} %", best[0], best[1]);
        }
    }
}
