//! KL divergence over bits per weight, as SVG: our rows and the peers', each point with its name.

use super::report::{Report, Row};
use plotters::prelude::*;

/// Bits from which on a row tells nothing about quantization to few bits.
const WIDE: f64 = 8.0;
const SIZE: (u32, u32) = (900, 560);
const SIDES: [(&str, RGBColor); 2] = [("q35", RGBColor(0xc2, 0x41, 0x0c)), ("llama.cpp", RGBColor(0x1d, 0x4e, 0xd8))];

/// The picture; axes alone if no row has been measured.
pub(super) fn svg(report: &Report) -> Result<String, String> {
    let point = |row: &Row| {
        let outcome = row.outcome.as_ref()?;
        let at = (outcome.linear_bits, outcome.divergence.kl_x1000);
        (at.0 < WIDE && at.1 > 0.0).then(|| (row.side.clone(), row.name.clone(), at))
    };
    let points: Vec<_> = report.table.iter().filter_map(point).collect();
    let bounds = |of: fn(&(f64, f64)) -> f64, by: f64| {
        let values = points.iter().map(|(_, _, at)| of(at));
        let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), x| (low.min(x), high.max(x)));
        if high > 0.0 { (low / by, high * by) } else { (1.0, 8.0) }
    };
    let (bits, kl) = (bounds(|at| at.0, 1.04), bounds(|at| at.1, 1.3));
    let mut out = String::new();
    draw(&mut out, &report.model, bits, kl, &points).map_err(|e| format!("the figure cannot be drawn: {e}"))?;
    Ok(out)
}

type Point = (String, String, (f64, f64));

fn draw(
    out: &mut String,
    model: &str,
    bits: (f64, f64),
    kl: (f64, f64),
    points: &[Point],
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(out, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{model}: divergence from f32 over bits per weight"), ("sans-serif", 20))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(bits.0..bits.1, (kl.0..kl.1).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("bits per weight of the layers' matrices, scales included")
        .y_desc("mean KL divergence x 1000 (log scale)")
        .light_line_style(WHITE)
        .draw()?;
    for (side, color) in SIDES {
        let own = points.iter().filter(|(of, ..)| of == side);
        let mark = |(_, name, at): &Point| {
            EmptyElement::at(*at)
                + Circle::new((0, 0), 4, color.filled())
                + Text::new(name.clone(), (7, -5), ("sans-serif", 12).into_font().color(&color))
        };
        chart.draw_series(own.map(mark))?.label(side).legend(move |(x, y)| Circle::new((x + 8, y), 4, color.filled()));
    }
    chart.configure_series_labels().border_style(BLACK.mix(0.3)).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}
