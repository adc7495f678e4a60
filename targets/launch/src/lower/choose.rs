//! The most probable token of every row of logits, as the last launch, where the target has a kernel for it.
//!
//! It is launched for callers that ask for tokens and not for logits, which then need not leave the device: a launch of its own, that no
//! other is joined with.

use super::{Arg, Form, Launch, Selected, Stored, place};
use crate::kernels::Kernels;
use q35_dialects::{Rows, Ty};
use q35_target::Request;

/// Appends the launch; programs without logits, which are single layers, have none.
pub(super) fn choose<T: Kernels>(selected: &mut Selected<T::Kernel>, request: &Request<'_>, kernels: &T) {
    let Some(logits) = selected.output else { return };
    let ty = request.graph.ty(logits.value);
    let Ty::Act { rows: Rows::Logits, width } = *ty else { return };
    let chosen = Stored { form: Form::Chosen, ..logits };
    let (Some(kernel), Some(size)) = (kernels.choose(width), place::size(kernels, ty, Form::Chosen)) else { return };
    selected.sizes.insert(chosen, size);
    selected.launches.push(Launch {
        node: request.graph.node(logits.value.node).name.clone(),
        op: "choose".to_owned(),
        rows: Rows::Logits,
        choices: vec![kernel.into()],
        linear: None,
        args: vec![Arg::Read(logits), Arg::Write(chosen)],
    });
}
