//! Readers: ONNX files and Hugging Face checkpoints become a source graph.
