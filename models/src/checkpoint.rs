//! Safetensors checkpoints, read in place: one `model.safetensors`, or shards with an index. And their writer.
//!
//! Deliberately absent: pickled `.bin` files, and dtypes that no weight of a decoder has.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::files;

/// The element types of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    /// Bytes an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// Its name in a safetensors header.
    fn tag(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        }
    }

    fn from_safetensors(dtype: safetensors::Dtype) -> Option<Dtype> {
        match dtype {
            safetensors::Dtype::F32 => Some(Dtype::F32),
            safetensors::Dtype::F16 => Some(Dtype::F16),
            safetensors::Dtype::BF16 => Some(Dtype::Bf16),
            _ => None,
        }
    }
}

/// A tensor as it lies in the mapped file: row-major, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub dtype: Dtype,
    pub shape: &'a [usize],
    /// `shape.product() × dtype.size()` bytes, aligned to whatever the file's header left.
    pub bytes: &'a [u8],
}

struct Shard {
    path: PathBuf,
    map: memmap2::Mmap,
    metadata: Metadata,
    data_start: usize,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Shard> {
        let map = files::map(&path)?;
        match SafeTensors::read_metadata(&map) {
            Ok((header, metadata)) => Ok(Shard { path, map, metadata, data_start: 8 + header }),
            Err(e) => Err(match diagnose(&map) {
                Some((tensor, message)) => Error::tensor(&path, &tensor, message),
                None => {
                    Error::file(&path, format!("not a valid safetensors file (truncated or damaged): {e}"))
                }
            }),
        }
    }
}

/// The first tensor whose entry contradicts itself or the file's length: the parser's own error does not name it.
fn diagnose(file: &[u8]) -> Option<(String, String)> {
    let header = u64::from_le_bytes(file.get(..8)?.try_into().ok()?);
    let end = usize::try_from(header).ok()?.checked_add(8)?;
    let entries: Map<String, Value> = serde_json::from_slice(file.get(8..end)?).ok()?;
    let available = (file.len() - end) as u64;
    for (name, entry) in entries.iter().filter(|(name, _)| *name != "__metadata__") {
        let offsets = entry.get("data_offsets").and_then(Value::as_array)?;
        let (begin, end) = (offsets.first()?.as_u64()?, offsets.get(1)?.as_u64()?);
        let message = if end > available {
            Some(format!(
                "its data end at byte {end} but the file holds {available}: the file is truncated or its header lies"
            ))
        } else {
            let shape = entry.get("shape")?.as_array()?;
            let numel = shape.iter().try_fold(1u64, |n, d| n.checked_mul(d.as_u64()?));
            let width = match entry.get("dtype")?.as_str()? {
                "F64" | "I64" | "U64" => 8,
                "F32" | "I32" | "U32" => 4,
                "F16" | "BF16" | "I16" | "U16" => 2,
                "I8" | "U8" | "BOOL" => 1,
                _ => continue,
            };
            let expected = numel.and_then(|n| n.checked_mul(width));
            (end.checked_sub(begin) != expected)
                .then(|| format!("its data_offsets [{begin}, {end}] do not fit its shape {}", entry["shape"]))
        };
        if let Some(message) = message {
            return Some((name.clone(), message));
        }
    }
    None
}

/// A checkpoint directory's tensors, mapped.
pub struct Checkpoint {
    dir: PathBuf,
    shards: Vec<Shard>,
    /// Tensor name to shard.
    index: BTreeMap<String, usize>,
}

impl Checkpoint {
    /// Maps `model.safetensors`, or else the shards of `model.safetensors.index.json`.
    ///
    /// # Errors
    /// No such file, a missing shard, a file that is truncated or whose header contradicts it.
    pub fn open(dir: &Path) -> Result<Checkpoint> {
        let single = dir.join("model.safetensors");
        let index_path = dir.join("model.safetensors.index.json");
        if single.exists() {
            let shard = Shard::open(single)?;
            let index = shard.metadata.offset_keys().into_iter().map(|name| (name, 0)).collect();
            return Ok(Checkpoint { dir: dir.to_owned(), shards: vec![shard], index });
        }
        if !index_path.exists() {
            return Err(Error::file(
                dir,
                "holds neither model.safetensors nor model.safetensors.index.json (pickled .bin weights are not read)",
            ));
        }
        let json = files::read_json(&index_path)?;
        let weight_map = json
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| Error::file(&index_path, "weight_map: expected an object"))?;
        let mut shards: Vec<Shard> = Vec::new();
        let mut index = BTreeMap::new();
        for (tensor, file) in weight_map {
            // A shard lies beside its index: a path could name any file of the machine.
            let file = file
                .as_str()
                .filter(|f| !f.is_empty() && !f.contains(['/', '\\']))
                .ok_or_else(|| Error::tensor(&index_path, tensor, "its shard is not a file name"))?;
            let path = dir.join(file);
            let known = shards.iter().position(|s| s.path == path);
            let shard = match known {
                Some(shard) => shard,
                None if !path.exists() => {
                    return Err(Error::tensor(&path, tensor, "this shard of the index is missing"));
                }
                None => {
                    shards.push(Shard::open(path)?);
                    shards.len() - 1
                }
            };
            if shards[shard].metadata.info(tensor).is_none() {
                return Err(Error::tensor(
                    &shards[shard].path,
                    tensor,
                    "the index promises it but this shard lacks it",
                ));
            }
            index.insert(tensor.clone(), shard);
        }
        Ok(Checkpoint { dir: dir.to_owned(), shards, index })
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.index.keys().map(String::as_str)
    }

    /// One tensor.
    ///
    /// # Errors
    /// It is missing, or its dtype is none of F32, F16 and BF16.
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>> {
        let shard = match self.index.get(name) {
            Some(&shard) => &self.shards[shard],
            None => return Err(Error::tensor(&self.dir, name, "is missing from the checkpoint")),
        };
        let missing = || Error::tensor(&shard.path, name, "is missing from its shard");
        let info = shard.metadata.info(name).ok_or_else(missing)?;
        let dtype = Dtype::from_safetensors(info.dtype).ok_or_else(|| {
            Error::tensor(
                &shard.path,
                name,
                format!("has dtype {:?}; F32, F16 and BF16 are supported", info.dtype),
            )
        })?;
        let (begin, end) = info.data_offsets;
        let bytes = &shard.map[shard.data_start + begin..shard.data_start + end];
        Ok(TensorView { dtype, shape: &info.shape, bytes })
    }

    /// [`Checkpoint::tensor`], checked against the shape the configuration gives it.
    pub fn tensor_of_shape(&self, name: &str, shape: &[usize]) -> Result<TensorView<'_>> {
        let view = self.tensor(name)?;
        if view.shape != shape {
            let path = &self.shards[self.index[name]].path;
            let message = format!("has shape {:?} but config.json asks for {shape:?}", view.shape);
            return Err(Error::tensor(path, name, message));
        }
        Ok(view)
    }
}

/// What a tensor to be written is called and how large it is.
#[derive(Clone, Copy, Debug)]
pub struct TensorHeader<'a> {
    pub name: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
}

impl TensorHeader<'_> {
    fn len(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.size() as u64
    }
}

/// Counts what passes through.
struct Counted<'a, W> {
    out: &'a mut W,
    bytes: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a safetensors file beside `path`, syncs it and renames it over `path`.
///
/// `data(i, out)` writes the little-endian elements of `tensors[i]`; it is called once each, in order, so no
/// more than one tensor need be in memory. The data begin at a multiple of 64 bytes of the file; if dtypes are mixed,
/// put the wider ones first so that all stay aligned.
///
/// # Errors
/// Those of the file system (a full disk, say: the file that was there stays), and `data`'s own.
pub fn write_safetensors(
    path: &Path,
    tensors: &[TensorHeader],
    mut data: impl FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut header = Map::new();
    // transformers refuses a file that does not say it holds PyTorch's layout.
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0;
    for t in tensors {
        let end = offset + t.len();
        header.insert(
            t.name.into(),
            json!({"dtype": t.dtype.tag(), "shape": t.shape, "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut header = serde_json::to_vec(&header).expect("a map with string keys is JSON");
    // The format allows trailing spaces; with them mapped tensors start on a cache line.
    header.resize((8 + header.len()).next_multiple_of(64) - 8, b' ');
    files::write_file(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (i, t) in tensors.iter().enumerate() {
            let mut counted = Counted { out, bytes: 0 };
            data(i, &mut counted)?;
            if counted.bytes != t.len() {
                let message = format!("tensor {}: {} bytes given for {}", t.name, counted.bytes, t.len());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
            }
        }
        Ok(())
    })
}
