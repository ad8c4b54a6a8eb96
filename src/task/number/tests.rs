use super::*;
use proptest::prelude::*;

fn reads(text: &str, value: &str) {
    assert_eq!(Number::parse(text).map(|n| n.to_string()).as_deref(), Some(value), "{text}");
}

#[test]
fn integers() {
    for (text, value) in [
        ("17", "17"),
        ("-17", "-17"),
        ("+17", "17"),
        ("− 17", "-17"),
        ("--17", "17"),
        ("007", "7"),
        ("0", "0"),
        ("-0", "0"),
        ("12,345", "12345"),
        ("12 345 678", "12345678"),
        ("12{,}345", "12345"),
        ("12\\,345", "12345"),
        ("12,\\! 345", "12345"),
        ("１７", "17"),
        ("17.", "17"),
        ("$17$", "17"),
        ("\\$17", "17"),
        ("{17}", "17"),
        ("\\(17\\)", "17"),
        ("\\text{17}", "17"),
        ("\\textbf{ 17 }", "17"),
        ("\\boxed{17}", "17"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ] {
        reads(text, value);
    }
}

#[test]
fn fractions_and_decimals() {
    for (text, value) in [
        ("2.50", "5/2"),
        (".5", "1/2"),
        ("1,000.25", "4001/4"),
        ("6/8", "3/4"),
        ("-6/8", "-3/4"),
        ("6/-8", "-3/4"),
        ("\\frac{6}{8}", "3/4"),
        ("\\dfrac{-6}{8}", "-3/4"),
        ("-\\frac68", "-3/4"),
        ("\\tfrac 1 2", "1/2"),
        ("\\frac{\\frac12}{3}", "1/6"),
        ("3\\frac{1}{2}", "7/2"),
        ("-3\\frac12", "-7/2"),
        ("3 1/2", "7/2"),
        ("1.5e3", "1500"),
        ("15E-1", "3/2"),
        ("1.5\\times 10^{3}", "1500"),
        ("12\\%", "3/25"),
        ("12 %", "3/25"),
        ("12 \\text{ percent}", "3/25"),
        ("\\left(\\frac{1}{3}\\right)", "1/3"),
    ] {
        reads(text, value);
    }
}

#[test]
fn what_stands_around_a_number() {
    for (text, value) in [
        ("x = 17", "17"),
        ("x = 1,017 = 1017", "1017"),
        ("m+n=8+9=17", "17"),
        ("x = 1/3 \\approx 0.33", "1/3"),
        ("90^\\circ", "90"),
        ("90^{\\circ}", "90"),
        ("90°", "90"),
        ("17\\text{ miles}", "17"),
        ("17 \\mathrm{cm}^2", "17"),
        ("17 cm", "17"),
        ("17 square units", "17"),
        ("17 dollars.", "17"),
        ("2^3 \\cdot 3", "24"),
        ("-2^2", "-4"),
        ("2^{-1}", "1/2"),
        ("2 + 3*4 - 1", "13"),
        ("(2+3)*4", "20"),
    ] {
        reads(text, value);
    }
}

#[test]
fn not_numbers() {
    for text in [
        "",
        " ",
        "x",
        "5x",
        "1,22",
        "1,2,3",
        "204, 205",
        "1,234 5",
        "(1, 2)",
        "{1}{2}",
        "1/0",
        "\\frac{1}{0}",
        "0^{-1}",
        "\\sqrt{2}",
        "2\\pi",
        "one",
        "3\\frac{5}{2}",
        "x != 5",
        "x <= 5",
        "1..2",
        "--",
        "(1",
        "1)",
        "\\frac{1}",
        "2^{9999999}",
        "1e99999",
        "9^{9^{9}}",
        "二百",
        "1e",
        "12:30",
        "\\pm 3",
        "a = 4, b = 5",
    ] {
        assert_eq!(Number::parse(text), None, "{text}");
    }
    assert_eq!(Number::parse(&"(".repeat(900)), None);
    assert_eq!(Number::parse(&"1".repeat(1001)), None);
}

#[test]
fn near_is_not_equal() {
    assert_ne!(Number::parse("203.99"), Number::parse("204"));
    assert_ne!(Number::parse("0.333333333333333333"), Number::parse("1/3"));
    assert_ne!(Number::parse("204\\%"), Number::parse("204"));
    assert_eq!(Number::parse("0.5"), Number::parse("\\frac{2}{4}"));
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC{0,40}") {
        let _ = Number::parse(&text);
    }

    #[test]
    fn never_panics_on_latex(parts in prop::collection::vec(prop::sample::select(vec![
        "\\frac", "{", "}", "1", "23", ",", " ", "^", "-", "/", "(", ")", "\\text{", "=", ".", "e", "%", "000", "\\,", "cm",
    ]), 0..20)) {
        let _ = Number::parse(&parts.concat());
    }

    #[test]
    fn prints_what_it_reads(a in any::<i64>(), b in 1i64..10_000) {
        let n = Number::parse(&format!("{a}/{b}")).unwrap();
        prop_assert_eq!(Number::parse(&n.to_string()), Some(n));
    }

    #[test]
    fn thousands(a in 0u64..u64::MAX) {
        let digits = a.to_string();
        let mut grouped = String::new();
        for (i, c) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i) % 3 == 0 {
                grouped.push(',');
            }
            grouped.push(c);
        }
        prop_assert_eq!(Number::parse(&grouped), Number::parse(&digits));
    }
}
