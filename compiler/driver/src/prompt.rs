//! Tokens to compare two programs on: from a file of graph inputs, or made up.

use q35_bundle::{Interface, Role};
use q35_diag::{Code, Diagnostic, Result};
use q35_dialects::interp::StepInput;
use safetensors::{Dtype, SafeTensors};
use std::path::Path;

/// Sequences that share a step, one per slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt(pub Vec<Vec<u32>>);

/// Tokens of a prompt that is made up.
const LENGTH: u64 = 48;

impl Prompt {
    /// One sequence of tokens that look random and are always the same.
    pub fn made_up(vocab: u64, context: u64) -> Self {
        // splitmix64 of the index.
        let token = |index: u64| {
            let mut z = (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            ((z ^ (z >> 31)) % vocab.max(1)) as u32
        };
        Self(vec![(0..LENGTH.min(context)).map(token).collect()])
    }

    /// The tokens of a file of graph inputs that its mask does not hide, each row on its own and without earlier cache.
    pub fn read(path: &Path, interface: &Interface) -> Result<Self> {
        let bad = |what: String| Diagnostic::error(Code::BadInputs, what).at("file", path.display());
        let bytes = std::fs::read(path).map_err(|e| {
            Diagnostic::error(Code::CannotRead, format!("the file cannot be read: {e}")).at("file", path.display())
        })?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("the file is no safetensors file: {e}")))?;
        let port = |role| interface.inputs.iter().find(|port| port.role == role).map(|port| port.name.as_str());
        let integers = |name: &str| -> Result<Option<(usize, usize, Vec<i64>)>> {
            let Ok(tensor) = file.tensor(name) else { return Ok(None) };
            match (tensor.shape(), tensor.dtype()) {
                ([rows, cols], Dtype::I64) => Ok(Some((*rows, *cols, each(tensor.data(), i64::from_le_bytes)))),
                ([rows, cols], Dtype::I32) => {
                    Ok(Some((*rows, *cols, each(tensor.data(), |raw| i32::from_le_bytes(raw).into()))))
                }
                (shape, dtype) => Err(bad(format!("tensor '{name}' is {dtype:?} {shape:?}, not a matrix of integers")).into()),
            }
        };
        let ids = port(Role::TokenIds).unwrap_or("input_ids");
        let (rows, cols, tokens) = integers(ids)?.ok_or_else(|| bad(format!("there is no tensor '{ids}'")))?;
        let mask = port(Role::AttentionMask).map(integers).transpose()?.flatten();
        let visible = |row: usize, col: usize| match &mask {
            Some((_, width, mask)) if *width >= cols => mask.get(row * width + width - cols + col) != Some(&0),
            _ => true,
        };
        let sequence = |row: usize| -> Result<Vec<u32>> {
            let seen = (0..cols).filter(|&col| visible(row, col)).map(|col| tokens[row * cols + col]);
            seen.map(|token| u32::try_from(token).map_err(|_| bad(format!("token {token} is negative or too large")).into()))
                .collect()
        };
        let sequences = (0..rows).map(sequence).collect::<Result<Vec<_>>>()?;
        let sequences: Vec<_> = sequences.into_iter().filter(|s| !s.is_empty()).collect();
        if sequences.is_empty() { Err(bad(format!("tensor '{ids}' has no visible token")).into()) } else { Ok(Self(sequences)) }
    }

    /// Length of the longest sequence.
    pub fn longest(&self) -> usize {
        self.0.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// One step that runs all of it, with logits for every token.
    pub fn step(&self) -> StepInput {
        let mut step = StepInput::default();
        for (slot, tokens) in self.0.iter().enumerate() {
            for (index, token) in tokens.iter().enumerate() {
                step.logit_rows.push(step.tokens.len() as u32);
                step.tokens.push(*token);
                step.positions.push(index as u32);
                step.slots.push(slot as u32);
                step.index.push(index as u32);
            }
        }
        step
    }
}

fn each<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> i64) -> Vec<i64> {
    bytes.as_chunks::<N>().0.iter().map(|raw| f(*raw)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use q35_bundle::{Port, PositionRule};

    #[test]
    fn made_up_tokens_are_always_the_same() {
        let prompt = Prompt::made_up(100, 1024);
        assert_eq!(prompt, Prompt::made_up(100, 1024));
        assert_eq!(prompt.longest(), 48);
        assert!(prompt.0[0].iter().all(|t| *t < 100));
        assert_eq!(Prompt::made_up(100, 3).longest(), 3);
    }

    #[test]
    fn masked_columns_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let bytes = |v: &[i64]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let (ids, mask) = (bytes(&[1, 2, 3, 4, 5, 6]), bytes(&[0, 0, 1, 1, 1, 1, 1, 1]));
        let view = |shape: &[usize], data| safetensors::tensor::TensorView::new(Dtype::I64, shape.to_vec(), data).unwrap();
        safetensors::serialize_to_file([("ids", view(&[2, 3], &ids)), ("mask", view(&[2, 4], &mask))], None, &path).unwrap();
        let input = |name: &str, role| Port { name: name.to_owned(), role, dtype: "i64".to_owned() };
        let inputs = vec![input("ids", Role::TokenIds), input("mask", Role::AttentionMask)];
        let interface = Interface { inputs, outputs: vec![], positions: PositionRule::Column };
        let prompt = Prompt::read(&path, &interface).unwrap();
        assert_eq!(prompt, Prompt(vec![vec![2, 3], vec![4, 5, 6]]));
        let step = prompt.step();
        assert_eq!((step.slots, step.index), (vec![0, 0, 1, 1, 1], vec![0, 1, 0, 1, 2]));
        std::fs::write(&path, "no").unwrap();
        assert!(
            Prompt::read(&path, &interface)
                .unwrap_err()
                .to_string()
                .starts_with("error[Q35-0604]: the file is no safetensors file")
        );
    }
}
