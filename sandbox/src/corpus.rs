//! Short programs as a language model writes them: what tests compare with a native Python and benches run.
//!
//! They lie in `corpus/programs`, a file a subject, each below a line `# ---- name`; `corpus/record.py` says what a native
//! Python made of them. A third, picked by their names alone, is held out: neither the warm-up nor its tuning may look at
//! them, so what they cost is what a program nobody has seen costs.

/// One program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file it is in, without `.py`.
    pub subject: &'static str,
    /// Its name in that file.
    pub name: &'static str,
    /// The Python source.
    pub source: &'static str,
}

macro_rules! subjects {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../corpus/programs/", $name, ".py")))),*]
    };
}

const SUBJECTS: &[(&str, &str)] = subjects![
    "algebra",
    "brute",
    "calculus",
    "combinatorics",
    "diophantine",
    "dynamic",
    "errors",
    "geometry",
    "graphs",
    "matrices",
    "notebook",
    "ntheory",
    "numpy_linalg",
    "numpy_misc",
    "polys",
    "precision",
    "stdlib",
];

/// All programs that the image and a native Python agree on, by subject and place.
pub fn programs() -> Vec<Program> {
    SUBJECTS.iter().flat_map(|(subject, text)| split(subject, text)).collect()
}

/// Programs to which the image, a 32-bit build, gives another answer than a native Python: what a user must know of it.
pub fn differing() -> Vec<Program> {
    split("differs", include_str!("../corpus/programs/differs.py")).collect()
}

fn split(subject: &'static str, text: &'static str) -> impl Iterator<Item = Program> {
    text.split("# ---- ").skip(1).map(move |part| {
        let (name, source) = part.split_once('\n').unwrap_or((part, ""));
        Program { subject, name, source }
    })
}

impl Program {
    /// Whether the warm-up must not know it: where the bytes of `subject/name` add up to a multiple of 3.
    pub fn held_out(&self) -> bool {
        let bytes = self.subject.bytes().chain([b'/']).chain(self.name.bytes());
        bytes.map(u32::from).sum::<u32>() % 3 == 0
    }
}
