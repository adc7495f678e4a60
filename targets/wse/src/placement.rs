//! The placement in numbers: what a bundle's `report.json` has of it, and with every region and step what `wse/report.json` has. `report.md` says the
//! same in tables.

use crate::map::{Mapped, Wafer, room};
use crate::predict::{self, CLOCK, Cycles};
use crate::report::{Speed, bytes, remark};
use q35_dialects::wse::Arena;
use q35_target::Label;
use serde::Serialize;
use std::collections::BTreeMap;

/// Cycles are predicted, with half of the cache full.
#[derive(Serialize)]
struct Placement {
    label: &'static str,
    cycles_per_token: u64,
    compute_cycles: u64,
    fabric_cycles: u64,
    clock_mhz: u64,
    tokens_per_second: f64,
    wafers: Vec<OnWafer>,
    #[serde(flatten)]
    details: Option<Details>,
}

/// What `wse/report.json` has besides.
#[derive(Serialize)]
struct Details {
    conventions: &'static str,
    pes: u64,
    /// A step of one token, of one block, and of a prompt in blocks.
    steps: BTreeMap<&'static str, Step>,
    remark: Option<String>,
    cycles_per_weight_by_simd_width: BTreeMap<&'static str, BTreeMap<&'static str, f64>>,
}

#[derive(Serialize)]
struct Step {
    tokens: u64,
    compute: u64,
    fabric: u64,
    cycles_per_token: u64,
    tokens_per_second: f64,
}

/// A rectangle of processing elements.
#[derive(Serialize)]
struct OnWafer {
    columns: u64,
    rows: u64,
    programs: Vec<Regions>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    regions: Vec<Rectangle>,
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

#[derive(Serialize)]
struct Rectangle {
    program: String,
    /// The first node of the model and the last.
    nodes: [String; 2],
    layers_cached: Vec<u32>,
    top: u64,
    rows: u64,
    pes: u64,
    bytes_per_pe: Bytes,
    cycles: BTreeMap<&'static str, Phases>,
}

#[derive(Serialize)]
struct Bytes {
    arenas: BTreeMap<&'static str, u64>,
    variables: u64,
    room: u64,
}

/// Of the busiest processing element; idle is what a step takes besides.
#[derive(Serialize)]
struct Phases {
    compute: u64,
    fabric: u64,
    idle: u64,
}

impl Phases {
    fn new(own: Cycles, all: Cycles) -> Self {
        Self { compute: own.compute, fabric: own.fabric, idle: all.all().saturating_sub(own.all()) }
    }
}

/// The figures of a mapped program.
pub(crate) fn figures(mapped: &Mapped) -> serde_json::Value {
    json(mapped, false)
}

/// `wse/report.json`.
pub(crate) fn report(mapped: &Mapped) -> String {
    format!("{:#}\n", json(mapped, true))
}

fn json(mapped: &Mapped, all: bool) -> serde_json::Value {
    let speed = Speed::of(mapped);
    let total = speed.token;
    let placement = Placement {
        label: Label::ModelOfTheChip.words(),
        cycles_per_token: total.all(),
        compute_cycles: total.compute,
        fabric_cycles: total.fabric,
        clock_mhz: CLOCK / 1_000_000,
        tokens_per_second: speed.steps()[0].rate().round(),
        wafers: mapped.wafers.iter().map(|wafer| on_wafer(wafer, &speed, all)).collect(),
        details: all.then(|| details(mapped, &speed)),
    };
    serde_json::to_value(placement).unwrap_or_else(|e| unreachable!("numbers and names are JSON: {e}"))
}

fn details(mapped: &Mapped, speed: &Speed) -> Details {
    let steps = speed.steps().map(|step| {
        let numbers = Step {
            tokens: step.tokens,
            compute: step.cycles.compute,
            fabric: step.cycles.fabric,
            cycles_per_token: step.cycles.all() / step.tokens,
            tokens_per_second: step.rate().round(),
        };
        (step.name, numbers)
    });
    let weights = |split: bool| {
        [("token", 1), ("block", mapped.block)].map(|(name, tokens)| (name, predict::per_weight(split, tokens))).into()
    };
    Details {
        conventions: "WSE-3, SDK 2.10",
        pes: mapped.wafers.iter().map(|wafer| wafer.program.pes()).sum(),
        steps: steps.into(),
        remark: remark(mapped),
        cycles_per_weight_by_simd_width: [("split", weights(true)), ("q8", weights(false))].into(),
    }
}

fn on_wafer(wafer: &Wafer, speed: &Speed, all: bool) -> OnWafer {
    let program = &wafer.program;
    let cycles = |at: usize, tokens: u64| {
        predict::region(&program.kernels[at], program.width, program.stream, tokens, predict::copies(program, at))
    };
    let programs = program.kernels.iter().enumerate().map(|(at, kernel)| {
        let height: u64 = program.regions.iter().filter(|region| region.kernel == at).map(|region| region.height).sum();
        let Cycles { compute, fabric } = cycles(at, 1);
        Regions {
            program: kernel.name.clone(),
            regions: predict::copies(program, at),
            pes: program.width * height,
            bytes_per_pe: [2 * kernel.data_words(), 2 * room(kernel)],
            compute_cycles: compute,
            fabric_cycles: fabric,
        }
    });
    let regions = program.regions.iter().zip(&wafer.held).filter(|_| all).map(|(region, held)| {
        let built = &wafer.built[held.built];
        let kernel = &program.kernels[region.kernel];
        let (arenas, variables) = bytes(kernel);
        let phases = speed.steps().into_iter().take(2);
        let phases = phases.map(|step| (step.name, Phases::new(cycles(region.kernel, step.tokens), step.cycles)));
        Rectangle {
            program: kernel.name.clone(),
            nodes: built.nodes.clone(),
            layers_cached: built.caches.iter().map(|cache| cache.layer).collect(),
            top: region.top,
            rows: region.height,
            pes: program.width * region.height,
            bytes_per_pe: Bytes {
                arenas: Arena::ALL.iter().map(|arena| arena.name()).zip(arenas).collect(),
                variables,
                room: 2 * room(kernel),
            },
            cycles: phases.collect(),
        }
    });
    OnWafer { columns: program.width, rows: program.height(), programs: programs.collect(), regions: regions.collect() }
}
