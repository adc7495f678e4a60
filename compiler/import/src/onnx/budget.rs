//! What a message would take in memory, before it is decoded.
//!
//! A repeated message costs two bytes in a file even if it is empty, and hundreds in memory. Here the nesting is walked, without decoding anything, and
//! the sizes of what decoding would make are summed; a file that would take many times its own size holds no model.

use super::proto::{
    Attribute, Dimension, Entry, Function, Graph, Node, OperatorSet, Shape, SparseTensor, Tensor, Type, ValueInfo,
};
use bytes::{Buf, Bytes};
use prost::encoding::{WireType, decode_key, decode_varint};
use q35_diag::{Code, Diagnostic};

/// Bytes in memory that each byte of a file may become, and those that no file is denied.
const TIMES: u64 = 40;
const FREE: u64 = 1 << 20;

/// A list that grows has up to this many times the room it needs.
const SLACK: u64 = 2;

/// Messages deeper than this are refused by the decoder.
const DEEPEST: u32 = 100;

/// A kind of message: which fields hold messages, and which hold texts of which there may be many.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Function,
    Tensor,
    SparseTensor,
    ValueInfo,
    Type,
    TensorType,
    Shape,
    /// Nothing inside that counts.
    Leaf,
}

/// Messages and texts inside messages: the field, what it holds, and what one takes.
const FIELDS: &[(Kind, &[u32], Kind, usize)] = &[
    (Kind::Model, &[7], Kind::Graph, size_of::<Graph>()),
    (Kind::Model, &[8], Kind::Leaf, size_of::<OperatorSet>()),
    (Kind::Model, &[25], Kind::Function, size_of::<Function>()),
    (Kind::Graph, &[1], Kind::Node, size_of::<Node>()),
    (Kind::Graph, &[5], Kind::Tensor, size_of::<Tensor>()),
    (Kind::Graph, &[11, 12, 13], Kind::ValueInfo, size_of::<ValueInfo>()),
    (Kind::Graph, &[15], Kind::SparseTensor, size_of::<SparseTensor>()),
    (Kind::Node, &[1, 2], Kind::Leaf, size_of::<String>()),
    (Kind::Node, &[5], Kind::Attribute, size_of::<Attribute>()),
    (Kind::Node, &[9], Kind::Leaf, size_of::<Entry>()),
    (Kind::Attribute, &[5], Kind::Tensor, size_of::<Tensor>()),
    (Kind::Attribute, &[6], Kind::Graph, size_of::<Graph>()),
    (Kind::Attribute, &[9], Kind::Leaf, size_of::<Bytes>()),
    (Kind::Function, &[4, 5, 6], Kind::Leaf, size_of::<String>()),
    (Kind::Function, &[7], Kind::Node, size_of::<Node>()),
    (Kind::Function, &[9], Kind::Leaf, size_of::<OperatorSet>()),
    (Kind::Function, &[11], Kind::Attribute, size_of::<Attribute>()),
    (Kind::Function, &[12], Kind::ValueInfo, size_of::<ValueInfo>()),
    (Kind::Tensor, &[13], Kind::Leaf, size_of::<Entry>()),
    (Kind::SparseTensor, &[1], Kind::Tensor, size_of::<Tensor>()),
    (Kind::ValueInfo, &[2], Kind::Type, size_of::<Type>()),
    (Kind::Type, &[1], Kind::TensorType, 0),
    (Kind::TensorType, &[2], Kind::Shape, size_of::<Shape>()),
    (Kind::Shape, &[1], Kind::Leaf, size_of::<Dimension>()),
];

/// Refuses a model that would take many times its own size.
pub(super) fn check(bytes: &[u8]) -> Result<(), Diagnostic> {
    let limit = FREE + TIMES * bytes.len() as u64;
    let mut total = 0;
    walk(bytes, Kind::Model, 0, limit, &mut total);
    if total <= limit {
        return Ok(());
    }
    let what = format!("the file has {} bytes, but what is in it takes more than {limit} bytes", bytes.len());
    Err(Diagnostic::error(Code::AbsurdSize, what))
}

/// Adds up what the fields of a message take. A damaged message ends early, as it will when it is decoded.
fn walk(mut rest: &[u8], kind: Kind, depth: u32, limit: u64, total: &mut u64) {
    while rest.has_remaining() && *total <= limit && depth < DEEPEST {
        let Ok((field, wire)) = decode_key(&mut rest) else { return };
        let length = match wire {
            WireType::Varint => {
                // A number of a list.
                *total += SLACK * 8;
                decode_varint(&mut rest).map(|_| 0)
            }
            WireType::LengthDelimited => decode_varint(&mut rest),
            WireType::ThirtyTwoBit => Ok(4),
            WireType::SixtyFourBit => Ok(8),
            WireType::StartGroup | WireType::EndGroup => return,
        };
        let Some(length) = length.ok().and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= rest.len()) else { return };
        let (inside, after) = rest.split_at(length);
        rest = after;
        if let Some((.., child, size)) = FIELDS.iter().find(|row| row.0 == kind && row.1.contains(&field)) {
            *total += SLACK * *size as u64;
            if *child != Kind::Leaf {
                walk(inside, *child, depth + 1, limit, total);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message field.
    fn field(number: u8, inside: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        let mut length = inside.len();
        while length >= 128 {
            out.push(length as u8 | 128);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend(inside);
        out
    }

    #[test]
    fn many_empty_messages_are_no_model() {
        for (what, inside) in [("nodes", field(1, &[])), ("tensors", field(5, &[])), ("values", field(13, &[]))] {
            let bytes = field(7, &inside.repeat(100_000));
            let text = check(&bytes).unwrap_err().to_string();
            assert_eq!(
                text, "error[Q35-0108]: the file has 200004 bytes, but what is in it takes more than 9048736 bytes",
                "{what}"
            );
        }
        let attributes = field(7, &field(1, &field(5, &[]).repeat(100_000)));
        assert!(check(&attributes).is_err());
        // Texts inside are no messages.
        assert!(check(&field(2, &field(1, &[]).repeat(100_000))).is_ok());
    }

    #[test]
    fn real_models_take_far_less() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
        for name in ["llama-gqa--hf-cache", "llama3-rope-tied--genai-int4", "deepseek-v3--hf-cache", "mixtral--hf"] {
            let Ok(bytes) = std::fs::read(corpus.join(name).join("model.onnx")) else {
                println!("skipped: {name} is not there");
                continue;
            };
            let mut total = 0;
            walk(&bytes, Kind::Model, 0, u64::MAX, &mut total);
            assert!(total < TIMES / 3 * bytes.len() as u64, "{name}: {total} of {}", bytes.len());
        }
    }
}
