//! The header is what cbindgen makes of the crate: a change of the C interface is a change of a file that people review.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

#[test]
fn the_header_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    let mut text = Vec::new();
    cbindgen::Builder::new().with_config(config).with_src_dirs(root).generate().unwrap().write(&mut text);
    let text = String::from_utf8(text).unwrap();
    let path = root.join("include/q35rt.h");
    if std::env::var_os("Q35C_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap();
    assert!(
        there == text,
        "the C interface has changed: if that was meant, run the test with Q35C_BLESS=1 and review the header"
    );
}

trait WithSources {
    fn with_src_dirs(self, root: &Path) -> Self;
}

impl WithSources for cbindgen::Builder {
    /// Every source file of the crate, in order; no crate metadata is needed.
    fn with_src_dirs(self, root: &Path) -> Self {
        ["status", "model", "text", "sampler", "pool"]
            .iter()
            .fold(self, |builder, module| builder.with_src(root.join(format!("src/{module}.rs"))))
    }
}
