//! Types of the dialect as MLIR types.
//!
//! The C interface of LLVM 22 has no way to make a type of an IRDL dialect or to take it apart, so types go through their text:
//! `!q35.NAME<FIELD, ...>` with a field `12 : i64` or `"word"`.

use crate::attr::Attr;
use crate::semantics::{PACKED, Packed};
use crate::ty::{Kind, Ty};
use melior::ir::Type;

/// The MLIR type of a value.
pub(super) fn value<'c>(context: &'c melior::Context, ty: &Ty) -> Type<'c> {
    parse(context, ty.kind().decl().name, &ty.fields())
}

/// The MLIR type of a parameter.
pub(super) fn packed<'c>(context: &'c melior::Context, packed: &Packed) -> Type<'c> {
    parse(context, PACKED.name, &packed.fields())
}

/// The type of a value that an MLIR type stands for.
pub(super) fn read_value(ty: Type<'_>) -> Option<Ty> {
    let text = ty.to_string();
    let (name, fields) = split(&text)?;
    let kind = Kind::ALL.iter().copied().find(|kind| kind.decl().name == name)?;
    Ty::from_fields(kind, &fields)
}

/// The type of a parameter that an MLIR type stands for.
pub(super) fn read_packed(ty: Type<'_>) -> Option<Packed> {
    let text = ty.to_string();
    let (name, fields) = split(&text)?;
    if name == PACKED.name { Packed::from_fields(&fields) } else { None }
}

fn parse<'c>(context: &'c melior::Context, name: &str, fields: &[Attr]) -> Type<'c> {
    let field = |field: &Attr| match field {
        Attr::Int(n) => format!("{} : i64", *n as i64),
        Attr::Word(word) => format!("\"{word}\""),
        other => unreachable!("no type has a field like {other}"),
    };
    let text = format!("!q35.{name}<{}>", fields.iter().map(field).collect::<Vec<_>>().join(", "));
    Type::parse(context, &text).unwrap_or_else(|| unreachable!("the dialect is loaded and has {text}"))
}

fn split(text: &str) -> Option<(&str, Vec<Attr>)> {
    let (name, fields) = text.strip_prefix("!q35.")?.strip_suffix('>')?.split_once('<')?;
    let field = |field: &str| match field.strip_suffix(" : i64") {
        Some(number) => Some(Attr::Int(number.parse::<i64>().ok()? as u64)),
        None => Some(Attr::Word(field.strip_prefix('"')?.strip_suffix('"')?.to_owned())),
    };
    Some((name, fields.split(", ").map(field).collect::<Option<_>>()?))
}
