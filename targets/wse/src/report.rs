//! The program's size for people: a table of regions, cycles by phase, and a picture of the rectangles. `placement` has the same as JSON.

use crate::build::row_sums;
use crate::map::{LARGEST_BLOCK, Mapped, room};
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

/// A step, and what it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) tokens: u64,
    pub(crate) cycles: Cycles,
}

impl Step {
    /// Tokens per second.
    pub(crate) fn rate(&self) -> f64 {
        (self.tokens * CLOCK) as f64 / self.cycles.all() as f64
    }
}

/// What steps take: of one token, of one block, and of as many tokens as a step can have, in blocks that follow each other through the regions.
pub(crate) struct Speed {
    pub(crate) token: Cycles,
    pub(crate) block: Cycles,
    pub(crate) prompt: Cycles,
    /// Tokens of a block, and of a prompt.
    tokens: [u64; 2],
}

impl Speed {
    pub(crate) fn of(mapped: &Mapped) -> Self {
        let [token, block, prompt] = [1, mapped.block, mapped.tokens].map(|tokens| predict::step(mapped, tokens));
        Self { token, block, prompt, tokens: [mapped.block, mapped.tokens] }
    }

    pub(crate) fn steps(&self) -> [Step; 3] {
        let [block, prompt] = self.tokens;
        [("token", 1, self.token), ("block", block, self.block), ("prompt", prompt, self.prompt)]
            .map(|(name, tokens, cycles)| Step { name, tokens, cycles })
    }
}

/// Bytes of each arena, and of all variables, on each PE of a kernel.
pub(crate) fn bytes(kernel: &Kernel) -> ([u64; 5], u64) {
    (Arena::ALL.map(|arena| 2 * arena.words() * kernel.arenas[arena as usize]), 2 * kernel.data_words())
}

/// `report.md`: PEs, bytes and cycles by region.
pub(crate) fn text(mapped: &Mapped) -> String {
    let speed = Speed::of(mapped);
    let (token, block, tokens) = (speed.token, speed.block, mapped.block);
    let pes: u64 = mapped.wafers.iter().map(|wafer| wafer.program.pes()).sum();
    let mut out = format!(
        "# {pes} PEs on {}\n\nFor WSE-3, SDK 2.10. Figures of a model of the chip, not run on silicon; code and stack are estimates, cycles are predicted, \
         without the host, at {:.1} GHz, with half of the cache full. Blocks of a prompt follow each other through the regions.\n\n\
         | a step of | cycles | computation | fabric | cycles per token | tokens/s |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
        count(mapped.wafers.len(), "wafer"),
        CLOCK as f64 / 1e9,
    );
    let what = [
        "one token".to_owned(),
        format!("one block, of {tokens}"),
        format!("a prompt of {} in blocks of {tokens}", mapped.tokens),
    ];
    for (what, step) in what.iter().zip(speed.steps()) {
        let Cycles { compute, fabric } = step.cycles;
        let all = step.cycles.all();
        let _ = writeln!(out, "| {what} | {all} | {compute} | {fabric} | {} | {:.0} |", all / step.tokens, step.rate());
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

/// Why blocks are not larger.
pub(crate) fn remark(mapped: &Mapped) -> Option<String> {
    let tokens = match mapped.block {
        LARGEST_BLOCK.. => return None,
        1 => "token by token".to_owned(),
        tokens => format!("in blocks of {tokens} tokens"),
    };
    let (wafers, columns) = (count(mapped.wafers.len(), "wafer"), mapped.hidden.div_ceil(mapped.piece));
    Some(format!(
        "Prompts are taken {tokens}: larger blocks do not fit the memories of {wafers} beside the weights, which lie on {columns} of {} columns, {} \
         inputs on each",
        mapped.width, mapped.piece
    ))
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
    let cycles = |of: Step| {
        let Cycles { compute, fabric } = of.cycles;
        format!("{}: {} compute, {} fabric", of.cycles.all() / of.tokens, compute / of.tokens, fabric / of.tokens)
    };
    let [token, _, prompt] = speed.steps();
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
        ("cycles per token, predicted", cycles(token)),
        (
            "cycles per token of a prompt, predicted",
            format!("{}, {} tokens in blocks of {} one behind the other", cycles(prompt), prompt.tokens, mapped.block),
        ),
        (
            "tokens/s, predicted",
            format!(
                "{:.0}, of a prompt {:.0}, at {:.1} GHz (a model of the chip, not run on silicon)",
                token.rate(),
                prompt.rate(),
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
