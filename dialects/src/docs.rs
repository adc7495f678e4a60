//! The documentation page `OPS.md`, made from the tables of ops and types.

use crate::decl::{FieldDecl, OpDecl, TyDecl};
use crate::q35::OPS;
use crate::semantics::PACKED;
use crate::ty::Kind;
use std::fmt::Write;

/// The page, in Markdown.
pub fn page() -> String {
    let mut text = String::from(
        "# The q35 dialect\n\n\
         Made from the declarations in `src/q35/`; `Q35C_BLESS=1 cargo test -p q35-dialects` refreshes it.\n\n\
         A step runs over a flattened ragged batch of tokens. Every activation is a matrix, row-major, f32; its rows are the step's tokens or\n\
         the rows whose logits are wanted, or (`tokens*2`) so many rows for each of them, one per chosen expert. In a step, `slots[m]` is the\n\
         slot of the cache that token `m` belongs to, `index[m]` the entry it becomes, and `logit_rows[r]` a row whose logits are wanted. A\n\
         parameter is named by a symbol; a vector is a parameter of one row.\n\n\
         ## Types\n",
    );
    for decl in Kind::ALL.iter().map(|kind| kind.decl()).chain([&PACKED]) {
        ty(&mut text, decl);
    }
    text.push_str("\n## Ops\n");
    for decl in OPS {
        op(&mut text, decl);
    }
    text
}

fn ty(text: &mut String, decl: &TyDecl) {
    let names: Vec<&str> = decl.fields.iter().map(|field| field.name).collect();
    let _ = write!(text, "\n### `!q35.{}<{}>`\n\n{}\n", decl.name, names.join(", "), paragraphs(decl.doc));
    fields(text, decl.fields);
}

fn op(text: &mut String, decl: &OpDecl) {
    let operand = |operand: &crate::decl::OperandDecl| {
        let kinds: Vec<&str> = operand.kinds.iter().map(|kind| kind.decl().name).collect();
        format!("{}: {}", operand.name, kinds.join(" or "))
    };
    let operands: Vec<String> = decl.operands.iter().map(operand).collect();
    let _ = write!(
        text,
        "\n### `q35.{}`\n\n`({}) -> {}`\n\n{}\n",
        decl.name,
        operands.join(", "),
        decl.result,
        paragraphs(decl.doc)
    );
    fields(text, decl.attrs);
}

fn fields(text: &mut String, fields: &[FieldDecl]) {
    if !fields.is_empty() {
        text.push('\n');
    }
    for field in fields {
        let optional = if field.optional { ", optional" } else { "" };
        let _ = writeln!(text, "- `{}` ({}{optional}): {}", field.name, field.kind, paragraphs(field.doc));
    }
}

/// A doc comment's lines without the space after the slashes; an empty line parts paragraphs.
fn paragraphs(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/OPS.md");
        let page = super::page();
        if std::env::var_os("Q35C_BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(found == page, "OPS.md differs from the tables; Q35C_BLESS=1 refreshes it");
    }
}
