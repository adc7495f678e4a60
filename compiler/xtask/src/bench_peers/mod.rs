//! The speed table: our bundles and other programs' files of one model, on one machine, in one run.
//!
//! What enters: a shape or a checkpoint, the built `q35c` and `q35`, and the peers' programs ([`programs`]). What leaves: `benchmarks/speed/MODEL.md`,
//! `.json` and `.svg` ([`report`]). A round measures every contender once, one after the other, so that whatever else the machine does meets all of
//! them; samples of all rounds are kept ([`samples`]) until a program or a file changes, so rounds may be made whenever the machine is quiet.

mod contender;
mod encoding;
mod figure;
mod hogs;
mod programs;
mod report;
mod samples;

use crate::cache::Cache;
use crate::tools::Tools;
use clap::Args;
use contender::{Contender, Workload};
use encoding::{Encoder, Makings};
use hogs::Hogs;
use programs::Peers;
use samples::{Sample, Samples};
use std::path::{Path, PathBuf};

/// What was asked for.
#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// A shape that `cargo xtask synth` knows; a checkpoint is written for it
    #[arg(long, default_value = "tinyllama-1.1b")]
    shape: String,
    /// A checkpoint folder (llama or mixtral, in f16 or f32) instead of a shape
    #[arg(long)]
    model: Option<PathBuf>,
    /// Our codecs
    #[arg(long, value_delimiter = ',', default_value = "a11,w8,split,q8")]
    codecs: Vec<String>,
    /// llama.cpp's types
    #[arg(long, value_delimiter = ',', default_value = "Q4_0,Q4_K_M,IQ4_XS,Q3_K_M,Q3_K_S,IQ3_S,Q8_0")]
    types: Vec<String>,
    /// Numbers of threads
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    threads: Vec<u16>,
    /// Tokens of the prompt; 0 to leave prompts out
    #[arg(long, default_value_t = 512)]
    prompt: u32,
    /// Tokens to decode from an empty cache
    #[arg(long, default_value_t = 64)]
    decode: u32,
    /// Rounds to make now; 0 writes the page from the samples there are
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Threads of this program that do nothing but take time: a busy machine
    #[arg(long, default_value_t = 0)]
    hogs: u16,
    /// llama.cpp's llama-bench, with llama-quantize beside it; built from the sources on PyPI if it is not given
    #[arg(long, value_name = "PROGRAM")]
    llama_bench: Option<PathBuf>,
    /// ik_llama.cpp's llama-bench; left out if it is not given
    #[arg(long, value_name = "PROGRAM")]
    ik_llama_bench: Option<PathBuf>,
    /// Also make these of our codecs (`w8:best`: calibrated) and llama.cpp's types anew in every round, and say how long it takes
    #[arg(long, value_delimiter = ',', value_name = "FORMATS", num_args = 0..=1, default_missing_value = "a11,w8,IQ3_S")]
    encode: Vec<String>,
    /// Leave ONNX Runtime out
    #[arg(long)]
    no_onnxruntime: bool,
    /// Measure our side only
    #[arg(long)]
    no_peers: bool,
}

/// The chore.
pub(crate) fn run(options: &Options) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().map_err(|e| e.to_string())?;
    let cache = Cache::open(&root.join("target/peers"), false)?;
    let tools = Tools::build(&root)?;
    let (name, checkpoint) = match &options.model {
        Some(folder) => (folder.file_name().unwrap_or_default().to_string_lossy().into_owned(), folder.clone()),
        None => (options.shape.clone(), programs::checkpoint(&options.shape, &cache)?),
    };
    let (mut contenders, mut notes) = (Vec::new(), Vec::new());
    for codec in &options.codecs {
        contenders.push(Contender::ours(&tools, &checkpoint, codec, &cache)?);
    }
    let mut encoders = Vec::new();
    let is_type = |format: &str| format.starts_with(|first: char| first.is_ascii_uppercase());
    let example = root.join("examples/tiny-llama");
    let ours = options.encode.iter().filter(|format| !is_type(format));
    encoders.extend(ours.map(|format| Encoder::ours(&tools, &checkpoint, format, &example)));
    if !options.no_peers {
        match Peers::find(&root, &cache, options.llama_bench.as_deref(), options.ik_llama_bench.as_deref()) {
            Ok(peers) => {
                contenders.extend(peers.contenders(&checkpoint, &options.types, !options.no_onnxruntime, &cache)?);
                for kind in options.encode.iter().filter(|format| is_type(format)) {
                    encoders.push(Encoder::peer(&peers, &checkpoint, kind, &cache)?);
                }
            }
            Err(why) => notes.push(format!("Peers are missing, because {why}.")),
        }
    }
    let mut samples = Samples::open(cache.folder().join(format!("{name}.samples.json")))?;
    let mut makings = Makings::open(cache.folder().join(format!("{name}.encoding.json")))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let work = Workload { prompt: options.prompt, decode: options.decode };
    let hogs = Hogs::start(options.hogs);
    for round in 0..options.rounds {
        for &threads in &options.threads {
            for contender in &contenders {
                eprintln!("round {} of {}, {threads} threads: {}", round + 1, options.rounds, contender.name());
                match contender.measure(threads, work) {
                    Ok(speed) => samples.add(Sample::new(contender, threads, options.hogs, work, samples.round + 1, speed)),
                    Err(why) => eprintln!("  not measured: {why}"),
                }
            }
        }
        samples.end_round()?;
        for encoder in &encoders {
            eprintln!("round {} of {}, making {}", round + 1, options.rounds, encoder.name());
            makings.add(encoder.make(cores, cache.folder())?)?;
        }
    }
    drop(hogs);
    let report = report::Report::new(&name, &contenders, &samples, notes).with_encoding(&encoders, &makings, cores);
    print!("{}", report.markdown());
    report.write(&root.join("benchmarks/speed"))
}
