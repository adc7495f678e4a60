//! `q35 run`: continues a prompt, or runs a file of graph inputs.

use crate::args::Run;
use crate::output;
use crate::profile;
use q35_console::Progress;
use q35_diag::Result;
use q35_runtime::generate::{Event, Generation, Stop, generate};
use q35_runtime::text::{Text, stop_tokens};
use q35_runtime::{Options, Session, inputs};
use serde_json::json;
use std::ops::ControlFlow;

/// Runs the command.
pub(crate) fn run(args: &Run) -> Result<()> {
    let bundle = args.opened.open()?;
    let recorder = profile::recorder(&args.profile);
    let options = |capacity| Options { recorder: recorder.clone(), ..args.machine.options(capacity) };
    if let (Some(from), Some(to)) = (&args.inputs, &args.outputs) {
        let ran = inputs::run(&bundle, &options(0), &output::read(from)?)?;
        ran.warnings.iter().for_each(|warning| eprintln!("{warning}"));
        output::write(to, &ran.outputs)?;
        return profile::write(&args.profile, recorder, &bundle);
    }

    let text = match (&args.prompt, args.json) {
        (Some(_), _) => Some(Text::open(&bundle)?),
        (None, true) => Text::open(&bundle).ok(),
        (None, false) => None,
    };
    let prompt = match (&args.prompt, &text) {
        (Some(prompt), Some(text)) => text.encode(prompt)?,
        _ => args.tokens.clone().unwrap_or_default(),
    };
    let capacity = (bundle.manifest().model.context as usize).min(prompt.len().saturating_add(args.count));
    let mut session = Session::new(bundle.clone(), &options(capacity))?;
    let mut stream = args.prompt.as_ref().and(text.as_ref()).map(Text::stream);
    let mut progress = Progress::default();
    let long = prompt.len() > 4 * session.max_tokens();
    let mut first = true;
    let sink = |event| {
        let piece = match event {
            Event::Prompt(done) => {
                if long {
                    progress.at(done as u64, prompt.len() as u64, "prompt");
                }
                return Ok(ControlFlow::Continue(()));
            }
            Event::Token(_) if args.json => return Ok(ControlFlow::Continue(())),
            Event::Token(token) => match &mut stream {
                Some(stream) => stream.push(token)?,
                None => format!("{}{token}", if std::mem::take(&mut first) { "" } else { "," }),
            },
        };
        output::print(&piece).map(ControlFlow::Continue)
    };
    let result = generate(&mut session, &prompt, args.count, args.sampling.settings(), &stop_tokens(&bundle)?, sink)?;
    if args.json {
        print_json(&prompt, &result, text.as_ref())?;
        return profile::write(&args.profile, recorder, &bundle);
    }
    output::print("\n")?;
    if result.stop == Stop::Full {
        eprintln!("the context of {} tokens is full", session.capacity());
    }
    eprintln!("{}", speed(prompt.len(), &result, &session.describe()));
    profile::write(&args.profile, recorder, &bundle)
}

fn print_json(prompt: &[u32], result: &Generation, text: Option<&Text>) -> Result<()> {
    output::print_json(&json!({
        "prompt_tokens": prompt.len(),
        "tokens": result.tokens,
        "text": text.map(|text| text.decode(&result.tokens)).transpose()?,
        "stop": result.stop,
        "prefill_seconds": result.prefill.as_secs_f64(),
        "decode_seconds": result.decode.as_secs_f64(),
    }))
}

/// One line: the first new token is the prefill's, the others are decoded.
fn speed(prompt: usize, result: &Generation, device: &str) -> String {
    let rate = |tokens: usize, seconds: f64| format!("{:.0} tokens/s", tokens as f64 / seconds.max(1e-9));
    let prefill = format!("prompt of {prompt} tokens at {}", rate(prompt, result.prefill.as_secs_f64()));
    match result.tokens.len() {
        0 | 1 => format!("{prefill} ({device})"),
        n => format!("{prefill}, {n} new tokens at {} ({device})", rate(n - 1, result.decode.as_secs_f64())),
    }
}
