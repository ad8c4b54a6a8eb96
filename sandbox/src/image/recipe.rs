//! What an image is to hold.

use serde::{Deserialize, Serialize};

use crate::SandboxError;
use crate::image::descriptor::{Descriptor, FULL, MATH};

/// Which packages programs find beside the standard library.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packages {
    /// sympy, mpmath, numpy and networkx: under a minute to compile on two cores.
    #[default]
    Math,
    /// All that the Python build has, scipy, pandas, statsmodels and scikit-learn among it, but not what draws (matplotlib,
    /// seaborn): some minutes and 1.5 GB of memory to compile.
    Full,
}

impl Packages {
    pub(crate) fn descriptor(self) -> &'static Descriptor {
        match self {
            Packages::Math => &MATH,
            Packages::Full => &FULL,
        }
    }
}

impl std::fmt::Display for Packages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Packages::Math => "math",
            Packages::Full => "full",
        })
    }
}

/// What an image is made of. Images of different recipes lie beside each other; those of the same packages share their code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// The packages to be had.
    pub packages: Packages,
    /// Modules (`scipy`, `pandas.io.json`) that every program finds imported already, beside the warm-up's: a program's own
    /// `import` of one then takes microseconds. Imported in this order when the image is prepared.
    pub preimport: Vec<String>,
}

impl Recipe {
    /// These packages, nothing imported beforehand but what the warm-up does.
    pub fn of(packages: Packages) -> Recipe {
        Recipe { packages, ..Recipe::default() }
    }

    /// Rejects what is not the name of a module: the names become a program.
    pub(crate) fn check(&self) -> Result<(), SandboxError> {
        let identifier = |part: &str| {
            part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        match self.preimport.iter().find(|name| !name.split('.').all(identifier)) {
            Some(name) => Err(self.failed(name, "not the name of a module")),
            None => Ok(()),
        }
    }

    /// The error of a pre-import that failed.
    pub(crate) fn failed(&self, name: &str, why: &str) -> SandboxError {
        let more = match self.packages {
            Packages::Math if why.starts_with("No module named") => "; the full image has more packages",
            _ => "",
        };
        SandboxError::Preimport { name: name.into(), why: format!("{why}{more}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_modules_only() {
        let with = |name: &str| Recipe { preimport: vec!["math".into(), name.into()], ..Recipe::default() };
        for good in ["scipy", "_io", "pandas.io.json", "a1"] {
            assert!(with(good).check().is_ok(), "{good}");
        }
        for bad in ["", ".", "a.", "1a", "os; print(1)", "a\nb", "a b", "é"] {
            let e = with(bad).check().unwrap_err().to_string();
            assert_eq!(e, format!("cannot pre-import {}: not the name of a module", bad.replace('\n', "; ")));
        }
    }

    #[test]
    fn a_recipe_is_configuration() {
        let read = |json| serde_json::from_str::<Recipe>(json);
        assert_eq!(read("{}").unwrap(), Recipe::default());
        let full = Recipe { packages: Packages::Full, preimport: vec!["scipy".into()] };
        assert_eq!(read(r#"{"packages": "full", "preimport": ["scipy"]}"#).unwrap(), full);
        assert!(read(r#"{"package": "full"}"#).is_err());
    }
}
