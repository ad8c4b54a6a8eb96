//! Which sequence computes what next: KV slots, shared prompts, parking, continuous batching.
//!
//! Plain data in the manner of nano-vllm: lengths and slot numbers; no tensors, no token ids, no text, no
//! sampling. Results cannot depend on anything decided here, because a row of logits depends on its own
//! sequence only ([`Decode`](toolsmith_models::batch::Decode)'s contract).
//!
//! Invariants: a running sequence has at least one token that is not in its slot yet; a sequence keeps its
//! slot from admission to its end, parked or not; slots are given out in the order sequences were added.
//! Absent: preemption. A slot holds a whole context, so an admitted sequence can always go on.

use std::collections::{BTreeSet, VecDeque};

/// What the model and the configuration allow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// KV slots.
    pub slots: usize,
    /// Tokens a forward step may carry.
    pub batch_tokens: usize,
    /// Sequences that compute at a time; parked ones do not count.
    pub concurrency: usize,
}

/// A stretch of one sequence to run through the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// The sequence.
    pub sequence: usize,
    /// Its slot.
    pub slot: usize,
    /// Tokens the slot holds already.
    pub past: usize,
    /// Tokens to run.
    pub len: usize,
    /// Whether they end at the sequence's last known token, so that the next one can be sampled.
    pub logits: bool,
}

/// The first `len` positions of slot `from`, needed in slot `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixCopy {
    /// Slot to copy from.
    pub from: usize,
    /// Slot to copy to.
    pub to: usize,
    /// Positions.
    pub len: usize,
}

/// One step: copies first, then one forward over all work.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Copies, in order.
    pub copies: Vec<PrefixCopy>,
    /// Work; no slot occurs twice. Empty if every sequence is parked or done.
    pub work: Vec<Work>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Queued,
    /// Holds `slot`, and waits until slot `on` holds the prompt they share.
    Waiting {
        slot: usize,
        on: usize,
    },
    Running {
        slot: usize,
    },
    Parked {
        slot: usize,
    },
    Done,
}

#[derive(Clone, Debug)]
struct Sequence {
    group: usize,
    prompt: usize,
    /// Tokens known.
    len: usize,
    /// Tokens in the slot.
    past: usize,
    state: State,
}

/// A KV slot: who uses it, and how much of which group's prompt stands at its beginning.
#[derive(Clone, Copy, Debug)]
struct Slot {
    used: bool,
    group: usize,
    prefix: usize,
}

/// The scheduler. Sequences are named by the order in which they were added.
#[derive(Clone, Debug)]
pub struct Scheduler {
    limits: Limits,
    sequences: Vec<Sequence>,
    queue: VecDeque<usize>,
    /// Sequences that wait for a shared prompt or compute, in order.
    active: BTreeSet<usize>,
    parked: usize,
    slots: Vec<Slot>,
}

impl Scheduler {
    /// A scheduler without sequences. Every limit must be at least 1.
    pub fn new(limits: Limits) -> Self {
        assert!(
            limits.slots > 0 && limits.batch_tokens > 0 && limits.concurrency > 0,
            "a limit is zero: {limits:?}"
        );
        let slots = vec![Slot { used: false, group: usize::MAX, prefix: 0 }; limits.slots];
        Self {
            limits,
            sequences: Vec::new(),
            queue: VecDeque::new(),
            active: BTreeSet::new(),
            parked: 0,
            slots,
        }
    }

    /// Queues a sequence whose first `prompt` (≥ 1) tokens are those of every sequence of `group`.
    pub fn add(&mut self, group: usize, prompt: usize) -> usize {
        assert!(prompt > 0, "a sequence starts from at least one token");
        let id = self.sequences.len();
        self.sequences.push(Sequence { group, prompt, len: prompt, past: 0, state: State::Queued });
        self.queue.push_back(id);
        id
    }

    /// Whether every sequence is done.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty() && self.active.is_empty() && self.parked == 0
    }

    /// Whether a sequence was admitted and has not ended.
    pub fn is_live(&self, sequence: usize) -> bool {
        !matches!(self.sequences[sequence].state, State::Queued | State::Done)
    }

    /// Sequences parked.
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// A sequence has become `n` tokens longer: a sampled token, or a tool's answer.
    pub fn extend(&mut self, sequence: usize, n: usize) {
        self.sequences[sequence].len += n;
    }

    /// Takes a running sequence out of the batch; it keeps its slot.
    pub fn park(&mut self, sequence: usize) {
        let State::Running { slot } = self.sequences[sequence].state else {
            panic!("sequence {sequence} is parked but does not run")
        };
        self.sequences[sequence].state = State::Parked { slot };
        self.active.remove(&sequence);
        self.parked += 1;
    }

    /// Puts a parked sequence back.
    pub fn resume(&mut self, sequence: usize) {
        let State::Parked { slot } = self.sequences[sequence].state else {
            panic!("sequence {sequence} is resumed but not parked")
        };
        self.sequences[sequence].state = State::Running { slot };
        self.active.insert(sequence);
        self.parked -= 1;
    }

    /// Ends a sequence, whatever it does, and frees its slot. What the slot holds stays usable as a prefix.
    pub fn finish(&mut self, sequence: usize) {
        match std::mem::replace(&mut self.sequences[sequence].state, State::Done) {
            State::Queued => self.queue.retain(|&s| s != sequence),
            State::Waiting { slot, .. } | State::Running { slot } => {
                self.slots[slot].used = false;
                self.active.remove(&sequence);
            }
            State::Parked { slot } => {
                self.slots[slot].used = false;
                self.parked -= 1;
            }
            State::Done => {}
        }
    }

    /// Decides the next step and counts it as run.
    pub fn plan(&mut self, plan: &mut Plan) {
        plan.copies.clear();
        plan.work.clear();
        // Waiting ones first: admission may overwrite the slot they wait for.
        for id in self.active.iter().copied().collect::<Vec<_>>() {
            if let State::Waiting { slot, on } = self.sequences[id].state {
                self.share(id, slot, on, plan);
            }
        }
        self.admit(plan);
        let mut budget = self.limits.batch_tokens;
        for decode in [true, false] {
            for &id in &self.active {
                let s = &mut self.sequences[id];
                let State::Running { slot } = s.state else { continue };
                let pending = s.len - s.past;
                if pending == 0 || budget == 0 || (pending == 1) != decode {
                    continue; // nothing pending: its last token already went into this step
                }
                let len = pending.min(budget);
                budget -= len;
                plan.work.push(Work { sequence: id, slot, past: s.past, len, logits: len == pending });
                s.past += len;
                let held = &mut self.slots[slot];
                held.prefix = held.prefix.max(s.past.min(s.prompt));
            }
        }
    }

    /// Gives free slots to queued sequences.
    fn admit(&mut self, plan: &mut Plan) {
        while self.active.len() < self.limits.concurrency {
            let Some(&id) = self.queue.front() else { return };
            let group = self.sequences[id].group;
            let holds = |s: &Slot| if s.group == group { s.prefix } else { 0 };
            // A free slot that holds the prompt already, else the first free one.
            let free = (0..self.slots.len()).filter(|&i| !self.slots[i].used);
            let Some(slot) = free.max_by_key(|&i| (holds(&self.slots[i]), usize::MAX - i)) else { return };
            self.queue.pop_front();
            self.active.insert(id);
            self.slots[slot].used = true;
            let donor = (0..self.slots.len())
                .find(|&i| i != slot && self.slots[i].used && self.slots[i].group == group);
            match donor {
                Some(on) if holds(&self.slots[slot]) == 0 => {
                    self.slots[slot] = Slot { used: true, group, prefix: 0 };
                    self.share(id, slot, on, plan);
                }
                _ => {
                    let prefix = holds(&self.slots[slot]);
                    self.slots[slot] = Slot { used: true, group, prefix };
                    self.sequences[id].past = prefix.min(self.sequences[id].prompt - 1);
                    self.sequences[id].state = State::Running { slot };
                }
            }
        }
    }

    /// Copies the shared prompt from slot `on` if it is there, or waits for it.
    ///
    /// The prompt's last token is run by each sequence itself: it is the one whose logits it needs.
    fn share(&mut self, id: usize, slot: usize, on: usize, plan: &mut Plan) {
        let (s, donor) = (&mut self.sequences[id], self.slots[on]);
        let len = s.prompt - 1;
        let same = donor.group == s.group;
        if same && donor.prefix < len && donor.used {
            s.state = State::Waiting { slot, on };
            return;
        }
        if same && donor.prefix >= len {
            s.past = len;
            self.slots[slot].prefix = len;
            if len > 0 {
                plan.copies.push(PrefixCopy { from: on, to: slot, len });
            }
        }
        s.state = State::Running { slot };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheduler(slots: usize, batch_tokens: usize, concurrency: usize) -> Scheduler {
        Scheduler::new(Limits { slots, batch_tokens, concurrency })
    }

    /// (sequence, past, len, logits)
    type Span = (usize, usize, usize, bool);

    fn work(s: &mut Scheduler) -> (Vec<Span>, Vec<PrefixCopy>) {
        let mut plan = Plan::default();
        s.plan(&mut plan);
        let mut slots: Vec<_> = plan.work.iter().map(|w| w.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), plan.work.len(), "a slot twice");
        (plan.work.iter().map(|w| (w.sequence, w.past, w.len, w.logits)).collect(), plan.copies)
    }

    #[test]
    fn prefill_is_split_and_shared() {
        let mut s = scheduler(3, 4, 3);
        for _ in 0..3 {
            s.add(0, 7);
        }
        // The first sample prefills in two chunks while the others wait, then they copy all but the last token.
        assert_eq!(work(&mut s).0, [(0, 0, 4, false)]);
        assert_eq!(work(&mut s).0, [(0, 4, 3, true)]);
        s.extend(0, 1);
        let (w, copies) = work(&mut s);
        assert_eq!(w, [(0, 7, 1, true), (1, 6, 1, true), (2, 6, 1, true)]);
        assert_eq!(copies, [PrefixCopy { from: 0, to: 1, len: 6 }, PrefixCopy { from: 0, to: 2, len: 6 }]);
    }

    #[test]
    fn a_finished_slot_is_refilled_at_once_and_keeps_the_prompt() {
        let mut s = scheduler(1, 16, 4);
        for _ in 0..2 {
            s.add(0, 5);
        }
        s.add(1, 3);
        assert_eq!(work(&mut s).0, [(0, 0, 5, true)]);
        s.finish(0);
        assert_eq!(work(&mut s), (vec![(1, 4, 1, true)], vec![]));
        s.finish(1);
        assert_eq!(work(&mut s).0, [(2, 0, 3, true)]);
        s.finish(2);
        assert!(s.is_done());
    }

    #[test]
    fn decoding_goes_before_prefill() {
        let mut s = scheduler(2, 4, 2);
        s.add(0, 2);
        s.add(1, 9);
        assert_eq!(work(&mut s).0, [(0, 0, 2, true), (1, 0, 2, false)]);
        s.extend(0, 1);
        assert_eq!(work(&mut s).0, [(0, 2, 1, true), (1, 2, 3, false)]);
    }

    #[test]
    fn parked_sequences_keep_their_slot_and_prefill_only_the_answer() {
        let mut s = scheduler(2, 16, 1);
        s.add(0, 3);
        s.add(1, 2);
        assert_eq!(work(&mut s).0, [(0, 0, 3, true)]);
        s.extend(0, 1);
        s.park(0);
        // Its place in the batch goes to the next sequence, its slot does not.
        assert_eq!(work(&mut s).0, [(1, 0, 2, true)]);
        s.extend(0, 4);
        s.resume(0);
        s.extend(1, 1);
        assert_eq!(work(&mut s).0, [(1, 2, 1, true), (0, 3, 5, true)]);
        s.finish(0);
        s.park(1);
        assert!(work(&mut s).0.is_empty() && !s.is_done());
        s.finish(1);
        assert!(s.is_done());
    }

    #[test]
    fn a_waiting_sequence_outlives_its_donor() {
        let mut s = scheduler(2, 2, 2);
        for _ in 0..2 {
            s.add(0, 5);
        }
        s.add(1, 2);
        assert_eq!(work(&mut s).0, [(0, 0, 2, false)]);
        s.finish(0); // cancelled half-way through the prompt
        assert_eq!(work(&mut s).0, [(1, 0, 2, false)]);
        assert_eq!(work(&mut s).0, [(1, 2, 2, false)]);
        assert_eq!(work(&mut s).0, [(1, 4, 1, true), (2, 0, 1, false)]);
    }

    #[test]
    fn one_token_prompts_share_nothing() {
        let mut s = scheduler(2, 8, 2);
        for _ in 0..2 {
            s.add(0, 1);
        }
        assert_eq!(work(&mut s), (vec![(0, 0, 1, true), (1, 0, 1, true)], vec![]));
    }
}
