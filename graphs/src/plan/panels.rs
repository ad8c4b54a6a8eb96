//! Weights as products over short sums read them, made once for as long as the weights stay as they are.
//!
//! A plan makes such panels in every execution, which is a good part of its time where batches are small, as in decoding. Whoever
//! knows that the weights stay as they are keeps a store, and lends it with the parameters.

use super::{Params, Plan, exec::Place};
use crate::{
    cpu::{Mat, Panels, apart},
    ops::Product,
};

use std::collections::BTreeMap;

/// Bytes of a weight's panels at most: of larger ones a second copy costs more than it brings.
const MOST: usize = 4 << 20;

/// The panels of the weights that some plan can read so.
#[derive(Debug, Default)]
pub struct PanelStore {
    panels: Vec<Panels>,
    /// The parameter of each.
    params: Vec<usize>,
}

impl PanelStore {
    /// Memory for the panels of `plan`'s weights, none for most models.
    pub fn new(plan: &Plan) -> Self {
        let (mut wanted, op) = (BTreeMap::<usize, [Option<Product>; 2]>::new(), plan.op());
        for step in &op.steps {
            for (i, place) in step.inputs.iter().enumerate() {
                if let (Place::Param(param), Some(product)) = (*place, step.kernel.product_of(i)) {
                    wanted.entry(param).or_default()[usize::from(product.gradient)] = Some(product);
                }
            }
        }
        let mut store = PanelStore::default();
        for (param, products) in wanted {
            let [outputs, gradient] = products.map(|p| p.is_some());
            let Some(Product { n, k, .. }) = products.into_iter().flatten().next() else { continue };
            let panels = Panels::new(n, k, op.bf16, outputs, gradient);
            if (1..=MOST).contains(&panels.bytes()) {
                store.params.push(param);
                store.panels.push(panels);
            }
        }
        store
    }

    /// Bytes of all panels.
    pub fn bytes(&self) -> usize {
        self.panels.iter().map(Panels::bytes).sum()
    }

    /// Makes all panels of `params`.
    pub fn fill(&mut self, params: &dyn Params) {
        apart(&mut self.panels, &mut self.params, |panels, param| panels.fill(params.get(*param)));
    }

    /// `params` with the panels last made, which have to be theirs.
    pub fn beside<'a>(&'a self, params: &'a dyn Params) -> Beside<'a> {
        Beside { params, store: self }
    }
}

/// Parameters and their panels.
#[derive(Clone, Copy)]
pub struct Beside<'a> {
    params: &'a dyn Params,
    store: &'a PanelStore,
}

impl Params for Beside<'_> {
    fn get(&self, index: usize) -> Mat<'_> {
        self.params.get(index)
    }
    fn panels(&self, index: usize) -> Option<&Panels> {
        let i = self.store.params.iter().position(|&param| param == index)?;
        Some(&self.store.panels[i]).filter(|panels| panels.is_filled())
    }
}
