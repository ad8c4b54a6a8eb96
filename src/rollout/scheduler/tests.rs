use super::*;

/// A scheduler with its cache.
struct Bed(Scheduler, KvBlocks);

impl std::ops::Deref for Bed {
    type Target = Scheduler;
    fn deref(&self) -> &Scheduler {
        &self.0
    }
}

impl std::ops::DerefMut for Bed {
    fn deref_mut(&mut self) -> &mut Scheduler {
        &mut self.0
    }
}

fn scheduler(slots: usize, batch_tokens: usize, concurrency: usize) -> Bed {
    with_blocks(slots, batch_tokens, concurrency, slots)
}

/// With contexts of two blocks, or of one if every slot has one.
fn with_blocks(slots: usize, batch_tokens: usize, concurrency: usize, blocks: usize) -> Bed {
    let context = if blocks == slots { BLOCK } else { 2 * BLOCK };
    let limits = Limits { slots, context, batch_tokens, concurrency };
    Bed(Scheduler::new(limits), KvBlocks::new(slots, context, blocks))
}

/// (sequence, past, len, logits)
type Span = (usize, usize, usize, bool);

fn work(s: &mut Bed) -> Vec<Span> {
    let mut plan = Plan::default();
    let Bed(scheduler, kv) = s;
    scheduler.plan(kv, &mut plan);
    for w in &plan.work {
        assert!(kv.table(w.slot).len() >= blocks_for(w.past + w.len), "{w:?}");
    }
    let mut slots: Vec<_> = plan.work.iter().map(|w| w.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    assert_eq!(slots.len(), plan.work.len(), "a slot twice");
    plan.work.iter().map(|w| (w.sequence, w.past, w.len, w.logits)).collect()
}

#[test]
fn prefill_is_split_and_shared() {
    let mut s = scheduler(3, 4, 3);
    for _ in 0..3 {
        s.add(0, 7);
    }
    // The first sample prefills in two chunks while the others wait, then they share all but the last token.
    assert_eq!(work(&mut s), [(0, 0, 4, false)]);
    assert_eq!(work(&mut s), [(0, 4, 3, true)]);
    s.extend(0, 1);
    assert_eq!(work(&mut s), [(0, 7, 1, true), (1, 6, 1, true), (2, 6, 1, true)]);
    assert_eq!(s.1.take_copies().collect::<Vec<_>>(), [(0, 1), (0, 2)]);
}

#[test]
fn a_finished_slot_is_refilled_at_once_and_keeps_the_prompt() {
    let mut s = scheduler(1, 16, 4);
    for _ in 0..2 {
        s.add(0, 5);
    }
    s.add(1, 3);
    assert_eq!(work(&mut s), [(0, 0, 5, true)]);
    s.finish(0);
    assert_eq!(work(&mut s), [(1, 4, 1, true)]);
    s.finish(1);
    assert_eq!(work(&mut s), [(2, 0, 3, true)]);
    s.finish(2);
    assert!(s.is_done());
}

#[test]
fn decoding_goes_before_prefill() {
    let mut s = scheduler(2, 4, 2);
    s.add(0, 2);
    s.add(1, 9);
    assert_eq!(work(&mut s), [(0, 0, 2, true), (1, 0, 2, false)]);
    s.extend(0, 1);
    assert_eq!(work(&mut s), [(0, 2, 1, true), (1, 2, 3, false)]);
}

#[test]
fn parked_sequences_keep_their_slot_and_prefill_only_the_answer() {
    let mut s = scheduler(2, 16, 1);
    s.add(0, 3);
    s.add(1, 2);
    assert_eq!(work(&mut s), [(0, 0, 3, true)]);
    s.extend(0, 1);
    s.park(0);
    // Its place in the batch goes to the next sequence, its slot does not.
    assert_eq!(work(&mut s), [(1, 0, 2, true)]);
    s.extend(0, 4);
    s.resume(0);
    s.extend(1, 1);
    assert_eq!(work(&mut s), [(1, 2, 1, true), (0, 3, 5, true)]);
    s.finish(0);
    s.park(1);
    assert!(work(&mut s).is_empty() && !s.is_done());
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
    assert_eq!(work(&mut s), [(0, 0, 2, false)]);
    s.finish(0); // cancelled half-way through the prompt
    assert_eq!(work(&mut s), [(1, 0, 2, false)]);
    assert_eq!(work(&mut s), [(1, 2, 2, false)]);
    assert_eq!(work(&mut s), [(1, 4, 1, true), (2, 0, 1, false)]);
}

#[test]
fn one_token_prompts_share_nothing() {
    let mut s = scheduler(2, 8, 2);
    for _ in 0..2 {
        s.add(0, 1);
    }
    assert_eq!(work(&mut s), [(0, 0, 1, true), (1, 0, 1, true)]);
}
#[test]
fn the_youngest_gives_way_and_computes_again() {
    // Three blocks for two sequences of up to two.
    let mut s = with_blocks(2, 512, 2, 3);
    s.add(0, 60);
    s.add(1, 60);
    assert_eq!(work(&mut s), [(0, 0, 60, true), (1, 0, 60, true)]);
    s.extend(0, 10);
    s.extend(1, 10);
    assert_eq!(work(&mut s), [(0, 60, 10, true)]);
    assert_eq!(s.preemptions(), 1);
    s.extend(0, 1);
    assert_eq!(work(&mut s), [(0, 70, 1, true)], "one block is not enough to come back");
    s.finish(0);
    let mut plan = Plan::default();
    s.0.plan(&mut s.1, &mut plan);
    assert_eq!(plan.work, [Work { sequence: 1, slot: 0, past: 0, len: 70, again: 60, logits: true }]);
}

#[test]
fn a_parked_sequence_gives_way_first() {
    let mut s = with_blocks(3, 512, 2, 4);
    for group in 0..3 {
        s.add(group, 64);
    }
    assert_eq!(work(&mut s), [(0, 0, 64, true), (1, 0, 64, true)]);
    s.extend(0, 1);
    s.park(0);
    s.extend(1, 64);
    assert_eq!(work(&mut s), [(1, 64, 64, true), (2, 0, 64, true)]);
    s.extend(2, 1);
    assert_eq!(work(&mut s), [(2, 64, 1, true)]);
    assert_eq!(s.preemptions(), 1);
    s.extend(0, 5);
    s.resume(0);
    s.finish(1);
    s.extend(2, 1);
    // The ended one's prompt makes room for the oldest to compute all it had again.
    assert_eq!(work(&mut s), [(2, 65, 1, true), (0, 0, 70, true)]);
}

/// Sequences of one or several groups grow at random and park now and then, over few blocks: all of them end, and at every
/// step each has the blocks it needs to itself.
#[test]
fn everybody_ends_however_few_blocks_there_are() {
    let mut rng = crate::rng::Rng::new(3, 0, 0);
    let mut preempted = 0;
    for case in 0..60 {
        let (slots, blocks) = (1 + rng.below(6) as usize, 3 + rng.below(6) as usize);
        let context = 3 * BLOCK;
        let limits = Limits { slots, context, batch_tokens: 100, concurrency: 1 + rng.below(5) as usize };
        let mut s = Scheduler::new(limits);
        let mut kv = KvBlocks::new(slots, context, blocks);
        let ends: Vec<usize> = (0..12)
            .map(|i| {
                let prompt = 1 + (i / 3 * 37) % 90;
                s.add(i / 3, prompt);
                prompt + rng.below((context - prompt) as u64) as usize
            })
            .collect();
        let (mut lens, mut parked) = ((0..12).map(|i| 1 + (i / 3 * 37) % 90).collect::<Vec<_>>(), vec![]);
        let mut plan = Plan::default();
        for step in 0.. {
            assert!(step < 20_000, "case {case} does not end");
            s.plan(&mut kv, &mut plan);
            assert!(!plan.work.is_empty() || !parked.is_empty() || s.is_done(), "case {case} is stuck");
            kv.take_copies().for_each(drop);
            // Blocks in use, and by whom they are written.
            let mut writer = std::collections::BTreeMap::new();
            for w in &plan.work {
                for &block in &kv.table(w.slot)[w.past / BLOCK..blocks_for(w.past + w.len)] {
                    assert_eq!(writer.insert(block, w.slot), None, "case {case}: written twice");
                }
            }
            for w in &plan.work {
                let read = &kv.table(w.slot)[..w.past / BLOCK];
                assert!(!read.iter().any(|b| writer.contains_key(b)), "case {case}: written and read");
            }
            for w in plan.work.iter().filter(|w| w.logits) {
                let id = w.sequence;
                assert_eq!(w.past + w.len, lens[id], "case {case}");
                if lens[id] >= ends[id] {
                    s.finish(id);
                    continue;
                }
                lens[id] += 1;
                s.extend(id, 1);
                if rng.below(20) == 0 {
                    s.park(id);
                    parked.push(id);
                }
            }
            if !parked.is_empty() && (plan.work.is_empty() || rng.below(10) == 0) {
                let id = parked.swap_remove(rng.below(parked.len() as u64) as usize);
                s.resume(id);
            }
            if s.is_done() {
                break;
            }
        }
        preempted += s.preemptions();
    }
    assert!(preempted > 100, "{preempted} preemptions");
}
