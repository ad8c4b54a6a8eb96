//! Cutting an image down before it is compiled: functions that only dropped packages use become empty, and the packages
//! leave the library, so that importing one raises ModuleNotFoundError instead of trapping.

use std::collections::HashMap;
use std::io::{Cursor, Read, Write};
use std::ops::RangeInclusive;

use wasmer::wasmparser::{
    CompositeInnerType, DataKind, ExternalKind, KnownCustom, Name, Operator, Parser, Payload, TypeRef,
    ValType,
};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::descriptor::Descriptor;
use crate::SandboxError;

fn mismatch(what: impl std::fmt::Display) -> SandboxError {
    SandboxError::Descriptor(what.to_string())
}

/// The module with the descriptor's functions cut out and without its custom sections.
///
/// A cut function keeps its type. One of type `() -> ()` returns (a C++ constructor does, run at start), one of `() -> i32`
/// returns 0 (the NULL of a Python module that failed to initialise, which the interpreter reports); any other traps.
pub(crate) fn wasm(module: &[u8], of: &Descriptor) -> Result<Vec<u8>, SandboxError> {
    let broken = |e: wasmer::wasmparser::BinaryReaderError| mismatch(e);
    let mut imported = 0u32;
    let mut types = Vec::new();
    let mut functions: Vec<u32> = Vec::new();
    let mut bodies: Vec<&[u8]> = Vec::new();
    let mut code = None;
    let mut sections = Vec::new();
    let mut names: HashMap<&str, Vec<u32>> = HashMap::new();
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(broken)?;
        if let Some((id, range)) = payload.as_section() {
            if id == 10 {
                code = Some(sections.len());
            }
            if id != 0 {
                sections.push((id, range.start as usize..range.end as usize));
            }
        }
        match payload {
            Payload::TypeSection(reader) => {
                for group in reader {
                    for ty in group.map_err(broken)?.into_types() {
                        types.push(match ty.composite_type.inner {
                            CompositeInnerType::Func(f) => Some(f),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(reader) => {
                for import in reader.into_imports() {
                    if let TypeRef::Func(_) = import.map_err(broken)?.ty {
                        imported += 1;
                    }
                }
            }
            Payload::FunctionSection(reader) => {
                functions = reader.into_iter().collect::<Result<_, _>>().map_err(broken)?;
            }
            Payload::ExportSection(reader) => {
                for export in reader {
                    let export = export.map_err(broken)?;
                    if export.kind == ExternalKind::Memory && export.name != "memory" {
                        return Err(mismatch("a memory other than `memory` is exported"));
                    }
                }
            }
            Payload::CodeSectionEntry(body) => bodies.push(body.as_bytes()),
            Payload::CustomSection(reader) => {
                let KnownCustom::Name(reader) = reader.as_known() else {
                    continue;
                };
                for part in reader {
                    let Name::Function(map) = part.map_err(broken)? else {
                        continue;
                    };
                    for naming in map {
                        let naming = naming.map_err(broken)?;
                        let wanted = |(a, b): &(&str, &str)| *a == naming.name || *b == naming.name;
                        if of.cut.iter().any(wanted) {
                            names.entry(naming.name).or_default().push(naming.index);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    let index = |name: &str| match names.get(name).map(Vec::as_slice) {
        Some([one]) => one.checked_sub(imported).ok_or_else(|| mismatch(format!("{name} is imported"))),
        Some(all) => Err(mismatch(format!("{} functions are called {name}", all.len()))),
        None => Err(mismatch(format!("no function is called {name}"))),
    };
    let mut cuts: Vec<RangeInclusive<u32>> = Vec::new();
    for (first, last) in of.cut {
        cuts.push(index(first)?..=index(last)?);
    }
    let code = code.ok_or_else(|| mismatch("no code section"))?;

    let mut entries = Vec::new();
    leb(&mut entries, bodies.len());
    for (i, body) in bodies.iter().enumerate() {
        let cut = cuts.iter().any(|c| c.contains(&(i as u32)));
        let ty = functions
            .get(i)
            .and_then(|t| types.get(*t as usize)?.as_ref())
            .ok_or_else(|| mismatch(format!("function {i} has no type")))?;
        let body = match (ty.params(), ty.results()) {
            _ if !cut => body,
            // No locals; then `end`, `i32.const 0; end`, or `unreachable; end`.
            ([], []) => &[0x00, 0x0B][..],
            ([], [ValType::I32]) => &[0x00, 0x41, 0x00, 0x0B],
            _ => &[0x00, 0x00, 0x0B],
        };
        leb(&mut entries, body.len());
        entries.extend_from_slice(body);
    }
    let mut out = module[..8].to_vec();
    for (i, (id, range)) in sections.into_iter().enumerate() {
        let body = if i == code { &entries } else { &module[range] };
        out.push(id);
        leb(&mut out, body.len());
        out.extend_from_slice(body);
    }
    Ok(out)
}

/// The module without its data, and the data: of each segment its address, its length (little-endian u32) and its bytes.
///
/// Once a snapshot is taken the data is in it, and a module that keeps its own costs each process that much memory, twice.
pub(crate) fn data(module: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SandboxError> {
    let broken = |e: wasmer::wasmparser::BinaryReaderError| mismatch(e);
    let (mut out, mut data) = (module.get(..8).unwrap_or_default().to_vec(), Vec::new());
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.map_err(broken)?;
        if let Payload::DataSection(reader) = &payload {
            for segment in reader.clone() {
                let segment = segment.map_err(broken)?;
                let DataKind::Active { memory_index: 0, offset_expr } = segment.kind else {
                    return Err(mismatch("a data segment has no place of its own"));
                };
                let Ok(Operator::I32Const { value }) = offset_expr.get_operators_reader().read() else {
                    return Err(mismatch("a data segment's place is computed"));
                };
                data.extend((value as u32).to_le_bytes());
                data.extend((segment.data.len() as u32).to_le_bytes());
                data.extend_from_slice(segment.data);
            }
        } else if let Some((id, range)) = payload.as_section()
            && !matches!(payload, Payload::DataCountSection { .. })
        {
            let body = &module[range.start as usize..range.end as usize];
            out.push(id);
            leb(&mut out, body.len());
            out.extend_from_slice(body);
        }
    }
    Ok((out, data))
}

fn leb(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7F) as u8;
        value >>= 7;
        if value == 0 {
            return out.push(byte);
        }
        out.push(byte | 0x80);
    }
}

/// The library without the descriptor's packages, stored uncompressed: it is mapped, and an import then inflates nothing.
pub(crate) fn library(zip: &[u8], of: &Descriptor) -> Result<Vec<u8>, SandboxError> {
    let broken = |e: zip::result::ZipError| mismatch(format!("library: {e}"));
    let mut from = ZipArchive::new(Cursor::new(zip)).map_err(broken)?;
    let mut to = ZipWriter::new(Cursor::new(Vec::with_capacity(zip.len() * 2)));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    let mut bytes = Vec::new();
    for i in 0..from.len() {
        let mut file = from.by_index(i).map_err(broken)?;
        let name = file.name().to_string();
        let top = name.split('/').next().unwrap_or("");
        let top = top.strip_suffix(".pyc").unwrap_or(top);
        if of.drop.contains(&top) || file.is_dir() {
            continue;
        }
        bytes.clear();
        file.read_to_end(&mut bytes).map_err(|e| mismatch(format!("library: {name}: {e}")))?;
        to.start_file(name.as_str(), options).map_err(broken)?;
        to.write_all(&bytes).map_err(|e| mismatch(format!("library: {name}: {e}")))?;
    }
    Ok(to.finish().map_err(broken)?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::descriptor::MATH;

    const MODULE: &str = r#"(module
        (import "x" "imported" (func $imported))
        (memory (export "memory") 1)
        (func $first (result i32) i32.const 7)
        (func $constructor (call $imported))
        (func $middle (param i32) (result i32) local.get 0)
        (func $last (param i64))
        (func $kept (export "kept") (result i32) i32.const 9))"#;

    fn descriptor(cut: &'static [(&'static str, &'static str)]) -> Descriptor {
        Descriptor { cut, drop: &["dropped"], ..MATH }
    }

    fn bodies(module: &[u8]) -> Vec<Vec<u8>> {
        let all = Parser::new(0).parse_all(module).map(Result::unwrap);
        all.filter_map(|p| match p {
            Payload::CodeSectionEntry(body) => Some(body.as_bytes().to_vec()),
            Payload::CustomSection(_) => panic!("a custom section is left"),
            _ => None,
        })
        .collect()
    }

    #[test]
    fn functions_between_two_names_are_cut() {
        let module = wasmer::wat2wasm(MODULE.as_bytes()).unwrap();
        let cut = wasm(&module, &descriptor(&[("first", "last")])).unwrap();
        wasmer::wasmparser::validate(&cut).unwrap();
        let returns = |body: &[u8]| [&[0x00], body, &[0x0B]].concat();
        assert_eq!(
            bodies(&cut),
            [returns(&[0x41, 0]), returns(&[]), returns(&[0x00]), returns(&[0x00]), returns(&[0x41, 9])]
        );
        let one = wasm(&module, &descriptor(&[("middle", "middle")])).unwrap();
        assert_eq!(bodies(&one)[0], returns(&[0x41, 7]));
        assert_eq!(bodies(&one)[2], returns(&[0x00]));
    }

    #[test]
    fn data_is_taken_out() {
        let wat = r#"(module (memory (export "memory") 1) (func (export "kept") (result i32) i32.const 9)
            (data (i32.const 16) "abc") (data (i32.const 0x8000) "\01\02"))"#;
        let (module, placed) = data(&wasmer::wat2wasm(wat.as_bytes()).unwrap()).unwrap();
        wasmer::wasmparser::validate(&module).unwrap();
        assert!(!Parser::new(0).parse_all(&module).any(|p| matches!(p.unwrap(), Payload::DataSection(_))));
        assert_eq!(placed, b"\x10\0\0\0\x03\0\0\0abc\x00\x80\0\0\x02\0\0\0\x01\x02");
        let passive = wasmer::wat2wasm(br#"(module (memory 1) (data "abc"))"#).unwrap();
        assert!(data(&passive).unwrap_err().to_string().contains("no place"));
    }

    #[test]
    fn another_module_is_refused() {
        let module = wasmer::wat2wasm(MODULE.as_bytes()).unwrap();
        for (cut, why) in [
            (&[("first", "absent")] as &[_], "no function is called absent"),
            (&[("imported", "last")], "imported is imported"),
        ] {
            let e = wasm(&module, &descriptor(cut)).unwrap_err().to_string();
            assert!(e.contains(why), "{e}");
        }
        for n in [0, 4, 8, 20, module.len() / 2] {
            assert!(wasm(&module[..n], &descriptor(&[("first", "last")])).is_err(), "{n} bytes");
        }
    }

    #[test]
    fn packages_leave_the_library() {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        for name in ["kept/a.pyc", "dropped/b.pyc", "dropped.pyc", "droppedx.pyc"] {
            zip.start_file(name, SimpleFileOptions::default()).unwrap();
            zip.write_all(name.as_bytes()).unwrap();
        }
        let zip = zip.finish().unwrap().into_inner();
        let slim = library(&zip, &descriptor(&[])).unwrap();
        assert_eq!(slim, library(&zip, &descriptor(&[])).unwrap());
        let left = ZipArchive::new(Cursor::new(slim)).unwrap();
        assert_eq!(left.file_names().collect::<Vec<_>>(), ["kept/a.pyc", "droppedx.pyc"]);
        assert!(library(&zip[..20], &descriptor(&[])).is_err());
    }
}
