//! From a [`TrainBatch`] to the rows that a pass computes.
//!
//! A row predicts the token after it, while a batch is aligned with the token itself; this file does the shift. What no scored
//! token depends on is left out: the tokens behind a sequence's last scored one. And what several sequences depend on is
//! there once: of sequences one behind the other that begin alike, as the samples of a prompt do, one is run whole, the
//! *root*, and of the others only what comes after the tokens that they have in common with it. A row's bits depend on the
//! tokens before it alone, so the outputs are those of the sequences run one at a time; gradients are sums of the same
//! terms in another order.
//!
//! Absent on purpose: roots of roots, as in a tree of all beginnings. A batch of a few prompts gains next to nothing.

use std::ops::Range;

use toolsmith_graphs::Segment;

use crate::{
    Error, Result,
    batch::{TrainBatch, alike},
};

/// A batch as the plan reads it, in buffers that are kept.
#[derive(Default)]
pub(super) struct Rows {
    /// The tokens run.
    pub ids: Vec<u32>,
    pub segments: Vec<Segment>,
    pub positions: Vec<u32>,
    /// Those before scored tokens, by their place among the tokens run. One that several sequences have in common may be
    /// there several times.
    pub predicting: Vec<u32>,
    /// Scored tokens, by their place in the batch, and what is known of them.
    pub scored: Vec<usize>,
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
    pub columns: Vec<Vec<f32>>,
    /// The different tokens run, in the order in which they first occur, and which of them each token run is.
    pub distinct: Vec<u32>,
    pub which: Vec<u32>,
    /// Where among the different tokens a token stands, while they are being found.
    place: Vec<u32>,
    sequences: Vec<Sequence>,
}

/// A sequence with a scored token.
struct Sequence {
    /// Its first token, by its place in the batch.
    start: usize,
    /// Tokens before the last scored one.
    run: usize,
    /// If it is a root: the sequence after the last that shares its beginning, and the rows of all from here to the end.
    until: usize,
    rows: usize,
}

impl Rows {
    /// Lays out some sequences of `batch`, the first of which begins at token `start`; an objective reads `columns`.
    pub fn fill(&mut self, batch: &TrainBatch, sequences: Range<usize>, mut start: usize, columns: usize) {
        self.clear();
        for &len in &batch.lens[sequences] {
            let run = batch.weights[start + 1..start + len].iter().rposition(|&w| w != 0.0);
            if let Some(last) = run {
                self.sequences.push(Sequence { start, run: last + 1, until: 0, rows: 0 });
            }
            start += len;
        }
        self.choose_roots(&batch.tokens);
        let mut root = 0;
        while root < self.sequences.len() {
            let until = self.sequences[root].until;
            self.family(batch, root..until);
            root = until;
        }
        let scored = &self.scored;
        self.targets.extend(scored.iter().map(|&i| batch.tokens[i]));
        self.weights.extend(scored.iter().map(|&i| batch.weights[i]));
        self.columns.resize_with(columns, Vec::new);
        for (rows, column) in self.columns.iter_mut().zip(&batch.columns) {
            rows.clear();
            rows.extend(scored.iter().map(|&i| column[i]));
        }
    }

    /// Finds the different tokens among those laid out.
    pub fn find_distinct(&mut self) {
        const NOWHERE: u32 = u32::MAX;
        let most = self.ids.iter().max().map_or(0, |&id| id as usize + 1);
        self.place.resize(self.place.len().max(most), NOWHERE);
        for &id in &self.ids {
            let place = &mut self.place[id as usize];
            if *place == NOWHERE {
                *place = self.distinct.len() as u32;
                self.distinct.push(id);
            }
            self.which.push(*place);
        }
        self.distinct.iter().for_each(|&id| self.place[id as usize] = NOWHERE);
    }

    /// Compares the batch with what the plan has memory for.
    pub fn check(&self, most: usize) -> Result<()> {
        let (rows, scored) = (self.ids.len(), self.scored.len());
        let fail = |what: String| Err(Error::Batch(format!("{what} exceeds the trainer's {most}")));
        if rows > most {
            return fail(format!("a batch of {rows} tokens to run"));
        }
        if scored > most {
            return fail(format!("a batch of {scored} scored tokens"));
        }
        Ok(())
    }

    /// Which sequences are run whole, so that the fewest rows are run. Behind a root come those that share its beginning, up
    /// to the first that doesn't: from the last sequence to the first, the best place for the next root.
    fn choose_roots(&mut self, tokens: &[u32]) {
        let ran = |s: &Sequence| &tokens[s.start..s.start + s.run];
        for i in (0..self.sequences.len()).rev() {
            let (mut own, mut rows, mut until) = (0, usize::MAX, i);
            for (j, (other, shared)) in (i + 1..).zip(alike(&self.sequences[i..], |s| ran(s))) {
                own += other.run - shared;
                let all = own + self.sequences.get(j).map_or(0, |next| next.rows);
                if all < rows {
                    (rows, until) = (all, j);
                }
            }
            let root = &mut self.sequences[i];
            (root.rows, root.until) = (rows, until);
        }
    }

    /// Adds a root and the sequences that share its beginning.
    fn family(&mut self, batch: &TrainBatch, members: Range<usize>) {
        let ran = |s: &Sequence| &batch.tokens[s.start..s.start + s.run];
        let first = self.ids.len();
        for (sequence, shared) in alike(&self.sequences[members], |s| ran(s)) {
            let own = self.ids.len();
            let row =
                |position: usize| if position < shared { first + position } else { own + position - shared };
            for i in (1..=sequence.run).filter(|i| batch.weights[sequence.start + i] != 0.0) {
                self.scored.push(sequence.start + i);
                self.predicting.push(row(i - 1) as u32);
            }
            let (new, past) = ((sequence.run - shared) as u32, shared as u32);
            if new > 0 {
                self.ids.extend_from_slice(&ran(sequence)[shared..]);
                self.positions.extend(past..past + new);
                self.segments.push(match past {
                    0 => Segment::whole(own as u32, new),
                    _ => Segment::after(own as u32, new, past, first as u32),
                });
            }
        }
    }

    fn clear(&mut self) {
        self.ids.clear();
        self.segments.clear();
        self.positions.clear();
        self.predicting.clear();
        self.scored.clear();
        self.targets.clear();
        self.weights.clear();
        self.distinct.clear();
        self.which.clear();
        self.sequences.clear();
    }
}

impl TrainBatch {
    /// Compares the lengths with each other, and the token ids with how many there are.
    pub(super) fn check(&self, columns: usize, vocab: usize) -> Result<()> {
        let t = self.tokens.len();
        let fail = |message: String| Err(Error::Batch(message));
        if self.lens.iter().sum::<usize>() != t || self.lens.contains(&0) {
            return fail(format!("sequence lengths {:?} do not make up {t} tokens", self.lens));
        }
        if self.columns.len() < columns {
            return fail(format!(
                "the objective needs {columns} columns, the batch has {}",
                self.columns.len()
            ));
        }
        if self.weights.len() != t || self.columns.iter().any(|c| c.len() != t) {
            return fail(format!("weights or columns have not the batch's {t} tokens"));
        }
        if let Some(id) = self.tokens.iter().find(|&&id| id as usize >= vocab) {
            return fail(format!("token id {id} is not below {vocab}, the size of the vocabulary"));
        }
        Ok(())
    }
}
