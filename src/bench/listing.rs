//! A recorded plan as rows to show: what repeats from layer to layer folded into one group.

use std::time::Duration;

use toolsmith_graphs::{Plan, ops::Work, plan::StepInfo};

/// A step, or the same step of every repetition of its group, summed.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kernel.
    pub kernel: String,
    /// The parameter, without its layer and without `.weight`, or those of a fused step: `self_attn.q_proj k_proj v_proj`.
    /// Empty where there is none.
    pub param: String,
    /// First input and first output: `512×576→1536` for `[512, 576]` and `[512, 1536]`.
    pub shape: String,
    /// Whether weights or products are bf16.
    pub bf16: bool,
    /// What it had to do.
    pub work: Work,
    /// What it took.
    pub time: Duration,
}

/// Consecutive rows that occur `repeat` times, one after the other.
#[derive(Clone, Debug)]
pub struct Group {
    /// 1 for rows that don't repeat.
    pub repeat: usize,
    /// Rows of one repetition, with the sums over all of them.
    pub rows: Vec<Row>,
}

impl Group {
    /// Time of all rows.
    pub fn time(&self) -> Duration {
        self.rows.iter().map(|r| r.time).sum()
    }

    /// Work of all rows.
    pub fn work(&self) -> Work {
        self.rows.iter().map(|r| r.work).sum()
    }
}

/// The steps of a plan whose last execution was recorded, a row each. Without a record every row costs nothing.
pub fn rows(plan: &Plan) -> Vec<Row> {
    let row = |step: StepInfo| {
        let dims = |shapes: &[toolsmith_graphs::Shape]| shapes.first().map(|s| plan.extent().resolve(s));
        let cost = step.cost;
        Row {
            kernel: step.name.to_lowercase(),
            param: joined(step.params),
            shape: shape(dims(step.inputs), dims(step.outputs)),
            bf16: cost.is_some_and(|c| c.bf16),
            work: cost.map(|c| c.work).unwrap_or_default(),
            time: cost.map(|c| c.time).unwrap_or_default(),
        }
    };
    plan.steps().map(row).collect()
}

/// The first parameter and the last components of the others.
fn joined(params: &[String]) -> String {
    let names = params.iter().map(|p| short(p)).enumerate();
    let part = |(i, name): (usize, String)| match name.rsplit('.').next() {
        Some(last) if i > 0 => last.to_owned(),
        _ => name,
    };
    names.map(part).collect::<Vec<_>>().join(" ")
}

/// `model.layers.3.mlp.up_proj.weight` as `mlp.up_proj`.
fn short(param: &str) -> String {
    let name = param.strip_prefix("model.").unwrap_or(param);
    let name = name.strip_suffix(".weight").unwrap_or(name);
    match name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
        Some((_, rest)) => rest.to_owned(),
        None => name.to_owned(),
    }
}

fn shape(input: Option<Vec<usize>>, output: Option<Vec<usize>>) -> String {
    let text = |dims: &[usize]| match dims {
        [] => "1".to_owned(),
        dims => dims.iter().map(usize::to_string).collect::<Vec<_>>().join("×"),
    };
    match (input, output) {
        (Some(i), Some(o)) if i == o => text(&o),
        (Some(i), Some(o)) if i.len() > 1 && i.len() == o.len() && i[..i.len() - 1] == o[..o.len() - 1] => {
            format!("{}→{}", text(&i), o[o.len() - 1])
        }
        (Some(i), Some(o)) => format!("{}→{}", text(&i), text(&o)),
        (i, o) => text(&i.or(o).unwrap_or_default()),
    }
}

/// Fewest rows that a group has to spare to be worth its heading.
const WORTH: usize = 3;

/// Folds consecutive repetitions: from each row on, the period that covers most rows, the shortest of those.
pub fn fold(rows: Vec<Row>) -> Vec<Group> {
    let alike =
        |a: &Row, b: &Row| (&a.kernel, &a.param, &a.shape, a.bf16) == (&b.kernel, &b.param, &b.shape, b.bf16);
    let repeats = |from: usize, period: usize| {
        let rest = &rows[from..];
        let matching = rest.iter().zip(&rest[period..]).take_while(|(a, b)| alike(a, b)).count();
        1 + matching / period
    };
    let mut groups: Vec<Group> = Vec::new();
    let mut at = 0;
    while at < rows.len() {
        let (mut period, mut count) = (1, 1);
        for p in 1..=(rows.len() - at) / 2 {
            let n = repeats(at, p);
            if (n - 1) * p >= WORTH && n * p > period * count {
                (period, count) = (p, n);
            }
        }
        let mut once = rows[at..at + period].to_vec();
        for (i, row) in rows[at + period..at + period * count].iter().enumerate() {
            let sum = &mut once[i % period];
            sum.work = sum.work + row.work;
            sum.time += row.time;
        }
        at += period * count;
        match groups.last_mut().filter(|g| g.repeat == 1 && count == 1) {
            Some(group) => group.rows.append(&mut once),
            None => groups.push(Group { repeat: count, rows: once }),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: char) -> Row {
        Row {
            kernel: kernel.into(),
            param: String::new(),
            shape: String::new(),
            bf16: false,
            work: Work { read: 1, ..Work::default() },
            time: Duration::from_millis(1),
        }
    }

    #[test]
    fn layers_fold_and_nothing_is_lost() {
        let folded = |text: &str| {
            let groups = fold(text.chars().map(row).collect());
            let rows: usize = groups.iter().map(|g| g.repeat * g.rows.len()).sum();
            assert_eq!(rows, text.len());
            assert_eq!(groups.iter().map(|g| g.work().read as usize).sum::<usize>(), text.len());
            let show = |g: &Group| {
                format!("{}{}", g.repeat, g.rows.iter().map(|r| r.kernel.as_str()).collect::<String>())
            };
            groups.iter().map(show).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(folded("eabbcabbcabbcnl"), "1e 3abbc 1nl");
        assert_eq!(folded("abc"), "1abc");
        assert_eq!(folded("aabab"), "1aabab");
        assert_eq!(folded("aaaa"), "4a");
        assert_eq!(folded(""), "");
    }

    #[test]
    fn parameters_and_shapes_are_short() {
        assert_eq!(short("model.layers.12.self_attn.q_proj.weight"), "self_attn.q_proj");
        assert_eq!(short("model.embed_tokens.weight"), "embed_tokens");
        assert_eq!(short("lm_head.weight"), "lm_head");
        let layers = ["q", "k"].map(|p| format!("model.layers.12.self_attn.{p}_proj.weight"));
        assert_eq!(joined(&layers), "self_attn.q_proj k_proj");
        assert_eq!(joined(&[]), "");
        assert_eq!(shape(Some(vec![512, 576]), Some(vec![512, 1536])), "512×576→1536");
        assert_eq!(shape(Some(vec![512]), Some(vec![512, 576])), "512→512×576");
        assert_eq!(shape(Some(vec![4, 4]), Some(vec![4, 4])), "4×4");
        assert_eq!(shape(Some(vec![4, 4]), Some(vec![])), "4×4→1");
    }
}
