//! Neighbouring launches that work row by row become one.
//!
//! Between two linear layers stand norms, rotations, packing and the like, each of which reads of its operands the row that it writes; a
//! group of threads takes a row through all of them, in one launch. The values in between keep their buffers, all alive during the launch.

use super::select::{Choice, Launch};
use crate::isa::Isa;
use crate::kernels::{Chain, Kernel};
use std::rc::Rc;

/// Ops whose row `m` needs of their operands row `m` alone. (Attention reads what other rows appended; `select` picks other rows.)
const ROW_OPS: &[&str] = &[
    "activate", "add", "append", "columns", "embed", "glu", "hadamard", "mul", "pack", "rms_norm", "rope", "rotary", "scale",
    "softcap",
];

/// Shared memory that is left to the sums of groups.
const FOR_SUMS: u32 = 1 << 10;

/// Joins what can be joined, and still fits shared memory.
pub(super) fn chain(launches: Vec<Launch>, isa: &dyn Isa) -> Vec<Launch> {
    let shared = |launch: &Launch| launch.choices[0].kernel.shared_bytes();
    let mut groups: Vec<Vec<Launch>> = Vec::new();
    for launch in launches {
        match groups.last_mut() {
            Some(group)
                if can_start(&group[0])
                    && group[0].rows == launch.rows
                    && is_row_op(&launch)
                    && group.iter().chain([&launch]).map(shared).sum::<u32>() + FOR_SUMS <= isa.shared_bytes() =>
            {
                group.push(launch);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Nvidia;
    use crate::kernels::{Hadamard, Operation, Pointwise};
    use q35_bundle::Rows;

    fn launch(op: &str, rows: Rows) -> Launch {
        let kernel = Rc::new(Pointwise { operation: Operation::Scale(2.0), width: 8, column: false });
        let choices = vec![Choice { kernel, max_rows: None }];
        Launch { node: op.to_owned(), op: op.to_owned(), rows, choices, linear: None, args: vec![] }
    }

    #[test]
    fn rows_pass_through_but_not_past_what_reads_other_rows() {
        use Rows::{Logits, Tokens};
        let ops = ["embed", "rms_norm", "pack", "linear", "rope", "append", "attention", "hadamard", "pack", "linear", "add"];
        let mut launches: Vec<Launch> = ops.iter().map(|op| launch(op, Tokens)).collect();
        launches.extend(["select", "rms_norm", "pack", "linear"].map(|op| launch(op, Logits)));
        let chained: Vec<String> = chain(launches, &Nvidia).into_iter().map(|launch| launch.op).collect();
        let expected = [
            "embed+rms_norm+pack",
            "linear",
            "rope+append",
            "attention",
            "hadamard+pack",
            "linear",
            "add",
            "select+rms_norm+pack",
            "linear",
        ];
        assert_eq!(chained, expected);
    }
    #[test]
    fn a_group_fits_shared_memory() {
        let rotation = |block| {
            let kernel = Rc::new(Hadamard { width: 8192, block, seed: 1, inverse: false });
            Launch { choices: vec![Choice { kernel, max_rows: None }], ..launch("hadamard", Rows::Tokens) }
        };
        let parts = |blocks: [u64; 3]| chain(blocks.map(rotation).into(), &Nvidia).len();
        assert_eq!([parts([2048, 4096, 2048]), parts([8192, 2048, 8192])], [1, 2]);
    }
}
