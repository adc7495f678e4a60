//! The allow-list of builtins: name, arity, and what kind of thing each does. A text that uses another builtin, or one of these with
//! another number of arguments, is refused.

use crate::value::Elem;

/// Where a builtin acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Gives a value and does nothing else.
    Value,
    /// Says something about the PE's program; stands in a `comptime` block.
    Program,
    /// Says something about the rectangle; stands in the `layout` block.
    Layout,
    /// Activates, blocks or unblocks a task.
    Task,
    /// A vector operation over DSDs.
    Vector,
}

/// A row of [`BUILTINS`].
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// Its name, without `@`.
    pub name: &'static str,
    /// Fewest and most arguments; for vector operations without the struct of options.
    pub arity: (usize, usize),
    /// Where it acts.
    pub kind: Kind,
}

const fn row(name: &'static str, arity: (usize, usize), kind: Kind) -> Builtin {
    Builtin { name, arity, kind }
}

/// Builtins that are not vector operations.
pub const BUILTINS: &[Builtin] = &[
    row("as", (2, 2), Kind::Value),
    row("zeros", (1, 1), Kind::Value),
    row("is_arch", (1, 1), Kind::Value),
    row("comptime_assert", (1, 2), Kind::Value),
    row("get_color", (1, 1), Kind::Value),
    row("get_input_queue", (1, 1), Kind::Value),
    row("get_output_queue", (1, 1), Kind::Value),
    row("get_local_task_id", (1, 1), Kind::Value),
    row("get_dsd", (2, 2), Kind::Value),
    row("set_dsd_base_addr", (2, 2), Kind::Value),
    row("set_dsd_length", (2, 2), Kind::Value),
    row("increment_dsd_offset", (3, 3), Kind::Value),
    row("import_module", (1, 2), Kind::Value),
    row("bind_local_task", (2, 2), Kind::Program),
    row("initialize_queue", (2, 2), Kind::Program),
    row("export_symbol", (1, 2), Kind::Program),
    row("set_rectangle", (2, 2), Kind::Layout),
    row("set_tile_code", (4, 4), Kind::Layout),
    row("set_color_config", (4, 4), Kind::Layout),
    row("export_name", (2, 3), Kind::Layout),
    row("activate", (1, 1), Kind::Task),
    row("block", (1, 1), Kind::Task),
    row("unblock", (1, 1), Kind::Task),
];

/// A source of a vector operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A DSD over elements of this type, or a scalar of it.
    DsdOrScalar(Elem),
    /// A scalar.
    Scalar(Elem),
}

/// A vector operation: `dst[i] := f(src0[i], src1[i], ...)`.
#[derive(Clone, Copy, Debug)]
pub struct VectorOp {
    /// Its name, without `@`.
    pub name: &'static str,
    /// Type of the destination.
    pub dst: Elem,
    /// Its sources.
    pub src: &'static [Source],
    /// Elements per cycle at unit strides on the WSE-3, by the published table; 1 where the table has no row.
    pub width: usize,
}

const H: Source = Source::DsdOrScalar(Elem::F16);
const S: Source = Source::DsdOrScalar(Elem::F32);
const W: Source = Source::DsdOrScalar(Elem::U16);

const fn op(name: &'static str, dst: Elem, src: &'static [Source], width: usize) -> VectorOp {
    VectorOp { name, dst, src, width }
}

/// The vector operations.
#[rustfmt::skip]
pub const VECTOR_OPS: &[VectorOp] = &[
    op("fmovs",   Elem::F32, &[S], 4),
    op("fadds",   Elem::F32, &[S, S], 4),
    op("fsubs",   Elem::F32, &[S, S], 4),
    op("fmuls",   Elem::F32, &[S, S], 1),
    op("fmaxs",   Elem::F32, &[S, S], 1),
    op("fmacs",   Elem::F32, &[S, S, Source::Scalar(Elem::F32)], 4),
    op("fmachs",  Elem::F32, &[S, H, Source::Scalar(Elem::F16)], 4),
    op("fmovh",   Elem::F16, &[H], 8),
    op("faddh",   Elem::F16, &[H, H], 8),
    op("fmulh",   Elem::F16, &[H, H], 8),
    op("fmach",   Elem::F16, &[H, H, Source::Scalar(Elem::F16)], 8),
    op("fs2h",    Elem::F16, &[S], 4),
    op("fh2s",    Elem::F32, &[H], 4),
    op("xp162fh", Elem::F16, &[W], 8),
    op("mov16",   Elem::U16, &[W], 8),
    op("and16",   Elem::U16, &[W, W], 8),
    op("or16",    Elem::U16, &[W, W], 8),
    op("xor16",   Elem::U16, &[W, W], 8),
    op("sll16",   Elem::U16, &[W, W], 8),
    op("slr16",   Elem::U16, &[W, W], 8),
    op("sar16",   Elem::U16, &[W, W], 8),
];

/// The row of a vector operation.
pub fn vector_op(name: &str) -> Option<usize> {
    VECTOR_OPS.iter().position(|op| op.name == name)
}

/// The row of a builtin that is no vector operation.
pub fn builtin(name: &str) -> Option<&'static Builtin> {
    BUILTINS.iter().find(|row| row.name == name)
}
