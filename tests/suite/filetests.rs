//! The files under `tests/filetests`, each one test.

use crate::program;
use libtest_mimic::{Failed, Trial};
use q35_tests::filetest::FileTest;
use q35_tests::{corpus, filetest};

pub(crate) fn trials() -> Vec<Trial> {
    let folder = corpus::root().join("tests/filetests");
    let bless = std::env::var_os("Q35C_BLESS").is_some();
    let trial = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let left_out = !cfg!(feature = "mlir") && FileTest::parse(&text).lines("needs").contains(&"mlir");
        let name = path.strip_prefix(&folder).unwrap_or(&path).with_extension("").display().to_string();
        Trial::test(format!("filetest/{name}"), move || {
            filetest::check(&path, &corpus::data(), bless, program::run).map_err(Failed::from)
        })
        .with_ignored_flag(left_out)
    };
    filetest::find(&folder).into_iter().map(trial).collect()
}
