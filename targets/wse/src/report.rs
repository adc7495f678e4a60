//! The program's size for people: a table of regions, cycles by phase, and a picture of the rectangles.

use crate::build::row_sums;
use crate::map::{LARGEST_BLOCK, Mapped, Wafer, room};
use crate::predict::{self, CLOCK, Cycles};
use crate::reduction;
use q35_dialects::wse::{Arena, Kernel, LARGEST, Role};
use q35_target::Label;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// How the rows of a program sum.
fn sums(kernel: &Kernel, width: u64) -> String {
    let lens = row_sums(kernel);
    if width == 1 || lens.is_empty() {
        return "none".to_owned();
    }
    let cycles = |group: u64| lens.iter().map(|n| reduction::cycles(width, group, *n)).sum::<u64>();
    match kernel.group {
        group if group < width => format!("groups of {group}: {} (one chain: {})", cycles(group), cycles(width)),
        _ => format!("one chain: {}", cycles(width)),
    }
}

/// What a step of one token takes, and one of a block.
struct Speed {
    token: Cycles,
    block: Cycles,
    tokens: u64,
}

impl Speed {
    fn of(mapped: &Mapped) -> Self {
        let tokens = mapped.tokens;
        Self { token: predict::step(mapped, 1), block: predict::step(mapped, tokens), tokens }
    }

    /// Tokens per second one by one, and of a prompt.
    fn rates(&self) -> [f64; 2] {
        let rate = |tokens: u64, cycles: Cycles| (tokens * CLOCK) as f64 / cycles.all() as f64;
        [rate(1, self.token), rate(self.tokens, self.block)]
    }
}

/// Bytes of each arena, and of all variables, on each PE of a kernel.
fn bytes(kernel: &Kernel) -> ([u64; 5], u64) {
    (Arena::ALL.map(|arena| 2 * arena.words() * kernel.arenas[arena as usize]), 2 * kernel.data_words())
}

/// `report.md`: PEs, bytes and cycles by region.
pub(crate) fn text(mapped: &Mapped) -> String {
    let speed = Speed::of(mapped);
    let [one, prompt] = speed.rates();
    let Speed { token, block, tokens } = speed;
    let pes: u64 = mapped.wafers.iter().map(|wafer| wafer.program.pes()).sum();
    let mut out = format!(
        "# {pes} PEs on {}\n\nFor WSE-3, SDK 2.10. Figures of a model of the chip, not run on silicon; code and stack are estimates, cycles are predicted, \
         without the host, at {:.1} GHz, with half of the cache full.\n\n\
         | a step of | cycles | computation | fabric | cycles per token | tokens/s |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
        count(mapped.wafers.len(), "wafer"),
        CLOCK as f64 / 1e9,
    );
    for (what, cycles, of, rate) in [("one token", token, 1, one), ("a block of a prompt", block, tokens, prompt)] {
        let _ = writeln!(
            out,
            "| {what}{} | {} | {} | {} | {} | {rate:.0} |",
            if of > 1 { format!(", {of} tokens") } else { String::new() },
            cycles.all(),
            cycles.compute,
            cycles.fabric,
            cycles.all() / of
        );
    }
    if let Some(remark) = remark(mapped) {
        let _ = writeln!(out, "\n{remark}.");
    }
    let _ = writeln!(
        out,
        "\nCycles per weight and token by the published SIMD widths: 3.5 bits {:.3}, in a block {:.3}; 8 bits {:.3}, in a block {:.3}.",
        predict::per_weight(true, 1),
        predict::per_weight(true, tokens),
        predict::per_weight(false, 1),
        predict::per_weight(false, tokens)
    );
    for (number, wafer) in mapped.wafers.iter().enumerate() {
        let program = &wafer.program;
        let _ = write!(
            out,
            "\n## Wafer {number}: {} columns by {} rows\n\nBytes per PE:\n\n\
             | region | program | rows | PEs | weights | scales | vectors | keys, values | all variables | of |\n\
             | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
            program.width,
            program.height()
        );
        for (number, region) in program.regions.iter().enumerate() {
            let kernel = &program.kernels[region.kernel];
            let ([weights, scales, vectors, keys, values], all) = bytes(kernel);
            let _ = writeln!(
                out,
                "| {number} | {}.csl | {}-{} | {} | {weights} | {scales} | {vectors} | {} | {all} | {} |",
                kernel.name,
                region.top,
                region.top + region.height - 1,
                program.width * region.height,
                keys + values,
                2 * room(kernel)
            );
        }
        let _ = write!(
            out,
            "\nCycles of the busiest PE of a region, for one token and for a block of {tokens}, and cycles of its sums over rows by the closed form:\n\n\
             | program | regions | compute | fabric | idle | compute, block | fabric, block | idle, block | sums over rows |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |\n",
        );
        for (at, kernel) in program.kernels.iter().enumerate() {
            let copies = predict::copies(program, at);
            let phases = [(1, token), (tokens, block)].map(|(tokens, all)| {
                let Cycles { compute, fabric } = predict::region(kernel, program.width, program.stream, tokens, copies);
                format!("{compute} | {fabric} | {}", all.all().saturating_sub(compute + fabric))
            });
            let sums = sums(kernel, program.width);
            let _ = writeln!(out, "| {}.csl | {copies} | {} | {} | {sums} |", kernel.name, phases[0], phases[1]);
        }
    }
    out
}

/// `report.json`: the same for programs. Cycles are of the busiest PE; idle is what a step takes besides.
pub(crate) fn json(mapped: &Mapped) -> String {
    let speed = Speed::of(mapped);
    let phases = |own: Cycles, all: Cycles| json!({ "compute": own.compute, "fabric": own.fabric, "idle": all.all().saturating_sub(own.all()) });
    let wafer = |wafer: &Wafer| {
        let program = &wafer.program;
        let regions: Vec<Value> = program
            .regions
            .iter()
            .zip(&wafer.held)
            .map(|(region, held)| {
                let built = &wafer.built[held.built];
                let kernel = &program.kernels[region.kernel];
                let (arenas, all) = bytes(kernel);
                let arenas: Map<String, Value> =
                    Arena::ALL.iter().zip(arenas).map(|(arena, bytes)| (arena.name().to_owned(), bytes.into())).collect();
                let copies = predict::copies(program, region.kernel);
                let cycles = |tokens: u64| predict::region(kernel, program.width, program.stream, tokens, copies);
                json!({
                    "program": kernel.name,
                    "nodes": built.nodes,
                    "layers_cached": built.caches.iter().map(|cache| cache.layer).collect::<Vec<u32>>(),
                    "top": region.top,
                    "rows": region.height,
                    "pes": program.width * region.height,
                    "bytes_per_pe": { "arenas": arenas, "variables": all, "room": 2 * room(kernel) },
                    "cycles": { "token": phases(cycles(1), speed.token), "block": phases(cycles(speed.tokens), speed.block) },
                })
            })
            .collect();
        json!({ "columns": program.width, "rows": program.height(), "regions": regions })
    };
    let [token_rate, prompt_rate] = speed.rates();
    let total = |cycles: Cycles, tokens: u64, rate: f64| {
        json!({
            "tokens": tokens,
            "compute": cycles.compute,
            "fabric": cycles.fabric,
            "cycles_per_token": cycles.all() / tokens,
            "tokens_per_second": rate.round(),
        })
    };
    let weights =
        |split: bool| json!({ "token": predict::per_weight(split, 1), "block": predict::per_weight(split, speed.tokens) });
    let report = json!({
        "label": Label::ModelOfTheChip.words(),
        "conventions": "WSE-3, SDK 2.10",
        "clock_hz": CLOCK,
        "pes": mapped.wafers.iter().map(|wafer| wafer.program.pes()).sum::<u64>(),
        "steps": {
            "token": total(speed.token, 1, token_rate),
            "block": total(speed.block, speed.tokens, prompt_rate),
        },
        "remark": remark(mapped),
        "cycles_per_weight_by_simd_width": { "split": weights(true), "q8": weights(false) },
        "wafers": mapped.wafers.iter().map(wafer).collect::<Vec<Value>>(),
    });
    format!("{report:#}\n")
}

/// Why blocks are not larger.
fn remark(mapped: &Mapped) -> Option<String> {
    let tokens = match mapped.tokens {
        LARGEST_BLOCK.. => return None,
        1 => "token by token".to_owned(),
        tokens => format!("in blocks of {tokens} tokens"),
    };
    let wafers = count(mapped.wafers.len(), "wafer");
    Some(format!("Prompts are taken {tokens}: the sums of larger blocks do not fit the memories of {wafers}"))
}

/// The size of a program in a few lines.
pub(crate) fn outlook(mapped: &Mapped) -> Vec<(&'static str, String)> {
    let programs = || mapped.wafers.iter().map(|wafer| &wafer.program);
    let pes: u64 = programs().map(|program| program.pes()).sum();
    let rows: Vec<String> = programs().map(|program| program.height().to_string()).collect();
    let held = programs().flat_map(|program| {
        let bytes = |at: usize| 2 * program.kernels[at].data_words();
        program.regions.iter().map(move |region| (bytes(region.kernel), program.width * region.height))
    });
    let (mut most, mut all) = (0, 0);
    for (bytes, pes) in held {
        (most, all) = (most.max(bytes), all + bytes * pes);
    }
    let speed = Speed::of(mapped);
    let cycles = |of: Cycles, tokens: u64| {
        format!("{}: {} compute, {} fabric", of.all() / tokens, of.compute / tokens, of.fabric / tokens)
    };
    let [token, prompt] = speed.rates();
    let mut lines = vec![
        ("wafers", format!("{}, {} columns by {} rows", mapped.wafers.len(), mapped.width, rows.join(" + "))),
        ("PEs", pes.to_string()),
        (
            "SRAM",
            format!(
                "{:.1} KiB of variables per PE, at most {:.1} of 48",
                all as f64 / pes as f64 / 1024.0,
                most as f64 / 1024.0
            ),
        ),
        ("cycles per token, predicted", cycles(speed.token, 1)),
        (
            "cycles per token of a prompt, predicted",
            format!("{}, in blocks of {}", cycles(speed.block, speed.tokens), speed.tokens),
        ),
        (
            "tokens/s, predicted",
            format!(
                "{token:.0}, of a prompt {prompt:.0}, at {:.1} GHz (a model of the chip, not run on silicon)",
                CLOCK as f64 / 1e9
            ),
        ),
    ];
    lines.extend(remark(mapped).map(|remark| ("remark", remark)));
    lines
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `placement.svg`: the rectangles on their wafers, regions by program. PEs are drawn as squares of one unit.
pub(crate) fn picture(mapped: &Mapped) -> String {
    const COLORS: [&str; 6] = ["#4c78a8", "#72b7b2", "#54a24b", "#eeca3b", "#f58518", "#b279a2"];
    /// Room for a legend beside a wafer.
    const LEGEND: u64 = 240;
    let [width, height] = LARGEST;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-20 -40 {} {}\" font-family=\"sans-serif\" font-size=\"16\">\n\
         <title>A model of the chip, not run on silicon</title>\n",
        (width + LEGEND) * mapped.wafers.len() as u64,
        height + 60
    );
    for (number, wafer) in mapped.wafers.iter().enumerate() {
        let program = &wafer.program;
        let left = number as u64 * (width + LEGEND);
        let _ = write!(
            out,
            "<text x=\"{left}\" y=\"-14\">Wafer {number}: {} x {} of {width} x {height} PEs; a model of the chip, not run on silicon</text>\n\
             <rect x=\"{left}\" width=\"{width}\" height=\"{height}\" fill=\"#eeeeee\" stroke=\"#888888\"/>\n",
            program.width,
            program.height()
        );
        for region in &program.regions {
            let _ = writeln!(
                out,
                "<rect x=\"{left}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" stroke=\"#ffffff\" stroke-width=\"0.2\"/>",
                region.top,
                program.width,
                region.height,
                COLORS[region.kernel % COLORS.len()]
            );
        }
        for (at, kernel) in program.kernels.iter().enumerate() {
            let (x, y, color) = (left + width + 20, 20 + 26 * at as u64, COLORS[at % COLORS.len()]);
            let regions = program.regions.iter().filter(|region| region.kernel == at).count();
            let what = if matches!(kernel.role, Role::Expert { .. }) { "experts" } else { "regions" };
            let _ = writeln!(out, "<rect x=\"{x}\" y=\"{}\" width=\"16\" height=\"16\" fill=\"{color}\"/>", y - 14);
            let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\">{}.csl, {what}: {regions}</text>", x + 24, kernel.name);
        }
    }
    out.push_str("</svg>\n");
    out
}
