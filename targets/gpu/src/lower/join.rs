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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::isa::Nvidia;
    use crate::linear::Linear;
    use crate::lower::select::Arg;
    use q35_bundle::Input;
    use q35_format::{Codec, Group, PackedSpec};

    fn launch(name: &str, x: Input, outputs: usize, bias: bool) -> Launch {
        let spec = PackedSpec::new(outputs, 64, Codec::W8, Group::Row).unwrap();
        let linear = Linear { bias, ..Linear::new(spec) };
        Launch {
            node: name.to_owned(),
            op: "linear".to_owned(),
            rows: linear.rows,
            choices: linear_choices(&linear, &Nvidia),
            linear: Some(linear),
            args: vec![Arg::Input(x), Arg::Weight(name.to_owned())],
        }
    }

    #[test]
    fn layers_with_one_input_and_equal_facts_are_joined() {
        let (x, other) = (Input::Slots, Input::Index);
        let launches = vec![
            launch("q", x, 96, false),
            launch("k", x, 32, false),
            launch("v", x, 32, false),
            launch("b", x, 32, true),
            launch("o", other, 32, true),
        ];
        let joined = join(launches, &Nvidia);
        let names: Vec<String> = joined.iter().map(|launch| launch.choices[0].kernel.name()).collect();
        assert_eq!(names, ["linear_w8_row_96_32_32x64_few", "linear_w8_row_32x64_bias_few", "linear_w8_row_32x64_bias_few"]);
        assert_eq!(joined[0].node, "q, k, v");
        let weights = ["q", "k", "v"].map(|name| Arg::Weight(name.to_owned()));
        assert_eq!(joined[0].args, [&[Arg::Input(x)][..], &weights].concat());
    }
}
