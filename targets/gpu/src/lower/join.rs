//! Neighbouring linear layers that read the same activations become one launch: q, k and v; gate and up.
//!
//! Fewer launches, and more tiles to share among the GPU's processors in each. The weights stay separate tensors.

use super::select::{Launch, linear_choices};
use crate::isa::Isa;

/// Joins what can be joined.
pub(super) fn join(launches: Vec<Launch>, isa: &'static dyn Isa) -> Vec<Launch> {
    let mut joined: Vec<Launch> = Vec::new();
    for launch in launches {
        match joined.last_mut().and_then(|before| beside(before, &launch, isa)) {
            Some(both) => {
                joined.pop();
                joined.push(both);
            }
            None => joined.push(launch),
        }
    }
    joined
}

/// Two launches as one, where both are linear layers with one input.
fn beside(first: &Launch, second: &Launch, isa: &'static dyn Isa) -> Option<Launch> {
    let linear = first.linear.as_ref()?.with(second.linear.as_ref()?)?;
    (first.args[0] == second.args[0]).then(|| Launch {
        node: format!("{}, {}", first.node, second.node),
        op: format!("{}+{}", first.op, second.op),
        rows: first.rows,
        choices: linear_choices(&linear, isa),
        linear: Some(linear),
        args: first.args.iter().chain(&second.args[1..]).cloned().collect(),
    })
}
