//! Decode speed as bars, as SVG: one group for every condition, a bar for every contender, its best round, and a mark for its median.

use super::contender::Engine;
use super::report::{Report, Row, Section};
use plotters::prelude::*;

const WIDTH: u32 = 900;
const BAR: u32 = 22;
const HEAD: u32 = 64;
/// Pixels left of the bars, for names.
const NAMES: i32 = 250;
/// And right of them, for figures.
const FIGURES: i32 = 150;

fn color(engine: Engine) -> RGBColor {
    match engine {
        Engine::Ours => RGBColor(0xc2, 0x41, 0x0c),
        Engine::Llama => RGBColor(0x1d, 0x4e, 0xd8),
        Engine::Ik => RGBColor(0x0f, 0x76, 0x6e),
        Engine::IkRepacked => RGBColor(0x5e, 0xa8, 0xa0),
        Engine::Onnx => RGBColor(0x6b, 0x72, 0x80),
    }
}

/// The picture.
pub(super) fn svg(report: &Report) -> Result<String, String> {
    let mut out = String::new();
    draw(&mut out, report).map_err(|e| format!("the figure cannot be drawn: {e}"))?;
    Ok(out)
}

/// Rows in the order of their bars: the fastest first.
fn sorted(section: &Section) -> Vec<&Row> {
    let mut rows: Vec<&Row> = section.rows.iter().collect();
    rows.sort_by(|a, b| b.decode.best.total_cmp(&a.decode.best));
    rows
}

fn draw(out: &mut String, report: &Report) -> Result<(), Box<dyn std::error::Error>> {
    let height = report.sections.iter().map(|section| HEAD + BAR * section.rows.len() as u32).sum::<u32>().max(HEAD) + 16;
    let area = SVGBackend::with_string(out, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let text = |size: u32, color: RGBColor| ("sans-serif", size).into_font().color(&color);
    let mut y = 16;
    for section in &report.sections {
        let threads = if section.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", section.threads) };
        let busy = if section.hogs > 0 { format!(", {} spinning beside them", section.hogs) } else { String::new() };
        let title = format!("{}: decode, tokens/s, {threads}{busy}", report.model);
        area.draw(&Text::new(title, (16, y), text(18, BLACK)))?;
        y += HEAD as i32 - 24;
        let rows = sorted(section);
        let widest = rows.first().map_or(1.0, |row| row.decode.best);
        let at = |speed: f64| NAMES + ((WIDTH as i32 - NAMES - FIGURES) as f64 * speed / widest) as i32;
        for row in rows {
            let color = color(row.engine);
            let name = format!("{} {}", row.engine.name(), row.format);
            area.draw(&Text::new(name, (16, y + 3), text(13, BLACK)))?;
            area.draw(&Rectangle::new([(NAMES, y), (at(row.decode.best), y + BAR as i32 - 6)], color.filled()))?;
            let median = at(row.decode.median);
            area.draw(&PathElement::new([(median, y - 1), (median, y + BAR as i32 - 5)], BLACK.stroke_width(2)))?;
            let share = section.read.map(|read| 100.0 * row.decode.best * row.bytes as f64 / read.best);
            let share = share.map_or(String::new(), |share| format!(", {share:.0} % of memory"));
            let figure = format!("{:.1}{share}", row.decode.best);
            area.draw(&Text::new(figure, (at(row.decode.best) + 6, y + 3), text(13, color)))?;
            y += BAR as i32;
        }
        y += 24;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;

    #[test]
    fn every_contender_has_a_bar() {
        let svg = super::svg(&report()).unwrap();
        let bars = svg.matches("<rect").count();
        // And one for the background.
        assert!(bars == 3 && svg.contains("llama.cpp Q4_0") && svg.contains("40.0, 80 % of memory"), "{svg}");
    }
}
