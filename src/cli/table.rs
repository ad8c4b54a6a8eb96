//! Plain tables at most 80 columns wide: the first column to the left, numbers to the right.

/// Columns a table may take.
pub const WIDTH: usize = 80;

/// Lays out `rows` under `head`; every row has as many cells as `head`.
/// Where a table is too wide, its first column is cut in the middle.
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width = |text: &str| text.chars().count();
    let mut widths = head.map(width);
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(width(cell));
        }
    }
    let others: usize = widths[1..].iter().map(|w| w + 2).sum();
    widths[0] = widths[0].min(WIDTH.saturating_sub(others).max(8));

    let mut out = String::new();
    let mut line = |cells: [&str; N]| {
        let mut text = format!("{:<1$}", shorten(cells[0], widths[0]), widths[0]);
        for (cell, w) in cells[1..].iter().zip(&widths[1..]) {
            text += &format!("  {cell:>w$}");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(head);
    let rules = widths.map(|w| "─".repeat(w));
    line(rules.each_ref().map(String::as_str));
    for row in rows {
        line(row.each_ref().map(String::as_str));
    }
    out
}

/// Cuts the middle out of `text` so that it fits `width` columns.
fn shorten(text: &str, width: usize) -> String {
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= width {
        return text.to_owned();
    }
    let head = (width - 1) / 2;
    let tail = width - 1 - head;
    chars[..head].iter().chain(['…'].iter()).chain(&chars[chars.len() - tail..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_line_up_on_the_right() {
        let rows = [["loss".into(), "1.5".into()], ["gradient".into(), "10".into()]];
        assert_eq!(
            table(["quantity", "error"], &rows),
            "quantity  error\n────────  ─────\nloss        1.5\ngradient     10\n"
        );
    }

    #[test]
    fn never_wider_than_a_terminal() {
        let long = "model.layers.0.self_attn.q_proj.weight".repeat(4);
        let text = table(["a", "b"], &[[long, "12345".into()]]);
        assert!(text.lines().all(|l| l.chars().count() <= WIDTH), "{text}");
        assert!(text.contains('…'));
    }
}
