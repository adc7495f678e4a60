//! Every call that the compiler cannot check: dialect handles, MLIR's translation to LLVM IR, and one lifetime.

use inkwell::llvm_sys::prelude::LLVMModuleRef;
use melior::dialect::DialectHandle;
use melior::ir::block::BlockLike;
use melior::ir::{BlockRef, Module};

/// The upstream dialects that our IR uses.
pub(crate) fn dialects() -> [DialectHandle; 8] {
    // SAFETY: the functions take nothing and give pointers to static registration hooks.
    unsafe {
        [
            mlir_sys::mlirGetDialectHandle__arith__(),
            mlir_sys::mlirGetDialectHandle__cf__(),
            mlir_sys::mlirGetDialectHandle__func__(),
            mlir_sys::mlirGetDialectHandle__irdl__(),
            mlir_sys::mlirGetDialectHandle__llvm__(),
            mlir_sys::mlirGetDialectHandle__math__(),
            mlir_sys::mlirGetDialectHandle__scf__(),
            mlir_sys::mlirGetDialectHandle__vector__(),
        ]
        .map(|handle| DialectHandle::from_raw(handle))
    }
}

/// The block with the lifetime of the function it will belong to. The caller moves the block's region into an operation of that
/// function; MLIR moves the region's blocks by pointer, so the handle stays valid.
pub(crate) fn adopt_block<'k>(block: BlockRef<'_, '_>) -> BlockRef<'k, 'k> {
    // SAFETY: the handle is a pointer to a block owned by a region. The only caller keeps that region alive until it hands it to an
    // operation in the module, which outlives 'k.
    unsafe { BlockRef::from_raw(block.to_raw()) }
}

/// Translates a module of the llvm dialect; `None` if MLIR reported why not to its diagnostics handler.
pub(crate) fn translate<'l>(
    module: &Module<'_>,
    context: &'l inkwell::context::Context,
) -> Option<inkwell::module::Module<'l>> {
    // SAFETY: both handles are alive for the call; mlir-sys and llvm-sys declare the same C type. The module that comes back
    // is owned by us and belongs to `context`, which outlives it by the signature.
    unsafe {
        let raw: LLVMModuleRef =
            mlir_sys::mlirTranslateModuleToLLVMIR(module.as_operation().to_raw(), context.raw().cast()).cast();
        if raw.is_null() { None } else { Some(inkwell::module::Module::new(raw)) }
    }
}
