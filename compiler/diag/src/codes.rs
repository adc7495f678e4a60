//! The one table of codes: number, name, title. A number is never reused.

use std::fmt;

macro_rules! codes {
    ($($number:literal $name:ident $title:literal)*) => {
        /// Stable identity of a kind of diagnostic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $(#[doc = $title] $name = $number),* }

        impl Code {
            /// Every code there is, in order of number.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// One line for the index of codes.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title),* }
            }
        }
    };
}

codes! {
    // 01: files and containers
    101 CannotRead "a file cannot be opened or read"
    102 EmptyFile "a file is empty"
    103 NotAModel "a file is not a model of any known kind"
    104 LfsPointer "a file is a Git LFS pointer, not the data it stands for"
    105 Truncated "a file ends before its content does"
    106 PathEscapes "an external-data location leaves the model's folder"
    107 DataOutOfFile "a tensor's bytes lie outside its file"
    108 AbsurdSize "a declared size is larger than anything that could be meant"
    109 BadTensor "a tensor's declaration contradicts itself"
    110 MissingFile "a file named by the model is not there"
    111 BadConfig "a configuration file is malformed or contradicts the tensors"
    112 MissingTensor "a tensor the model needs is not there"
    113 ExtraTensor "a tensor has no place in the model"

    // 02: graphs
    201 UnknownOp "an op is not supported"
    202 NotRecognised "nodes form no pattern this compiler knows"
    203 BadGraph "the graph contradicts itself"
    204 UnsupportedOpset "an opset version is outside the supported range"
    205 NotALanguageModel "the graph is not a decoder that maps tokens to logits"
    206 DynamicAxis "an axis is dynamic where it must be fixed"
    207 UnsupportedForm "a known op is used in a form that is not supported"
    208 UnknownArchitecture "an architecture is not known"
    209 CannotExport "a model has no form as a checkpoint"
    210 LengthDependent "what depends on the length of a text is fixed for the longest"

    // 03: weights and quantization
    301 NotFinite "a weight is NaN or infinite"
    302 AccumulatorOverflow "an integer accumulator could overflow"
    303 BadOption "an option does not fit the model"
    304 CalibrationText "calibration text cannot be used"
    305 MemoryLimit "the memory limit cannot be kept"

    // 04: targets and tools
    401 UnknownTarget "a target is not known"
    402 TargetCannot "a target has no lowering for an op"
    403 ToolMissing "a tool of the toolchain is missing"
    404 ToolFailed "a tool of the toolchain failed"
    405 DoesNotFit "the model does not fit on the target"

    // 05: bundles
    501 NotABundle "a folder is not a bundle"
    502 SchemaVersion "a bundle has another schema version"
    503 Damaged "a bundle's file does not match its hash"
    504 FeatureMissing "this machine lacks what the bundle needs"
    505 WrongDevice "the bundle was compiled for another device"
    506 ModelMismatch "the bundle was not made from this model"

    // 06: running
    601 TokenOutOfRange "a token is outside the vocabulary"
    602 ContextFull "more tokens than the context holds"
    603 NoTokenizer "the bundle carries no tokenizer"
    604 BadInputs "an inputs file does not fit the model"
    605 BadText "a text cannot be used"
    606 DeviceFailed "a device failed while it was in use"

    // 07: output
    701 CannotWrite "an output cannot be written"
    702 DiskFull "the disk is full"
}

/// What the first two digits of a number mean.
const AREAS: [(u16, &str); 7] = [
    (1, "Files and containers"),
    (2, "Graphs"),
    (3, "Weights and quantization"),
    (4, "Targets and tools"),
    (5, "Bundles"),
    (6, "Running"),
    (7, "Output"),
];

impl Code {
    /// The page with every code.
    pub fn page() -> String {
        let mut page = "# Every error code\n\n\
             A problem that a user can solve has a code that never changes its meaning. Its text says what is wrong, where in the words of the model, and what to\n\
             do; all that a stage finds is reported at once. A command that ends with one has exit code 1. Functions of `libq35rt` return the number: 601 is Q35-0601.\n\n\
             Made from `compiler/diag/src/codes.rs`; `Q35C_BLESS=1 cargo test -p q35-diag` refreshes it.\n"
            .to_owned();
        for (area, name) in AREAS {
            page += &format!("\n## {name}\n\n| code | what it says |\n| --- | --- |\n");
            let codes = Self::ALL.iter().filter(|code| **code as u16 / 100 == area);
            codes.for_each(|code| page += &format!("| {code} | {} |\n", code.title()));
        }
        page
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Q35-{:04}", *self as u16)
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn the_page_lists_every_code() {
        let page = Code::page();
        assert!(Code::ALL.iter().all(|code| page.contains(&format!("| {code} |"))));
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src/errors.md");
        if std::env::var_os("Q35C_BLESS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == page, "docs/src/errors.md differs from the table; Q35C_BLESS=1 refreshes it");
    }

    #[test]
    fn numbers_are_unique_and_ordered() {
        assert!(Code::ALL.windows(2).all(|w| (w[0] as u16) < (w[1] as u16)));
    }
}
