//! The command line: names, options and help texts of `q35c`, and nothing about what they do.

use crate::layer;
use crate::passes;
use crate::size;
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use q35_bundle::CacheDtype;
use q35_graph::Stage;
use std::path::PathBuf;

/// Compile LLaMA-family models, ahead of time, into artifacts that store their weights in 3.5 bits.
#[derive(Clone, Debug, Parser)]
#[command(name = "q35c", bin_name = "q35c", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Compile a model into a bundle
    #[command(after_help = "Example: q35c compile model.onnx --target cpu --codec w8 -o model.q35")]
    Compile(Box<Compile>),
    /// Read graph and headers only, and list everything that stands in the way of a compile
    #[command(after_help = "Example: q35c check model.onnx --target cuda --batch 8")]
    Check(Check),
    /// Measure the error of a bundle per layer: quantization's share and code generation's share
    #[command(after_help = "Example: q35c compare model.onnx model.q35")]
    Compare(Compare),
    /// Write a model as a Hugging Face checkpoint: its own weights, or those that a bundle's bytes mean
    #[command(after_help = "Example: q35c export model.onnx model.q35 --to hf decoded")]
    Export(Export),
    /// List the passes in order
    #[command(after_help = "Example: q35c passes --json")]
    Passes(Json),
    /// List the targets and what they can do
    #[command(after_help = "Example: q35c targets")]
    Targets(Json),
    /// Look at this machine: toolchain, processor, memory
    #[command(after_help = "Example: q35c doctor")]
    Doctor(Json),
    /// Show what a cache of packed weights holds, or clear it
    #[command(after_help = "Example: q35c cache packed --clear")]
    Cache(Cache),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example: q35c completions bash")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Commands with no option but this.
#[derive(Clone, Copy, Debug, Args)]
pub struct Json {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What shapes the weights and the program; the same for `compile` and `check`.
#[derive(Clone, Debug, Args)]
pub struct Shape {
    /// How the weights of matrix products are stored: auto is what `q35c targets` says, and q8 for the embedding and the head
    #[arg(long, value_name = "CODEC", default_value = "auto", value_parser = PossibleValuesParser::new(CODECS))]
    pub codec: String,
    /// Rotate the inputs of linear layers before quantizing; on where it helps unless said otherwise
    #[arg(long, value_enum, value_name = "on|off")]
    pub rotate: Option<Switch>,
    /// Columns that share a scale
    #[arg(long, value_enum, value_name = "row|64|128", default_value = "row")]
    pub group: GroupChoice,
    /// Element type of the KV cache; of those that `q35c targets` lists, f16 beside rounded weights and f32 beside float ones unless said otherwise
    #[arg(long, value_name = "f32|f16", value_parser = PossibleValuesParser::new(CACHE_DTYPES))]
    pub kv_cache_dtype: Option<String>,
    /// Feature levels to make code for, of those that `q35c targets` lists; native is what this machine has; all of this machine's architecture
    /// unless said otherwise
    #[arg(long, value_name = "LEVEL", value_delimiter = ',')]
    pub levels: Vec<String>,
    /// Chips to spread the model over, layer by layer, where a target has several; as many as its memory takes unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 12))]
    pub chips: Option<u32>,
    /// Longest context in tokens; the model's own unless said otherwise
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    pub context: Option<u64>,
    /// The compile may use this much memory, e.g. 2G
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub max_memory: Option<u64>,
}

/// The codecs that `--codec` takes.
pub const CODECS: [&str; 13] = ["auto", "split", "w7", "w8", "w9", "w10", "w11", "w12", "a11", "q8", "f16", "bf16", "f32"];

/// The element types that `--kv-cache-dtype` takes.
const CACHE_DTYPES: [&str; 2] = [CacheDtype::F32.name(), CacheDtype::F16.name()];

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// Columns that share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupChoice {
    /// The whole row.
    Row,
    /// 64 columns.
    #[value(name = "64")]
    Columns64,
    /// 128 columns.
    #[value(name = "128")]
    Columns128,
}

/// Stages that `--emit` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Emit {
    /// The graph as imported
    Source,
    /// The model graph after the graph passes
    Graph,
    /// The q35 dialect, MLIR text
    Q35,
    /// The target's dialects, MLIR text
    Target,
    /// Assembly
    Asm,
    /// A single layer
    Kernels,
}

impl Emit {
    /// The stage that is printed; `None` where files are written.
    pub fn stage(self) -> Option<Stage> {
        match self {
            Self::Source => Some(Stage::Source),
            Self::Graph => Some(Stage::Graph),
            Self::Q35 => Some(Stage::Q35),
            Self::Target => Some(Stage::Target),
            Self::Asm => Some(Stage::Asm),
            Self::Kernels => None,
        }
    }
}

/// How hard rounding tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Effort {
    /// Every weight to what is nearest
    Fast,
    /// Errors compensated, by what a calibration text shows
    Best,
}

/// `q35c compile`.
#[derive(Clone, Debug, Args)]
pub struct Compile {
    /// An .onnx file, a checkpoint folder or a .gguf file
    #[arg(required_unless_present = "linear")]
    pub model: Option<PathBuf>,
    /// Device to compile for; `q35c targets` lists them
    #[arg(long, value_name = "TARGET", default_value = "cpu")]
    pub target: String,
    /// The bundle to write; NAME.q35 beside the working directory's files unless said otherwise
    #[arg(short, long, value_name = "OUT.q35")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shape: Shape,
    /// How hard to try when rounding; best needs --calibrate
    #[arg(long, value_enum, default_value = "fast")]
    pub effort: Effort,
    /// UTF-8 text to calibrate with, like what the model will work on
    #[arg(long, value_name = "FILE", required_if_eq("effort", "best"))]
    pub calibrate: Option<PathBuf>,
    /// Sequences of 256 tokens to take from the calibration text, at most
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub sequences: u32,
    /// Bits per weight that the linear layers may take on average: those that the text shows to be sensitive are stored in 8
    #[arg(long, value_name = "BITS", requires = "calibrate", value_parser = bits)]
    pub bits_budget: Option<f64>,
    /// Prefix of every symbol in the object file
    #[arg(long, value_name = "SYM", default_value = "q35_", value_parser = symbol_prefix)]
    pub prefix: String,
    /// Print a stage on stdout and stop there; kernels writes a single layer, with --linear
    #[arg(long, value_enum, value_name = "STAGE")]
    pub emit: Option<Emit>,
    /// A linear layer with no model, as an object (or PTX, or AMD code objects) and a header in the folder -o
    #[arg(long, value_name = "OUTPUTSxINPUTS", conflicts_with = "model", requires = "emit", value_parser = clap::value_parser!(layer::Shape))]
    pub linear: Option<layer::Shape>,
    /// The layer's weight, the one matrix of that shape in a safetensors file, packed into the folder
    #[arg(long, value_name = "FILE.safetensors", requires = "linear")]
    pub weights: Option<PathBuf>,
    /// Threads that quantize; as many as the system lets this process use unless said otherwise
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub jobs: Option<u16>,
    /// Keep packed weights in this folder, and take from there what was packed before; the variable Q35C_CACHE does the same
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Write what a pass leaves into the dump folder; 'all' for every pass
    #[arg(long, value_name = "PASS", value_parser = PossibleValuesParser::new(passes::names_and_all()))]
    pub dump_after: Option<String>,
    /// Folder for dumps; NAME.dumps unless said otherwise
    #[arg(long, value_name = "DIR", requires = "dump_after")]
    pub dump_dir: Option<PathBuf>,
    /// Print time and peak memory of every pass on stderr
    #[arg(long)]
    pub time_passes: bool,
    /// Say nothing on stderr but errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// `q35c check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// An .onnx file or a checkpoint folder
    pub model: PathBuf,
    /// Device to check for
    #[arg(long, value_name = "TARGET", default_value = "cpu")]
    pub target: String,
    /// Sequences in progress at the same time, for memory and the prediction
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub batch: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub shape: Shape,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `q35c cache`.
#[derive(Clone, Debug, Args)]
pub struct Cache {
    /// The folder; the one that the variable Q35C_CACHE names unless given
    pub folder: Option<PathBuf>,
    /// Remove every entry
    #[arg(long)]
    pub clear: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `q35c compare`.
#[derive(Clone, Debug, Args)]
pub struct Compare {
    /// The model the bundle was compiled from
    pub model: PathBuf,
    /// The bundle
    pub bundle: PathBuf,
    /// Graph inputs to compare on; a fixed pseudo-random prompt unless given
    #[arg(long, value_name = "FILE.safetensors")]
    pub inputs: Option<PathBuf>,
    /// Relative error that quantization may have; the first layer beyond it is named
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    pub quantization_budget: f64,
    /// The same for code generation
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, value_parser = share)]
    pub code_budget: f64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `q35c export`.
#[derive(Clone, Debug, Args)]
pub struct Export {
    /// An .onnx file with its config.json, or a checkpoint folder
    pub model: PathBuf,
    /// A bundle compiled from it, whose weights are decoded
    pub bundle: Option<PathBuf>,
    /// The form, which is hf, and the folder to write
    #[arg(long, required = true, num_args = 2, value_names = ["hf", "DIR"])]
    pub to: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    nonnegative(text).ok_or_else(|| "a share is a number like 0.05".to_owned())
}

fn bits(text: &str) -> Result<f64, String> {
    nonnegative(text).ok_or_else(|| "bits per weight are a number like 4.25".to_owned())
}

fn nonnegative(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
}

fn symbol_prefix(text: &str) -> Result<String, String> {
    let mut chars = text.chars();
    let starts = chars.next().is_none_or(|c| c.is_ascii_alphabetic() || c == '_');
    let fits = starts && chars.all(|c| c.is_ascii_alphanumeric() || c == '_') && text.len() <= 64;
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a prefix is at most 64 letters, digits and underscores, no digit first".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example_that_it_takes() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().unwrap_or_else(|| panic!("{}", command.get_name())).to_string();
            let words: Vec<&str> = help.strip_prefix("Example: ").unwrap().split_whitespace().collect();
            assert_eq!(words[1], command.get_name());
            Cli::try_parse_from(words).unwrap();
        }
    }

    #[test]
    fn usage_errors_exit_with_2() {
        for args in [
            &["q35c"][..],
            &["q35c", "compile"],
            &["q35c", "compile", "m", "--codec", "w6"],
            &["q35c", "compile", "m", "--kv-cache-dtype", "int8"],
            &["q35c", "compile", "m", "--max-memory", "lots"],
            &["q35c", "compile", "m", "--prefix", "1a"],
            &["q35c", "compile", "m", "--dump-after", "no-such-pass"],
            &["q35c", "compile", "m", "--dump-dir", "d"],
            &["q35c", "compile", "m", "--context", "0"],
            &["q35c", "compile", "m", "--effort", "best"],
            &["q35c", "compile", "m", "--sequences", "0"],
            &["q35c", "compile", "--linear", "4x4"],
            &["q35c", "compile", "m", "--emit", "kernels", "--linear", "4x4"],
            &["q35c", "compile", "--emit", "kernels", "--linear", "4"],
        ] {
            assert_eq!(Cli::try_parse_from(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
    }
}
