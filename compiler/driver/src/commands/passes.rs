//! `q35c passes`: the pass table, for people, programs and the page `compiler/PASSES.md`.

use crate::cli::Json;
use crate::passes;
use crate::table::{Align, Table};
use q35_diag::Result;
use q35_graph::Pass;

/// Lists the passes in order.
pub fn run(options: &Json) -> Result<String> {
    if options.json { super::json(&passes::all().iter().map(Row::from).collect::<Vec<_>>()) } else { Ok(listing()) }
}

#[derive(serde::Serialize)]
struct Row {
    name: &'static str,
    purpose: &'static str,
    reads: &'static str,
    leaves: &'static str,
}

impl From<&Pass> for Row {
    fn from(pass: &Pass) -> Self {
        Self { name: pass.name, purpose: pass.purpose, reads: pass.from.name(), leaves: pass.to.name() }
    }
}

fn listing() -> String {
    let mut table =
        Table::new(&[("pass", Align::Left), ("reads", Align::Left), ("leaves", Align::Left), ("what it does", Align::Left)]);
    for Row { name, purpose, reads, leaves } in passes::all().iter().map(Row::from) {
        table.row([name, reads, leaves, purpose]);
    }
    table.to_string()
}

/// The documentation page of the pass table.
pub fn page() -> String {
    let mut page =
        "# The passes\n\nWritten by the test that checks it (`Q35C_BLESS=1` refreshes it) from the table that `q35c passes` \
                    prints.\n\n| pass | reads | leaves | what it does |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for Row { name, purpose, reads, leaves } in passes::all().iter().map(Row::from) {
        page.push_str(&format!("| `{name}` | {reads} | {leaves} | {purpose} |\n"));
    }
    page
}

#[cfg(all(test, feature = "mlir"))]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../PASSES.md");
        if std::env::var_os("Q35C_BLESS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), page(), "run the tests with Q35C_BLESS=1 to refresh {path}");
    }

    #[test]
    fn json_has_every_pass() {
        let rows: serde_json::Value = serde_json::from_str(&run(&Json { json: true }).unwrap()).unwrap();
        assert_eq!(rows.as_array().unwrap().len(), passes::all().len());
        assert_eq!(rows[0]["name"], "import");
    }
}
