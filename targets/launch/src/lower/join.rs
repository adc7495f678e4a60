//! Neighbouring linear layers that read the same activations become one launch: q, k and v; gate and up, of experts too.
//!
//! Fewer launches, and more tiles to share among processors in each. The weights stay separate tensors.

use super::Launch;
use crate::kernels::Kernels;

/// Joins what can be joined.
pub(super) fn join<T: Kernels>(launches: Vec<Launch<T::Kernel>>, kernels: &T) -> Vec<Launch<T::Kernel>> {
    let mut joined: Vec<Launch<T::Kernel>> = Vec::new();
    for launch in launches {
        match joined.last_mut().and_then(|before| beside(before, &launch, kernels)) {
            Some(both) => {
                joined.pop();
                joined.push(both);
            }
            None => joined.push(launch),
        }
    }
    joined
}

/// Two launches as one, where both are linear layers with one input and the target has kernels for both together.
fn beside<T: Kernels>(first: &Launch<T::Kernel>, second: &Launch<T::Kernel>, kernels: &T) -> Option<Launch<T::Kernel>> {
    let linear = first.linear.as_ref()?.with(second.linear.as_ref()?)?;
    let inputs = linear.inputs();
    if first.args[..inputs] != second.args[..inputs] {
        return None;
    }
    Some(Launch {
        node: format!("{}, {}", first.node, second.node),
        op: format!("{}+{}", first.op, second.op),
        rows: first.rows,
        choices: kernels.linear(&linear).ok()?,
        linear: Some(linear),
        args: first.args.iter().chain(&second.args[inputs..]).cloned().collect(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::Arg;
    use super::super::testing::Plain;
    use super::*;
    use crate::spec::{Linear, Spec};
    use q35_bundle::Input;
    use q35_format::{Codec, Group, PackedSpec};

    fn launch(name: &str, x: Input, outputs: usize, bias: bool) -> Launch<dyn Spec> {
        let spec = PackedSpec::new(outputs, 64, Codec::W8, Group::Row).unwrap();
        let linear = Linear { bias, ..Linear::new(spec) };
        Launch {
            node: name.to_owned(),
            op: "linear".to_owned(),
            rows: linear.rows,
            choices: Plain::default().linear(&linear).unwrap(),
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
        let joined = join(launches, &Plain::default());
        let names: Vec<String> = joined.iter().map(|launch| launch.choices[0].kernel.name()).collect();
        assert_eq!(names, ["linear_w8_row_96_32_32x64", "linear_w8_row_32x64_bias", "linear_w8_row_32x64_bias"]);
        assert_eq!((joined[0].node.as_str(), joined[0].op.as_str()), ("q, k, v", "linear+linear+linear"));
        let weights = ["q", "k", "v"].map(|name| Arg::Weight(name.to_owned()));
        assert_eq!(joined[0].args, [&[Arg::Input(x)][..], &weights].concat());
    }
}
