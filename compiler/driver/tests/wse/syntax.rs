//! A second opinion on printed CSL, by a parser that nobody here wrote: CSL is close enough to Zig that, after a few rewrites of the same length
//! or none, the grammar `tree-sitter-zig` takes it. What a Zig grammar lets pass is looked at beside it: builtins by a list of their
//! own with numbers of arguments, names that nobody declares, calls with a wrong number of arguments, fields without their dot.

use std::collections::{BTreeMap, BTreeSet};
use tree_sitter::{Node, Parser};

/// Builtins with fewest and most arguments, by the language reference of SDK 2.10.
#[rustfmt::skip]
const BUILTINS: &[(&str, usize, usize)] = &[
    ("@activate", 1, 1), ("@as", 2, 2), ("@bind_local_task", 2, 2), ("@comptime_assert", 1, 2), ("@export_name", 2, 3), ("@export_symbol", 1, 2),
    ("@get_color", 1, 1), ("@get_dsd", 2, 2), ("@get_input_queue", 1, 1), ("@get_local_task_id", 1, 1), ("@get_output_queue", 1, 1),
    ("@import_module", 1, 2), ("@increment_dsd_offset", 3, 3), ("@initialize_queue", 2, 2), ("@range", 2, 4), ("@set_color_config", 4, 4),
    ("@set_dsd_base_addr", 2, 2), ("@set_dsd_length", 2, 2), ("@set_rectangle", 2, 2), ("@set_tile_code", 4, 4), ("@unblock", 1, 1),
    // Vector operations: destination, sources, and possibly settings
    ("@fadds", 3, 4), ("@fh2s", 2, 3), ("@fmachs", 4, 5), ("@fmacs", 4, 5), ("@fmaxs", 3, 4), ("@fmovs", 2, 3), ("@fmulh", 3, 4), ("@fmuls", 3, 4),
    ("@fs2h", 2, 3), ("@fsubs", 3, 4), ("@or16", 3, 4), ("@sar16", 3, 4), ("@sll16", 3, 4), ("@slr16", 3, 4), ("@xp162fh", 2, 3),
];

/// Words that no program declares, beside those that the grammar knows.
const WORDS: &[&str] = &[
    "color",
    "input_queue",
    "output_queue",
    "local_task_id",
    "mem1d_dsd",
    "fabin_dsd",
    "fabout_dsd",
    "NORTH",
    "SOUTH",
    "EAST",
    "WEST",
    "RAMP",
    "u16",
    "i16",
    "f16",
    "f32",
    "bool",
    "void",
];

/// CSL as Zig: comments blanked, `task`, `param` and `layout` as what they are like, a space before the result of a function's type.
fn as_zig(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let code = line.split("//").next().unwrap_or_default();
        let code = match code.split_once(' ') {
            Some(("task", rest)) => format!("fn {rest}"),
            Some(("param", rest)) => format!("var {rest}"),
            Some(("layout", rest)) => format!("comptime {rest}"),
            _ => code.to_owned(),
        };
        out.push_str(&code.replace("fn(u16)void", "fn(u16) void"));
        out.push('\n');
    }
    out
}

struct Reader<'a> {
    text: &'a str,
    declared: BTreeSet<&'a str>,
    /// Parameters of each function.
    functions: BTreeMap<&'a str, usize>,
    wrong: Vec<String>,
}

impl<'a> Reader<'a> {
    fn words(&self, node: Node<'_>) -> &'a str {
        &self.text[node.byte_range()]
    }

    fn children(node: Node<'a>) -> Vec<Node<'a>> {
        node.named_children(&mut node.walk()).collect()
    }

    fn say(&mut self, node: Node<'_>, what: &str) {
        self.wrong.push(format!("line {}: {what}: {}", node.start_position().row + 1, self.words(node)));
    }

    fn declare(&mut self, node: Node<'a>) {
        let children = Self::children(node);
        const NAMING: [&str; 4] = ["variable_declaration", "parameter", "payload", "function_declaration"];
        if let Some(name) = children.first().filter(|_| NAMING.contains(&node.kind())) {
            self.declared.insert(self.words(*name));
        }
        if let ("function_declaration", Some(name)) = (node.kind(), children.first()) {
            let params = children.iter().find(|child| child.kind() == "parameters");
            self.functions.insert(self.words(*name), params.map_or(0, |params| params.named_child_count()));
        }
        children.into_iter().for_each(|child| self.declare(child));
    }

    fn look(&mut self, node: Node<'a>) {
        if node.is_error() || node.is_missing() {
            self.say(node, "no syntax");
            return;
        }
        let children = Self::children(node);
        match node.kind() {
            "builtin_function" => {
                let name = self.words(children[0]);
                let count = children[1].named_child_count();
                match BUILTINS.iter().find(|(builtin, ..)| *builtin == name) {
                    Some((_, low, high)) if (*low..=*high).contains(&count) => {}
                    Some(_) => self.say(node, &format!("{count} arguments")),
                    None => self.say(node, "no builtin"),
                }
            }
            "call_expression" if children[0].kind() == "identifier" => match self.functions.get(self.words(children[0])) {
                Some(count) if *count == children.len() - 1 => {}
                Some(_) => self.say(node, &format!("{} arguments", children.len() - 1)),
                None => self.say(node, "no function"),
            },
            "initializer_list" => {
                let dotted = |child: &Node<'_>| match child.kind() {
                    "assignment_expression" => child.child(0).is_some_and(|left| self.words(left).starts_with('.')),
                    _ => true,
                };
                if children.iter().any(|child| !dotted(child)) {
                    self.say(node, "a field without its dot");
                }
            }
            "identifier" => {
                let (word, member) = (self.words(node), node.parent().and_then(|parent| parent.child_by_field_name("member")));
                if member != Some(node) && !self.declared.contains(word) && !WORDS.contains(&word) {
                    self.say(node, "not declared");
                }
            }
            _ => {}
        }
        // What is missing has no name.
        for child in node.children(&mut node.walk()) {
            self.look(child);
        }
    }
}

/// What is wrong with a text.
pub(crate) fn wrong(text: &str) -> Vec<String> {
    let zig = as_zig(text);
    let mut parser = Parser::new();
    parser.set_language(&tree_sitter_zig::LANGUAGE.into()).unwrap();
    let tree = parser.parse(&zig, None).unwrap();
    let mut reader = Reader { text: &zig, declared: BTreeSet::new(), functions: BTreeMap::new(), wrong: Vec::new() };
    reader.declare(tree.root_node());
    reader.look(tree.root_node());
    if reader.wrong.is_empty() && tree.root_node().has_error() {
        reader.wrong.push("no syntax".to_owned());
    }
    reader.wrong
}

/// How many of the places where `token` stands are missed when it is left out there.
pub(crate) fn unnoticed(text: &str, token: char) -> usize {
    let code = as_zig(text);
    let places = code.match_indices(token).map(|(at, _)| at);
    places.filter(|at| wrong(&format!("{}{}", &code[..*at], &code[at + 1..])).is_empty()).count()
}
