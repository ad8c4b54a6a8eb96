//! Exact numbers as answers write them: integers, decimals, fractions, in plain text or LaTeX.
//!
//! Rationals over big integers; a float never enters, so 203.99 is not 204 and 1/3 is not 0.3333.
//! Symbols, roots, tuples, sets and intervals are deliberately absent: what is no rational number is no
//! answer here. A comma is a thousands separator or nothing (`1,22` is refused, not read as 1.22).

use num_bigint::{BigInt, Sign};
use std::fmt;

/// Longest text read as a number, in characters.
const MAX_CHARS: usize = 1000;
/// Deepest nesting of brackets and fractions.
const MAX_DEPTH: usize = 32;
/// Largest result of a power, in bits.
const MAX_BITS: u64 = 1 << 16;

/// A rational number in lowest terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    num: BigInt,
    den: BigInt,
}

impl Number {
    fn new(num: BigInt, den: BigInt) -> Option<Self> {
        let zero = BigInt::ZERO;
        if den == zero {
            return None;
        }
        let (mut a, mut b) = (num.clone(), den.clone());
        while b != zero {
            (a, b) = (b.clone(), a % b);
        }
        // `a` is ± the greatest common divisor; give it the sign that makes the denominator positive.
        if (a.sign() == Sign::Minus) != (den.sign() == Sign::Minus) {
            a = -a;
        }
        Some(Self { num: num / &a, den: den / a })
    }

    /// Reads a whole text as one number: `-1,204`, `073`, `2.50`, `3/4`, `\dfrac{3}{4}`, `3\frac12`,
    /// `1.5e3`, `12\%`, `2^3 \cdot 3`, `x = 204`, `\text{204}`, `90^\circ`, `125 \text{ miles}`.
    ///
    /// `None` for anything else, for division by zero and for text beyond 1,000 characters.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > 4 * MAX_CHARS {
            return None;
        }
        // The last side of a chain of equations, before it is rounded.
        let (left, side) = text.rsplit_once('=').map_or(("", text), |(l, r)| (l, r));
        let names_two = left.split(',').skip(1).any(|part| !part.starts_with(|c: char| c.is_ascii_digit()));
        if names_two || left.trim_end().ends_with(['!', '<', '>', ':', '\\']) {
            return None;
        }
        let side = ["\\approx", "≈"].iter().fold(side, |s, sign| s.split(sign).next().unwrap_or(s));
        let chars: Vec<char> = side.trim().chars().take(MAX_CHARS + 1).map(plain).collect();
        if chars.len() > MAX_CHARS {
            return None;
        }
        let mut p = Parser { s: &chars, at: 0, depth: 0 };
        let value = p.expr()?;
        let value = p.unit(value)?;
        p.space();
        p.eat(".");
        p.space();
        (p.at == p.s.len()).then_some(value)
    }

    fn pow(&self, e: &Number) -> Option<Self> {
        if e.den != BigInt::from(1) {
            return None;
        }
        let e = i32::try_from(&e.num).ok()?;
        let n = e.unsigned_abs();
        if (self.num.bits() + self.den.bits()).saturating_mul(n.into()) > MAX_BITS {
            return None;
        }
        let (a, b) = (self.num.pow(n), self.den.pow(n));
        if e < 0 { Self::new(b, a) } else { Self::new(a, b) }
    }

    fn add(&self, o: &Number) -> Option<Self> {
        Self::new(&self.num * &o.den + &o.num * &self.den, &self.den * &o.den)
    }

    fn mul(&self, o: &Number) -> Option<Self> {
        Self::new(&self.num * &o.num, &self.den * &o.den)
    }

    fn div(&self, o: &Number) -> Option<Self> {
        Self::new(&self.num * &o.den, &self.den * &o.num)
    }

    fn neg(self) -> Self {
        Self { num: -self.num, den: self.den }
    }
}

impl From<i64> for Number {
    fn from(n: i64) -> Self {
        Self { num: n.into(), den: 1.into() }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.den == BigInt::from(1) {
            write!(f, "{}", self.num)
        } else {
            write!(f, "{}/{}", self.num, self.den)
        }
    }
}

/// Full-width forms and typographic signs as their ASCII counterparts.
fn plain(c: char) -> char {
    match c {
        '！'..='～' => char::from_u32(c as u32 - 0xFEE0).unwrap_or(c),
        '−' | '–' => '-',
        '×' | '·' | '⋅' => '*',
        '÷' => '/',
        '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{3000}' => ' ',
        c => c,
    }
}

/// What may stand anywhere without meaning. Longer names first where one begins another.
const SPACES: [&str; 21] = [
    "\\displaystyle",
    "\\textstyle",
    "\\left",
    "\\right",
    "\\qquad",
    "\\quad",
    "\\(",
    "\\)",
    "\\[",
    "\\]",
    "\\$",
    "\\!",
    "\\,",
    "\\;",
    "\\:",
    "\\ ",
    "^\\circ",
    "^{\\circ}",
    "°",
    "$",
    "~",
];
/// Wrappers whose content is the number itself, or a unit.
const WRAPPERS: [&str; 9] = [
    "\\textbf{",
    "\\textit{",
    "\\textnormal{",
    "\\textrm{",
    "\\text{",
    "\\mathbf{",
    "\\mathrm{",
    "\\mbox{",
    "\\boxed{",
];
const FRACTIONS: [&str; 4] = ["\\frac", "\\dfrac", "\\tfrac", "\\cfrac"];
/// Units that may follow a number without a wrapper.
const UNITS: [&str; 31] = [
    "degrees", "degree", "units", "unit", "square", "cubic", "cm", "mm", "km", "meters", "meter", "m", "kg",
    "g", "hours", "hour", "minutes", "minute", "min", "seconds", "second", "s", "days", "day", "miles",
    "mile", "inches", "inch", "feet", "dollars", "cents",
];
const PERCENT: [&str; 3] = ["percent", "percentage", "pct"];

struct Parser<'a> {
    s: &'a [char],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn looking_at(&self, what: &str) -> bool {
        let mut rest = self.s[self.at..].iter();
        what.chars().all(|c| rest.next() == Some(&c))
    }

    fn eat(&mut self, what: &str) -> bool {
        let hit = self.looking_at(what);
        if hit {
            self.at += what.chars().count();
        }
        hit
    }

    fn peek(&self) -> Option<char> {
        self.s.get(self.at).copied()
    }

    fn space(&mut self) {
        loop {
            if self.peek().is_some_and(char::is_whitespace) {
                self.at += 1;
            } else if !SPACES.iter().any(|s| self.eat(s)) {
                return;
            }
        }
    }

    fn expr(&mut self) -> Option<Number> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut value = self.term()?;
        loop {
            self.space();
            if self.eat("+") {
                value = value.add(&self.term()?)?;
            } else if self.eat("-") {
                value = value.add(&self.term()?.neg())?;
            } else {
                self.depth -= 1;
                return Some(value);
            }
        }
    }

    fn term(&mut self) -> Option<Number> {
        let mut value = self.factor()?;
        loop {
            self.space();
            if self.eat("*") || self.eat("\\cdot") || self.eat("\\times") {
                value = value.mul(&self.factor()?)?;
            } else if self.eat("/") || self.eat("\\div") {
                value = value.div(&self.factor()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn factor(&mut self) -> Option<Number> {
        let mut negative = false;
        loop {
            self.space();
            if self.eat("-") {
                negative = !negative;
            } else if !self.eat("+") {
                break;
            }
        }
        let mut value = self.atom()?;
        self.space();
        if self.eat("^") {
            let braces = self.eat("{");
            let exponent = if braces { self.expr()? } else { self.digit()? };
            if braces && !self.close('}') {
                return None;
            }
            value = value.pow(&exponent)?;
        }
        self.space();
        if self.eat("%") || self.eat("\\%") {
            value = value.div(&100.into())?;
        }
        Some(if negative { value.neg() } else { value })
    }

    fn close(&mut self, bracket: char) -> bool {
        self.space();
        self.eat(bracket.encode_utf8(&mut [0; 4]))
    }

    fn atom(&mut self) -> Option<Number> {
        self.space();
        if self.peek()?.is_ascii_digit() || self.peek()? == '.' {
            return self.literal();
        }
        if let Some(value) = self.fraction() {
            return value;
        }
        let bracket = if self.eat("(") {
            ')'
        } else if self.eat("{") || WRAPPERS.iter().any(|w| self.eat(w)) {
            '}'
        } else {
            return None;
        };
        let value = self.expr()?;
        self.close(bracket).then_some(value)
    }

    /// One digit: TeX's argument without braces.
    fn digit(&mut self) -> Option<Number> {
        self.space();
        let d = self.peek()?.to_digit(10)?;
        self.at += 1;
        Some(i64::from(d).into())
    }

    /// `\frac{a}{b}` or `\frac12`; the outer `None` if no fraction starts here.
    fn fraction(&mut self) -> Option<Option<Number>> {
        if !FRACTIONS.iter().any(|f| self.eat(f)) {
            return None;
        }
        let argument = |p: &mut Self| {
            p.space();
            if !p.eat("{") {
                return p.digit();
            }
            let value = p.expr()?;
            p.close('}').then_some(value)
        };
        let num = argument(self);
        Some(num.and_then(|num| num.div(&argument(self)?)))
    }

    /// Digits with separators, a decimal part, an exponent; a whole number may be followed by a fraction.
    fn literal(&mut self) -> Option<Number> {
        let mut digits = self.digits();
        if (1..=3).contains(&digits.len()) {
            while let Some(group) = self.group() {
                digits.push_str(&group);
            }
        }
        let mut scale = 0i64;
        let decimal = self.peek() == Some('.') && self.s.get(self.at + 1).is_some_and(char::is_ascii_digit);
        if decimal {
            self.at += 1;
            let part = self.digits();
            scale = -i64::try_from(part.len()).ok()?;
            digits.push_str(&part);
        }
        if digits.is_empty() {
            return None;
        }
        let exponent = self.exponent()?;
        let value = Number { num: digits.parse().ok()?, den: 1.into() };
        let ten = Number::from(10);
        let value = value.mul(&ten.pow(&(scale + exponent.unwrap_or(0)).into())?)?;
        if decimal || exponent.is_some() {
            return Some(value);
        }
        self.mixed(value)
    }

    /// The `e-3` of `1.5e-3`; `Some(None)` if there is none, `None` if it is absurd.
    fn exponent(&mut self) -> Option<Option<i64>> {
        let start = self.at;
        if self.eat("e") || self.eat("E") {
            let negative = self.eat("-");
            if !negative {
                self.eat("+");
            }
            let digits = self.digits();
            if !digits.is_empty() {
                let e: i64 = digits.parse().ok().filter(|&e| e <= 10_000)?;
                return Some(Some(if negative { -e } else { e }));
            }
        }
        self.at = start;
        Some(None)
    }

    /// `3\frac{1}{2}` or `3 1/2`: a whole number and a proper fraction make a mixed number.
    fn mixed(&mut self, whole: Number) -> Option<Number> {
        let start = self.at;
        self.space();
        let fraction = match self.fraction() {
            Some(fraction) => fraction?,
            None if self.at > start => {
                let num = self.digits();
                if num.is_empty() || !self.eat("/") {
                    self.at = start;
                    return Some(whole);
                }
                Number { num: num.parse().ok()?, den: 1.into() }
                    .div(&Number { num: self.digits().parse().ok()?, den: 1.into() })?
            }
            None => {
                self.at = start;
                return Some(whole);
            }
        };
        (fraction.num < fraction.den && fraction.num.sign() == Sign::Plus).then(|| whole.add(&fraction))?
    }

    fn digits(&mut self) -> String {
        let digits: String = self.s[self.at..].iter().take_while(|c| c.is_ascii_digit()).collect();
        self.at += digits.len();
        digits
    }

    /// A separator and exactly three digits.
    fn group(&mut self) -> Option<String> {
        let start = self.at;
        if self.eat(",\\!") {
            self.space();
        } else if !["{,}", ",", "\\,", "\\!", " ", "_"].iter().any(|s| self.eat(s)) {
            return None;
        }
        let group = self.digits();
        if group.len() == 3 {
            return Some(group);
        }
        self.at = start;
        None
    }

    /// Drops a unit behind the number; a percent divides.
    fn unit(&mut self, value: Number) -> Option<Number> {
        let mut value = value;
        loop {
            self.space();
            let start = self.at;
            let wrapped = WRAPPERS.iter().any(|w| self.eat(w));
            let word: String = self.s[self.at..]
                .iter()
                .take_while(|c| c.is_alphabetic() || (wrapped && **c != '}' && !c.is_ascii_digit()))
                .collect();
            self.at += word.chars().count();
            let name = word.trim();
            if wrapped && !self.eat("}") || (!wrapped && !UNITS.contains(&name) && !PERCENT.contains(&name)) {
                self.at = start;
                return Some(value);
            }
            if PERCENT.contains(&name) {
                value = value.div(&100.into())?;
            }
            let _ = ["^2", "^3", "^{2}", "^{3}", "²", "³"].iter().any(|power| self.eat(power));
        }
    }
}

#[cfg(test)]
mod tests;
