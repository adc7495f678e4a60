//! The placement in numbers, for `report.json`: what `report.md` says in tables.

use crate::map::{Mapped, room};
use crate::predict::{self, CLOCK, Cycles};
use q35_target::Label;
use serde::Serialize;

#[derive(Serialize)]
struct Placement {
    label: &'static str,
    /// Predicted, with half of the cache full, as are all cycles here.
    cycles_per_token: u64,
    compute_cycles: u64,
    fabric_cycles: u64,
    clock_mhz: u64,
    tokens_per_second: f64,
    wafers: Vec<OnWafer>,
}

/// A rectangle of processing elements.
#[derive(Serialize)]
struct OnWafer {
    columns: u64,
    rows: u64,
    programs: Vec<Regions>,
}

/// The regions that run one program.
#[derive(Serialize)]
struct Regions {
    program: String,
    regions: u64,
    pes: u64,
    /// Variables of a processing element, and the room for them.
    bytes_per_pe: [u64; 2],
    compute_cycles: u64,
    fabric_cycles: u64,
}

/// The figures of a mapped program.
pub(crate) fn figures(mapped: &Mapped) -> serde_json::Value {
    let total = predict::step(mapped, 1);
    let wafers = mapped.wafers.iter().map(|wafer| {
        let program = &wafer.program;
        let regions = program.kernels.iter().enumerate().map(|(at, kernel)| {
            let height: u64 = program.regions.iter().filter(|region| region.kernel == at).map(|region| region.height).sum();
            let copies = predict::copies(program, at);
            let Cycles { compute, fabric } = predict::region(kernel, program.width, program.stream, 1, copies);
            Regions {
                program: kernel.name.clone(),
                regions: copies,
                pes: program.width * height,
                bytes_per_pe: [2 * kernel.data_words(), 2 * room(kernel)],
                compute_cycles: compute,
                fabric_cycles: fabric,
            }
        });
        OnWafer { columns: program.width, rows: program.height(), programs: regions.collect() }
    });
    let placement = Placement {
        label: Label::ModelOfTheChip.words(),
        cycles_per_token: total.all(),
        compute_cycles: total.compute,
        fabric_cycles: total.fabric,
        clock_mhz: CLOCK / 1_000_000,
        tokens_per_second: (CLOCK as f64 / total.all() as f64).round(),
        wafers: wafers.collect(),
    };
    serde_json::to_value(placement).unwrap_or_else(|e| unreachable!("numbers and names are JSON: {e}"))
}
