//! Neighbouring launches that work row by row become one.
//!
//! A launch ends with all threads waiting for each other. Between two linear layers stand norms, rotations, roundings and the like, each
//! of which reads of its operands the row that it writes; a row may pass through all of them before the next row starts, in one launch.
//! The values in between keep their buffers: rows of different parts run at the same time, so all values of a launch live together.

use super::select::{Choice, Launch};
use crate::kernels::{Chain, Kernel};
use std::rc::Rc;

/// Ops whose row `m` needs of their operands row `m` alone. (Attention reads what other rows appended; `select` picks other rows, and
/// `combine` adds up several.)
const ROW_OPS: &[&str] = &[
    "activate",
    "add",
    "append",
    "columns",
    "embed",
    "glu",
    "hadamard",
    "layer_norm",
    "mul",
    "quantize",
    "rms_norm",
    "rope",
    "rotary",
    "scale",
    "softcap",
];

/// Joins what can be joined.
pub(crate) fn chain(launches: Vec<Launch>) -> Vec<Launch> {
    let mut groups: Vec<Vec<Launch>> = Vec::new();
    for launch in launches {
        match groups.last_mut() {
            Some(group) if can_start(&group[0]) && group[0].rows == launch.rows && is_row_op(&launch) => group.push(launch),
            _ => groups.push(vec![launch]),
        }
    }
    groups.into_iter().map(join).collect()
}

fn is_row_op(launch: &Launch) -> bool {
    ROW_OPS.contains(&launch.op.as_str())
}

/// The first of a group may read any rows of values from before the group.
fn can_start(launch: &Launch) -> bool {
    is_row_op(launch) || ["select", "combine"].contains(&launch.op.as_str())
}

fn join(mut group: Vec<Launch>) -> Launch {
    if group.len() == 1 {
        return group.remove(0);
    }
    let part = |launch: &Launch| (launch.choices[0].kernel.clone(), launch.args.len());
    let kernel: Rc<dyn Kernel> = Rc::new(Chain { parts: group.iter().map(part).collect() });
    let mut nodes: Vec<&str> = group.iter().map(|launch| launch.node.as_str()).collect();
    nodes.dedup();
    Launch {
        node: nodes.join(", "),
        op: group.iter().map(|launch| launch.op.as_str()).collect::<Vec<_>>().join("+"),
        rows: group[0].rows,
        choices: vec![Choice { kernel, max_rows: None }],
        linear: None,
        args: group.iter().flat_map(|launch| launch.args.clone()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Operation, Pointwise};
    use crate::lower::select::Arg;
    use q35_dialects::Rows;
    use q35_graph::{NodeId, Value};

    fn launch(op: &str, rows: Rows, width: u64) -> Launch {
        let kernel = Rc::new(Pointwise { operation: Operation::Add, width, column: false });
        let args = vec![Arg::Write(Value { node: NodeId::new(width as usize), result: 0 })];
        Launch {
            node: op.to_owned(),
            op: op.to_owned(),
            rows,
            choices: vec![Choice { kernel, max_rows: None }],
            linear: None,
            args,
        }
    }

    #[test]
    fn rows_pass_through_but_not_past_what_reads_other_rows() {
        use Rows::{Logits, TokenChoices, Tokens};
        let ops = [
            ("embed", Tokens),
            ("rms_norm", Tokens),
            ("linear", Tokens),
            ("rope", Tokens),
            ("append", Tokens),
            ("attention", Tokens),
            ("quantize", Tokens),
            ("glu", TokenChoices(2)),
            ("quantize", TokenChoices(2)),
            ("combine", Tokens),
            ("add", Tokens),
            ("select", Logits),
            ("rms_norm", Logits),
            ("quantize", Logits),
            ("linear", Logits),
            ("softcap", Logits),
        ];
        let launches = ops.iter().enumerate().map(|(at, (op, rows))| launch(op, *rows, at as u64)).collect();
        let chained = chain(launches);
        let found: Vec<(&str, usize)> = chained.iter().map(|launch| (launch.op.as_str(), launch.args.len())).collect();
        assert_eq!(
            found,
            [
                ("embed+rms_norm", 2),
                ("linear", 1),
                ("rope+append", 2),
                ("attention", 1),
                ("quantize", 1),
                ("glu+quantize", 2),
                ("combine+add", 2),
                ("select+rms_norm+quantize", 3),
                ("linear", 1),
                ("softcap", 1),
            ]
        );
        assert_eq!(chained[0].choices[0].kernel.name(), "add_0_then_add_1");
        assert_eq!(chained[7].node, "select, rms_norm, quantize");
    }
}
