//! Small programs in CSL: times against closed forms, and everything that must not pass.

use q35_csl::{Layout, layout};
use q35_fabric::{Fabric, Policy, Report, Settings};
use std::collections::BTreeMap;

/// A row of PEs in which an alternating chain adds vectors eastward.
const LAYOUT: &str = r#"
const even: color = @get_color(0);
const odd: color = @get_color(1);
const width: u16 = WIDTH;
const memcpy = @import_module("<memcpy/get_params>", .{ .width = width, .height = 1 });
layout {
  @set_rectangle(width, 1);
  for (@range(u16, width)) |x| {
    @set_tile_code(x, 0, "pe.csl", .{
      .memcpy_params = memcpy.get_params(x),
      .send = if (x % 2 == 0) even else odd, .recv = if (x % 2 == 0) odd else even, .width = width
    });
  }
  const RX_R_TX_E = .{ .rx = .{RAMP}, .tx = .{EAST} };
  const RX_W_TX_R = .{ .rx = .{WEST}, .tx = .{RAMP} };
  for (@range(u16, 0, width - 1, 2)) |x| {
    @set_color_config(x, 0, even, .{ .routes = RX_R_TX_E });
    @set_color_config(x + 1, 0, even, .{ .routes = RX_W_TX_R });
  }
  for (@range(u16, 1, width - 1, 2)) |x| {
    @set_color_config(x, 0, odd, .{ .routes = RX_R_TX_E });
    @set_color_config(x + 1, 0, odd, .{ .routes = RX_W_TX_R });
  }
  @export_name("v", [*]f32, true);
  @export_name("step", fn()void);
}
"#;

const PE: &str = r#"
param memcpy_params;
param width: u16;
param send: color;
param recv: color;
const exit_task_id: local_task_id = @get_local_task_id(8);
const send_oq: output_queue = @get_output_queue(2);
const recv_iq: input_queue = @get_input_queue(2);
const sys_mod = @import_module("<memcpy/memcpy>", memcpy_params);
const layout_mod = @import_module("<layout>");
var v: [LEN]f32;
var v_ptr: [*]f32 = &v;
const v_dsd = @get_dsd(mem1d_dsd, .{ .base_address = &v, .extent = LEN });
const out_dsd = @get_dsd(fabout_dsd, .{ .extent = LEN, .output_queue = send_oq });
const in_dsd = @get_dsd(fabin_dsd, .{ .extent = LEN, .input_queue = recv_iq });
fn step() void {
  if (layout_mod.get_x_coord() == 0) {
    @fmovs(out_dsd, v_dsd, .{ .async = true, .activate = exit_task_id });
  } else if (layout_mod.get_x_coord() == width - 1) {
    @fadds(v_dsd, in_dsd, v_dsd, .{ .async = true, .activate = exit_task_id });
  } else {
    @fadds(out_dsd, in_dsd, v_dsd, .{ .async = true, .activate = exit_task_id });
  }
}
task exit_task() void {
  sys_mod.unblock_cmd_stream();
}
comptime {
  @bind_local_task(exit_task, exit_task_id);
  @initialize_queue(send_oq, .{ .color = send });
  @initialize_queue(recv_iq, .{ .color = recv });
  @export_symbol(v_ptr, "v");
  @export_symbol(step);
}
"#;

/// The program with replacements in its text, as everything that can go wrong words it.
fn run(width: usize, len: usize, settings: Settings, changes: &[(&str, &str)]) -> Result<(Vec<f32>, Report), String> {
    let fill = |text: &str| {
        let mut text = text.to_owned();
        for (from, to) in changes {
            text = text.replacen(from, to, 1);
        }
        text.replace("WIDTH", &width.to_string()).replace("LEN", &len.to_string())
    };
    for (from, _) in changes {
        assert!(LAYOUT.contains(from) || PE.contains(from), "{from}");
    }
    let files: BTreeMap<String, String> = [("layout.csl", LAYOUT), ("pe.csl", PE)].map(|(n, t)| (n.to_owned(), fill(t))).into();
    let sources = layout::parse(&files).map_err(|e| e.to_string())?;
    let layout = Layout::build(&sources).map_err(|e| e.to_string())?;
    let mut fabric = Fabric::new(layout, settings).map_err(|e| e.to_string())?;
    for x in 0..width {
        let v: Vec<f32> = (0..len).map(|i| (x * len + i) as f32).collect();
        fabric.write((x, 0), "v", &v).map_err(|e| e.to_string())?;
    }
    let report = fabric.launch("step", &[]).map_err(|e| e.to_string())?;
    let mut v = vec![0.0; len];
    fabric.read((width - 1, 0), "v", &mut v).map_err(|e| e.to_string())?;
    Ok((v, report))
}

#[test]
fn a_chain_adds_and_takes_the_time_of_the_closed_form() {
    for (width, len) in [(2, 1), (4, 16), (9, 64), (32, 100), (64, 256)] {
        let settings = Settings { startup: 0, ..Settings::default() };
        let (v, report) = run(width, len, settings, &[]).unwrap();
        let exact: Vec<f32> = (0..len).map(|i| (0..width).map(|x| (x * len + i) as f32).sum()).collect();
        assert_eq!(v, exact);
        // T = max(C, E/N + L) + (2 T_R + 1) D, of Luczynski et al.: contention and energy per link are the length, distance and depth
        // the hops.
        let (hops, ramp) = ((width - 1) as u64, settings.ramp);
        let formula = (len as u64).max(len as u64 + hops) + (2 * ramp + 1) * hops;
        let error = report.cycles as f64 / formula as f64 - 1.0;
        // A constant for launch and exit, and 4 percent.
        assert!(
            report.cycles.abs_diff(formula) <= 24 + formula / 25,
            "{width} {len}: {} cycles, formula {formula}, {error}",
            report.cycles
        );
        assert_eq!(report.hops, hops * len as u64);
    }
}

#[test]
fn values_do_not_depend_on_policy_or_depth() {
    let first = run(8, 40, Settings::default(), &[]).unwrap().0;
    for policy in [Policy::Fixed, Policy::RoundRobin, Policy::Random(1), Policy::Random(2)] {
        for depth in [1, 2, 8] {
            assert_eq!(run(8, 40, Settings { policy, depth, ..Settings::default() }, &[]).unwrap().0, first);
        }
    }
}

/// Each change of the text, and a word of what is said about it.
#[test]
fn every_mutation_of_the_text_is_caught() {
    let cases: &[(&str, &str, &str)] = &[
        // Routes
        ("    @set_color_config(x + 1, 0, odd, .{ .routes = RX_W_TX_R });\n", "", "rule 3: color 1"),
        ("    @set_color_config(x, 0, odd, .{ .routes = RX_R_TX_E });\n", "", "rule 3: color 1"),
        (".tx = .{EAST}", ".tx = .{WEST}", "rule 3: color 0"),
        (".rx = .{WEST}", ".rx = .{EAST}", "rule 3"),
        (".rx = .{WEST}", ".rx = .{WEST, NORTH}", "rule 4"),
        ("x + 1, 0, odd, .{ .routes = RX_W_TX_R }", "x + 1, 0, even, .{ .routes = RX_W_TX_R }", "twice"),
        ("@get_color(1)", "@get_color(0)", "twice"),
        ("@get_color(1)", "@get_color(21)", "rule 2"),
        (".{ .routes = RX_R_TX_E }", ".{ .routes = RX_R_TX_E, .filter = 1 }", "'filter'"),
        (".tx = .{EAST} }", ".tx = .{EAST}, .pop_mode = 1 }", "'pop_mode'"),
        // Queues
        (".output_queue = send_oq", ".output_queue = @get_output_queue(3)", "rule 11: color 0"),
        (".input_queue = recv_iq", ".input_queue = @get_input_queue(3)", "rule 11: color 0"),
        (
            "@initialize_queue(recv_iq, .{ .color = recv })",
            "@initialize_queue(recv_iq, .{ .color = recv, .depth = 1 })",
            "'depth'",
        ),
        ("@get_input_queue(2)", "@get_input_queue(1)", "outside 2..7"),
        ("  @initialize_queue(recv_iq, .{ .color = recv });\n", "", "rule 5"),
        ("@initialize_queue(recv_iq, .{ .color = recv })", "@initialize_queue(recv_iq, .{ .color = send })", "rule 5"),
        ("@initialize_queue(send_oq, .{ .color = send })", "@initialize_queue(recv_iq, .{ .color = send })", "twice"),
        // Extents
        ("in_dsd = @get_dsd(fabin_dsd, .{ .extent = LEN", "in_dsd = @get_dsd(fabin_dsd, .{ .extent = LEN - 1", "operands of"),
        ("&v, .extent = LEN", "&v, .extent = LEN, .offset = 1", "of an array that ends"),
        // Tasks
        ("  sys_mod.unblock_cmd_stream();\n", "", "without unblocking"),
        (
            "  sys_mod.unblock_cmd_stream();\n",
            "  sys_mod.unblock_cmd_stream();\n  sys_mod.unblock_cmd_stream();\n",
            "unblocked twice",
        ),
        ("  @bind_local_task(exit_task, exit_task_id);\n", "", "rule 12"),
        (
            "@fmovs(out_dsd, v_dsd, .{ .async = true, .activate = exit_task_id })",
            "@fmovs(out_dsd, v_dsd, .{ .async = true }); @activate(exit_task_id)",
            "before the last operation",
        ),
        (
            "task exit_task() void {\n",
            "task exit_task() void {\n  sys_mod.unblock_cmd_stream();\n  @fmovs(out_dsd, v_dsd);\n",
            "after the command stream",
        ),
        (".activate = exit_task_id", ".activate = exit_task_id, .unblock = exit_task_id", "one to unblock"),
        (".{ .async = true, .activate = exit_task_id }", ".{ .activate = exit_task_id }", "not asynchronous"),
        (".{ .async = true, .activate", ".{ .async = true, .ut_id = 3, .activate", "'ut_id'"),
        ("@get_local_task_id(8)", "@get_local_task_id(29)", "rule 8"),
        // Who sends, and who receives
        ("get_x_coord() == 0", "get_x_coord() == 1", "deadlock"),
        ("@fadds(out_dsd, in_dsd, v_dsd", "@fadds(v_dsd, in_dsd, v_dsd", "deadlock"),
        ("@fadds(v_dsd, in_dsd, v_dsd", "@fadds(v_dsd, v_dsd, v_dsd", "left in"),
        ("x_coord() == width - 1", "x_coord() == width", "no route to leave by"),
        // Language
        ("@fadds(v_dsd, in_dsd, v_dsd", "@faddz(v_dsd, in_dsd, v_dsd", "not on the list"),
        ("@fadds(v_dsd, in_dsd, v_dsd", "@fadds(v_dsd, in_dsd", "arguments"),
        ("@fadds(v_dsd, in_dsd, v_dsd", "@fmachs(v_dsd, in_dsd, v_dsd, 1.0", "f32 where"),
        ("var v: [LEN]f32;", "var v: [LEN]f16;", "Pointer(F32)"),
        (".base_address = &v", ".base_address = &w", "'w'"),
        ("@export_symbol(step)", "@export_symbol(exit_task)", "rule 9"),
        ("[*]f32, true", "[*]u16, true", "rule 9"),
        ("[*]f32, true", "[*]f32, false", "as mutable, and the layout as const"),
        ("var v_ptr", "const v_ptr", "as const, and the layout as mutable"),
        ("[*]f32, true", "[*]f32", "mutable or not"),
        ("fn()void", "fn(u16)void", "rule 9"),
        ("fn()void", "fn([*]u16)void", "numbers of 16 or 32 bits"),
        ("fn()void", "fn()void, true", "not mutable"),
        ("fn()void", "fn()u16", "return nothing"),
        ("\"step\", fn()void", "\"step\", u16", "neither a pointer nor a function"),
        ("param width: u16;", "param height: u16;", "no parameter 'width'"),
        ("var v: [LEN]f32;", "var v: [LEN]f32;\nvar big: [12000]f32;", "rule 10"),
    ];
    let missed = cases.iter().filter_map(|(from, to, expected)| {
        let found = run(5, 12, Settings::default(), &[(from, to)]);
        let caught = found.as_ref().is_err_and(|text| text.contains(expected));
        (!caught).then(|| format!("{from:?} -> {to:?}: {found:?}"))
    });
    assert_eq!(missed.collect::<Vec<_>>(), Vec::<String>::new());
}

/// Two neighbours that both wait for the other before they send: the report names the circle.
#[test]
fn a_deadlock_is_reported_as_its_circle() {
    let routes = "  @set_color_config(0, 0, even, .{ .routes = RX_R_TX_E });\n  @set_color_config(1, 0, even, .{ .routes = RX_W_TX_R });\n  \
                  @set_color_config(1, 0, odd, .{ .routes = .{ .rx = .{RAMP}, .tx = .{WEST} } });\n  \
                  @set_color_config(0, 0, odd, .{ .routes = .{ .rx = .{EAST}, .tx = .{RAMP} } });\n";
    let start = LAYOUT.find("  for (@range(u16, 0, width - 1, 2))").unwrap();
    let end = LAYOUT.find("  @export_name(\"v\"").unwrap();
    let body_start = PE.find("  if (layout_mod").unwrap();
    let body_end = PE.find("}\ntask exit_task").unwrap();
    let changes = [
        (&LAYOUT[start..end], routes),
        (
            &PE[body_start..body_end],
            "  @fmovs(v_dsd, in_dsd);\n  @fmovs(out_dsd, v_dsd, .{ .async = true, .activate = exit_task_id });\n",
        ),
    ];
    let text = run(2, 4, Settings::default(), &changes).unwrap_err();
    assert!(
        text.contains(
            "a circle of waiting PEs: PE (0, 0) waits for a wavelet of color 1; PE (1, 0) waits for a wavelet of color 0"
        ),
        "{text}"
    );
}
