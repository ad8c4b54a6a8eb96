//! A report beside an earlier one of the same model on the same machine: what became slower.

use serde::Serialize;

use super::{Rate, Report, name};

/// Share of its rate that a phase may lose before it counts as slower.
pub const TOLERANCE: f64 = 0.1;

/// A rate then and now, in units a second; the medians of the runs, which one disturbed run does not move.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The phase or the wall.
    pub what: String,
    /// Whether it is a phase of the model, not a wall of the machine.
    pub phase: bool,
    /// The earlier rate.
    pub before: f64,
    /// This rate.
    pub now: f64,
}

impl Change {
    fn of(what: &str, phase: bool, before: &Rate, now: &Rate) -> Change {
        Change { what: what.to_owned(), phase, before: before.median(), now: now.median() }
    }

    /// This rate divided by the earlier one.
    pub fn ratio(&self) -> f64 {
        self.now / self.before
    }

    /// Whether a phase lost more than [`TOLERANCE`]. A wall that fell is the machine's doing.
    pub fn slower(&self) -> bool {
        self.phase && self.ratio() < 1.0 - TOLERANCE
    }
}

/// Why two reports cannot be compared.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Different {
    /// Another model, machine or way of running.
    #[error("{what} was {before} then and is {now} now: their rates say nothing about each other")]
    Subject {
        /// What differs.
        what: &'static str,
        /// The earlier report's.
        before: String,
        /// This report's.
        now: String,
    },
    /// Nothing was measured in both.
    #[error("has none of the phases measured now")]
    Phases,
}

/// The walls, then the phases that both reports have, in the order of `now`.
///
/// # Errors
/// Reports of another model or machine, or without a common phase.
pub fn compare(before: &Report, now: &Report) -> Result<Vec<Change>, Different> {
    let facts = |r: &Report| {
        let m = &r.machine;
        [
            ("the processor", m.cpu.clone()),
            ("the kernels' instruction set", m.kernels.clone()),
            ("the number of threads", m.threads.to_string()),
            ("the number of parameters", r.parameters.to_string()),
            ("the precision", r.dtype.name().to_owned()),
        ]
    };
    for ((what, before), (_, now)) in facts(before).into_iter().zip(facts(now)) {
        if before != now {
            return Err(Different::Subject { what, before, now });
        }
    }
    let (old, new) = (&before.limits, &now.limits);
    let mut changes = vec![
        Change::of("memory read", false, &old.dram_read, &new.dram_read),
        Change::of("f32 multiply-add", false, &old.f32_fma, &new.f32_fma),
    ];
    if let (Some(old), Some(new)) = (&old.bf16_dot, &new.bf16_dot) {
        changes.push(Change::of("bf16 dot products", false, old, new));
    }
    let walls = changes.len();
    for measured in &now.phases {
        let earlier = before.phases.iter().find(|m| m.phase == measured.phase);
        changes.extend(earlier.map(|earlier| {
            Change::of(&name(measured.phase), true, &earlier.tokens_per_second, &measured.tokens_per_second)
        }));
    }
    if changes.len() == walls { Err(Different::Phases) } else { Ok(changes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Limits, Measured, Phase, machine::Machine};
    use crate::config::Dtype;

    fn report(rates: &[(usize, [f64; 3])]) -> Report {
        let rate = |x: f64| Rate::of(vec![x]);
        let phase = |&(tokens, runs): &(usize, [f64; 3])| Measured {
            phase: Phase::Prefill { sequences: 1, tokens },
            tokens_per_second: Rate::of(runs.to_vec()),
            seconds: vec![],
            bytes: 1,
            bf16_flops: 1,
            f32_flops: 1,
            bandwidth_share: 1.0,
            peak_share: 1.0,
            peak_memory: None,
        };
        Report {
            machine: Machine::here(),
            load_average_after: vec![],
            parameters: 7,
            dtype: Dtype::Bf16,
            limits: Limits { dram_read: rate(5.0), f32_fma: rate(6.0), bf16_dot: None },
            phases: rates.iter().map(phase).collect(),
        }
    }

    #[test]
    fn a_loss_of_more_than_a_tenth_is_one() {
        let before = report(&[(8, [90.0, 100.0, 1000.0]), (16, [100.0; 3]), (32, [1.0; 3])]);
        let mut now = report(&[(16, [91.0; 3]), (8, [1.0, 89.0, 900.0]), (64, [1.0; 3])]);
        now.limits.dram_read = Rate::of(vec![1.0]);
        let changes = compare(&before, &now).unwrap();
        let found: Vec<_> = changes.iter().map(|c| (c.what.as_str(), c.ratio(), c.slower())).collect();
        assert_eq!(
            found,
            [
                ("memory read", 0.2, false),
                ("f32 multiply-add", 1.0, false),
                ("prefill 16", 0.91, false),
                ("prefill 8", 0.89, true)
            ]
        );
    }

    #[test]
    fn what_has_nothing_in_common_is_not_compared() {
        let one = report(&[(8, [1.0; 3])]);
        assert_eq!(compare(&one, &report(&[(9, [1.0; 3])])).unwrap_err(), Different::Phases);
        let f32 = Report { dtype: Dtype::F32, ..one.clone() };
        let error = compare(&one, &f32).unwrap_err().to_string();
        assert_eq!(
            error,
            "the precision was bf16 then and is f32 now: their rates say nothing about each other"
        );
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let one = report(&[(8, [1.0, 2.0, 3.0])]);
        let text = serde_json::to_string(&one).unwrap();
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
    }
}
