//! What crosses between a module and its host: two numbers that point into memory, and a description as JSON. All of it
//! comes from outside and is checked here.

use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;

/// The bit of a result's length that says that the call failed.
const FAILED: u32 = 1 << 31;

/// Where `len` bytes go that `alloc` gave a place for, in a memory of `size` bytes.
pub(super) fn place(at: i32, len: usize, size: u64) -> Result<u64, String> {
    let at = at as u32 as u64;
    if at == 0 && len > 0 {
        return Err(format!("`alloc` has no room for {len} bytes"));
    }
    match at.checked_add(len as u64).filter(|end| *end <= size) {
        Some(_) => Ok(at),
        None => Err(format!("`alloc` gave {at} for {len} bytes, beyond its memory of {size} bytes")),
    }
}

/// The bytes that a packed result points at in a memory of `size` bytes, and whether they are a failure's.
pub(super) fn span(packed: i64, size: u64) -> Result<(Range<u64>, bool), String> {
    let (at, low) = ((packed as u64) >> 32, packed as u32);
    let end = at + u64::from(low & !FAILED);
    if end > size {
        return Err(format!("its result is at {at}..{end}, beyond its memory of {size} bytes"));
    }
    Ok((at..end, low & FAILED != 0))
}

/// A tool's own account of itself.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub name: String,
    pub description: String,
    #[serde(alias = "parameters")]
    pub schema: Value,
}

impl Manifest {
    pub fn parse(json: &[u8]) -> Result<Manifest, String> {
        let why = |e| format!("{e}; it must be {{\"name\": ..., \"description\": ..., \"schema\": ...}}");
        serde_json::from_slice(json).map_err(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_stay_inside() {
        assert_eq!(place(16, 48, 64), Ok(16));
        assert_eq!(place(64, 0, 64), Ok(64));
        assert_eq!(place(0, 0, 0), Ok(0));
        assert!(place(0, 1, 64).unwrap_err().contains("no room for 1 bytes"));
        assert!(place(17, 48, 64).unwrap_err().contains("gave 17 for 48 bytes"));
        assert!(place(-1, 1, 1 << 32).is_ok());
        assert!(place(-1, 2, 1 << 32).unwrap_err().contains("4294967295"));
    }

    #[test]
    fn results_stay_inside() {
        let packed = |at: u64, low: u32| (at << 32 | u64::from(low)) as i64;
        assert_eq!(span(packed(3, 5), 8), Ok((3..8, false)));
        assert_eq!(span(packed(3, 5 | FAILED), 8), Ok((3..8, true)));
        assert_eq!(span(0, 0), Ok((0..0, false)));
        assert!(span(packed(3, 6), 8).unwrap_err().contains("at 3..9, beyond its memory of 8 bytes"));
        assert!(span(-1, 1 << 32).is_err());
        assert!(span(i64::MIN, 1 << 32).is_ok());
    }

    #[test]
    fn descriptions_are_strict() {
        let parse = |json: &str| Manifest::parse(json.as_bytes());
        let whole = parse(r#"{"name": "a", "description": "b", "schema": {}}"#).unwrap();
        assert_eq!(parse(r#"{"parameters": {}, "name": "a", "description": "b"}"#).unwrap(), whole);
        for bad in
            ["", "{}", "[1]", r#"{"name": 1}"#, r#"{"name": "a", "description": "b", "schema": {}, "x": 1}"#]
        {
            let why = parse(bad).unwrap_err();
            assert!(why.contains("it must be {\"name\"") && why.lines().count() == 1, "{bad}: {why}");
        }
    }
}
