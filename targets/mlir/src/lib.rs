//! A thin typed layer over MLIR and LLVM: kernel builder, pass pipeline, object emission.
