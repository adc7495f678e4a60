//! `q35c targets`: what there is to compile for, and what each can do.

use crate::cli::Json;
use crate::table::{Align, Table};
use crate::targets;
use q35_diag::Result;

#[derive(serde::Serialize)]
struct Row {
    name: &'static str,
    description: &'static str,
    runs_on: &'static str,
    levels: Vec<&'static str>,
    codecs: Vec<String>,
    default_codec: String,
    kv_cache: Vec<&'static str>,
    ops: Vec<&'static str>,
}

/// Lists the targets.
pub fn run(options: &Json) -> Result<String> {
    let rows: Vec<Row> = targets::all()
        .iter()
        .map(|target| {
            let can = target.capabilities();
            Row {
                name: target.name(),
                description: target.description(),
                runs_on: target.label().words(),
                levels: can.levels,
                codecs: can.codecs.iter().map(ToString::to_string).collect(),
                default_codec: can.default_codec.to_string(),
                kv_cache: can.kv_cache.iter().map(|dtype| dtype.name()).collect(),
                ops: can.ops,
            }
        })
        .collect();
    if options.json { super::json(&rows) } else { Ok(listing(&rows)) }
}

fn listing(rows: &[Row]) -> String {
    let mut table = Table::bare(&[Align::Left; 3]);
    for row in rows {
        table.row([row.name, "", row.description]);
        table.row(["", "runs on", row.runs_on]);
        table.row(["", "levels", &row.levels.join(" ")]);
        table.row(["", "codecs", &row.codecs.join(" ")]);
        table.row(["", "auto", &row.default_codec]);
        table.row(["", "KV cache", &row.kv_cache.join(" ")]);
        table.row(["", "ops", &row.ops.join(" ")]);
    }
    table.to_string()
}
