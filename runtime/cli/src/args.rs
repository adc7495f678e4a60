//! The command line: names, options and help texts of `q35`, and nothing about what they do.

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use q35_bundle::{Bundle, Verify};
use q35_console::size;
use q35_diag::Result;
use q35_runtime::Options;
use q35_runtime::bench::Plan;
use q35_runtime::sampling::Settings;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Run the bundles that q35c makes.
#[derive(Clone, Debug, Parser)]
#[command(name = "q35", bin_name = "q35", version, max_term_width = 110)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a prompt, or run a file of graph inputs
    #[command(after_help = "Example: q35 run model.q35 --prompt Hello -n 32")]
    Run(Run),
    /// Compute the perplexity of a text
    #[command(after_help = "Example: q35 eval model.q35 --text test.txt")]
    Eval(Eval),
    /// Measure speed and memory on this machine
    #[command(after_help = "Example: q35 bench model.q35 --json")]
    Bench(Bench),
    /// Show what is in a bundle
    #[command(after_help = "Example: q35 inspect model.q35")]
    Inspect(Inspect),
    /// Print a completion script for a shell
    #[command(after_help = "Example: q35 completions bash")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        folder: PathBuf,
    },
}

/// The bundle, and how it is opened.
#[derive(Clone, Debug, Args)]
pub(crate) struct Opened {
    /// The bundle, a folder NAME.q35
    bundle: PathBuf,
    /// Do not compare the weights with their hash: starts faster, and misses damage
    #[arg(long)]
    trust_weights: bool,
}

impl Opened {
    /// Opens it.
    pub(crate) fn open(&self) -> Result<Arc<Bundle>> {
        let verify = if self.trust_weights { Verify::SkipWeights } else { Verify::All };
        Bundle::open_with(&self.bundle, verify).map(Arc::new)
    }

    /// Opens another one in the same way.
    pub(crate) fn open_other(&self, bundle: &Path) -> Result<Arc<Bundle>> {
        Self { bundle: bundle.to_owned(), trust_weights: self.trust_weights }.open()
    }
}

/// What it runs on.
#[derive(Clone, Debug, Args)]
pub(crate) struct Machine {
    /// Device; by default the one that the bundle was compiled for
    #[arg(long)]
    device: Option<String>,
    /// Feature level, such as base; by default the best one that this machine can run
    #[arg(long)]
    level: Option<String>,
    /// Threads; by default as many as this process may use
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    threads: Option<u16>,
    /// Memory that this process may have in use, such as 4G: weights beyond it are read from their file again and again
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_memory: Option<u64>,
}

impl Machine {
    /// Options for a session with one slot of `capacity` tokens.
    pub(crate) fn options(&self, capacity: usize) -> Options {
        Options {
            device: self.device.clone(),
            level: self.level.clone(),
            threads: self.threads.map(usize::from),
            max_memory: self.max_memory,
            capacity,
            ..Options::default()
        }
    }
}

/// Whether to record what takes time.
#[derive(Clone, Debug, Args)]
pub(crate) struct Profile {
    /// Write a trace of every launch, for Chrome's chrome://tracing or ui.perfetto.dev, and print where the time went
    #[arg(long = "profile", value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

/// `q35 run`.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("input").required(true)))]
pub(crate) struct Run {
    /// The bundle.
    #[command(flatten)]
    pub(crate) opened: Opened,
    /// Text to continue
    #[arg(long, group = "input")]
    pub(crate) prompt: Option<String>,
    /// Token ids to continue, such as 1,2,3; prints token ids
    #[arg(long, group = "input", value_delimiter = ',', num_args = 1)]
    pub(crate) tokens: Option<Vec<u32>>,
    /// Safetensors file of graph inputs, under the names that the source graph gives them
    #[arg(long, group = "input", requires = "outputs", conflicts_with_all = ["count", "temperature", "top_k", "top_p", "min_p", "seed", "json"])]
    pub(crate) inputs: Option<PathBuf>,
    /// Safetensors file to write the graph's outputs to
    #[arg(long, requires = "inputs")]
    pub(crate) outputs: Option<PathBuf>,
    /// New tokens at most
    #[arg(short = 'n', long = "count", default_value_t = 128)]
    pub(crate) count: usize,
    /// How to choose tokens.
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    /// Where to run.
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// What to record.
    #[command(flatten)]
    pub(crate) profile: Profile,
    /// Print one JSON object at the end instead of text as it comes
    #[arg(long)]
    pub(crate) json: bool,
}

/// How tokens are chosen.
#[derive(Clone, Debug, Args)]
pub(crate) struct Sampling {
    /// Divides the logits before sampling; 0 always takes the most probable token
    #[arg(long, default_value_t = 0.0, value_parser = temperature)]
    temperature: f64,
    /// Keep the so many most probable tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the most probable tokens up to this sum of probabilities
    #[arg(long, default_value_t = 1.0, value_parser = fraction)]
    top_p: f64,
    /// Keep tokens with at least this fraction of the largest probability
    #[arg(long, default_value_t = 0.0, value_parser = fraction)]
    min_p: f64,
    /// Start of the random numbers: the same seed gives the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Sampling {
    /// As the sampler wants it.
    pub(crate) fn settings(&self) -> Settings {
        let Self { temperature, top_k, top_p, min_p, seed } = *self;
        Settings { temperature, top_k, top_p, min_p, seed }
    }
}

fn number(text: &str, sound: impl Fn(f64) -> bool, what: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|x| sound(*x)).ok_or_else(|| format!("it must be {what}"))
}

/// No more tokens or sequences than this: their number is counted in 32 bits.
const MANY: usize = 1 << 30;

fn within(text: &str, counts: RangeInclusive<usize>) -> std::result::Result<usize, String> {
    let parsed = text.parse().ok().filter(|n| counts.contains(n));
    parsed.ok_or_else(|| format!("it must be a whole number from {} to {}", counts.start(), counts.end()))
}

fn count(text: &str) -> std::result::Result<usize, String> {
    within(text, 1..=MANY)
}

fn count_or_none(text: &str) -> std::result::Result<usize, String> {
    within(text, 0..=MANY)
}

fn temperature(text: &str) -> std::result::Result<f64, String> {
    number(text, |x| x.is_finite() && x >= 0.0, "a number from 0 up")
}

fn fraction(text: &str) -> std::result::Result<f64, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}

/// `q35 eval`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Eval {
    /// The bundle.
    #[command(flatten)]
    pub(crate) opened: Opened,
    /// Text to predict, in UTF-8
    #[arg(long)]
    pub(crate) text: PathBuf,
    /// Compare with this bundle's predictions instead: mean divergence from it, and how often both prefer one token
    #[arg(long, value_name = "BUNDLE")]
    pub(crate) against: Option<PathBuf>,
    /// Tokens per window; each window starts anew, and its first token is not scored
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) window: u32,
    /// Where to run.
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// `q35 bench`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Bench {
    /// The bundle.
    #[command(flatten)]
    pub(crate) opened: Opened,
    /// Lengths of prompts
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = Plan::default().prefill, value_parser = count)]
    pub(crate) prefill: Vec<usize>,
    /// Numbers of sequences that are decoded together
    #[arg(long, value_name = "SEQUENCES", value_delimiter = ',', default_values_t = Plan::default().batches, value_parser = count)]
    pub(crate) batch: Vec<usize>,
    /// Tokens that each of them has in its cache when decoding begins
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_values_t = Plan::default().cached, value_parser = count_or_none)]
    pub(crate) cached: Vec<usize>,
    /// Tokens that a run decodes per sequence, at most
    #[arg(long, value_name = "TOKENS", default_value_t = Plan::default().decoded, value_parser = count)]
    pub(crate) decode: usize,
    /// Only prompts, or only decoding
    #[arg(long, value_enum)]
    pub(crate) only: Option<Only>,
    /// Runs per case, at most
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) runs: u16,
    /// Seconds for the runs of one case; one is made however long it takes
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u32,
    /// Where to run.
    #[command(flatten)]
    pub(crate) machine: Machine,
    /// What to record.
    #[command(flatten)]
    pub(crate) profile: Profile,
    /// Print a JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

impl Bench {
    /// What to measure.
    pub(crate) fn plan(&self) -> Plan {
        let unless = |other: Only, list: &[usize]| if self.only == Some(other) { Vec::new() } else { list.to_vec() };
        Plan {
            prefill: unless(Only::Decode, &self.prefill),
            batches: unless(Only::Prefill, &self.batch),
            cached: self.cached.clone(),
            decoded: self.decode,
            runs: self.runs.into(),
            longest_case: Duration::from_secs(self.seconds.into()),
        }
    }
}

/// Half of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// Prompts.
    Prefill,
    /// Decoding.
    Decode,
}

/// `q35 inspect`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Inspect {
    /// The bundle.
    #[command(flatten)]
    pub(crate) opened: Opened,
    /// List every op of the program with its bytes, operations and what bounds it, and the memory in use during every launch, instead of sums
    #[arg(long)]
    pub(crate) nodes: bool,
    /// Print a JSON object: a summary, the manifest, and what the compile measured
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::{CommandFactory, Parser};

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
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
