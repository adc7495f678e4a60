//! What `--dump-after` shows.

use super::{Arg, Form, Launch, Selected, Stored};
use crate::spec::Spec;
use q35_bundle::Step;

/// The launches, one per line.
pub(super) fn launches<K: ?Sized + Spec>(selected: &Selected<K>) -> String {
    selected.launches.iter().map(launch).collect()
}

/// Steps as JSON, one per line.
pub(super) fn steps(steps: &[Step]) -> String {
    steps.iter().map(|step| serde_json::to_string(step).unwrap_or_default() + "\n").collect()
}

fn launch<K: ?Sized + Spec>(launch: &Launch<K>) -> String {
    let args: Vec<String> = launch.args.iter().map(arg).collect();
    let choices: Vec<String> = launch
        .choices
        .iter()
        .map(|choice| match choice.max_rows {
            Some(most) => format!("{} to {most} rows", choice.kernel.name()),
            None => choice.kernel.name(),
        })
        .collect();
    format!("{} ({}) '{}'\n", choices.join(" or "), args.join(", "), launch.node)
}

fn arg(arg: &Arg) -> String {
    match arg {
        Arg::Read(stored) => name(stored),
        Arg::Write(stored) => format!("-> {}", name(stored)),
        Arg::Weight(tensor) => format!("@{tensor}"),
        Arg::Cache(layer, part) => format!("cache {layer} {part:?}").to_lowercase(),
        Arg::Input(input) => format!("{input:?}").to_lowercase(),
    }
}

fn name(stored: &Stored) -> String {
    let form = match stored.form {
        Form::Plain => "",
        Form::Packed => " packed",
        Form::Sorted => " sorted",
        Form::Chosen => " chosen",
        Form::Parts => " parts",
    };
    format!("%{}{form}", stored.value.node.index())
}
