//! The graph container, tensors and memory-mapped storage shared by every compiler stage.
