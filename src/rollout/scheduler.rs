//! Which sequence computes what next: KV slots and blocks, shared prompts, parking, preemption, continuous batching.
//!
//! Plain data in the manner of nano-vllm: lengths, slot and block numbers; no tensors, no token ids, no text, no
//! sampling. Results cannot depend on anything decided here, because a row of logits depends on its own
//! sequence only ([`Decode`](toolsmith_models::batch::Decode)'s contract).
//!
//! Invariants: a running sequence has at least one token that is not in its slot yet; a sequence keeps its
//! slot from admission to its end, parked or not, unless it is preempted; sequences are admitted in the order in which they
//! were added.
//!
//! **Preemption.** A sequence that finds no free block takes, in this order: what ended sequences left of their prompts, the
//! blocks of the youngest parked sequence, those of the youngest one that computes. A preempted sequence waits in the queue
//! at its place and then computes its tokens again, to the same bits. The oldest that computes is never
//! preempted for another, and the cache holds at least one whole context: so somebody always gets on.

use std::collections::BTreeSet;

use toolsmith_graphs::plan::{BLOCK, blocks_for};
use toolsmith_models::blocks::KvBlocks;

/// What the model and the configuration allow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// KV slots.
    pub slots: usize,
    /// Positions of a sequence; the cache's blocks hold at least as many.
    pub context: usize,
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
    /// How many of them, from the first on, ran before the sequence was preempted.
    pub again: usize,
    /// Whether they end at the sequence's last known token, so that the next one can be sampled.
    pub logits: bool,
}

/// One step: one forward over all work.
#[derive(Clone, Debug, Default)]
pub struct Plan {
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
    /// Without a slot once it was preempted.
    Parked {
        slot: Option<usize>,
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
    /// Most tokens that ever were.
    run: usize,
    state: State,
}

/// A KV slot: who uses it, and how much of which group's prompt stands at its beginning.
#[derive(Clone, Copy, Debug)]
struct Slot {
    user: Option<usize>,
    group: usize,
    prefix: usize,
}

const FREE: Slot = Slot { user: None, group: usize::MAX, prefix: 0 };

/// The scheduler. Sequences are named by the order in which they were added.
#[derive(Clone, Debug)]
pub struct Scheduler {
    limits: Limits,
    sequences: Vec<Sequence>,
    queue: BTreeSet<usize>,
    /// Sequences that wait for a shared prompt or compute, in order.
    active: BTreeSet<usize>,
    parked: BTreeSet<usize>,
    slots: Vec<Slot>,
    preemptions: usize,
}

impl Scheduler {
    /// A scheduler without sequences. Every limit must be at least 1.
    pub fn new(limits: Limits) -> Self {
        assert!(
            limits.slots > 0 && limits.batch_tokens > 0 && limits.concurrency > 0,
            "a limit is zero: {limits:?}"
        );
        Self {
            limits,
            sequences: Vec::new(),
            queue: BTreeSet::new(),
            active: BTreeSet::new(),
            parked: BTreeSet::new(),
            slots: vec![FREE; limits.slots],
            preemptions: 0,
        }
    }

    /// Queues a sequence whose first `prompt` (≥ 1) tokens are those of every sequence of `group`.
    pub fn add(&mut self, group: usize, prompt: usize) -> usize {
        assert!(prompt > 0, "a sequence starts from at least one token");
        let id = self.sequences.len();
        self.sequences.push(Sequence { group, prompt, len: prompt, past: 0, run: 0, state: State::Queued });
        self.queue.insert(id);
        id
    }

    /// Whether every sequence is done.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty() && self.active.is_empty() && self.parked.is_empty()
    }

    /// Whether a sequence was admitted and has not ended.
    pub fn is_live(&self, sequence: usize) -> bool {
        let s = &self.sequences[sequence];
        s.state != State::Done && (s.state != State::Queued || s.run > 0)
    }

    /// Sequences parked.
    pub fn parked(&self) -> usize {
        self.parked.len()
    }

    /// How often a sequence lost its blocks.
    pub fn preemptions(&self) -> usize {
        self.preemptions
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
        self.sequences[sequence].state = State::Parked { slot: Some(slot) };
        self.active.remove(&sequence);
        self.parked.insert(sequence);
    }

    /// Puts a parked sequence back, into the queue if it was preempted meanwhile.
    pub fn resume(&mut self, sequence: usize) {
        let State::Parked { slot } = self.sequences[sequence].state else {
            panic!("sequence {sequence} is resumed but not parked")
        };
        self.parked.remove(&sequence);
        self.sequences[sequence].state = match slot {
            Some(slot) => {
                self.active.insert(sequence);
                State::Running { slot }
            }
            None => {
                self.queue.insert(sequence);
                State::Queued
            }
        };
    }

    /// Ends a sequence, whatever it does, and frees its slot. What the slot holds of the prompt stays usable.
    pub fn finish(&mut self, sequence: usize) {
        match std::mem::replace(&mut self.sequences[sequence].state, State::Done) {
            State::Waiting { slot, .. } | State::Running { slot } | State::Parked { slot: Some(slot) } => {
                self.slots[slot].user = None;
            }
            State::Queued | State::Parked { slot: None } | State::Done => {}
        }
        for set in [&mut self.queue, &mut self.active, &mut self.parked] {
            set.remove(&sequence);
        }
    }

    /// Decides the next step and counts it as run. Slots of `kv` hold what the plan needs; it is this scheduler's alone.
    pub fn plan(&mut self, kv: &mut KvBlocks, plan: &mut Plan) {
        plan.work.clear();
        for (i, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.user.is_none()) {
            kv.truncate(i, slot.prefix);
        }
        // Waiting ones first: admission may overwrite the slot they wait for.
        for id in Vec::from_iter(self.active.iter().copied()) {
            if let State::Waiting { slot, on } = self.sequences[id].state {
                self.share(id, slot, on, kv);
            }
        }
        while self.active.len() < self.limits.concurrency && self.admit(kv) {}
        let mut budget = self.limits.batch_tokens;
        for decode in [true, false] {
            for id in Vec::from_iter(self.active.iter().copied()) {
                let s = &self.sequences[id];
                let State::Running { slot } = s.state else { continue };
                let pending = s.len - s.past;
                if pending == 0 || budget == 0 || (pending == 1) != decode {
                    continue; // nothing pending: its last token already went into this step
                }
                let (past, len) = (s.past, pending.min(budget));
                while self.active.contains(&id) && kv.reserve(slot, past, len).is_err() {
                    let victim = self.make_room(kv).expect("the cache holds a whole context");
                    let lost = |w: &&Work| Some(w.sequence) == victim;
                    budget += plan.work.iter().filter(lost).map(|w| w.len).sum::<usize>();
                    plan.work.retain(|w| !lost(&w));
                }
                if !self.active.contains(&id) {
                    continue; // it was the youngest itself
                }
                budget -= len;
                let s = &mut self.sequences[id];
                let again = s.run.saturating_sub(past).min(len);
                plan.work.push(Work { sequence: id, slot, past, len, again, logits: len == pending });
                s.past += len;
                s.run = s.run.max(s.past);
                let held = &mut self.slots[slot];
                held.prefix = held.prefix.max(s.past.min(s.prompt));
            }
        }
    }

    /// Gives a free slot to the first queued sequence, if there is one, with blocks for what is known of it and one more.
    fn admit(&mut self, kv: &mut KvBlocks) -> bool {
        let Some(&id) = self.queue.first() else { return false };
        let Sequence { group, prompt, len, .. } = self.sequences[id];
        let holds = |s: &Slot| if s.group == group { s.prefix } else { 0 };
        // A free slot that holds the prompt already, else the first free one.
        let free = (0..self.slots.len()).filter(|&i| self.slots[i].user.is_none());
        let Some(slot) = free.max_by_key(|&i| (holds(&self.slots[i]), usize::MAX - i)) else { return false };
        let past = holds(&self.slots[slot]).min(prompt - 1);
        let mut donor = None;
        if past == 0 {
            kv.release(slot);
            self.slots[slot] = Slot { group, ..FREE };
            donor = self.slots.iter().position(|s| s.user.is_some() && s.group == group);
        }
        // Held while room is made for it.
        self.slots[slot].user = Some(id);
        let expected = (len + BLOCK).min(self.limits.context);
        while kv.free()
            < match donor {
                Some(_) => blocks_for(expected) - (prompt - 1) / BLOCK,
                None => kv.needs(slot, past, expected - past),
            }
        {
            // A parked sequence is worth more than a new one, unless nobody computes.
            let made = self.drop_prompt(kv) || self.active.is_empty() && self.preempt_parked(kv);
            if !made {
                self.slots[slot].user = None;
                return false;
            }
            donor = donor.filter(|&on| self.slots[on].user.is_some());
        }
        self.queue.remove(&id);
        self.active.insert(id);
        match donor {
            Some(on) => self.share(id, slot, on, kv),
            None => {
                self.sequences[id].past = past;
                self.sequences[id].state = State::Running { slot };
                kv.reserve(slot, past, len - past).expect("that much is free");
            }
        }
        true
    }

    /// Shares the prompt in slot `on` if it is there, or waits for it.
    ///
    /// The prompt's last token is run by each sequence itself: it is the one whose logits it needs.
    fn share(&mut self, id: usize, slot: usize, on: usize, kv: &mut KvBlocks) {
        let (s, donor) = (&mut self.sequences[id], self.slots[on]);
        let len = s.prompt - 1;
        let same = donor.group == s.group;
        if same && donor.prefix < len && donor.user.is_some() {
            s.state = State::Waiting { slot, on };
            return;
        }
        if same && donor.prefix >= len {
            s.past = len;
            self.slots[slot].prefix = len;
            kv.share(on, slot, len);
        }
        s.state = State::Running { slot };
    }

    /// Frees blocks, and says whose, or who lost them; `None` if nobody has any.
    fn make_room(&mut self, kv: &mut KvBlocks) -> Option<Option<usize>> {
        if self.drop_prompt(kv) || self.preempt_parked(kv) {
            return Some(None);
        }
        let victim = self.active.pop_last()?;
        self.queue.insert(victim);
        let (State::Running { slot } | State::Waiting { slot, .. }) = self.sequences[victim].state else {
            unreachable!("an active sequence has a slot")
        };
        self.sequences[victim].state = State::Queued;
        self.take(victim, slot, kv);
        Some(Some(victim))
    }

    /// Gives up a prompt that an ended sequence left.
    fn drop_prompt(&mut self, kv: &mut KvBlocks) -> bool {
        let held = |i: &usize| self.slots[*i].user.is_none() && !kv.table(*i).is_empty();
        let Some(i) = (0..self.slots.len()).find(held) else { return false };
        self.slots[i] = FREE;
        kv.release(i);
        true
    }

    /// Preempts the youngest parked sequence that holds a slot.
    fn preempt_parked(&mut self, kv: &mut KvBlocks) -> bool {
        let held = |&&id: &&usize| self.sequences[id].state != State::Parked { slot: None };
        let Some(&id) = self.parked.iter().rev().find(held) else { return false };
        let State::Parked { slot: Some(slot) } = self.sequences[id].state else { unreachable!("just found") };
        self.sequences[id].state = State::Parked { slot: None };
        self.take(id, slot, kv);
        true
    }

    /// Takes the slot of a preempted sequence.
    fn take(&mut self, id: usize, slot: usize, kv: &mut KvBlocks) {
        let held = std::mem::take(&mut self.sequences[id].past);
        self.preemptions += usize::from(held > 0);
        self.slots[slot] = FREE;
        kv.release(slot);
    }
}
#[cfg(test)]
mod tests;
