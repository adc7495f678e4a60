//! Launches to steps: every value gets its place in the arena.

use super::{Arg, Form, Launch, Selected, Stored};
use crate::kernels::Kernels;
use crate::layout::{ALIGN, act_stride, routing_stride, sorted_bytes};
use crate::spec::Spec;
use q35_bundle::{Binding, MemoryPlan, Rows, Step, Variant};
use q35_dialects::Ty;
use q35_target::plan::{self, Access, Buffer, Live};
use std::collections::BTreeMap;

/// Section and bytes per row of a value in a form; `None` for those that take no arena, or have no such form.
pub(super) fn size(kernels: &impl Kernels, ty: &Ty, form: Form) -> Option<(Rows, u64)> {
    let (rows, bytes) = match (*ty, form) {
        (Ty::Act { rows, width }, Form::Plain) => (rows.section(), act_stride(width as usize)),
        (Ty::Act { rows, width }, Form::Packed) | (Ty::Quant { rows, width }, Form::Plain) => {
            (rows.section(), kernels.operand_stride(width as usize))
        }
        (Ty::Rotary { half }, Form::Plain) => ((Rows::Tokens, 1), act_stride(2 * half as usize)),
        (Ty::Routing { rows, choices, .. }, Form::Plain) => (rows.section(), routing_stride(choices as usize)),
        (Ty::Routing { rows, experts, choices }, Form::Sorted) => {
            (rows.section(), sorted_bytes(choices as usize, usize::try_from(experts).ok()?))
        }
        (Ty::Act { rows, .. }, Form::Chosen) => (rows.section(), ALIGN),
        _ => return None,
    };
    Some((rows.0, rows.1 * bytes as u64))
}

/// The values of a launch that lie in the arena.
fn values<'a, K: ?Sized>(
    launch: &'a Launch<K>,
    select: impl Fn(&Arg) -> Option<Stored> + 'a,
) -> impl Iterator<Item = Stored> + 'a {
    launch.args.iter().filter_map(select)
}

fn read(arg: &Arg) -> Option<Stored> {
    if let Arg::Read(value) = arg { Some(*value) } else { None }
}

fn written(arg: &Arg) -> Option<Stored> {
    if let Arg::Write(value) = arg { Some(*value) } else { None }
}

/// Places the values of a program. A value that a launch both writes and reads passes between its parts, and lives as long as it runs.
///
/// # Panics
/// If the planner's checker finds a collision, or a launch reads what none wrote: compiler bugs.
pub(super) fn place<K: ?Sized + Spec>(selected: &Selected<K>) -> (MemoryPlan, Vec<Step>, Vec<Live>) {
    let mut number: BTreeMap<Stored, usize> = BTreeMap::new();
    let mut buffers: Vec<Buffer> = Vec::new();
    for (at, launch) in selected.launches.iter().enumerate() {
        for value in values(launch, written) {
            let (rows, bytes) = selected.sizes[&value];
            number.insert(value, buffers.len());
            buffers.push(Buffer { rows, bytes, first: at, last: at });
        }
        for value in values(launch, read) {
            buffers[number[&value]].last = at;
        }
    }
    for value in selected.results() {
        if let Some(buffer) = number.get(&value) {
            buffers[*buffer].last = selected.launches.len();
        }
    }
    let placement = plan::place(&buffers);
    let access = |value: Stored| {
        let at = number[&value];
        Access { value: at as u32, rows: buffers[at].rows, offset: placement.offsets[at], bytes: buffers[at].bytes }
    };
    let effects = |launch: &Launch<K>| plan::Launch {
        reads: values(launch, read).filter(|value| !values(launch, written).any(|own| own == *value)).map(access).collect(),
        writes: values(launch, written).map(access).collect(),
    };
    let mut played: Vec<plan::Launch> = selected.launches.iter().map(effects).collect();
    played.push(plan::Launch { reads: selected.results().map(access).collect(), writes: vec![] });
    if let Err(violation) = plan::check(&played, placement.bytes_per_token, placement.bytes_per_logit_row) {
        panic!("the memory plan is wrong: {violation}");
    }
    let bind = |arg: &Arg| match arg {
        Arg::Read(value) | Arg::Write(value) => {
            let Access { rows, offset, .. } = access(*value);
            Binding::Arena { rows, offset_per_row: offset }
        }
        Arg::Weight(tensor) => Binding::Weight(tensor.clone()),
        Arg::Cache(layer, part) => Binding::Cache { layer: *layer, part: *part },
        Arg::Input(input) => Binding::Input(*input),
    };
    let step = |launch: &Launch<K>| Step {
        node: launch.node.clone(),
        op: launch.op.clone(),
        rows: launch.rows.section().0,
        variants: launch
            .choices
            .iter()
            .map(|choice| Variant {
                max_rows: choice.max_rows,
                kernel: choice.kernel.name(),
                tiles: choice.kernel.tiles(launch.rows),
            })
            .collect(),
        args: launch.args.iter().map(bind).collect(),
    };
    let memory = MemoryPlan {
        bytes_per_token: placement.bytes_per_token,
        bytes_per_logit_row: placement.bytes_per_logit_row,
        cache: selected.cache.values().copied().collect(),
        logits_offset_per_row: selected.output.map_or(0, |value| access(value).offset),
        chosen_offset_per_row: selected.chosen().map(|value| access(value).offset),
    };
    let live = plan::live(&buffers, selected.launches.len());
    (memory, selected.launches.iter().map(step).collect(), live)
}
