//! The dialect as IRDL text, made from the tables of ops and types.

use crate::attr::AttrKind;
use crate::decl::{FieldDecl, OpDecl, TyDecl};
use crate::q35::OPS;
use crate::semantics::PACKED;
use crate::ty::Kind;
use std::fmt::Write;

/// An IRDL module that defines the dialect.
pub fn text() -> String {
    let mut text = String::from("irdl.dialect @q35 {\n");
    for decl in Kind::ALL.iter().map(|kind| kind.decl()).chain([&PACKED]) {
        ty(&mut text, decl);
    }
    for decl in OPS {
        op(&mut text, decl);
    }
    text + "}\n"
}

fn ty(text: &mut String, decl: &TyDecl) {
    let _ = writeln!(text, "  irdl.type @{} {{", decl.name);
    for field in decl.fields {
        attribute(text, field);
    }
    let fields: Vec<String> = decl.fields.iter().map(|field| format!("{0}: %{0}", field.name)).collect();
    let _ = writeln!(text, "    irdl.parameters({})\n  }}", fields.join(", "));
}

fn op(text: &mut String, decl: &OpDecl) {
    let _ = writeln!(text, "  irdl.operation @{} {{", decl.name);
    let mut operands = Vec::new();
    for operand in decl.operands {
        let kinds = operand.kinds.iter().map(|kind| format!("irdl.base @q35::@{}", kind.decl().name));
        let name = format!("operand_{}", operand.name);
        any_of(text, &name, kinds);
        operands.push(format!("{}: %{name}", operand.name));
    }
    let required = || decl.attrs.iter().filter(|field| !field.optional);
    required().for_each(|field| attribute(text, field));
    let _ = writeln!(text, "    %result = irdl.base @q35::@{}", decl.result.decl().name);
    if !operands.is_empty() {
        let _ = writeln!(text, "    irdl.operands({})", operands.join(", "));
    }
    let _ = writeln!(text, "    irdl.results(result: %result)");
    let attrs: Vec<String> = required().map(|field| format!("\"{0}\" = %{0}", field.name)).collect();
    if !attrs.is_empty() {
        let _ = writeln!(text, "    irdl.attributes {{{}}}", attrs.join(", "));
    }
    text.push_str("  }\n");
}

/// Defines the constraint `%NAME` of a field.
fn attribute(text: &mut String, field: &FieldDecl) {
    let one = |constraint: &str| vec![constraint.to_owned()];
    let constraints = match field.kind {
        AttrKind::Int => one("irdl.base \"#builtin.integer\""),
        AttrKind::Float => one("irdl.base \"#builtin.float\""),
        AttrKind::Text => one("irdl.base \"#builtin.string\""),
        AttrKind::Param => one("irdl.base \"#builtin.symbol_ref\""),
        AttrKind::Bool => vec!["irdl.is true".to_owned(), "irdl.is false".to_owned()],
        AttrKind::Word(words) => words.iter().map(|word| format!("irdl.is \"{word}\"")).collect(),
    };
    any_of(text, field.name, constraints);
}

/// Defines `%NAME` as any of these constraints.
fn any_of(text: &mut String, name: &str, constraints: impl IntoIterator<Item = String>) {
    let constraints: Vec<String> = constraints.into_iter().collect();
    if let [constraint] = constraints.as_slice() {
        let _ = writeln!(text, "    %{name} = {constraint}");
        return;
    }
    let mut names = Vec::new();
    for (at, constraint) in constraints.iter().enumerate() {
        let _ = writeln!(text, "    %{name}_{at} = {constraint}");
        names.push(format!("%{name}_{at}"));
    }
    let _ = writeln!(text, "    %{name} = irdl.any_of({})", names.join(", "));
}
