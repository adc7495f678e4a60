//! The one table of passes.
//!
//! Every stage's crate exports its rows; here they are joined in the order in which a compile runs them. `--emit`, `--dump-after`,
//! `--time-passes`, `q35c passes` and the page `compiler/PASSES.md` all read this table and no other.

use crate::targets;
use q35_graph::{Pass, Stage};
use q35_passes::model;

/// Reads the model.
pub const IMPORT: Pass = Pass {
    name: "import",
    purpose: "Read the graph and the tensors' headers; the weights stay in their files",
    from: Stage::Source,
    to: Stage::Source,
};

/// Recognises the model.
pub const RAISE: Pass = Pass {
    name: "raise",
    purpose: "Recognise norms, rotary embeddings, attention with its cache, gates, embedding and head, whatever nodes they are spelled with",
    from: Stage::Source,
    to: Stage::Graph,
};

/// Makes the q35 module.
pub const Q35: Pass = Pass {
    name: "build-q35",
    purpose: "Build the MLIR module of the q35 dialect and verify it; targets read it back, so it is all they get",
    from: Stage::Graph,
    to: Stage::Q35,
};

/// Gives sensitive layers more bits.
pub const ALLOCATE: Pass = Pass {
    name: "allocate-bits",
    purpose: "With --bits-budget: measure what rounding each group of layers costs, and store those in 8 bits that need it most",
    from: Stage::Graph,
    to: Stage::Graph,
};

/// Rounds linear layers for a text.
pub const CALIBRATE: Pass = Pass {
    name: "calibrate",
    purpose: "With --effort best: run the calibration text layer by layer, and round every linear layer for what it gets to see",
    from: Stage::Bundle,
    to: Stage::Bundle,
};

/// Fills the weights file.
pub const QUANTIZE: Pass = Pass {
    name: "quantize",
    purpose: "Transform, encode and lay out every parameter, one block of rows at a time, straight into the weights file",
    from: Stage::Bundle,
    to: Stage::Bundle,
};

/// Completes the folder.
pub const WRITE_BUNDLE: Pass = Pass {
    name: "write-bundle",
    purpose: "Write code, tokenizer, report and manifest, and give the finished folder its name",
    from: Stage::Bundle,
    to: Stage::Bundle,
};

/// Every pass, in order, those of one target after those of another; what targets share is listed once.
pub fn all() -> Vec<Pass> {
    let mut of_targets: Vec<Pass> = Vec::new();
    for pass in targets::all().iter().flat_map(|target| target.passes()) {
        if !of_targets.contains(&pass) {
            of_targets.push(pass);
        }
    }
    with(of_targets)
}

/// The passes of a compile whose target has the given ones.
fn with(of_target: Vec<Pass>) -> Vec<Pass> {
    let model = model::PASSES.iter().map(|row| row.pass);
    [IMPORT, RAISE]
        .into_iter()
        .chain(model)
        .chain([ALLOCATE, Q35])
        .chain(of_target)
        .chain([CALIBRATE, QUANTIZE, WRITE_BUNDLE])
        .collect()
}

/// What `--dump-after` takes.
pub fn names_and_all() -> Vec<&'static str> {
    std::iter::once("all").chain(all().into_iter().map(|p| p.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_stages_connect() {
        let passes = all();
        let mut names: Vec<_> = passes.iter().map(|p| p.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), passes.len());
        for target in targets::all() {
            for pair in with(target.passes()).windows(2) {
                assert_eq!(pair[0].to, pair[1].from, "{} leaves what {} does not read", pair[0].name, pair[1].name);
            }
        }
    }

    #[test]
    fn names_are_kebab_case_and_purposes_are_one_sentence() {
        for pass in all() {
            assert!(pass.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{}", pass.name);
            assert!(pass.name != "all" && !pass.purpose.ends_with('.') && !pass.purpose.contains('\n'), "{}", pass.name);
        }
    }
}
