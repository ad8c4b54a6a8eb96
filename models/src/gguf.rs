//! GGUF files (versions 2 and 3): header, metadata and tensor table, bounds-checked over the mapped file. What a
//! llama, qwen2 or qwen3 file means as a Hugging Face model is in [`model`] and [`vocab`]; block formats are in
//! [`dequant`].
//!
//! No count in the file is trusted: memory is taken for elements that have been read, never for elements promised.
//! Deliberately absent: big-endian files, and files split into several parts.

pub mod dequant;
pub mod model;
pub mod vocab;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use dequant::TensorType;

/// A metadata value. Integers of all widths are widened.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Array(Vec<Value>),
}

/// One tensor of the file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// As stored: the first is the contiguous one, `[in, out]` for a matrix.
    dims: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// A mapped GGUF file.
pub struct Gguf {
    path: PathBuf,
    map: memmap2::Mmap,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
    data_start: usize,
}

const MAX_DIMS: u32 = 4;
const MAX_NESTING: u32 = 3;

impl Gguf {
    /// Maps and parses a file.
    ///
    /// # Errors
    /// It is no GGUF, has another version, or ends before its header does.
    pub fn open(path: &Path) -> Result<Gguf> {
        let map = files::map(path)?;
        let mut reader = Reader { path, bytes: &map, at: 0 };
        let (metadata, tensors, data_start) = parse(&mut reader)?;
        Ok(Gguf { path: path.to_owned(), map, metadata, tensors, data_start })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A metadata string; `None` if it is absent or something else.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        }
    }

    /// A metadata flag.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    /// A metadata integer that is not negative.
    pub fn unsigned(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_unsigned)
    }

    /// A metadata number.
    pub fn number(&self, key: &str) -> Option<f64> {
        match self.get(key) {
            Some(Value::Float(x)) => Some(*x),
            Some(value) => value.as_unsigned().map(|n| n as f64),
            None => None,
        }
    }

    /// A metadata array.
    pub fn array(&self, key: &str) -> Option<&[Value]> {
        match self.get(key) {
            Some(Value::Array(list)) => Some(list),
            _ => None,
        }
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's shape in the order of Hugging Face, `[out, in]` for a matrix; `None` if it is absent.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        Some(self.tensors.get(name)?.dims.iter().rev().copied().collect())
    }

    /// A tensor's element type and its blocks, checked to lie within the file.
    ///
    /// # Errors
    /// It is missing, of a type that is not supported, not whole blocks, or beyond the end of the file.
    pub fn blocks(&self, name: &str) -> Result<(TensorType, &[u8])> {
        let fail = |message: String| Error::tensor(&self.path, name, message);
        let info = self.tensors.get(name).ok_or_else(|| fail("is missing".into()))?;
        let kind = TensorType::from_id(info.kind).ok_or_else(|| {
            let supported = TensorType::ALL.map(TensorType::name).join(", ");
            let message = format!(
                "has type {}, which is not supported; {supported} are",
                dequant::type_name(info.kind)
            );
            Error::Tensor { path: self.path.clone(), tensor: name.to_string(), message }
        })?;
        let (elements, bytes) = (kind.block_elements(), kind.block_bytes());
        let row = info.dims.first().copied().unwrap_or(1);
        if !row.is_multiple_of(elements) {
            return Err(fail(format!(
                "has rows of {row} elements, no multiple of the {elements} of a {} block",
                kind.name()
            )));
        }
        let numel = info.dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let len = numel.and_then(|n| (n / elements).checked_mul(bytes));
        let begin = usize::try_from(info.offset).ok().and_then(|o| o.checked_add(self.data_start));
        let range = begin.zip(len).and_then(|(b, l)| Some(b..b.checked_add(l)?));
        let data = range.and_then(|r| self.map.get(r));
        let beyond = || fail("reaches beyond the end of the file: it is truncated or its header lies".into());
        data.map(|data| (kind, data)).ok_or_else(beyond)
    }

    /// All elements of a tensor, row-major, in f32.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let (kind, blocks) = self.blocks(name)?;
        Ok(dequant::floats(kind, blocks))
    }
}

impl Value {
    /// The value, if it is an integer that is not negative.
    pub fn as_unsigned(&self) -> Option<u64> {
        match self {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        }
    }

    /// The value, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

type Parsed = (BTreeMap<String, Value>, BTreeMap<String, TensorInfo>, usize);

fn parse(r: &mut Reader) -> Result<Parsed> {
    if r.take(4)? != b"GGUF" {
        return Err(r.fail("is not a GGUF file"));
    }
    let version = r.u32()?;
    if !(2..=3).contains(&version) {
        let path = r.path;
        let why = if version.swap_bytes() <= 3 { " (big-endian)" } else { "" };
        return Err(Error::unsupported(
            path,
            format!("GGUF version {version}{why} is not supported; 2 and 3 are"),
        ));
    }
    let (tensor_count, metadata_count) = (r.u64()?, r.u64()?);
    let mut metadata = BTreeMap::new();
    for _ in 0..metadata_count {
        let key = r.string()?;
        let kind = r.u32()?;
        let value = r.value(kind, 0)?;
        metadata.insert(key, value);
    }
    let mut tensors = BTreeMap::new();
    for _ in 0..tensor_count {
        let name = r.string()?;
        let n = r.u32()?;
        if n > MAX_DIMS {
            return Err(Error::tensor(
                r.path,
                &name,
                format!("has {n} dimensions; at most {MAX_DIMS} are possible"),
            ));
        }
        let dims = (0..n).map(|_| r.u64().map(|d| d as usize)).collect::<Result<Vec<_>>>()?;
        let info = TensorInfo { dims, kind: r.u32()?, offset: r.u64()? };
        if tensors.insert(name.clone(), info).is_some() {
            return Err(Error::tensor(r.path, &name, "is listed twice"));
        }
    }
    let alignment = metadata.get("general.alignment").map_or(Some(32), Value::as_unsigned);
    let alignment = alignment
        .filter(|a| a.is_power_of_two() && *a <= 1 << 20)
        .ok_or_else(|| r.fail("general.alignment: expected a power of two"))?;
    let data_start = r.at.next_multiple_of(alignment as usize);
    Ok((metadata, tensors, data_start))
}

/// Walks through the header.
struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn fail(&self, message: &str) -> Error {
        Error::file(self.path, message)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..n).ok_or_else(|| {
            Error::file(
                self.path,
                format!("ends within its header (at byte {}): it is truncated or damaged", self.at),
            )
        })?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many bytes as asked for"))
    }

    fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<String> {
        let len = self.u64()?;
        let bytes = self.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        let text =
            std::str::from_utf8(bytes).map_err(|_| self.fail("a string of its header is not UTF-8"))?;
        Ok(text.to_string())
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>()?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()?[0] != 0),
            8 => Value::String(self.string()?),
            9 if depth < MAX_NESTING => {
                let (kind, count) = (self.u32()?, self.u64()?);
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(kind, depth + 1)?);
                }
                Value::Array(list)
            }
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(Error::file(self.path, format!("has a metadata value of unknown type {kind}"))),
        })
    }
}
