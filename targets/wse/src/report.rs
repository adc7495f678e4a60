//! The program's size for people: a table of regions, and a picture of the rectangle.

use crate::map::{Mapped, room};
use q35_dialects::wse::{Arena, Call, LARGEST};
use std::fmt::Write;

/// Cycles per weight of a product by the published SIMD widths of the WSE-3: of the 32 fields of a block of 3.5-bit weights, 25 lie inside a word
/// (0.625 cycles), 2 at its top (0.5), 5 across two words (0.875); of two bytes one lies inside, one at the top.
fn cycles_per_weight(split: bool) -> f64 {
    if split { (25.0 * 0.625 + 2.0 * 0.5 + 5.0 * 0.875) / 32.0 } else { (0.625 + 0.5) / 2.0 }
}

/// `report.md`: PEs, bytes and cycles by region.
pub(crate) fn text(mapped: &Mapped) -> String {
    let program = &mapped.program;
    let mut out = format!(
        "# {} columns by {} rows: {} PEs\n\nFor WSE-3, SDK 2.10. Figures of a model of the chip, not run on silicon; code and stack are estimates.\n\n\
         | region | program | rows | PEs | weights | scales | vectors | keys, values | all variables | of |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        program.width,
        program.height(),
        program.pes()
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
    out.push_str("\nBytes per PE. Cycles per token and PE, if nothing but products and sums took time:\n\n| program | products | wavelets of sums |\n| --- | --- | --- |\n");
    for kernel in &program.kernels {
        let products = kernel.calls.iter().map(|call| match call {
            Call::Product { matrix, .. } => (matrix.rows * matrix.inputs) as f64 * cycles_per_weight(matrix.split),
            _ => 0.0,
        });
        let sums = kernel.calls.iter().map(|call| match call {
            // Up the chain and back.
            Call::Sum { y, .. } => 2 * y.len,
            _ => 0,
        });
        let _ = writeln!(out, "| {}.csl | {:.0} | {} |", kernel.name, products.sum::<f64>(), sums.sum::<u64>());
    }
    out
}

/// `placement.svg`: the rectangle on the wafer, regions by program.
pub(crate) fn picture(mapped: &Mapped) -> String {
    const COLORS: [&str; 6] = ["#4c78a8", "#72b7b2", "#54a24b", "#eeca3b", "#f58518", "#b279a2"];
    let program = &mapped.program;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-20 -40 {} {}\" font-family=\"sans-serif\" font-size=\"16\">\n\
         <text x=\"0\" y=\"-14\">{} x {} PEs of a WSE-3 ({} x {}): a model of the chip, not run on silicon</text>\n\
         <rect width=\"{}\" height=\"{}\" fill=\"#eeeeee\" stroke=\"#888888\"/>\n",
        LARGEST[0] + 240,
        LARGEST[1] + 60,
        program.width,
        program.height(),
        LARGEST[0],
        LARGEST[1],
        LARGEST[0],
        LARGEST[1]
    );
    for region in &program.regions {
        let color = COLORS[region.kernel % COLORS.len()];
        let _ = writeln!(
            out,
            "<rect x=\"0\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{color}\" stroke=\"#ffffff\" stroke-width=\"0.5\"/>",
            region.top, program.width, region.height
        );
    }
    for (number, kernel) in program.kernels.iter().enumerate() {
        let (y, color) = (20 + 26 * number as u64, COLORS[number % COLORS.len()]);
        let regions = program.regions.iter().filter(|region| region.kernel == number).count();
        let x = LARGEST[0] + 20;
        let _ = writeln!(out, "<rect x=\"{x}\" y=\"{}\" width=\"16\" height=\"16\" fill=\"{color}\"/>", y - 14);
        let _ = writeln!(out, "<text x=\"{}\" y=\"{y}\">{}.csl, regions: {regions}</text>", x + 24, kernel.name);
    }
    out.push_str("</svg>\n");
    out
}
