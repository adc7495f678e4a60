//! A PE program: parameters, memory, and `step`, a straight line of calls.

use q35_dialects::wse::{Arena, Axis, Call, Kernel, Part, Program, Role, Routing};
use std::fmt::Write;

/// A literal that keeps every bit of an f32.
fn float(x: f32) -> String {
    let text = format!("{x:?}");
    if text.contains(['.', 'e']) { text } else { format!("{text}.0") }
}

/// Parameters of a program that say which colors it uses.
const COLORS: [&str; 9] = [
    "row_send",
    "row_recv",
    "root_recv",
    "row_share",
    "column_send",
    "column_recv",
    "column_share",
    "stream_send",
    "stream_recv",
];

struct Printer<'a> {
    kernel: &'a Kernel,
    stream: u64,
    piece: u64,
    out: String,
}

pub(super) fn text(program: &Program, kernel: &Kernel) -> String {
    let half = kernel.calls.iter().find_map(|call| match call {
        Call::Rotate { half, .. } => Some(*half),
        _ => None,
    });
    let piece = program.stream - 1 - 2 * half.unwrap_or(0);
    let mut printer = Printer { kernel, stream: program.stream, piece, out: String::new() };
    printer.step();
    let step = std::mem::take(&mut printer.out);
    printer.head(program, &step);
    printer.out.push_str(&step);
    printer.tail();
    printer.out
}

impl Printer<'_> {
    fn line(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.out, "{}", text.as_ref());
    }

    fn name(&self, part: Part) -> &str {
        &self.kernel.buffers[part.buffer].name
    }

    /// A DSD over a part of a buffer.
    fn dsd(&self, part: Part) -> String {
        format!("part(&{}, {}, {})", self.name(part), part.at, part.len)
    }

    fn pointer(&self, part: Part) -> String {
        if part.at == 0 { format!("&{}", self.name(part)) } else { format!("&{}[{}]", self.name(part), part.at) }
    }

    /// Everything before `step`, of which what it uses.
    fn head(&mut self, program: &Program, step: &str) {
        let kernel = self.kernel;
        let expert = matches!(kernel.role, Role::Expert { .. });
        self.line(format!(
            "// Region of {} columns by {} rows: every PE runs this program on its part. Emitted for WSE-3, SDK 2.10.",
            program.width, kernel.height
        ));
        self.line("//");
        if expert {
            self.line("// An expert: it works on the tokens that chose it, and adds to the stream on its way through.");
            self.line("//");
        }
        self.line("// The stream is this column's piece of the residual, then cosines and sines of the token's position, then its index in the cache.");
        self.line("// Colors: layout.csl. Queues: comm.csl. Local task: 8 exit_task.");
        self.line("");
        self.line("param memcpy_params;");
        for name in ["width", "height", "top", "group"] {
            self.line(format!("param {name}: u16;"));
        }
        for name in ["first", "last"].iter().filter(|_| !expert) {
            self.line(format!("param {name}: bool;"));
        }
        for color in COLORS.iter().chain((kernel.role != Role::Layers).then_some(&"token")) {
            self.line(format!("param {color}: color;"));
        }
        self.line("");
        self.line("const exit_task_id: local_task_id = @get_local_task_id(8);");
        self.line("");
        self.imports(step);
        self.line("");
        self.line("// Filled by the host before the first step, and by steps (keys, values)");
        for arena in Arena::ALL {
            let ty = if arena == Arena::Weights {
                "u16"
            } else if arena == Arena::Vectors {
                "f32"
            } else {
                "f16"
            };
            self.line(format!("var {}: [{}]{ty};", arena.name(), kernel.arenas[arena as usize].max(1)));
        }
        self.line("");
        self.line("// Vectors of a step");
        for buffer in &kernel.buffers {
            self.line(format!("var {}: [{}]f32;", buffer.name, buffer.len));
        }
        self.line("");
        self.line("// Base addresses and extents are set at each use.");
        let helpers = [
            ("part", "f32_dsd", "f32", "stream", "", true),
            ("pairs", "even_dsd", "f32", "stream", ", .stride = 2", true),
            ("tile", "word_dsd", "u16", "weights", "", false),
            ("factors", "scale_dsd", "f16", "scales", "", false),
        ];
        let used: Vec<_> = helpers.iter().filter(|(name, ..)| step.contains(&format!("{name}("))).collect();
        for (_, dsd, _, array, stride, _) in &used {
            self.line(format!("const {dsd} = @get_dsd(mem1d_dsd, .{{ .base_address = &{array}, .extent = 1{stride} }});"));
        }
        self.line("");
        for (name, dsd, ty, array, _, any) in used {
            let (param, of) = if *any { (format!("p: [*]{ty}, "), "p") } else { (String::new(), *array) };
            self.line(format!("fn {name}({param}at: u16, n: u16) mem1d_dsd {{"));
            self.line(format!("  return @set_dsd_length(@set_dsd_base_addr({dsd}, &{of}[at]), n);"));
            self.line("}");
            self.line("");
        }
    }

    fn imports(&mut self, step: &str) {
        let kernel = self.kernel;
        self.line("const sys_mod = @import_module(\"<memcpy/memcpy>\", memcpy_params);");
        self.line("const comm = @import_module(\"comm.csl\", .{");
        self.line("  .width = width, .height = height, .top = top, .group = group,");
        for pair in COLORS.chunks(3) {
            let fields: Vec<String> = pair.iter().map(|name| format!(".{name} = {name}")).collect();
            self.line(format!("  {},", fields.join(", ")));
        }
        self.line("});");
        if step.contains("gemv.") {
            self.line(format!(
                "const gemv = @import_module(\"gemv.csl\", .{{ .max_rows = {}, .max_inputs = {} }});",
                kernel.largest[0].max(1),
                kernel.largest[1].max(2)
            ));
        }
        if step.contains("vector.") {
            self.line("const vector = @import_module(\"vector.csl\");");
        }
        for (number, a) in kernel.attentions.iter().enumerate() {
            self.line(format!(
                "const attention_{number} = @import_module(\"attention.csl\", .{{ .heads = {}, .kv_heads = {}, .dim = {}, .entries = {}, .scale = {}, \
                 .window = {}, .comm = comm, .width = width }});",
                a.heads,
                a.kv_heads,
                a.dim,
                a.entries,
                float(a.scale),
                a.window
            ));
        }
        if let Role::Router(r) = kernel.role {
            self.line("const route = @import_module(\"route.csl\", .{");
            self.line(format!(
                "  .experts = {}, .choices = {}, .groups = {}, .top_groups = {},",
                r.experts, r.choices, r.groups[0], r.groups[1]
            ));
            self.line(format!(
                "  .two = {}, .sigmoid = {}, .corrected = {}, .normalize = {},",
                r.two, r.sigmoid, r.corrected, r.normalize
            ));
            self.line(format!("  .eps = {}, .floor = {}, .scale = {},", float(r.eps), float(r.floor), float(r.scale)));
            self.line("});");
        }
        if let Role::Router(Routing { choices, .. }) | Role::Expert { choices, .. } = kernel.role {
            let router = matches!(kernel.role, Role::Router(_));
            self.line("const experts = @import_module(\"experts.csl\", .{");
            self.line(format!("  .router = {router}, .top = top, .height = height, .choices = {choices}, .token = token,"));
            self.line("});");
        }
    }

    fn step(&mut self) {
        let kernel = self.kernel;
        let whole = Part { buffer: 0, at: 0, len: self.stream };
        self.line("fn step() void {");
        match kernel.role {
            Role::Expert { adds, .. } => {
                let token = Part { buffer: 1, at: 0, len: kernel.buffers[1].len };
                let pairs = Part { at: adds.len, ..token };
                self.line(format!("  experts.receive_token({}, {});", self.dsd(token), token.len));
                self.line(format!("  const weight = experts.weight({});", self.pointer(pairs)));
                self.line("  if (weight == 0.0) {");
                self.line(format!("    comm.pass_stream({}, exit_task_id);", self.stream));
                self.line("    return;");
                self.line("  }");
            }
            Role::Layers | Role::Router(_) => {
                self.line("  if (!first) {");
                self.line(format!("    comm.receive_stream({}, {});", self.dsd(whole), whole.len));
                self.line("  }");
            }
        }
        if !kernel.attentions.is_empty() {
            self.line(format!("  const index = @as(u16, stream[{}]);", self.stream - 1));
        }
        for call in &kernel.calls {
            let text = self.call(call);
            self.line(text);
        }
        self.line("");
        match kernel.role {
            Role::Expert { adds, .. } => {
                let y = self.dsd(adds);
                self.line(format!("  @fmuls({y}, {y}, weight);"));
                self.line(format!("  comm.add_to_stream({y}, {}, {}, exit_task_id);", adds.len, self.stream));
            }
            Role::Layers | Role::Router(_) => {
                self.line("  if (last) {");
                self.line("    @activate(exit_task_id);");
                self.line("  } else {");
                self.line(format!("    comm.send_stream({}, {}, exit_task_id);", self.dsd(whole), whole.len));
                self.line("  }");
            }
        }
        self.line("}");
        self.line("");
    }

    fn call(&self, call: &Call) -> String {
        let weights = |offset: &Option<u64>, len: u64| match offset {
            Some(offset) => format!("part(&vectors, {offset}, {len})"),
            None => "1.0".to_owned(),
        };
        match call {
            Call::Comment(text) => format!("\n  // {text}"),
            Call::Norm { y, x, weight, axis, count, eps } => {
                let sum = if *axis == Axis::Columns { "row" } else { "column" };
                format!(
                    "  result[0] = vector.squares({}, {});\n  comm.sum_{sum}(part(&result, 0, 1), 1);\n  \
                     vector.normalize({}, {}, {}, result[0], {count}.0, {});",
                    self.pointer(*x),
                    x.len,
                    self.dsd(*y),
                    self.dsd(*x),
                    weights(weight, y.len),
                    float(*eps)
                )
            }
            Call::HeadNorm { y, x, weight, dim, eps } => {
                let head = |at: u64, part: &Part| Part { at: part.at + at * dim, len: *dim, ..*part };
                let lines: Vec<String> = (0..y.len / dim)
                    .map(|at| {
                        let (y, x) = (head(at, y), head(at, x));
                        format!(
                            "  vector.normalize({}, {}, {}, vector.squares({}, {dim}), {dim}.0, {});",
                            self.dsd(y),
                            self.dsd(x),
                            weights(weight, *dim),
                            self.pointer(x),
                            float(*eps)
                        )
                    })
                    .collect();
                lines.join("\n")
            }
            Call::Load { x, split } => format!("  gemv.load_{}({}, {});", coding(*split), self.dsd(*x), x.len),
            Call::Product { y, matrix } => format!(
                "  gemv.{}({}, tile({}, {}), factors({}, {}), {}, {}, {});",
                coding(matrix.split),
                self.dsd(*y),
                matrix.weights,
                matrix.rows,
                matrix.scales,
                matrix.rows,
                matrix.rows,
                matrix.stride,
                matrix.inputs
            ),
            Call::Sum { y, over } => {
                let over = if *over == Axis::Columns { "row" } else { "column" };
                format!("  comm.sum_{over}({}, {});", self.dsd(*y), y.len)
            }
            Call::Scores { y, x, weight } => format!(
                "  vector.product({}, part(&vectors, {weight}, {}), {}, {}, {});",
                self.dsd(*y),
                y.len,
                y.len,
                self.pointer(*x),
                x.len
            ),
            Call::Gather { y, x } => format!("  comm.gather_column({}, {}, {});", self.dsd(*y), self.dsd(*x), x.len),
            Call::Spread { x, logits, correction, token } => {
                let correction = correction.map_or_else(|| self.pointer(*logits), |at| format!("&vectors[{at}]"));
                let pairs = Part { at: token.at + x.len, ..*token };
                format!(
                    "  @fmovs({}, {});\n  route.choose({}, {correction}, {});\n  experts.send_token({}, {});",
                    self.dsd(Part { len: x.len, ..*token }),
                    self.dsd(*x),
                    self.pointer(*logits),
                    self.pointer(pairs),
                    self.dsd(*token),
                    token.len
                )
            }
            Call::Sigmoid { x } => {
                let x = format!("{}[{}]", self.name(*x), x.at);
                format!("  {x} = vector.sigmoid({x});")
            }
            Call::Times { y, x, by } => {
                format!("  @fmuls({}, {}, {}[{}]);", self.dsd(*y), self.dsd(*x), self.name(*by), by.at)
            }
            Call::Bias { y, vector } => format!("  @fadds({0}, {0}, part(&vectors, {vector}, {1}));", self.dsd(*y), y.len),
            Call::Rotate { x, dim, half, interleaved } => self.rotate(*x, *dim, *half, *interleaved),
            Call::Append { module, key, value, keys, values } => format!(
                "  attention_{module}.append(&keys[{keys}], &values[{values}], {}, {}, index);",
                self.pointer(*key),
                self.pointer(*value)
            ),
            Call::Attend { module, y, q, keys, values } => format!(
                "  attention_{module}.attend({}, {}, &keys[{keys}], &values[{values}], index);",
                self.dsd(*y),
                self.dsd(*q)
            ),
            Call::Swiglu { y, gate, up } => {
                format!("  vector.swiglu({}, {}, {}, {});", self.pointer(*y), self.pointer(*gate), self.pointer(*up), y.len)
            }
            Call::Add { y, a, b } => format!("  @fadds({}, {}, {});", self.dsd(*y), self.dsd(*a), self.dsd(*b)),
            Call::Move { y, x } => format!("  @fmovs({}, {});", self.dsd(*y), self.dsd(*x)),
        }
    }

    /// Cosines and sines stand behind the piece of the residual; the buffer `turned` is scratch.
    fn rotate(&self, x: Part, dim: u64, half: u64, interleaved: bool) -> String {
        let name = self.name(x);
        let (cos, sin) = (self.piece, self.piece + half);
        let lines: Vec<String> = (0..x.len / dim)
            .map(|head| {
                let at = x.at + head * dim;
                let (a, b) = if interleaved {
                    (format!("pairs(&{name}, {at}, {half})"), format!("pairs(&{name}, {}, {half})", at + 1))
                } else {
                    (format!("part(&{name}, {at}, {half})"), format!("part(&{name}, {}, {half})", at + half))
                };
                format!(
                    "  vector.rotate({a}, {b}, part(&stream, {cos}, {half}), part(&stream, {sin}, {half}), part(&turned, 0, {half}), \
                     part(&turned, {half}, {half}));"
                )
            })
            .collect();
        lines.join("\n")
    }

    fn tail(&mut self) {
        self.line("task exit_task() void {");
        self.line("  sys_mod.unblock_cmd_stream();");
        self.line("}");
        self.line("");
        let pointers = [
            ("weights", "u16"),
            ("scales", "f16"),
            ("vectors", "f32"),
            ("keys", "f16"),
            ("values", "f16"),
            ("stream", "f32"),
            ("result", "f32"),
        ];
        for (name, ty) in pointers {
            self.line(format!("var {name}_ptr: [*]{ty} = &{name};"));
        }
        self.line("");
        self.line("comptime {");
        self.line("  @bind_local_task(exit_task, exit_task_id);");
        for (name, _) in pointers {
            self.line(format!("  @export_symbol({name}_ptr, \"{name}\");"));
        }
        self.line("  @export_symbol(step);");
        self.line("}");
    }
}

fn coding(split: bool) -> &'static str {
    if split { "split" } else { "byte" }
}
