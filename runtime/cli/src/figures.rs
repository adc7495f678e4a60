//! What a target adds to `report.json`: the working memory over time, a schedule, a placement; as tables.

use q35_console::size;
use q35_console::table::{Align, Table};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All of it; a report has the parts of its target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Launches in order, and what holds something that is still needed during each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    memory: Vec<Launch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schedule: Option<Schedule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    placement: Option<Placement>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Launch {
    node: String,
    op: String,
    bytes_per_token: u64,
    bytes_per_logit_row: u64,
}

/// Of chips that do one thing at a fixed cycle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Schedule {
    label: String,
    cycles_per_token: u64,
    tokens_per_second: f64,
    clock_mhz: f64,
    /// Cycles that the weights' way into the matrix units takes at least.
    install_bound: u64,
    /// Nodes by op: those first that make the step longest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    phases: Vec<Phases>,
    /// Share of the cycles in which a kind of unit is at work.
    utilisation: BTreeMap<String, f64>,
    instructions: u64,
    instruction_bytes: u64,
    /// Rows of memory in use, and all of them.
    memory_rows: [u64; 2],
    #[serde(default = "one")]
    chips: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pipeline: Option<Pipeline>,
}

/// Cycles by which the nodes of an op make a step longer, and what they take at least, each by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Phases {
    op: String,
    count: u64,
    cycles: u64,
    bound: u64,
}

fn one() -> u64 {
    1
}

/// Of several chips.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Pipeline {
    aligning: u64,
    cycles_between_tokens: u64,
    tokens_per_second_full: f64,
    chips: Vec<Chip>,
    links: Vec<Link>,
}

/// A chip's share: where it starts on the clock that all have in common, and what it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Chip {
    start: u64,
    cycles: u64,
    install_bound: u64,
    instructions: u64,
    memory_rows: u64,
}

/// What goes from a chip to another for a token, and the share of the slots between first and last send that it takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Link {
    from: u64,
    to: u64,
    link: u64,
    vectors: u64,
    bytes: u64,
    sends: [u64; 2],
    slots: f64,
}

/// Of programs on the processing elements of wafers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Placement {
    label: String,
    cycles_per_token: u64,
    compute_cycles: u64,
    fabric_cycles: u64,
    clock_mhz: u64,
    tokens_per_second: f64,
    wafers: Vec<Wafer>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Wafer {
    columns: u64,
    rows: u64,
    programs: Vec<Regions>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Regions {
    program: String,
    regions: u64,
    pes: u64,
    /// Of variables, and the room for them.
    bytes_per_pe: [u64; 2],
    compute_cycles: u64,
    fabric_cycles: u64,
}

impl Figures {
    /// Tables, one after the other, each with an empty line after it; of memory, every launch or the fullest one.
    pub(crate) fn text(&self, each: bool) -> String {
        let parts = [
            (!self.memory.is_empty()).then(|| memory(&self.memory, each)),
            self.schedule.as_ref().map(schedule),
            self.schedule.as_ref().filter(|schedule| !schedule.phases.is_empty()).map(|schedule| phases(&schedule.phases)),
            self.schedule.as_ref().and_then(|schedule| schedule.pipeline.as_ref()).map(pipeline),
            self.placement.as_ref().map(placement),
        ];
        parts.into_iter().flatten().map(|part| part + "\n").collect()
    }
}

fn memory(launches: &[Launch], each: bool) -> String {
    use Align::{Left, Right};
    let fullest = launches.iter().enumerate().max_by_key(|(at, of)| (of.bytes_per_token, std::cmp::Reverse(*at)));
    let shown = launches.iter().enumerate().filter(|(at, _)| each || fullest.is_some_and(|(fullest, _)| fullest == *at));
    let mut table = Table::new(&[
        ("launch", Right),
        ("op", Left),
        ("node", Left),
        ("in use per token", Right),
        ("per row of logits", Right),
    ]);
    for (at, Launch { node, op, bytes_per_token, bytes_per_logit_row }) in shown {
        let number = format!("{} of {}", at + 1, launches.len());
        table.row([number, op.clone(), node.clone(), size::show(*bytes_per_token), size::show(*bytes_per_logit_row)]);
    }
    let what = if each { "working memory during each launch" } else { "working memory during the launch that needs most" };
    format!("{what}:\n\n{table}")
}

fn schedule(of: &Schedule) -> String {
    let busy: Vec<String> = of.utilisation.iter().map(|(unit, share)| format!("{unit} {:.1} %", 100.0 * share)).collect();
    let mut table = Table::bare(&[Align::Left; 2]);
    let rate =
        format!("{} cycles per token, {:.0} tokens/s at {} MHz", of.cycles_per_token, of.tokens_per_second, of.clock_mhz);
    table.row(["schedule".to_owned(), rate]);
    table.row(["bound".to_owned(), format!("{} cycles to install all weights", of.install_bound)]);
    table.row(["units busy".to_owned(), busy.join(", ")]);
    table.row(["instructions".to_owned(), format!("{}, {}", of.instructions, size::show(of.instruction_bytes))]);
    table.row(["memory".to_owned(), format!("{} of {} rows", of.memory_rows[0], of.memory_rows[1])]);
    format!("the schedule, {}:\n\n{table}", of.label)
}

fn phases(of: &[Phases]) -> String {
    use Align::{Left, Right};
    let mut table =
        Table::new(&[("op", Left), ("nodes", Right), ("cycles", Right), ("at least", Right), ("beyond that", Right)]);
    let mut row = |op: &str, [count, cycles, bound]: [u64; 3]| {
        let beyond = cycles as i64 - bound as i64;
        table.row([op.to_owned(), count.to_string(), cycles.to_string(), bound.to_string(), beyond.to_string()]);
    };
    for Phases { op, count, cycles, bound } in of {
        row(op, [*count, *cycles, *bound]);
    }
    row("all", of.iter().fold([0, 0, 0], |sum, of| [sum[0] + of.count, sum[1] + of.cycles, sum[2] + of.bound]));
    format!("cycles by which nodes make a step longer, and what each takes at least by itself:\n\n{table}")
}

fn pipeline(of: &Pipeline) -> String {
    let mut table = Table::new(&[
        ("chip", Align::Right),
        ("starts in cycle", Align::Right),
        ("cycles", Align::Right),
        ("rows", Align::Right),
        ("instructions", Align::Right),
        ("sends on", Align::Right),
        ("slots taken", Align::Right),
    ]);
    for (number, chip) in of.chips.iter().enumerate() {
        let Chip { start, cycles, instructions, memory_rows, .. } = chip;
        let numbers = [number as u64, *start, *cycles, *memory_rows, *instructions].map(|number| number.to_string());
        let link = of.links.iter().find(|link| link.from == number as u64);
        let link = link
            .map_or([String::new(), String::new()], |link| [size::show(link.bytes), format!("{:.0} %", 100.0 * link.slots)]);
        table.row(numbers.into_iter().chain(link));
    }
    let (chips, between, rate) = (of.chips.len(), of.cycles_between_tokens, of.tokens_per_second_full);
    format!(
        "a pipeline of {chips} chips, each done with a token in {between} cycles at most ({rate:.0} tokens/s, were it always full):\n\n{table}"
    )
}

fn placement(of: &Placement) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("wafer", Right),
        ("program", Left),
        ("regions", Right),
        ("PEs", Right),
        ("bytes per PE", Right),
        ("of", Right),
        ("compute", Right),
        ("fabric", Right),
    ]);
    for (number, wafer) in of.wafers.iter().enumerate() {
        for Regions { program, regions, pes, bytes_per_pe: [used, room], compute_cycles, fabric_cycles } in &wafer.programs {
            let numbers = [*regions, *pes, *used, *room, *compute_cycles, *fabric_cycles].map(|number| number.to_string());
            table.row([number.to_string(), program.clone()].into_iter().chain(numbers));
        }
    }
    let wafers: Vec<String> = of.wafers.iter().map(|wafer| format!("{} x {}", wafer.columns, wafer.rows)).collect();
    format!(
        "the placement on {} PEs, {}; a token takes {} cycles, {} of computation and {} of the fabric, {:.0} tokens/s at {} MHz:\n\n{table}",
        wafers.join(" + "),
        of.label,
        of.cycles_per_token,
        of.compute_cycles,
        of.fabric_cycles,
        of.tokens_per_second,
        of.clock_mhz
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(json: serde_json::Value, each: bool) -> Vec<String> {
        let figures: Figures = serde_json::from_value(json).unwrap();
        figures.text(each).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn memory_is_shown_where_it_is_fullest_or_over_time() {
        let launch = |node: &str, bytes: u64| serde_json::json!({"node": node, "op": "linear", "bytes_per_token": bytes, "bytes_per_logit_row": 0});
        let json = serde_json::json!({"memory": [launch("a", 64), launch("b", 2048), launch("c", 2048)]});
        let head = "launch op node in use per token per row of logits";
        let fullest = ["working memory during the launch that needs most:", "", head, "2 of 3 linear b 2.00 KiB 0 B", ""];
        assert_eq!(shown(json.clone(), false), fullest);
        assert_eq!(
            shown(json, true)[3..6],
            ["1 of 3 linear a 64 B 0 B", "2 of 3 linear b 2.00 KiB 0 B", "3 of 3 linear c 2.00 KiB 0 B"]
        );
        assert_eq!(Figures::default().text(true), "");
    }

    #[test]
    fn a_schedule_and_a_placement_are_shown() {
        let schedule = serde_json::json!({"schedule": {"label": "a model", "cycles_per_token": 900, "tokens_per_second": 1e6, "clock_mhz": 900,
            "install_bound": 300, "utilisation": {"MEM": 0.25, "VXM": 0.5}, "instructions": 7, "instruction_bytes": 112, "memory_rows": [3, 8],
            "phases": [{"op": "linear", "count": 2, "cycles": 700, "bound": 650}, {"op": "add", "count": 1, "cycles": 0, "bound": 3}]}});
        let lines = shown(schedule, false);
        assert_eq!(
            lines[2..5],
            [
                "schedule 900 cycles per token, 1000000 tokens/s at 900 MHz",
                "bound 300 cycles to install all weights",
                "units busy MEM 25.0 %, VXM 50.0 %"
            ]
        );
        assert_eq!(
            lines[10..14],
            ["op nodes cycles at least beyond that", "linear 2 700 650 50", "add 1 0 3 -3", "all 3 700 653 47"]
        );
        let chip = |start: u64| serde_json::json!({"start": start, "cycles": 400, "install_bound": 150, "instructions": 3, "memory_rows": 1});
        let link =
            serde_json::json!({"from": 0, "to": 1, "link": 0, "vectors": 8, "bytes": 2560, "sends": [300, 490], "slots": 0.9});
        let several = serde_json::json!({"schedule": {"label": "a model", "cycles_per_token": 900, "tokens_per_second": 1e6, "clock_mhz": 900,
            "install_bound": 300, "utilisation": {}, "instructions": 7, "instruction_bytes": 112, "memory_rows": [3, 8], "chips": 2,
            "pipeline": {"aligning": 252, "cycles_between_tokens": 504, "tokens_per_second_full": 2.0, "chips": [chip(0), chip(504)],
            "links": [link]}}});
        let lines = shown(several, false);
        assert!(lines[8].starts_with("a pipeline of 2 chips, each done with a token in 504 cycles at most"), "{lines:?}");
        assert_eq!(lines[11..13], ["0 0 400 1 3 2.50 KiB 90 %", "1 504 400 1 3"]);
        let placement = serde_json::json!({"placement": {"label": "a model", "cycles_per_token": 30, "compute_cycles": 20, "fabric_cycles": 10,
            "clock_mhz": 1100, "tokens_per_second": 5.0, "wafers": [{"columns": 4, "rows": 6, "programs": [{"program": "embed", "regions": 1,
            "pes": 24, "bytes_per_pe": [100, 4000], "compute_cycles": 20, "fabric_cycles": 10}]}]}});
        let lines = shown(placement, false);
        assert!(lines[0].starts_with("the placement on 4 x 6 PEs, a model; a token takes 30 cycles"), "{}", lines[0]);
        assert_eq!(lines[3], "0 embed 1 24 100 4000 20 10");
    }
}
