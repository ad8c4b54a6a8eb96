//! Making the snapshot's objects immortal, so that looking at one does not write to it.
//!
//! CPython counts references in the object. A program that only walks through sympy thus writes to most pages of it, and each
//! costs a fault and a copy. An object whose count lies above a threshold (PEP 683) is never counted nor freed, and what is in
//! the snapshot is never freed anyway: the next reset brings it back.
//!
//! Which words are counts is found by asking an interpreter for its objects. Asking makes objects, too; so two are asked, of
//! which one has filled the gaps of its heap before. What both name, and what is of the type they name in the snapshot, was
//! there: memory that was freed and given to an object since holds something else in it.

use std::collections::BTreeSet;

use crate::SandboxError;
use crate::error::one_line;
use crate::snapshot::turn;
use crate::vm::Vm;

const OBJECTS: &str = include_str!("python/objects.py");
/// Takes blocks of every size that the allocators tell apart.
const FILL: &str = "_fill = [bytes(n) for _ in range(4) for n in [*range(600), *range(600, 60000, 128)]]";
/// More references than any object has, and less than any address of a heap above the static data: the first word of a freed
/// object, which may be asked about again under the same address, is the address of another.
const MOST: u32 = 1 << 22;
/// `_Py_IMMORTAL_INITIAL_REFCNT` of a 32-bit CPython (3.14 and later).
const IMMORTAL: u32 = 5 << 28;

/// What this adds to a cache key.
pub(crate) fn sources() -> [&'static str; 2] {
    [OBJECTS, FILL]
}

/// Sets the reference counts of the objects in `memory`, a snapshot of which `start` makes an interpreter.
pub(crate) fn make(
    memory: &mut [u8],
    mut start: impl FnMut() -> Result<Vm, SandboxError>,
) -> Result<(), SandboxError> {
    let first = objects(&mut start()?)?;
    let mut filled = start()?;
    turn(&mut filled, FILL, None).map_err(|e| failed(&e))?;
    let second = objects(&mut filled)?;
    for (at, kind) in first.intersection(&second) {
        let object = memory.get_mut(*at as usize..*at as usize + 8);
        let object = object.ok_or_else(|| failed("an object lies outside of the snapshot"))?;
        let (count, of) = object.split_at_mut(4);
        let now = u32::from_le_bytes((&*count).try_into().expect("four bytes"));
        if (1..MOST).contains(&now) && of == kind.to_le_bytes() {
            count.copy_from_slice(&IMMORTAL.to_le_bytes());
        }
    }
    Ok(())
}

/// The addresses of the interpreter's objects, each with that of its type.
fn objects(vm: &mut Vm) -> Result<BTreeSet<(u32, u32)>, SandboxError> {
    let said = turn(vm, OBJECTS, None).map_err(|e| failed(&e))?;
    let place: Option<Vec<usize>> = said.split_whitespace().map(|n| n.parse().ok()).collect();
    let words = match place.as_deref() {
        Some([at, words]) => words.checked_mul(4).and_then(|len| vm.memory().get(*at..)?.get(..len)),
        _ => None,
    };
    let words = words.ok_or_else(|| failed(&said))?;
    let word = |w: &[u8]| u32::from_le_bytes(w.try_into().expect("four bytes"));
    Ok(words.chunks_exact(8).map(|pair| (word(&pair[..4]), word(&pair[4..]))).collect())
}

fn failed(why: &str) -> SandboxError {
    SandboxError::WarmUp(format!("its objects cannot be found: {}", one_line(why)))
}
