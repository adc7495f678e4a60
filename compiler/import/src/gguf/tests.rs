//! GGUF files written value by value, and everything that can be wrong with them.

use crate::testing::Random;
use q35_graph::DType;
use q35_graph::source::SourceOp;
use std::path::{Path, PathBuf};

/// A file under construction.
#[derive(Default)]
struct Gguf {
    values: Vec<u8>,
    count: u64,
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Gguf {
    fn value(mut self, key: &str, ty: u32, bytes: &[u8]) -> Self {
        text(&mut self.values, key);
        self.values.extend(ty.to_le_bytes());
        self.values.extend(bytes);
        self.count += 1;
        self
    }

    fn size(self, key: &str, n: u32) -> Self {
        self.value(key, 4, &n.to_le_bytes())
    }

    fn text(self, key: &str, value: &str) -> Self {
        let mut bytes = Vec::new();
        text(&mut bytes, value);
        self.value(key, 8, &bytes)
    }

    /// A tensor, dimensions outermost first.
    fn tensor(mut self, name: &str, dims: &[u64], ty: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push((name.to_owned(), dims.to_vec(), ty, bytes));
        self
    }

    fn f32s(self, name: &str, dims: &[u64]) -> Self {
        let count: u64 = dims.iter().product();
        self.tensor(name, dims, 0, vec![0; count as usize * 4])
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend(self.count.to_le_bytes());
        out.extend(&self.values);
        let mut data = Vec::new();
        for (name, dims, ty, bytes) in &self.tensors {
            text(&mut out, name);
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().rev().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(ty.to_le_bytes());
            out.extend((data.len() as u64).to_le_bytes());
            data.extend(bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }

    fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("model.gguf");
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

/// The values of a LLaMA of one layer, 32 columns, two heads, one key head.
fn llama() -> Gguf {
    Gguf::default()
        .text("general.architecture", "llama")
        .size("llama.embedding_length", 32)
        .size("llama.block_count", 1)
        .size("llama.feed_forward_length", 64)
        .size("llama.attention.head_count", 2)
        .size("llama.attention.head_count_kv", 1)
        .size("llama.context_length", 77)
        .value("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes())
}

/// Its tensors but for the embedding.
fn layer(file: Gguf) -> Gguf {
    file.f32s("blk.0.attn_norm.weight", &[32])
        .f32s("blk.0.attn_q.weight", &[32, 32])
        .f32s("blk.0.attn_k.weight", &[16, 32])
        .f32s("blk.0.attn_v.weight", &[16, 32])
        .f32s("blk.0.attn_output.weight", &[32, 32])
        .f32s("blk.0.ffn_norm.weight", &[32])
        .f32s("blk.0.ffn_gate.weight", &[64, 32])
        .f32s("blk.0.ffn_up.weight", &[64, 32])
        .f32s("blk.0.ffn_down.weight", &[32, 64])
        .f32s("output_norm.weight", &[32])
}

fn complete() -> Gguf {
    // One Q8_0 block per row: scale 0.5, then 32 bytes.
    let row: Vec<u8> = [0x00, 0x38].into_iter().chain((0..32).map(|i| (i as u8).wrapping_sub(3))).collect();
    layer(llama()).tensor("token_embd.weight", &[5, 32], 8, row.repeat(5))
}

fn refused(file: &Gguf) -> String {
    let dir = tempfile::tempdir().unwrap();
    refused_at(&file.write(dir.path()))
}

fn refused_at(path: &Path) -> String {
    let text = crate::open(path).map(|m| m.graph.to_string()).unwrap_err().to_string();
    text.replace(&*path.parent().unwrap().to_string_lossy(), "DIR")
}

#[test]
fn a_file_becomes_a_graph_over_itself() {
    let dir = tempfile::tempdir().unwrap();
    let model = crate::open(&complete().write(dir.path())).unwrap();
    assert_eq!(model.kind, crate::ModelKind::Gguf { architecture: "llama".into() });
    assert_eq!(model.context, Some(77));
    model.graph.check().unwrap();
    let table = model.graph.ids().find_map(|id| match &model.graph.node(id).op {
        SourceOp::Const(tensor) if model.graph.node(id).name == "model.embed_tokens.weight" => Some(tensor.clone()),
        _ => None,
    });
    let table = table.unwrap();
    assert_eq!((table.dims(), table.dtype(), table.stored()), (&[5, 32][..], DType::F32, (DType::I8, true)));
    assert_eq!([table.number(0), table.number(3), table.number(159)], [-1.5, 0.0, 14.0]);
}

#[test]
fn values_and_tensors_that_do_not_fit() {
    assert_eq!(
        refused(&llama().f32s("token_embd.weight", &[5, 32]).f32s("blk.0.attn_q.weight", &[32, 16]).f32s("extra", &[1])),
        "\
error[Q35-0112]: the file has no such tensor
  at tensor 'blk.0.attn_norm.weight'
error[Q35-0111]: the tensor is [32, 16], but the file's values make it [32, 32]
  at tensor 'blk.0.attn_q.weight'
error[Q35-0112]: the file has no such tensor
  at tensor 'blk.0.attn_k.weight'
error[Q35-0112]: the file has no such tensor
  at tensor 'blk.0.attn_v.weight'
error[Q35-0112]: the file has no such tensor
  at tensor 'blk.0.attn_output.weight'
error[Q35-0112]: the file has no such tensor
  at tensor 'blk.0.ffn_norm.weight'
error[Q35-0112]: the file has no such tensor
  at tensor 'blk.0.ffn_gate.weight'
error[Q35-0112]: the file has no such tensor
  at tensor 'blk.0.ffn_up.weight'
error[Q35-0112]: the file has no such tensor
  at tensor 'blk.0.ffn_down.weight'
error[Q35-0112]: the file has no such tensor
  at tensor 'output_norm.weight'
error[Q35-0113]: the tensor has no place in the model
  at tensor 'extra'"
    );
    let with = |file: Gguf| {
        let text = refused(&file);
        text.strip_suffix("\n  at file 'DIR/model.gguf'").unwrap_or(&text).to_owned()
    };
    assert_eq!(with(Gguf::default()), "error[Q35-0111]: 'general.architecture' is not given");
    assert_eq!(
        with(Gguf::default().text("general.architecture", "rwkv7")),
        "error[Q35-0208]: GGUF files of architecture 'rwkv7' are not known; dots1, ernie4_5-moe, gemma, gemma2, \
         gemma3, glm4moe, gpt-oss, granite, granitemoe, llama, minimax-m2, olmo2, olmoe, phi3, phimoe, qwen2, qwen2moe, qwen3, qwen3moe, smollm3 are\n  at file 'DIR/model.gguf'\n  \
         help: compile the checkpoint that it was made from"
    );
    assert_eq!(with(llama()), "error[Q35-0111]: vocab_size is not given");
    assert_eq!(with(llama().size("llama.block_count", 2)), "error[Q35-0111]: the key 'llama.block_count' is there twice");
    assert_eq!(with(llama().size("general.alignment", 24)), "error[Q35-0111]: 'general.alignment' is 24");
    let lists = |values: [u32; 2]| {
        let bytes = [&4u32.to_le_bytes()[..], &2u64.to_le_bytes(), &values[0].to_le_bytes(), &values[1].to_le_bytes()].concat();
        llama().value("llama.attention.key_length", 9, &bytes)
    };
    assert_eq!(with(lists([16, 8])), "error[Q35-0207]: 'llama.attention.key_length' differs from layer to layer");
    assert_eq!(with(lists([16, 16])), "error[Q35-0111]: vocab_size is not given");
    assert_eq!(
        refused(&layer(llama()).tensor("token_embd.weight", &[5, 32], 16, vec![0; 400])),
        "error[Q35-0111]: vocab_size is not given\n  at file 'DIR/model.gguf'"
    );
    let last = |file: Gguf| refused(&file.f32s("token_embd.weight", &[5, 32])).lines().last().unwrap().to_owned();
    assert_eq!(last(layer(llama()).f32s("rope_freqs.weight", &[3])), "  at tensor 'rope_freqs.weight'");
}

#[test]
fn structure_that_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let with = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let text = refused_at(&path);
        text.replace("\n  at file 'DIR/model.gguf'", "").lines().next().unwrap().to_owned()
    };
    let header = |version: u32, tensors: u64, values: u64| {
        [b"GGUF", &version.to_le_bytes()[..], &tensors.to_le_bytes(), &values.to_le_bytes()].concat()
    };
    assert_eq!(with(b"GGML"), "error[Q35-0103]: the file is no GGUF file");
    assert_eq!(with(&header(1, 0, 0)), "error[Q35-0207]: the file has version 1 of the format; versions 2 and 3 are read");
    assert_eq!(with(&header(3 << 24, 0, 0)), "error[Q35-0207]: the file is written for big-endian machines");
    let ends = "error[Q35-0105]: the file ends before its header does";
    assert_eq!(with(&header(3, 0, u64::MAX)), ends);
    assert_eq!(with(&header(3, u64::MAX, 0)), ends);
    let value = |ty: u32, rest: &[u8]| [&header(3, 0, 1)[..], &1u64.to_le_bytes(), b"k", &ty.to_le_bytes(), rest].concat();
    assert_eq!(with(&value(13, &[])), "error[Q35-0111]: a value has type 13, which means nothing");
    assert_eq!(with(&value(8, &u64::MAX.to_le_bytes())), format!("error[Q35-0108]: a text has {} bytes; none has", u64::MAX));
    let list = |ty: u32, count: u64| value(9, &[&ty.to_le_bytes()[..], &count.to_le_bytes()].concat());
    assert_eq!(with(&list(4, u64::MAX)), ends);
    assert_eq!(with(&list(8, 1 << 40)), ends);
    assert_eq!(with(&list(9, 1 << 40)), "error[Q35-0111]: it has a list of too many lists");
    let nested: Vec<u8> = (0..9).flat_map(|_| [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat()).collect();
    assert_eq!(with(&value(9, &nested)), "error[Q35-0111]: its values are lists in lists in lists");
    let tensor = |dims: &[u64], ty: u32, offset: u64| {
        let dims: Vec<u8> =
            [&(dims.len() as u32).to_le_bytes()[..], &dims.iter().flat_map(|d| d.to_le_bytes()).collect::<Vec<_>>()].concat();
        let named = [
            &header(3, 1, 1)[..],
            &20u64.to_le_bytes(),
            b"general.architecture",
            &8u32.to_le_bytes(),
            &5u64.to_le_bytes(),
            b"llama",
        ];
        [&named.concat()[..], &1u64.to_le_bytes(), b"t", &dims, &ty.to_le_bytes(), &offset.to_le_bytes()].concat()
    };
    assert_eq!(with(&tensor(&[1; 9], 0, 0)), "error[Q35-0109]: it has 9 dimensions");
    // What is wrong with a tensor shows where it is used, or at the end.
    for (dims, ty, offset) in
        [(&[1u64 << 40, 1 << 40][..], 0, 0), (&[1 << 40], 0, 0), (&[8], 0, u64::MAX), (&[33], 8, 0), (&[32], 99, 0)]
    {
        assert_eq!(with(&tensor(dims, ty, offset)), "error[Q35-0111]: num_hidden_layers is not given");
    }
}

#[test]
fn damaged_files_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = complete().write(dir.path());
    let original = std::fs::read(&path).unwrap();
    let structure = original.len().min(1400);
    let mut random = Random(11);
    let (mut opened, mut refused) = (0, 0);
    for _ in 0..600 {
        let damaged = [&random.damage(&original[..structure]), &original[structure..]].concat();
        std::fs::write(&path, damaged).unwrap();
        match crate::open(&path) {
            Ok(model) => {
                model.graph.check().unwrap();
                opened += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(opened > 20 && refused > 100, "{opened} opened, {refused} refused");
}
