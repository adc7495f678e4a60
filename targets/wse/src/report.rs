//! The program's size for people: a table of regions, cycles by phase, and a picture of the rectangles.

use crate::build::row_sums;
use crate::map::{Mapped, room};
use crate::predict::{self, CLOCK, Cycles};
use crate::reduction;
use q35_dialects::wse::{Arena, Kernel, LARGEST, Role};
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

/// `report.md`: PEs, bytes and cycles by region.
pub(crate) fn text(mapped: &Mapped) -> String {
    let total = predict::token(mapped);
    let pes: u64 = mapped.wafers.iter().map(|wafer| wafer.program.pes()).sum();
    let mut out = format!(
        "# {pes} PEs on {}\n\nFor WSE-3, SDK 2.10. Figures of a model of the chip, not run on silicon; code and stack are estimates, cycles are predicted.\n\n\
         A token takes {} cycles: {} of computation, {} of the fabric, with half of the cache full. At {:.1} GHz that is {:.0} tokens/s, without the host.\n",
        count(mapped.wafers.len(), "wafer"),
        total.all(),
        total.compute,
        total.fabric,
        CLOCK as f64 / 1e9,
        CLOCK as f64 / total.all() as f64
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
            let bytes = |arena: Arena| 2 * arena.words() * kernel.arenas[arena as usize];
            let _ = writeln!(
                out,
                "| {number} | {}.csl | {}-{} | {} | {} | {} | {} | {} | {} | {} |",
                kernel.name,
                region.top,
                region.top + region.height - 1,
                program.width * region.height,
                bytes(Arena::Weights),
                bytes(Arena::Scales),
                bytes(Arena::Vectors),
                bytes(Arena::Keys) + bytes(Arena::Values),
                2 * kernel.data_words(),
                2 * room(kernel)
            );
        }
        out.push_str(
            "\nCycles per token of the busiest PE of a region, and cycles of its sums over rows by the closed form:\n\n\
             | program | regions | compute | fabric | idle | sums over rows |\n| --- | ---: | ---: | ---: | ---: | --- |\n",
        );
        for (at, kernel) in program.kernels.iter().enumerate() {
            let Cycles { compute, fabric } = predict::region(kernel, program.width, program.stream);
            let regions = program.regions.iter().filter(|region| region.kernel == at).count();
            let idle = total.all().saturating_sub(compute + fabric);
            let sums = sums(kernel, program.width);
            let _ = writeln!(out, "| {}.csl | {regions} | {compute} | {fabric} | {idle} | {sums} |", kernel.name);
        }
    }
    out
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
    let total = predict::token(mapped);
    vec![
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
        ("cycles per token, predicted", format!("{}: {} compute, {} fabric", total.all(), total.compute, total.fabric)),
        (
            "tokens/s, predicted",
            format!(
                "{:.0} at {:.1} GHz (a model of the chip, not run on silicon)",
                CLOCK as f64 / total.all() as f64,
                CLOCK as f64 / 1e9
            ),
        ),
    ]
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
