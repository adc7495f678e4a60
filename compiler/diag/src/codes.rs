//! The one table of codes: number, name, title, and what a user can do. A number is never reused.

use std::fmt;

macro_rules! codes {
    ($($number:literal $name:ident $title:literal $remedy:literal)*) => {
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

            /// What a user can do about it, wherever it occurs: one sentence. The help of a diagnostic knows more of its case.
            pub fn remedy(self) -> &'static str {
                match self { $(Code::$name => $remedy),* }
            }
        }
    };
}

codes! {
    // 01: files and containers
    101 CannotRead "a file cannot be opened or read"
        "Check that the path is right and that you may read the file."
    102 EmptyFile "a file is empty"
        "Download the file or export the model again."
    103 NotAModel "a file is not a model of any known kind"
        "Give an .onnx file, a .gguf file, or a checkpoint folder with config.json and safetensors files."
    104 LfsPointer "a file is a Git LFS pointer, not the data it stands for"
        "Run 'git lfs install && git lfs pull' in the model's repository."
    105 Truncated "a file ends before its content does"
        "Download the file again, completely, and compare its size with the source's."
    106 PathEscapes "an external-data location leaves the model's folder"
        "Keep external data beside the model file, under a relative path without '..'."
    107 DataOutOfFile "a tensor's bytes lie outside its file"
        "Download the data file again; if it is complete, export the model again."
    108 AbsurdSize "a declared size is larger than anything that could be meant"
        "Download or export the file again: it is damaged, or was made to exhaust memory."
    109 BadTensor "a tensor's declaration contradicts itself"
        "Export the model again; the weight of a single layer is one F32, F16 or BF16 matrix of the layer's shape."
    110 MissingFile "a file named by the model is not there"
        "Put the named file beside the model: download every file of its repository."
    111 BadConfig "a configuration file is malformed or contradicts the tensors"
        "Take config.json and the weights from the same revision of the checkpoint."
    112 MissingTensor "a tensor the model needs is not there"
        "Download every shard of the checkpoint; its index says which shard holds the tensor."
    113 ExtraTensor "a tensor has no place in the model"
        "Take the checkpoint that config.json belongs to; a fine-tuned model with additions is to be merged first."

    // 02: graphs
    201 UnknownOp "an op is not supported"
        "Export the model with standard ONNX operators, without the named op; 'q35c check' lists all such nodes at once."
    202 NotRecognised "nodes form no pattern this compiler knows"
        "Export the model in another way, or compile its checkpoint folder instead."
    203 BadGraph "the graph contradicts itself"
        "Check the file with onnx.checker, and export the model again."
    204 UnsupportedOpset "an opset version is outside the supported range"
        "Export the model again with an opset inside the range that the message names."
    205 NotALanguageModel "the graph is not a decoder that maps tokens to logits"
        "Export the model for text generation: token ids as input, logits as output."
    207 UnsupportedForm "a known op is used in a form that is not supported"
        "Export the model without the named form, or compile its checkpoint folder instead."
    208 UnknownArchitecture "an architecture is not known"
        "Export the model to ONNX and compile that."
    209 CannotExport "a model has no form as a checkpoint"
        "Put the original checkpoint's config.json beside the model; a model without such an original has no form as a checkpoint."
    210 LengthDependent "what depends on the length of a text is fixed for the longest"
        "Nothing, if texts will be longer than the length that the message names; else compile with a shorter --context."

    // 03: weights and quantization
    301 NotFinite "a weight is NaN or infinite"
        "Take another revision of the checkpoint; if only activations overflow in calibration, take another text or --effort fast."
    302 AccumulatorOverflow "an integer accumulator could overflow"
        "Compile with a float codec, such as --codec f16."
    303 BadOption "an option does not fit the model"
        "Choose another value: 'q35c compile --help' explains every option."
    304 CalibrationText "calibration text cannot be used"
        "Give plain text in UTF-8 of some thousand words in the model's own domain."
    305 MemoryLimit "the memory limit cannot be kept"
        "Allow more with --max-memory, or leave the option out; on a GPU, run fewer sequences at once, or shorter ones."

    // 04: targets and tools
    401 UnknownTarget "a target is not known"
        "Choose one of those that 'q35c targets' lists."
    402 TargetCannot "a target has no lowering for an op"
        "Compile for another target: 'q35c targets' lists the ops and codecs of each."
    403 ToolMissing "a tool of the toolchain is missing"
        "Run 'q35c doctor', which says what is missing and how to install it."
    404 ToolFailed "a tool of the toolchain failed"
        "Run 'q35c doctor'; if it finds nothing, report the message as a bug."
    405 DoesNotFit "the model does not fit on the target"
        "Use a shorter --context or another target; 'q35c check' shows what either takes."

    // 05: bundles
    501 NotABundle "a folder is not a bundle"
        "Give the folder that 'q35c compile -o' wrote, complete, or compile the model again."
    502 SchemaVersion "a bundle has another schema version"
        "Compile the model again with the q35c that belongs to this program."
    503 Damaged "a bundle's file does not match its hash"
        "Copy the bundle again, or compile it again."
    504 FeatureMissing "this machine lacks what the bundle needs"
        "Run it on a machine that has the feature, ask for another level with --level, or update the driver."
    505 WrongDevice "the bundle was compiled for another device"
        "Compile the model with the --target of this device, or leave out --device."
    506 ModelMismatch "the bundle was not made from this model"
        "Give the very model that the bundle was compiled from."

    // 06: running
    601 TokenOutOfRange "a token is outside the vocabulary"
        "Use the tokenizer of the bundle: tokens are 0 to the vocabulary's size minus 1."
    602 ContextFull "more tokens than the context holds"
        "Shorten the prompt, ask for fewer tokens, or compile with a larger --context."
    603 NoTokenizer "the bundle carries no tokenizer"
        "Put tokenizer.json beside the model and compile again, or give token ids with --tokens."
    604 BadInputs "an inputs file does not fit the model"
        "Give tensors with the names, types and shapes that the source graph's inputs have."
    605 BadText "a text cannot be used"
        "Give text in UTF-8 that has at least two tokens."
    606 DeviceFailed "a device failed while it was in use"
        "Look at the system's log for the device, and open the bundle again; no result of the failed step was kept."

    // 07: output
    701 CannotWrite "an output cannot be written"
        "Check that the folder exists and that you may write to it; an output of another kind is not replaced."
    702 DiskFull "the disk is full"
        "Free some space, or choose an output folder on another disk."
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
             do in that case; the last column has what helps in every case. All that a stage finds is reported at once. A command that ends with one has exit code 1. Functions of `libq35rt` return the number: 601 is Q35-0601.\n\n\
             Made from `compiler/diag/src/codes.rs`; `Q35C_BLESS=1 cargo test -p q35-diag` refreshes it.\n"
            .to_owned();
        for (area, name) in AREAS {
            page += &format!("\n## {name}\n\n| code | what it says | what to do |\n| --- | --- | --- |\n");
            let codes = Self::ALL.iter().filter(|code| **code as u16 / 100 == area);
            codes.for_each(|code| page += &format!("| {code} | {} | {} |\n", code.title(), code.remedy()));
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

    /// A sentence that begins with what to do, and not the title again.
    #[test]
    fn every_code_says_what_to_do() {
        for code in Code::ALL {
            let (title, remedy) = (code.title(), code.remedy());
            let sentence = remedy.starts_with(|c: char| c.is_ascii_uppercase()) && remedy.ends_with('.');
            assert!(sentence && remedy.split_whitespace().count() >= 4, "{code}: '{remedy}'");
            assert!(!remedy.to_lowercase().contains(title), "{code}: '{remedy}' only repeats '{title}'");
            // A cell of a table.
            assert!(!remedy.contains(['|', '\n']) && !title.contains(['|', '\n']), "{code}");
        }
    }

    #[test]
    fn numbers_are_unique_and_ordered() {
        assert!(Code::ALL.windows(2).all(|w| (w[0] as u16) < (w[1] as u16)));
    }
}
