//! The bytes of an ONNX file become a [`Model`] message, or the reason why they are none.

use super::proto::Model;
use bytes::{Buf, Bytes};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};
use q35_diag::{Code, Diagnostic};
use q35_graph::Storage;

/// Files that are often taken for ONNX: where their mark is, what it is, what they are, what to do.
const OTHER_KINDS: &[(usize, &[u8], &str, &str)] = &[
    (0, b"GGUF", "a GGUF file", "export the original model to ONNX"),
    (0, b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint", "export the model with torch.onnx.export"),
    (0, b"\x89HDF", "an HDF5 file", "export the model to ONNX"),
    (4, b"ORTM", "an ONNX Runtime .ort file", "use the .onnx file it was made from"),
    (4, b"TFL3", "a TensorFlow Lite file", "export the model to ONNX"),
    (8, b"{\"", "a safetensors file", "name the checkpoint's folder, or an .onnx file"),
    (0, b"<", "a text file, perhaps an error page of a failed download", "download it again"),
    (0, b"{", "a text file", "name an .onnx file"),
];

/// The fields of a model message that are messages or strings, and those that are numbers.
const FIELDS: [(WireType, &[u32]); 2] =
    [(WireType::LengthDelimited, &[2, 3, 4, 6, 7, 8, 14, 20, 25, 26]), (WireType::Varint, &[1, 5])];

/// A mapped file as the owner of the bytes that messages share.
struct Owner(Storage);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

/// Decodes the bytes of a file.
pub(super) fn decode(file: &Storage) -> Result<Model, Diagnostic> {
    let bytes = file.bytes();
    let no_model = |what: &str| Diagnostic::error(Code::NotAModel, what);
    if let Some((_, _, kind, help)) = OTHER_KINDS.iter().find(|row| bytes.get(row.0..).is_some_and(|b| b.starts_with(row.1))) {
        return Err(no_model(&format!("this is {kind}, not an ONNX model")).help(*help));
    }
    check_frame(bytes)?;
    super::budget::check(bytes)?;
    let model = Model::decode(Bytes::from_owner(Owner(file.clone())))
        .map_err(|_| no_model("the file is damaged, or not an ONNX model"))?;
    if model.graph.is_none() {
        return Err(no_model("the file holds no graph"));
    }
    if model.opset_import.is_empty() {
        return Err(Diagnostic::error(Code::Truncated, "the file names no operator set, so its end is probably missing")
            .help("download or export it again, completely"));
    }
    Ok(model)
}

/// Walks the outermost fields without looking into them, to tell a model that is cut off from bytes that never were one.
fn check_frame(bytes: &[u8]) -> Result<(), Diagnostic> {
    let no_model = || Diagnostic::error(Code::NotAModel, "the file is not an ONNX model");
    let mut rest = bytes;
    while rest.has_remaining() {
        let first = rest.len() == bytes.len();
        let (field, wire) = decode_key(&mut rest).map_err(|_| no_model())?;
        let known = FIELDS.iter().any(|row| row.0 == wire && row.1.contains(&field));
        if first && !known {
            return Err(no_model());
        }
        let skipped = match wire {
            WireType::Varint => decode_varint(&mut rest).map(|_| 0),
            WireType::LengthDelimited => decode_varint(&mut rest),
            WireType::ThirtyTwoBit => Ok(4),
            WireType::SixtyFourBit => Ok(8),
            WireType::StartGroup | WireType::EndGroup => return Err(no_model()),
        };
        let skipped = skipped.map_err(|_| no_model())?;
        match usize::try_from(skipped).ok().and_then(|n| rest.get(n..)) {
            Some(after) => rest = after,
            None if first || !known => return Err(no_model()),
            None => {
                let what = format!("the file ends {} bytes before its content does", skipped - rest.len() as u64);
                return Err(Diagnostic::error(Code::Truncated, what).help("download or export it again, completely"));
            }
        }
    }
    Ok(())
}
