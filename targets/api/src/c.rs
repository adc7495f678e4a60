//! Pieces of C headers that targets have in common.

use q35_bundle::{Dim, Size};

/// A size as an expression of C over the fields of `dims`, a pointer to a structure that has them by name.
pub fn expression(size: &Size) -> String {
    let name = |dim: &Dim| match dim {
        Dim::Tokens => " * dims->tokens",
        Dim::LogitRows => " * dims->logit_rows",
        Dim::Slots => " * dims->slots",
        Dim::Capacity => " * dims->capacity",
    };
    let term = |(count, dims): &(u64, Vec<Dim>)| format!("{count}{}", dims.iter().map(name).collect::<String>());
    let terms: Vec<String> = size.0.iter().map(term).collect();
    if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") }
}

/// A name of the user's, as it may stand in a comment.
pub fn comment(text: &str) -> String {
    let safe = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(safe).collect::<String>().replace("*/", "* /").replace("/*", "/ *")
}

/// A template whose marks `@NAME@` are replaced. What is put in is not looked at again.
pub fn fill(template: &str, marks: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('@') {
        text += before;
        let found =
            after.split_once('@').and_then(|(mark, left)| Some((marks.iter().find(|(name, _)| *name == mark)?.1, left)));
        let Some((value, left)) = found else { panic!("no mark in '@{}'", after.lines().next().unwrap_or_default()) };
        text += value;
        rest = left;
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_sums_of_products() {
        let size = Size(vec![(3, vec![Dim::Tokens, Dim::Slots]), (1, vec![])]);
        assert_eq!(expression(&size), "3 * dims->tokens * dims->slots + 1");
        assert_eq!(expression(&Size::default()), "0");
    }

    #[test]
    fn a_comment_does_not_end_early() {
        assert_eq!(comment("a*/b/*c\nd"), "a* /b/ *c d");
    }

    #[test]
    fn what_is_put_in_is_not_looked_at_again() {
        assert_eq!(fill("x @a@@b@ y", &[("a", "@b@"), ("b", "2")]), "x @b@2 y");
    }
}
