//! Neighbouring launches that work row by row become one.
//!
//! A launch ends with all processors waiting for each other. Between two linear layers stand norms, rotations, roundings and the like, each
//! of which reads of its operands the row that it writes; a row may pass through all of them before the next row starts, in one launch.
//! The values in between keep their buffers: rows of different parts run at the same time, so all values of a launch live together.

use super::Launch;
use crate::kernels::Kernels;
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
    "join",
    "layer_norm",
    "mul",
    "pack",
    "quantize",
    "rms_norm",
    "rope",
    "rotary",
    "scale",
    "softcap",
];

/// Joins what can be joined.
pub(super) fn chain<T: Kernels>(launches: Vec<Launch<T::Kernel>>, kernels: &T) -> Vec<Launch<T::Kernel>> {
    let mut groups: Vec<Group<T::Kernel>> = Vec::new();
    for launch in launches {
        let joined = groups.last().and_then(|group| group.kernel_with(&launch, kernels));
        match (joined, groups.last_mut()) {
            (Some(kernel), Some(group)) => {
                group.kernel = Some(kernel);
                group.parts.push(launch);
            }
            _ => groups.push(Group { parts: vec![launch], kernel: None }),
        }
    }
    groups.into_iter().map(Group::joined).collect()
}

/// Launches that become one, and the kernel that does the work of all where they are several.
struct Group<K: ?Sized> {
    parts: Vec<Launch<K>>,
    kernel: Option<Rc<K>>,
}

impl<K: ?Sized> Group<K> {
    /// The kernel of this group and one more launch, where there can be one.
    fn kernel_with<T: Kernels<Kernel = K>>(&self, launch: &Launch<K>, kernels: &T) -> Option<Rc<K>> {
        let first = &self.parts[0];
        if !can_start(first) || first.rows != launch.rows || !is_row_op(launch) {
            return None;
        }
        kernels.chain(self.parts.iter().chain([launch]).map(|launch| launch.choices[0].kernel.clone()).collect())
    }

    fn joined(mut self) -> Launch<K> {
        let Some(kernel) = self.kernel else { return self.parts.remove(0) };
        let mut nodes: Vec<&str> = self.parts.iter().map(|launch| launch.node.as_str()).collect();
        nodes.dedup();
        Launch {
            node: nodes.join(", "),
            op: self.parts.iter().map(|launch| launch.op.as_str()).collect::<Vec<_>>().join("+"),
            rows: self.parts[0].rows,
            choices: vec![kernel.into()],
            linear: None,
            args: self.parts.iter().flat_map(|launch| launch.args.clone()).collect(),
        }
    }
}

fn is_row_op<K: ?Sized>(launch: &Launch<K>) -> bool {
    ROW_OPS.contains(&launch.op.as_str())
}

/// The first of a group may read any rows of values from before the group.
fn can_start<K: ?Sized>(launch: &Launch<K>) -> bool {
    is_row_op(launch) || ["select", "combine"].contains(&launch.op.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::Arg;
    use super::super::testing::Plain;
    use super::*;
    use crate::spec::{Operation, Pointwise, Spec};
    use q35_dialects::Rows;
    use q35_graph::{NodeId, Value};

    fn launch(op: &str, rows: Rows, width: u64) -> Launch<dyn Spec> {
        let kernel: Rc<dyn Spec> = Rc::new(Pointwise { operation: Operation::Add, width, column: false });
        let args = vec![Arg::Write(Value { node: NodeId::new(width as usize), result: 0 }.into())];
        Launch { node: op.to_owned(), op: op.to_owned(), rows, choices: vec![kernel.into()], linear: None, args }
    }

    const OPS: [(&str, Rows); 18] = [
        ("embed", Rows::Tokens),
        ("rms_norm", Rows::Tokens),
        ("linear", Rows::Tokens),
        ("rope", Rows::Tokens),
        ("append", Rows::Tokens),
        ("attention", Rows::Tokens),
        ("hadamard", Rows::Tokens),
        ("pack", Rows::Tokens),
        ("linear", Rows::Tokens),
        ("glu", Rows::TokenChoices(2)),
        ("quantize", Rows::TokenChoices(2)),
        ("combine", Rows::Tokens),
        ("add", Rows::Tokens),
        ("select", Rows::Logits),
        ("rms_norm", Rows::Logits),
        ("quantize", Rows::Logits),
        ("linear", Rows::Logits),
        ("softcap", Rows::Logits),
    ];

    fn chained(kernels: &Plain) -> Vec<Launch<dyn Spec>> {
        chain(OPS.iter().enumerate().map(|(at, (op, rows))| launch(op, *rows, at as u64)).collect(), kernels)
    }

    #[test]
    fn rows_pass_through_but_not_past_what_reads_other_rows() {
        let chained = chained(&Plain::default());
        let found: Vec<(&str, usize)> = chained.iter().map(|launch| (launch.op.as_str(), launch.args.len())).collect();
        assert_eq!(
            found,
            [
                ("embed+rms_norm", 2),
                ("linear", 1),
                ("rope+append", 2),
                ("attention", 1),
                ("hadamard+pack", 2),
                ("linear", 1),
                ("glu+quantize", 2),
                ("combine+add", 2),
                ("select+rms_norm+quantize", 3),
                ("linear", 1),
                ("softcap", 1),
            ]
        );
        assert_eq!(chained[0].choices[0].kernel.name(), "add_0_then_add_1");
        assert_eq!(chained[8].node, "select, rms_norm, quantize");
    }

    #[test]
    fn a_group_is_no_longer_than_the_target_takes() {
        let found: Vec<usize> = chained(&Plain { longest_chain: 2 }).iter().map(|launch| launch.args.len()).collect();
        assert_eq!(found, [2, 1, 2, 1, 2, 1, 2, 2, 2, 1, 1, 1]);
    }
}
