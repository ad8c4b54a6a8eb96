//! The KV cache of an inference plan: for each layer a table of rows, one a position.

/// Keys and values of all layers, `[rows, kv_heads · head_dim]` each.
///
/// What a row means (slot, position) is its owner's business; segments name the rows they use.
#[derive(Debug, Clone)]
pub struct KvCache {
    layers: Vec<[Vec<f32>; 2]>,
    width: usize,
}

impl KvCache {
    /// A zeroed cache of `layers` layers with `rows` rows of `width = kv_heads · head_dim` numbers.
    pub fn new(layers: usize, rows: usize, width: usize) -> Self {
        KvCache { layers: (0..layers).map(|_| [vec![0.0; rows * width], vec![0.0; rows * width]]).collect(), width }
    }

    /// Numbers a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Keys and values of a layer.
    pub fn layer(&mut self, layer: usize) -> (&mut [f32], &mut [f32]) {
        let [k, v] = &mut self.layers[layer];
        (k, v)
    }

    /// Copies `len` rows from row `from` to row `to` in every layer.
    pub fn copy_rows(&mut self, from: usize, to: usize, len: usize) {
        let w = self.width;
        for table in self.layers.iter_mut().flatten() {
            table.copy_within(from * w..(from + len) * w, to * w);
        }
    }
}
