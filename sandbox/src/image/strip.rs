//! Compiled code without what only a debugger reads: a third of the file, and 200 MB of memory, because wasmer reads it all
//! at a process's first trap.

use crate::SandboxError;

const SECTION: usize = 64;
const ALLOCATED: u64 = 2;
const NO_BITS: u32 = 8;

/// `code` without its symbols and DWARF sections. What is not an ELF file (wasmer has another format where the system has
/// another linker) stays as it is.
pub(crate) fn strip(code: Vec<u8>) -> Result<Vec<u8>, SandboxError> {
    if !code.starts_with(b"\x7fELF") {
        return Ok(code);
    }
    elf(&code).ok_or_else(|| SandboxError::engine("compile", "the linked code is not a 64-bit ELF file"))
}

/// Sections that are mapped stay where they are; of the others, wasmer's own move up behind them.
fn elf(code: &[u8]) -> Option<Vec<u8>> {
    let headers = number(code, 0x28, 8)?;
    let count = number(code, 0x3C, 2)?;
    let names = number(code, 0x3E, 2)?;
    if number(code, 4, 1)? != 2 || number(code, 0x3A, 2)? != SECTION {
        return None;
    }
    let header = |i: usize| headers.checked_add(i * SECTION);
    let range = |at: usize| {
        let (start, len) = (number(code, at + 0x18, 8)?, number(code, at + 0x20, 8)?);
        Some(start..start.checked_add(len)?)
    };
    let names = code.get(range(header(names)?)?)?;
    let (mut end, mut moved, mut dropped) = (header(count)?, Vec::new(), Vec::new());
    for i in 0..count {
        let at = header(i)?;
        let name = names.get(number(code, at, 4)?..)?;
        let bits = number(code, at + 4, 4)? != NO_BITS as usize;
        if number(code, at + 8, 8)? as u64 & ALLOCATED != 0 {
            end = if bits { end.max(range(at)?.end) } else { end };
        } else if name.starts_with(b".w.") || name.starts_with(b".shstrtab\0") {
            moved.push(at);
        } else {
            dropped.push(at);
        }
    }
    let mut out = code.get(..end)?.to_vec();
    for at in dropped {
        out.get_mut(at..at + SECTION)?.fill(0);
    }
    for at in moved {
        out.resize(out.len().next_multiple_of(8), 0);
        let to = out.len() as u64;
        out.get_mut(at + 0x18..at + 0x20)?.copy_from_slice(&to.to_le_bytes());
        out.extend_from_slice(code.get(range(at)?)?);
    }
    Some(out)
}

/// The little-endian number of `bytes` bytes at `at`.
fn number(code: &[u8], at: usize, bytes: usize) -> Option<usize> {
    let field = code.get(at..at.checked_add(bytes)?)?;
    usize::try_from(field.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine;
    use crate::meter::Meter;

    #[test]
    fn stripped_code_loads_and_traps_as_before() {
        let wat = r#"(module
            (func (export "add") (param i32 i32) (result i32) local.get 0 local.get 1 i32.add)
            (func (export "divide") (param i32 i32) (result i32) local.get 0 local.get 1 i32.div_s))"#;
        let whole = engine::compile(&wasmer::wat2wasm(wat.as_bytes()).unwrap(), Meter::strict(), &mut |_| {})
            .unwrap();
        let code = strip(whole.clone()).unwrap();
        if cfg!(target_os = "linux") {
            assert!(code.len() < whole.len(), "{} of {}", code.len(), whole.len());
        }
        assert_eq!(strip(code.clone()).unwrap(), code);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("code");
        std::fs::write(&path, &code).unwrap();
        // SAFETY: compiled above.
        let (engine, module) = unsafe { engine::load(&path).unwrap() };
        let mut store = wasmer::Store::new(engine);
        let instance = wasmer::Instance::new(&mut store, &module, &wasmer::imports! {}).unwrap();
        let exports = &instance.exports;
        let add = exports.get_typed_function::<(i32, i32), i32>(&store, "add").unwrap();
        let divide = exports.get_typed_function::<(i32, i32), i32>(&store, "divide").unwrap();
        assert_eq!(add.call(&mut store, 40, 2).unwrap(), 42);
        let trap = divide.call(&mut store, 1, 0).unwrap_err();
        assert_eq!(trap.to_trap(), Some(wasmer_types::TrapCode::IntegerDivisionByZero));
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let wasm = wasmer::wat2wasm(b"(module (func (export \"f\")))").unwrap();
        let code = engine::compile(&wasm, Meter::strict(), &mut |_| {}).unwrap();
        if code.starts_with(b"\x7fELF") {
            for len in (4..code.len()).step_by(code.len() / 97 + 1) {
                if let Ok(cut) = strip(code[..len].to_vec()) {
                    assert!(cut.len() <= len + 64);
                }
            }
            assert!(strip(code[..200].to_vec()).is_err());
        }
    }
}
