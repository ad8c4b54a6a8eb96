//! A recorded plan as a picture: where the time goes by kernel, then the steps in order, each with a bar of its share.
//!
//! Plain SVG with no script and no fonts of its own.

use std::fmt::Write;
use std::time::Duration;

use toolsmith_graphs::ops::Work;

use super::listing::{Group, Row};

const WIDTH: usize = 1000;
const MARGIN: usize = 32;
const ROW: usize = 26;
/// Right edges of the numbers' columns: shape, MB, GFLOP, ms, share.
const COLUMNS: [usize; 5] = [676, 744, 814, 886, 956];
/// Where a row's bar starts, and the width it may have.
const BAR: (usize, usize) = (300, 230);
/// Colours of the kernels that take most time, in that order; the others are grey.
const COLOURS: [&str; 9] =
    ["#3b6fb6", "#e08a2e", "#3d9a6c", "#c0504d", "#8064a2", "#2fa0b0", "#b88a3a", "#d272a0", "#6c8c3c"];
const GREY: &str = "#9aa3ad";

/// A plan under a name.
pub struct Section {
    /// What the plan does.
    pub title: String,
    /// Its steps.
    pub groups: Vec<Group>,
}

/// Draws the sections under a title and a line of facts.
pub fn draw(title: &str, facts: &str, sections: &[Section]) -> String {
    let rows = || sections.iter().flat_map(|s| &s.groups).flat_map(|g| &g.rows);
    let total: Duration = rows().map(|r| r.time).sum();
    let palette = Palette::new(rows());
    let longest = rows().map(|r| r.time).max().unwrap_or_default();
    let mut out = Canvas { body: String::new(), y: MARGIN, total, longest, palette };
    out.text(MARGIN, 16, "title", "start", title);
    out.y += 26;
    out.text(MARGIN, 12, "quiet", "start", facts);
    out.y += 30;
    out.overview();
    for section in sections {
        out.section(section);
    }
    let height = out.y + MARGIN / 2;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" font-family=\"ui-sans-serif, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif\">\n\
         <style>text {{ fill: #1f2933 }} .title {{ font-weight: 600 }} \
         .quiet {{ fill: #66727f }} .on {{ fill: #fff; font-weight: 500 }} .head {{ font-weight: 600 }}</style>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n{}</svg>\n",
        out.body
    )
}

/// Which colour a kernel has, and how much time.
struct Palette(Vec<(String, Duration)>);

impl Palette {
    fn new<'a>(rows: impl Iterator<Item = &'a Row>) -> Palette {
        let mut kernels: Vec<(String, Duration)> = Vec::new();
        for row in rows {
            match kernels.iter_mut().find(|(name, _)| *name == row.kernel) {
                Some((_, time)) => *time += row.time,
                None => kernels.push((row.kernel.clone(), row.time)),
            }
        }
        kernels.sort_by_key(|k| std::cmp::Reverse(k.1));
        Palette(kernels)
    }

    fn colour(&self, kernel: &str) -> &'static str {
        let at = self.0.iter().position(|(name, _)| name == kernel);
        at.and_then(|i| COLOURS.get(i)).copied().unwrap_or(GREY)
    }
}

struct Canvas {
    body: String,
    y: usize,
    total: Duration,
    longest: Duration,
    palette: Palette,
}

impl Canvas {
    fn text(&mut self, x: usize, size: usize, class: &str, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let y = self.y;
        let _ = writeln!(
            self.body,
            "<text x=\"{x}\" y=\"{y}\" dy=\"0.35em\" font-size=\"{size}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str, more: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\" {more}/>"
        );
    }

    fn share(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.total.as_secs_f64().max(1e-12)
    }

    /// One bar for the whole time, cut by kernel, and what its colours mean.
    fn overview(&mut self) {
        let width = (WIDTH - 2 * MARGIN) as f64;
        let mut x = MARGIN as f64;
        for (kernel, time) in self.palette.0.clone() {
            let w = width * self.share(time);
            let (y, fill) = (self.y as f64, self.palette.colour(&kernel));
            self.rect(x, y, w, 28.0, fill, "stroke=\"#fff\" stroke-width=\"1\"");
            if w > 44.0 {
                self.y += 14;
                let percent = format!("{:.0} %", 100.0 * self.share(time));
                self.text((x + w / 2.0) as usize, 12, "on", "middle", &percent);
                self.y -= 14;
            }
            x += w;
        }
        self.y += 46;
        let shown = self.palette.0.len().min(COLOURS.len());
        let mut names: Vec<(String, &str)> =
            self.palette.0[..shown].iter().map(|(k, _)| (k.clone(), self.palette.colour(k))).collect();
        if self.palette.0.len() > shown {
            names.push(("others".to_owned(), GREY));
        }
        let mut x = MARGIN;
        for (name, fill) in names {
            let width = 30 + 7 * name.chars().count();
            if x + width > WIDTH - MARGIN {
                x = MARGIN;
                self.y += 22;
            }
            self.rect(x as f64, self.y as f64 - 6.0, 12.0, 12.0, fill, "rx=\"3\"");
            self.text(x + 18, 12, "", "start", &name);
            x += width;
        }
        self.y += 36;
    }

    fn section(&mut self, section: &Section) {
        self.text(MARGIN, 14, "head", "start", &section.title);
        for (x, name) in COLUMNS.into_iter().zip(["shape", "MB", "GFLOP", "ms", "time"]) {
            self.text(x, 11, "quiet", "end", name);
        }
        self.y += 24;
        for group in &section.groups {
            if group.repeat == 1 {
                group.rows.iter().for_each(|row| self.row(row));
                continue;
            }
            self.y += 6;
            let height = (ROW * (group.rows.len() + 1) + 2) as f64;
            let (x, y) = (MARGIN as f64 - 12.0, self.y as f64 - ROW as f64 / 2.0);
            let width = (WIDTH - 2 * MARGIN + 24) as f64;
            self.rect(x, y, width, height, "#f4f6f8", "rx=\"10\" stroke=\"#d5dbe1\"");
            self.text(MARGIN, 12, "head", "start", &format!("{} times, summed", group.repeat));
            self.numbers("", group.work(), group.time(), "head");
            self.y += ROW;
            group.rows.iter().for_each(|row| self.row(row));
            self.y += 10;
        }
        let time = section.groups.iter().map(Group::time).sum();
        let work = section.groups.iter().map(Group::work).sum();
        self.text(MARGIN, 12, "head", "start", "total");
        self.numbers("", work, time, "head");
        self.y += ROW + 14;
    }

    fn row(&mut self, row: &Row) {
        let fill = self.palette.colour(&row.kernel);
        let (y, height) = (self.y as f64 - 10.0, 20.0);
        self.rect(MARGIN as f64, y, 256.0, height, fill, "rx=\"5\"");
        self.text(MARGIN + 10, 12, "on", "start", &row.kernel);
        let kernel = row.kernel.chars().count() * 7 + 14;
        // The parameter, as far as it fits beside the kernel.
        let room = (240usize.saturating_sub(kernel)) / 6;
        let param: String = match row.param.chars().count() {
            n if n <= room => row.param.clone(),
            _ => row.param.rsplit('.').next().unwrap_or_default().to_owned(),
        };
        if param.chars().count() <= room {
            self.text(MARGIN + 248, 11, "on", "end", &param);
        }
        let share = row.time.as_secs_f64() / self.longest.as_secs_f64().max(1e-12);
        let width = (BAR.1 as f64 * share).max(1.0);
        self.rect(BAR.0 as f64, y + 4.0, width, height - 8.0, fill, "rx=\"3\" fill-opacity=\"0.75\"");
        self.numbers(&row.shape, row.work, row.time, "");
        self.y += ROW;
    }

    fn numbers(&mut self, shape: &str, work: Work, time: Duration, class: &str) {
        let texts = [
            shape.to_owned(),
            format!("{:.1}", work.bytes() as f64 / 1e6),
            format!("{:.2}", work.flops() as f64 / 1e9),
            format!("{:.2}", time.as_secs_f64() * 1e3),
            format!("{:.1} %", 100.0 * self.share(time)),
        ];
        for (x, text) in COLUMNS.into_iter().zip(texts) {
            self.text(x, 12, class, "end", &text);
        }
    }
}
