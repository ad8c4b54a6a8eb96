//! An answer on the screen: text as it comes, code and its output in boxes, told apart without colours too.

use std::io::{self, Write};

use crate::agent::AgentEvent;

/// Columns of a box's rule.
const WIDTH: usize = 80;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Text,
    /// A program, or the JSON of a call.
    Code {
        json: bool,
    },
    Output {
        ok: bool,
    },
}

/// Writes the events of an agent.
pub struct Transcript<W: Write> {
    out: W,
    colours: bool,
    mode: Mode,
    /// Whether the cursor is at the beginning of a line.
    fresh: bool,
}

impl<W: Write> Transcript<W> {
    /// Writes to `out`, with ANSI colours if it takes them.
    pub fn new(out: W, colours: bool) -> Self {
        Self { out, colours, mode: Mode::Text, fresh: true }
    }

    /// Writes one event.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn event(&mut self, event: &AgentEvent) -> io::Result<()> {
        match *event {
            AgentEvent::Text(text) => {
                let text = match self.mode {
                    Mode::Text => text,
                    // The line break after a closed box is the box's own.
                    _ if text.trim_matches('\n').is_empty() => return Ok(()),
                    _ => text.trim_start_matches('\n'),
                };
                self.enter(Mode::Text)?;
                self.write(text)?;
            }
            AgentEvent::Code(code) => {
                if let Mode::Code { .. } = self.mode {
                    return self.write(code).and_then(|()| self.out.flush());
                }
                let code = code.trim_start_matches('\n');
                if !code.is_empty() {
                    // A call's JSON begins with a brace; a program hardly ever does.
                    self.enter(Mode::Code { json: code.starts_with('{') })?;
                    self.write(code)?;
                }
            }
            AgentEvent::Output(output, ok) => {
                self.enter(Mode::Output { ok })?;
                self.write(output.trim_end())?;
            }
            AgentEvent::Answer(_) => {}
        }
        self.out.flush()
    }

    /// Closes what is open and writes the answer's line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(&mut self, answer: Option<&str>) -> io::Result<()> {
        self.enter(Mode::Text)?;
        self.end_line()?;
        match answer {
            Some(answer) => {
                let line = format!("answer: {}", answer.trim());
                self.paint("1;32", &line)?;
            }
            None => self.paint("2", "no answer: the model closed no \\boxed{…}")?,
        }
        writeln!(self.out)?;
        self.out.flush()
    }

    /// Ends the present mode and begins another.
    fn enter(&mut self, mode: Mode) -> io::Result<()> {
        if mode == self.mode {
            return Ok(());
        }
        self.end_line()?;
        let open = self.mode != Mode::Text;
        self.mode = mode;
        let rule = match mode {
            Mode::Text => "└".to_owned() + &"─".repeat(WIDTH - 1),
            Mode::Code { json } => titled(if open { '├' } else { '┌' }, if json { "call" } else { "python" }),
            Mode::Output { ok: true } => titled('├', "output"),
            Mode::Output { ok: false } => titled('├', "error"),
        };
        self.paint("2", &rule)?;
        writeln!(self.out)
    }

    fn end_line(&mut self) -> io::Result<()> {
        if !self.fresh {
            self.fresh = true;
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// Writes text in the present mode; every line of a box begins with its side.
    fn write(&mut self, text: &str) -> io::Result<()> {
        for line in text.split_inclusive('\n') {
            let body = line.strip_suffix('\n').unwrap_or(line);
            if self.mode != Mode::Text && self.fresh {
                self.paint("2", "│ ")?;
            }
            match self.mode {
                Mode::Text => self.out.write_all(body.as_bytes())?,
                Mode::Code { .. } => self.paint("36", body)?,
                Mode::Output { ok: true } => self.paint("33", body)?,
                Mode::Output { ok: false } => self.paint("31", body)?,
            }
            self.fresh = line.ends_with('\n');
            if self.fresh {
                writeln!(self.out)?;
            }
        }
        Ok(())
    }

    fn paint(&mut self, style: &str, text: &str) -> io::Result<()> {
        if self.colours && !text.is_empty() {
            write!(self.out, "\x1b[{style}m{text}\x1b[0m")
        } else {
            self.out.write_all(text.as_bytes())
        }
    }
}

fn titled(corner: char, title: &str) -> String {
    let head = format!("{corner}─ {title} ");
    let rest = WIDTH - head.chars().count();
    head + &"─".repeat(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(colours: bool, events: &[AgentEvent], answer: Option<&str>) -> String {
        let mut out = Vec::new();
        let mut transcript = Transcript::new(&mut out, colours);
        events.iter().for_each(|e| transcript.event(e).unwrap());
        transcript.finish(answer).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn code_and_output_stand_in_a_box() {
        let events = [
            AgentEvent::Text("Let me "),
            AgentEvent::Text("see. "),
            AgentEvent::Code("\nprint(6"),
            AgentEvent::Code(" * 7)\nprint(1)\n"),
            AgentEvent::Output("42\n1\n", true),
            AgentEvent::Text("\nSo \\boxed{42}."),
            AgentEvent::Answer("42"),
        ];
        let text = shown(false, &events, Some("42"));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "Let me see. ");
        assert!(lines[1].starts_with("┌─ python ──") && lines[1].chars().count() == 80);
        assert_eq!(lines[2..4], ["│ print(6 * 7)", "│ print(1)"]);
        assert!(lines[4].starts_with("├─ output ──"));
        assert_eq!(lines[5..7], ["│ 42", "│ 1"]);
        assert!(lines[7].starts_with("└──") && lines[7].chars().count() == 80);
        assert_eq!(lines[8..], ["So \\boxed{42}.", "answer: 42"]);
        assert!(!text.contains('\x1b'));
    }

    #[test]
    fn an_open_box_is_closed_at_the_end() {
        let text = shown(false, &[AgentEvent::Code("while 1")], None);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "│ while 1");
        assert!(lines[2].starts_with("└──"));
        assert!(lines[3].starts_with("no answer"));
    }

    #[test]
    fn errors_say_so_with_and_without_colours() {
        let events = [AgentEvent::Code("1/0"), AgentEvent::Output("ZeroDivisionError", false)];
        assert!(shown(false, &events, None).contains("├─ error ──"));
        assert!(shown(true, &events, None).contains("\x1b[31mZeroDivisionError\x1b[0m"));
    }

    #[test]
    fn a_call_in_json_is_no_python() {
        let events =
            [AgentEvent::Code("\n{\"name\""), AgentEvent::Code(": 1}\n"), AgentEvent::Output("2", true)];
        let text = shown(false, &events, None);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("┌─ call ──"), "{text}");
        assert_eq!(lines[1], "│ {\"name\": 1}");
    }

    #[test]
    fn two_calls_in_a_row_share_a_box() {
        let events = [
            AgentEvent::Code("1"),
            AgentEvent::Output("1", true),
            AgentEvent::Text("\n"),
            AgentEvent::Code("2"),
            AgentEvent::Output("2", true),
        ];
        let text = shown(false, &events, None);
        assert_eq!(text.matches("┌─ python").count(), 1);
        assert_eq!(text.matches("├─ python").count(), 1);
    }
}
