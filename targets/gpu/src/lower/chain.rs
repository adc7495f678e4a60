//! Neighbouring launches that work row by row become one.
//!
//! Between two linear layers stand norms, rotations, packing and the like, each of which reads of its operands the row that it writes; a
//! group of threads takes a row through all of them, in one launch. The values in between keep their buffers, all alive during the launch.

use super::select::{Choice, Launch};
use crate::kernels::{Chain, Kernel};
use std::rc::Rc;

/// Ops whose row `m` needs of their operands row `m` alone. (Attention reads what other rows appended; `select` picks other rows.)
const ROW_OPS: &[&str] = &[
    "activate", "add", "append", "columns", "embed", "glu", "hadamard", "mul", "pack", "rms_norm", "rope", "rotary", "scale",
    "softcap",
];

/// Joins what can be joined.
pub(super) fn chain(launches: Vec<Launch>) -> Vec<Launch> {
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
    is_row_op(launch) || launch.op == "select"
}

fn join(mut group: Vec<Launch>) -> Launch {
    if group.len() == 1 {
        return group.remove(0);
    }
    let parts = group.iter().map(|launch| launch.choices[0].kernel.clone()).collect();
    let kernel: Rc<dyn Kernel> = Rc::new(Chain { parts });
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
