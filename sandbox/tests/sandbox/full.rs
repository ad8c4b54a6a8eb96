//! The full image: its packages import, and compute what they should. Minutes to prepare, so on request:
//! `cargo test --release -p toolsmith-sandbox full:: -- --ignored`

use std::sync::OnceLock;

use toolsmith_sandbox::{Image, Limits, Packages, Recipe, Sandbox, Source};

/// The full image with these modules imported beforehand.
fn prepared(preimport: &[&str]) -> Image {
    let preimport = preimport.iter().map(|name| name.to_string()).collect();
    let recipe = Recipe { packages: Packages::Full, preimport };
    Image::prepare(&Image::default_cache(), &recipe, &Source::default(), &mut |_| {})
        .unwrap_or_else(|e| panic!("{e}"))
}

fn python() -> Sandbox {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    let limits = Limits { fuel: 1 << 40, memory_mb: 2048, wall_ms: 600_000, ..Limits::default() };
    let image = IMAGE.get_or_init(|| prepared(&[])).clone();
    Sandbox::builder().image(image).limits(limits).build().unwrap()
}

#[test]
#[ignore = "compiles the full image: minutes, 1.5 GB"]
fn every_module_imports_or_says_that_it_cannot() {
    let mut python = python();
    let list = "import pkgutil, sys
print(*sorted({m.name for m in pkgutil.iter_modules()} | set(sys.builtin_module_names) - {'__main__'}))";
    let names = python.run(list).stdout;
    let names: Vec<_> = names.split_whitespace().filter(|name| !name.contains('-')).collect();
    assert!(names.len() > 400, "{names:?}");
    let mut missing = Vec::new();
    for name in names {
        let outcome = python.run(&format!("import {name}"));
        assert_eq!(outcome.limit_hit, None, "{name}: {outcome:?}");
        if let Some(e) = outcome.error {
            assert!(["ImportError", "ModuleNotFoundError"].contains(&&*e.kind), "{name}: {}", e.traceback);
            missing.push(name);
        }
    }
    // Native parts of a package that is left out, and modules of other systems.
    missing.retain(|name| !name.starts_with("matplotlib."));
    assert_eq!(missing, ["_ios_support", "curses", "pty", "ssl", "tty", "turtle"]);
    for name in ["matplotlib", "matplotlib.pyplot", "seaborn", "pylab", "mpl_toolkits", "host"] {
        let e = python.run(&format!("import {name}")).error.unwrap();
        assert_eq!(e.kind, "ModuleNotFoundError", "{name}: {}", e.traceback);
    }
}

#[test]
#[ignore = "compiles the full image: minutes, 1.5 GB"]
fn packages_compute() {
    let mut python = python();
    for (source, value) in [
        ("from scipy.optimize import brentq\nround(brentq(lambda x: x*x - 2, 0, 2), 12)", "1.414213562373"),
        (
            "from scipy.optimize import minimize, rosen\n[round(float(x), 3) for x in minimize(rosen, [1.3, 0.7]).x]",
            "[1.0, 1.0]",
        ),
        (
            "from scipy.optimize import linprog\nr = linprog([-1, -2], A_ub=[[1, 1], [1, 3]], b_ub=[4, 6])\n(r.status, round(r.fun, 9))",
            "(0, -5.0)",
        ),
        (
            "from scipy import linalg\n[round(float(x), 9) for x in linalg.eigvalsh([[2, 1], [1, 2]])]",
            "[1.0, 3.0]",
        ),
        ("from scipy import linalg\nround(float(linalg.expm([[0, 1], [0, 0]])[0, 1]), 9)", "1.0"),
        (
            "from scipy import special\n[round(float(x), 12) for x in (special.gamma(0.5), special.jv(0, 1), special.zeta(2))]",
            "[1.772453850906, 0.765197686558, 1.644934066848]",
        ),
        (
            "from scipy.integrate import quad\nimport numpy as np\nround(quad(lambda x: np.exp(-x*x), -np.inf, np.inf)[0], 10)",
            "1.7724538509",
        ),
        (
            "from scipy.integrate import solve_ivp\nround(float(solve_ivp(lambda t, y: -y, (0, 1), [1], rtol=1e-10, atol=1e-12).y[0, -1]), 8)",
            "0.36787944",
        ),
        ("from scipy import stats\nround(float(stats.norm.cdf(1.96)), 6)", "0.975002"),
        ("from scipy.interpolate import CubicSpline\nfloat(CubicSpline([0, 1, 2], [0, 1, 4])(1.5))", "2.25"),
        (
            "from scipy.sparse import csr_matrix\nfrom scipy.sparse.linalg import spsolve\n[float(x) for x in spsolve(csr_matrix([[2., 0], [0, 4]]), [2., 4.])]",
            "[1.0, 1.0]",
        ),
        (
            "from scipy.spatial import ConvexHull\nConvexHull([[0, 0], [2, 0], [0, 2], [.5, .5]]).volume",
            "2.0",
        ),
        (
            "import pandas as pd\nd = pd.DataFrame({'k': list('aba'), 'v': [1, 2, 3]})\nd.groupby('k').v.sum().to_dict()",
            "{'a': 4, 'b': 2}",
        ),
        ("import pandas as pd, io\nint(pd.read_csv(io.StringIO('a,b\\n1,2\\n3,4')).b.sum())", "6"),
        (
            "import statsmodels.api as sm\nimport numpy as np\nx = np.arange(10.)\nr = sm.OLS(3 + 2*x, sm.add_constant(x)).fit()\n[round(float(p), 9) for p in r.params]",
            "[3.0, 2.0]",
        ),
        (
            "from sklearn.linear_model import LinearRegression\nround(float(LinearRegression().fit([[0], [1], [2]], [1, 3, 5]).coef_[0]), 9)",
            "2.0",
        ),
        (
            "from sklearn.cluster import KMeans\nint(KMeans(2, n_init=1, random_state=0).fit([[0.], [0.1], [9.], [9.1]]).labels_.sum())",
            "2",
        ),
        ("from lxml import etree\netree.fromstring('<a><b>1</b></a>').xpath('string(b)')", "'1'"),
        (
            "import yaml, regex\nyaml.safe_load('a: [1, 2]'), regex.findall(r'\\p{Lu}', 'aBÄ')",
            "({'a': [1, 2]}, ['B', 'Ä'])",
        ),
        (
            "from PIL import Image\nimport io\nb = io.BytesIO()\nImage.new('L', (3, 2), 7).save(b, 'png')\nImage.open(b).getpixel((2, 1))",
            "7",
        ),
        ("import openpyxl\nopenpyxl.utils.get_column_letter(28)", "'AB'"),
        ("from sklearn.datasets import load_iris\nload_iris().data.shape", "(150, 4)"),
        ("import sqlite3\nsqlite3.connect(':memory:').execute('select 6 * 7').fetchone()", "(42,)"),
    ] {
        let outcome = python.run(source);
        assert_eq!(outcome.value.as_deref(), Some(value), "{source}\n{outcome:?}");
        assert_eq!(outcome.limit_hit, None, "{source}");
    }
}

#[test]
#[ignore = "compiles the full image: minutes, 1.5 GB"]
fn what_is_imported_beforehand_costs_nothing_later() {
    let program = "import scipy.optimize, pandas\npandas.Series([scipy.optimize.brentq(lambda x: x - 1, 0, 3)]).sum() > 0";
    let cold = python().run(program);
    let image = prepared(&["scipy.optimize", "pandas"]);
    let warm = Sandbox::builder().image(image).build().unwrap().run(program);
    assert_eq!(cold.value, warm.value);
    assert!(warm.ok() && warm.fuel * 50 < cold.fuel, "{} and {} steps", warm.fuel, cold.fuel);
}
