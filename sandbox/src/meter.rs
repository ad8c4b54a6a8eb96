//! Fuel: what a compiled module counts, so that the same program stops at the same step on every machine.
//!
//! Nothing runs long without repeating itself, and a module can repeat itself in two ways: by a loop, which is charged at each
//! iteration, and by calls that lead back to where they came from. Charging every function's entry would do for those, and
//! costs CPython a seventh of its speed. It is enough that every cycle of calls meets a charge: one stands at each indirect
//! call, and at the entry of the functions in which the cycles among direct calls close ([`recursive`]). What lies between
//! two charges is then a tree of calls that the module's own text bounds. A module that is not trusted could make that tree
//! as large as it likes, so it is charged at every entry. Bulk instructions are charged by what they move.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use wasmer::sys::{FunctionMiddleware, MiddlewareError, MiddlewareReaderState, ModuleMiddleware};
use wasmer::wasmparser::{BinaryReaderError, BlockType, Operator, Parser, Payload, TypeRef};
use wasmer::{GlobalType, LocalFunctionIndex, Mutability, Type};
use wasmer_types::{ExportIndex, GlobalInit, ModuleInfo};

use crate::SandboxError;

/// Prefix of the names under which mutable globals are exported.
pub(crate) const GLOBAL: &str = "__toolsmith_global_";
/// The exported fuel counter, an i64 that a call starts with its limit and that traps below 0.
pub(crate) const FUEL: &str = "__toolsmith_fuel";

/// A copy or fill of 2 to this many bytes costs one unit of fuel: about the time that a loop iteration takes.
pub(crate) const BULK: u32 = 4;

/// Charges fuel and exports the mutable globals.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    idle: bool,
    /// Of a trusted module, whose entry is charged, by local index.
    trusted: Option<Vec<bool>>,
    /// The index of the fuel global, known once the module's globals are. The next one is scratch: a bulk instruction's
    /// length, which its charge needs twice. It holds nothing from one instruction to the next.
    fuel: AtomicU32,
}

impl Meter {
    /// For one module that is trusted and of which snapshots are taken: as few charges as bound its time. Code whose effects a
    /// snapshot, a copy of memory and globals, would miss is refused.
    pub fn trusted(wasm: &[u8]) -> Result<Meter, SandboxError> {
        let entries = recursive(wasm).map_err(|e| SandboxError::engine("compile", e))?;
        Ok(Meter { trusted: Some(entries), ..Meter::default() })
    }

    /// For one module, charging nothing: what charges cost is measured against it.
    #[cfg(test)]
    pub fn idle() -> Meter {
        Meter { idle: true, ..Meter::default() }
    }

    /// For one module that anybody may have written.
    pub fn strict() -> Meter {
        Meter::default()
    }
}

/// Where cycles among direct calls close, by local index: the functions that a depth-first walk of the calls meets while it is
/// still inside them. Every cycle has one.
fn recursive(wasm: &[u8]) -> Result<Vec<bool>, BinaryReaderError> {
    let mut imported = 0;
    let mut calls: Vec<Vec<u32>> = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ImportSection(reader) => {
                for import in reader.into_imports() {
                    imported += u32::from(matches!(import?.ty, TypeRef::Func(_)));
                }
            }
            Payload::CodeSectionEntry(body) => {
                let mut to = Vec::new();
                for operator in body.get_operators_reader()? {
                    if let Operator::Call { function_index } | Operator::ReturnCall { function_index } =
                        operator?
                    {
                        to.extend(function_index.checked_sub(imported));
                    }
                }
                to.sort_unstable();
                to.dedup();
                calls.push(to);
            }
            _ => {}
        }
    }
    let mut closes = vec![false; calls.len()];
    let mut inside = closes.clone();
    let mut seen = closes.clone();
    for root in 0..calls.len() {
        // Functions being walked, and how many of each one's calls have been followed.
        let mut path = Vec::new();
        if !seen[root] {
            path.push((root, 0));
        }
        while let Some((at, followed)) = path.last_mut() {
            (seen[*at], inside[*at]) = (true, true);
            match calls[*at].get(*followed).map(|to| *to as usize) {
                None => {
                    inside[*at] = false;
                    path.pop();
                }
                Some(to) => {
                    *followed += 1;
                    match (seen.get(to), inside.get(to)) {
                        (Some(false), _) => path.push((to, 0)),
                        (_, Some(true)) => closes[to] = true,
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(closes)
}

impl ModuleMiddleware for Meter {
    fn generate_function_middleware<'a>(
        &self,
        index: LocalFunctionIndex,
    ) -> Box<dyn FunctionMiddleware<'a> + 'a> {
        let charged =
            |entries: &Vec<bool>| entries.get(index.as_u32() as usize).is_none_or(|charged| *charged);
        Box::new(FunctionMeter {
            idle: self.idle,
            fuel: self.fuel.load(Relaxed),
            entry: self.trusted.as_ref().is_none_or(charged),
            trusted: self.trusted.is_some(),
        })
    }

    fn transform_module_info(&self, info: &mut ModuleInfo) -> Result<(), MiddlewareError> {
        let mutable = |(i, g): (_, &GlobalType)| (g.mutability == Mutability::Var).then_some(i);
        let mutable: Vec<_> = info.globals.iter().filter_map(mutable).collect();
        for (k, index) in mutable.into_iter().enumerate() {
            info.exports.insert(format!("{GLOBAL}{k}"), ExportIndex::Global(index));
        }
        let fuel = info.globals.push(GlobalType::new(Type::I64, Mutability::Var));
        info.global_initializers.push(GlobalInit::I64Const(i64::MAX));
        info.exports.insert(FUEL.into(), ExportIndex::Global(fuel));
        info.globals.push(GlobalType::new(Type::I32, Mutability::Var));
        info.global_initializers.push(GlobalInit::I32Const(0));
        self.fuel.store(fuel.as_u32(), Relaxed);
        Ok(())
    }
}

#[derive(Debug)]
struct FunctionMeter {
    idle: bool,
    fuel: u32,
    /// Whether the entry is still to be charged.
    entry: bool,
    trusted: bool,
}

impl FunctionMeter {
    fn charge(&self, state: &mut MiddlewareReaderState<'_>) {
        let global_index = self.fuel;
        state.extend(&[
            Operator::GlobalGet { global_index },
            Operator::I64Const { value: 1 },
            Operator::I64Sub,
            Operator::GlobalSet { global_index },
            Operator::GlobalGet { global_index },
            Operator::I64Const { value: 0 },
            Operator::I64LtS,
            Operator::If { blockty: BlockType::Empty },
            Operator::Unreachable,
            Operator::End,
        ]);
    }

    /// Charges for as many bytes as the stack's top says, and leaves it there. The next [`charge`](Self::charge) traps.
    fn charge_bulk(&self, state: &mut MiddlewareReaderState<'_>) {
        let (global_index, scratch) = (self.fuel, self.fuel + 1);
        state.extend(&[
            Operator::GlobalSet { global_index: scratch },
            Operator::GlobalGet { global_index },
            Operator::GlobalGet { global_index: scratch },
            Operator::I64ExtendI32U,
            Operator::I64Const { value: BULK.into() },
            Operator::I64ShrU,
            Operator::I64Sub,
            Operator::GlobalSet { global_index },
            Operator::GlobalGet { global_index: scratch },
        ]);
    }
}

impl<'a> FunctionMiddleware<'a> for FunctionMeter {
    fn feed(
        &mut self,
        operator: Operator<'a>,
        state: &mut MiddlewareReaderState<'a>,
    ) -> Result<(), MiddlewareError> {
        use Operator::*;
        if self.idle {
            state.push_operator(operator);
            return Ok(());
        }
        if let TableSet { .. }
        | TableGrow { .. }
        | TableFill { .. }
        | TableCopy { .. }
        | TableInit { .. }
        | MemoryInit { .. }
        | DataDrop { .. }
        | ElemDrop { .. } = operator
            && self.trusted
        {
            return Err(MiddlewareError::new(
                "snapshot",
                "the image changes state outside memory and globals",
            ));
        }
        if std::mem::replace(&mut self.entry, false) {
            self.charge(state);
        }
        let indirect = matches!(
            operator,
            CallIndirect { .. } | CallRef { .. } | ReturnCallIndirect { .. } | ReturnCallRef { .. }
        );
        if indirect && self.trusted {
            self.charge(state);
        }
        if let MemoryCopy { .. }
        | MemoryFill { .. }
        | MemoryInit { .. }
        | TableCopy { .. }
        | TableFill { .. }
        | TableGrow { .. }
        | TableInit { .. } = operator
        {
            self.charge_bulk(state);
        }
        let iterates = matches!(operator, Loop { .. });
        state.push_operator(operator);
        if iterates {
            self.charge(state);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closes(wat: &str) -> Vec<usize> {
        let wasm = wasmer::wat2wasm(wat.as_bytes()).unwrap();
        let all = recursive(&wasm).unwrap().into_iter().enumerate();
        all.filter_map(|(i, closes)| closes.then_some(i)).collect()
    }

    #[test]
    fn every_cycle_of_direct_calls_has_a_charge() {
        let import = r#"(import "x" "f" (func $imported))"#;
        assert_eq!(closes(&format!("(module {import} (func $a call $imported call $b) (func $b))")), [0; 0]);
        assert_eq!(closes(&format!("(module {import} (func $a call $a) (func $b call $a))")), [0]);
        assert_eq!(
            closes(
                "(module (func $a call $b call $d) (func $b call $c) (func $c call $b) (func $d call $a))"
            ),
            [0, 1]
        );
        assert_eq!(closes("(module (func $a call $b) (func $b call $c) (func $c return_call $a))"), [0]);
    }
}
