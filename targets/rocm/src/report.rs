//! `rocm/report.json`: what every kernel needs on every architecture, and what bounds those that stream weights.

use crate::level::Level;
use crate::model::{Bound, CARDS, loops};
use crate::object::Metadata;
use q35_gpu::lower::Program;
use q35_mlir::llvm::Emitted;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Report {
    /// What the figures are.
    note: &'static str,
    levels: BTreeMap<&'static str, BTreeMap<String, Row>>,
}

#[derive(Serialize)]
struct Row {
    vector_registers: u32,
    accumulation_registers: u32,
    scalar_registers: u32,
    shared_bytes: u32,
    /// Waves at once in a SIMD unit.
    occupancy: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    bound: Option<Bound>,
}

const NOTE: &str = "registers and memory are those of the code objects; bounds are modelled from instructions and published peaks, not measured";

/// The report as JSON.
pub(crate) fn text(compiled: &[(Level, Emitted)], program: &Program, prefix: &str) -> String {
    let levels = compiled.iter().map(|(level, code)| (level.name, rows(level, code, program, prefix))).collect();
    serde_json::to_string_pretty(&Report { note: NOTE, levels }).unwrap_or_default() + "\n"
}

fn rows(level: &Level, code: &Emitted, program: &Program, prefix: &str) -> BTreeMap<String, Row> {
    let metadata = Metadata::read(&code.object).unwrap_or_else(|error| panic!("the code for {}: {error}", level.name));
    let card = CARDS.iter().find(|card| card.level == level.name);
    let loops = card.map(|_| loops(&code.assembly())).unwrap_or_default();
    let found = metadata.by_name();
    let row = |(name, kernel): (&String, &std::rc::Rc<dyn q35_gpu::kernels::Kernel>)| {
        let symbol = format!("{prefix}{name}");
        let noted = found.get(symbol.as_str())?;
        let bound = || Some(card?.bound(*loops.get(&symbol)?, kernel.stream_bytes(level.isa)?));
        let row = Row {
            vector_registers: noted.vectors,
            accumulation_registers: noted.accumulators,
            scalar_registers: noted.scalars,
            shared_bytes: noted.shared_bytes,
            occupancy: noted.occupancy(level),
            bound: bound(),
        };
        Some((name.clone(), row))
    };
    program.kernels.iter().filter_map(row).collect()
}
