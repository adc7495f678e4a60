//! The steps of a program as numbers that generated code walks over.
//!
//! ```text
//! step     rows, arguments, variants, argument*, variant*
//! argument base, size, bytes           an address: base + size * bytes
//! variant  most rows, kernel, terms, term*
//! term     count, size, size           the number of tiles is the sum of count * size * size
//! ```
//!
//! Every number is 64 bits wide. `rows` and `size` are entries of the table of run-time [`Quantity`]s, `base` one of the [`Base`]s.
//! All variants of a program have as many terms as the one that needs most, so a step's length follows from its first three numbers.

use super::layout::{Base, Quantity};
use q35_bundle::{Binding, Dim, MemoryPlan, Rows, Size, Step, Variant};
use std::collections::BTreeMap;

/// Numbers of a step before its arguments.
pub(super) const STEP: usize = 3;
/// Numbers of an argument.
pub(super) const ARGUMENT: usize = 3;
/// Numbers of a variant before its terms.
pub(super) const VARIANT: usize = 3;
/// Numbers of a term.
pub(super) const TERM: usize = 3;

/// The numbers, and what is the same in all steps.
pub(super) struct Tables {
    pub(super) words: Vec<i64>,
    pub(super) steps: usize,
    /// Terms of a variant.
    pub(super) terms: usize,
    /// The most arguments of a kernel.
    pub(super) arguments: usize,
}

/// What the tables of a program are made from.
pub(super) struct Source<'a> {
    pub(super) plan: &'a MemoryPlan,
    pub(super) steps: &'a [Step],
    /// Numbers of kernels by name.
    pub(super) kernels: &'a BTreeMap<&'a str, usize>,
    /// Where tensors begin in the weights file.
    pub(super) offsets: &'a BTreeMap<String, u64>,
}

impl Tables {
    /// The tables of a program.
    ///
    /// # Panics
    /// If a step names a kernel or a tensor that is not there: a compiler bug.
    pub(super) fn new(source: &Source<'_>) -> Self {
        let variants = || source.steps.iter().flat_map(|step| &step.variants);
        let terms = variants().map(|variant| variant.tiles.0.len()).max().unwrap_or(0);
        let mut words = Vec::new();
        for step in source.steps {
            words.extend([step.rows.dim() as i64, step.args.len() as i64, step.variants.len() as i64]);
            words.extend(step.args.iter().flat_map(|arg| source.argument(arg)));
            step.variants.iter().for_each(|variant| source.variant(variant, terms, &mut words));
        }
        let arguments = source.steps.iter().map(|step| step.args.len()).max().unwrap_or(0);
        Self { words, steps: source.steps.len(), terms, arguments }
    }

    /// The numbers as bytes of memory.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

impl Source<'_> {
    fn argument(&self, arg: &Binding) -> [i64; ARGUMENT] {
        let (base, size, bytes) = match arg {
            Binding::Arena { rows: Rows::Tokens, offset_per_row } => (Base::Tokens, Quantity::Tokens, *offset_per_row),
            Binding::Arena { rows: Rows::Logits, offset_per_row } => (Base::Logits, Quantity::Rows, *offset_per_row),
            Binding::Weight(name) => (Base::Weights, Quantity::One, self.offsets[name]),
            Binding::Cache { layer, part } => {
                (Base::Cache, Quantity::Cells, super::layout::cache_offset(self.plan, *layer as usize, *part))
            }
            Binding::Input(input) => (Base::Inputs, Quantity::InputBytes, *input as u64),
        };
        [base as i64, size as i64, bytes as i64]
    }

    fn variant(&self, variant: &Variant, terms: usize, words: &mut Vec<i64>) {
        let most = variant.max_rows.map_or(i64::MAX, |rows| i64::try_from(rows).unwrap_or(i64::MAX));
        words.extend([most, self.kernels[variant.kernel.as_str()] as i64, terms as i64]);
        words.extend(self::terms(&variant.tiles).into_iter().flatten());
        words.extend(std::iter::repeat_n(0, (terms - variant.tiles.0.len()) * TERM));
    }
}

/// The terms of a size.
fn terms(size: &Size) -> Vec<[i64; TERM]> {
    let quantity = |dim: Option<&Dim>| dim.map_or(Quantity::One as i64, |dim| *dim as i64);
    let term = |(count, dims): &(u64, Vec<Dim>)| {
        assert!(dims.len() <= 2, "a number of tiles is a product of {} sizes", dims.len());
        [*count as i64, quantity(dims.first()), quantity(dims.get(1))]
    };
    size.0.iter().map(term).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_bundle::{CacheDtype, CacheLayer, CachePart, Input};

    #[test]
    fn a_step_is_what_the_page_says() {
        let layer = CacheLayer { kv_heads: 2, key_dim: 3, value_dim: 5, window: None, dtype: CacheDtype::F32 };
        let plan = MemoryPlan { cache: vec![layer; 2], ..MemoryPlan::default() };
        let few = Variant { max_rows: Some(7), kernel: "few".into(), tiles: Size::constant(9) };
        let tiles = Size(vec![(4, vec![Dim::Tokens, Dim::Slots]), (1, vec![Dim::LogitRows])]);
        let many = Variant { max_rows: None, kernel: "many".into(), tiles };
        let args = vec![
            Binding::Arena { rows: Rows::Logits, offset_per_row: 128 },
            Binding::Weight("w".into()),
            Binding::Cache { layer: 1, part: CachePart::Value },
            Binding::Input(Input::Index),
        ];
        let step = Step { node: "n".into(), op: "o".into(), rows: Rows::Logits, variants: vec![few, many], args };
        let kernels = BTreeMap::from([("few", 3), ("many", 4)]);
        let offsets = BTreeMap::from([("w".to_owned(), 640)]);
        let steps = [step];
        let tables = Tables::new(&Source { plan: &plan, steps: &steps, kernels: &kernels, offsets: &offsets });
        let quantity = |quantity: Quantity| quantity as i64;
        let one = quantity(Quantity::One);
        let expected = [
            vec![quantity(Quantity::Rows), 4, 2],
            vec![Base::Logits as i64, quantity(Quantity::Rows), 128],
            vec![Base::Weights as i64, one, 640],
            // A cell is an entry of a slot: 2 heads of 3 + 5 columns in the layer before, 2 of 3 before the values.
            vec![Base::Cache as i64, quantity(Quantity::Cells), 4 * (16 + 6)],
            vec![Base::Inputs as i64, quantity(Quantity::InputBytes), 3],
            vec![7, 3, 2, 9, one, one, 0, 0, 0],
            vec![i64::MAX, 4, 2, 4, quantity(Quantity::Tokens), quantity(Quantity::Slots), 1, quantity(Quantity::Rows), one],
        ];
        assert_eq!(tables.words, expected.concat());
        assert_eq!((tables.steps, tables.terms, tables.arguments), (1, 2, 4));
    }
}
