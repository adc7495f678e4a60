//! How many bytes of weights the launches of a program read, by what the manifest says: what a measured time is held against.

use q35_bundle::{Binding, Bundle, Dim, Step, Variant};
use std::collections::BTreeMap;

/// Bytes of the distinct tensors that a program reads for one step over `tokens` tokens, logits of `rows` of them wanted.
pub fn of_step(bundle: &Bundle, tokens: u64, rows: u64) -> u64 {
    let mut read: BTreeMap<&str, u64> = BTreeMap::new();
    for step in &bundle.manifest().steps {
        for (name, bytes) in tensors(bundle, step, [tokens, rows]) {
            let most = read.entry(name).or_default();
            *most = bytes.max(*most);
        }
    }
    read.values().sum()
}

/// Bytes of weights that one launch reads.
pub(crate) fn of_launch(bundle: &Bundle, step: &Step, tokens: u64, rows: u64) -> u64 {
    tensors(bundle, step, [tokens, rows]).map(|(_, bytes)| bytes).sum()
}

/// The weights that a launch reads, and how many bytes of each: a row per token of an embedding table, of experts those that are chosen, at
/// most, and all of the others.
fn tensors<'b>(bundle: &'b Bundle, step: &'b Step, [tokens, rows]: [u64; 2]) -> impl Iterator<Item = (&'b str, u64)> {
    let dims = [tokens, rows, 1, 1];
    let share = if is_gather(step) { None } else { Some(share(step, dims)) };
    step.args.iter().filter_map(move |arg| {
        let Binding::Weight(name) = arg else { return None };
        let bytes = bundle.tensor(name)?.data.len() as u64;
        let read = match share {
            Some(share) => (bytes as f64 * share) as u64,
            None => (bytes / bundle.manifest().model.vocab.max(1)).saturating_mul(tokens).min(bytes),
        };
        Some((name.as_str(), read))
    })
}

/// Whether a step gathers rows of an embedding table.
pub(crate) fn is_gather(step: &Step) -> bool {
    step.op.split('+').any(|op| op == "embed")
}

/// How much of what it may read a launch does read: a kernel for few rows that has fewer tiles than the one for many leaves the weights of the
/// others alone.
pub(crate) fn share(step: &Step, dims: [u64; Dim::ALL.len()]) -> f64 {
    let rows = dims[step.rows.dim() as usize];
    let tiles = |variant: &Variant, dims| variant.tiles.eval(&dims).unwrap_or(0) as f64;
    let chosen = step.variants.iter().find(|variant| variant.max_rows.is_none_or(|max| rows <= max));
    let (Some(chosen), Some(all)) = (chosen, step.variants.last()) else { return 1.0 };
    // The number of tiles of the kernel for many rows is that of the weights: it does not depend on the rows.
    (tiles(chosen, dims) / tiles(all, [1; Dim::ALL.len()]).max(1.0)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_bundle::{Rows, Size};

    #[test]
    fn of_experts_only_the_chosen_ones_are_read() {
        let step = |tiles: &[(Option<u64>, Size)]| {
            let variant = |(max_rows, tiles): &(Option<u64>, Size)| Variant {
                max_rows: *max_rows,
                kernel: String::new(),
                tiles: tiles.clone(),
            };
            let variants = tiles.iter().map(variant).collect();
            Step { node: String::new(), op: String::new(), rows: Rows::Tokens, variants, args: vec![] }
        };
        let (two_of_eight, all) = ((Some(8), Size::per(2 * 24, Dim::Tokens)), (None, Size::constant(8 * 24)));
        let experts = step(&[two_of_eight, all.clone()]);
        let of = |step: &Step, tokens: u64| share(step, [tokens, 1, 1, 1]);
        assert_eq!([1, 2, 3, 4, 9].map(|tokens| of(&experts, tokens)), [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert_eq!(of(&step(&[all.clone(), all.clone()]), 1), 1.0);
        assert_eq!(of(&step(&[all]), 1), 1.0);
    }
}
