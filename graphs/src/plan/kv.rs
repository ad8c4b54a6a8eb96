//! The KV cache of an inference plan: for each layer a table of rows, one a position.

use half::bf16;

use crate::cpu::{Kv, KvMut};

/// Keys and values of all layers, `[rows, kv_heads · head_dim]` each, in bf16 where the weights are.
///
/// What a row means (slot, position) is its owner's business; segments name the rows they use.
#[derive(Debug, Clone)]
pub struct KvCache {
    tables: Tables,
    width: usize,
}

/// Keys and values by layer.
#[derive(Debug, Clone)]
enum Tables {
    F32(Vec<[Vec<f32>; 2]>),
    Bf16(Vec<[Vec<bf16>; 2]>),
}

impl KvCache {
    /// A zeroed cache of `layers` layers with `rows` rows of `width = kv_heads · head_dim` numbers.
    pub fn new(layers: usize, rows: usize, width: usize, bf16: bool) -> Self {
        fn tables<T: Clone>(layers: usize, n: usize, zero: T) -> Vec<[Vec<T>; 2]> {
            (0..layers).map(|_| [vec![zero.clone(); n], vec![zero.clone(); n]]).collect()
        }
        let n = rows * width;
        let tables = if bf16 {
            Tables::Bf16(tables(layers, n, half::bf16::ZERO))
        } else {
            Tables::F32(tables(layers, n, 0.0))
        };
        KvCache { tables, width }
    }

    /// Numbers a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether it holds bf16.
    pub fn is_bf16(&self) -> bool {
        matches!(self.tables, Tables::Bf16(_))
    }

    /// Keys and values of a layer.
    pub fn layer(&self, layer: usize) -> Kv<'_> {
        match &self.tables {
            Tables::F32(t) => Kv::F32 { k: &t[layer][0], v: &t[layer][1] },
            Tables::Bf16(t) => Kv::Bf16 { k: &t[layer][0], v: &t[layer][1] },
        }
    }

    /// Keys and values of a layer, to write.
    pub fn layer_mut(&mut self, layer: usize) -> KvMut<'_> {
        match &mut self.tables {
            Tables::F32(t) => {
                let [k, v] = &mut t[layer];
                KvMut::F32 { k, v }
            }
            Tables::Bf16(t) => {
                let [k, v] = &mut t[layer];
                KvMut::Bf16 { k, v }
            }
        }
    }

    /// Copies `len` rows from row `from` to row `to` in every layer.
    pub fn copy_rows(&mut self, from: usize, to: usize, len: usize) {
        let w = self.width;
        let (from, to) = (from * w..(from + len) * w, to * w);
        match &mut self.tables {
            Tables::F32(t) => t.iter_mut().flatten().for_each(|t| t.copy_within(from.clone(), to)),
            Tables::Bf16(t) => t.iter_mut().flatten().for_each(|t| t.copy_within(from.clone(), to)),
        }
    }
}
