//! `layout.csl`: the rectangle, who runs what, every route, every exported name.

use q35_dialects::wse::{COLORS, Direction, EXPORTS, Program, Role, Route, Span};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::ops::Range;

fn letter(direction: Direction) -> char {
    match direction {
        Direction::North => 'N',
        Direction::South => 'S',
        Direction::East => 'E',
        Direction::West => 'W',
        Direction::Ramp => 'R',
    }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::North => "NORTH",
        Direction::South => "SOUTH",
        Direction::East => "EAST",
        Direction::West => "WEST",
        Direction::Ramp => "RAMP",
    }
}

/// The name of a route: `RX_R_TX_E`.
fn route_name(route: &Route) -> String {
    let tx: String = route.tx.iter().map(|direction| letter(*direction)).collect();
    format!("RX_{}_TX_{tx}", letter(route.rx))
}

fn range(span: Span) -> String {
    format!("@range(u16, {}, {}, {})", span.start, span.end, span.step)
}

pub(super) fn text(program: &Program) -> String {
    let (width, height) = (program.width, program.height());
    let mut out = String::new();
    let w = &mut out;
    let mut line = |text: &str| {
        let _ = writeln!(w, "{text}");
    };
    line(
        "// A decoder on a stack of regions, each all columns wide. Emitted for WSE-3, SDK 2.10; run on a model of the chip, not on silicon.",
    );
    line("//");
    line("// Color map");
    for color in COLORS {
        line(&format!("//   {:2}  {:13} {}", color.id, color.name, color.purpose));
    }
    line("//   21-23 memcpy");
    line("//");
    line("// Queue map: comm.csl. Task map: 8 exit_task, in every PE program.");
    line("");
    for color in COLORS {
        line(&format!("const {}: color = @get_color({});", color.name, color.id));
    }
    line("");
    line(&format!("const width: u16 = {width};"));
    line(&format!("const height: u16 = {height};"));
    line("");
    line("const memcpy = @import_module(\"<memcpy/get_params>\", .{ .width = width, .height = height });");
    line("");
    line("layout {");
    line("  @set_rectangle(width, height);");
    for alike in runs(program) {
        line("");
        tiles(&mut line, program, alike);
    }
    line("");
    line("  // Routes: where wavelets come from, and where they go");
    let mut routes = program.routes();
    routes.sort_by_key(|route| route.color);
    let mut named = BTreeSet::new();
    for route in &routes {
        if named.insert(route_name(route)) {
            let tx: Vec<&str> = route.tx.iter().map(|direction| word(*direction)).collect();
            line(&format!(
                "  const {} = .{{ .rx = .{{{}}}, .tx = .{{{}}} }};",
                route_name(route),
                word(route.rx),
                tx.join(", ")
            ));
        }
    }
    let mut of = None;
    for route in &routes {
        if of != Some(route.color) {
            of = Some(route.color);
            line("");
            line(&format!("  // {}: {}", COLORS[route.color].name, COLORS[route.color].purpose));
        }
        line(&format!("  for ({}) |x| {{", range(route.columns)));
        line(&format!("    for ({}) |y| {{", range(route.rows)));
        line(&format!("      @set_color_config(x, y, {}, .{{ .routes = {} }});", COLORS[route.color].name, route_name(route)));
        line("    }");
        line("  }");
    }
    line("");
    line("  // Names that the host knows");
    for export in EXPORTS {
        line(&match export.elem {
            Some(elem) => format!("  @export_name(\"{}\", [*]{elem}, true);", export.name),
            None => format!("  @export_name(\"{}\", fn(u16)void);", export.name),
        });
    }
    line("}");
    out
}

/// Neighbouring regions of one program: they differ in nothing but where they are.
fn runs(program: &Program) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for run in program.regions.chunk_by(|a, b| a.kernel == b.kernel) {
        let start = runs.last().map_or(0, |run| run.end);
        runs.push(start..start + run.len());
    }
    runs
}

fn tiles(line: &mut impl FnMut(&str), program: &Program, numbers: Range<usize>) {
    let regions = &program.regions[numbers.clone()];
    let (Range { start: number, .. }, [first, ..]) = (numbers.clone(), regions) else { return };
    let kernel = &program.kernels[first.kernel];
    let (top, height) = (first.top, first.height);
    let end = top + height * regions.len() as u64;
    let streams = [COLORS[6].name, COLORS[7].name];
    let [send, recv] = [streams[number % 2], streams[(number + 1) % 2]];
    let several = regions.len() > 1;
    let expert = matches!(kernel.role, Role::Expert { .. });
    match regions.len() {
        1 => line(&format!("  // Region {number}: rows {top} to {}", end - 1)),
        count => {
            let (last, what) = (number + count - 1, if expert { ", an expert each" } else { "" });
            line(&format!("  // Regions {number} to {last}{what}: rows {top} to {}, {height} each", end - 1));
        }
    }
    line("  for (@range(u16, width)) |x| {");
    line(&format!("    for ({}) |y| {{", range(Span::all(top, end))));
    line("      const x_even = x % 2 == 0;");
    let group = kernel.group;
    let grouped = group < program.width;
    if grouped {
        line(&format!("      const root = x % {group} == {} or x == width - 1;", group - 1));
        line(&format!("      const group_even = x / {group} % 2 == 0;"));
    }
    if several {
        line(&format!("      const y_even = (y - {top}) % {height} % 2 == 0;"));
        line(&format!("      const region_even = (y - {top}) / {height} % 2 == 0;"));
    } else {
        line(&format!("      const y_even = (y - {top}) % 2 == 0;"));
    }
    line(&format!("      @set_tile_code(x, y, \"{}.csl\", .{{", kernel.name));
    line("        .memcpy_params = memcpy.get_params(x),");
    line(&format!("        .width = width, .height = {height}, .top = {top}, .group = {group},"));
    if kernel.role.is_passed() {
        let (begins, ends) = (number == 0, numbers.end == program.regions.len());
        let first = if several && begins { format!("y < {}", top + height) } else { begins.to_string() };
        let last = if several && ends { format!("y >= {}", end - height) } else { ends.to_string() };
        line(&format!("        .first = {first}, .last = {last},"));
    }
    if grouped {
        line(
            "        .row_send = if (root) (if (group_even) root_even else root_odd) else (if (x_even) row_even else row_odd),",
        );
        line("        .root_recv = if (group_even) root_odd else root_even,");
    } else {
        line("        .row_send = if (x_even) row_even else row_odd, .root_recv = root_odd,");
    }
    line("        .row_recv = if (x_even) row_odd else row_even,");
    line("        .row_share = row_share,");
    line("        .column_send = if (y_even) column_even else column_odd,");
    line("        .column_recv = if (y_even) column_odd else column_even,");
    line("        .column_share = column_share,");
    if several {
        line(&format!("        .stream_send = if (region_even) {send} else {recv},"));
        line(&format!("        .stream_recv = if (region_even) {recv} else {send},"));
    } else {
        line(&format!("        .stream_send = {send}, .stream_recv = {recv},"));
    }
    if kernel.role.has_tokens() {
        line("        .token = token,");
    }
    line("      });");
    line("    }");
    line("  }");
}
