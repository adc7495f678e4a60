//! The book: `docs/` as pages of HTML, by mdBook's own library, so that nothing has to be installed.
//!
//! What enters: `docs/book.toml` and what it leads to. What leaves: a folder of pages, `target/book` unless another is named.

use clap::Args;
use mdbook_driver::MDBook;
use std::path::{Path, PathBuf};

/// What was asked for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Folder of the pages [default: target/book]
    folder: Option<PathBuf>,
}

/// The chore.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().map_err(|e| e.to_string())?;
    let out = match &options.folder {
        None => root.join("target/book"),
        Some(folder) => std::path::absolute(folder).map_err(|e| e.to_string())?,
    };
    build(&root.join("docs"), &out)?;
    println!("{}", out.join("index.html").display());
    Ok(())
}

fn build(docs: &Path, out: &Path) -> Result<(), String> {
    let mut book = MDBook::load(docs).map_err(|e| format!("{e:#}"))?;
    book.config.build.build_dir = PathBuf::from(out);
    book.build().map_err(|e| format!("{e:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_page_becomes_html() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").canonicalize().unwrap();
        let out = tempfile::tempdir().unwrap();
        build(&docs, out.path()).unwrap();
        let summary = fs::read_to_string(docs.join("src/SUMMARY.md")).unwrap();
        let pages: Vec<&str> =
            summary.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(page, _)| page).collect();
        assert!(pages.len() >= 6, "{pages:?}");
        for page in pages {
            let source = fs::read_to_string(docs.join("src").join(page)).unwrap();
            let html = fs::read_to_string(out.path().join(page).with_extension("html")).unwrap();
            let title = source.lines().next().unwrap().trim_start_matches("# ");
            assert!(html.contains(&format!("{title}</a></h1>")), "{page} has no title");
        }
        assert!(out.path().join("figures/container.svg").is_file());
    }

    #[test]
    fn a_page_that_is_missing_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let docs = folder.path().join("docs");
        fs::create_dir_all(docs.join("src")).unwrap();
        fs::write(docs.join("book.toml"), "[book]\ntitle = \"x\"\n[build]\ncreate-missing = false\n").unwrap();
        fs::write(docs.join("src/SUMMARY.md"), "# Summary\n\n- [One](one.md)\n").unwrap();
        let error = build(&docs, &folder.path().join("out")).unwrap_err();
        assert!(error.contains("one.md"), "{error}");
    }
}
